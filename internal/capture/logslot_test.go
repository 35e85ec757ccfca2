package capture

import (
	"testing"
	"time"
)

func TestLookAfter(t *testing.T) {
	now := time.Date(2026, 11, 24, 3, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		why     string
		settled time.Time
		want    time.Duration
	}{
		{"while we catch up", time.Time{}, settleInterval},
		{"when we have caught up", now, settleInterval},
		{"soon after", now.Add(-settleTime / 2), settleInterval},
		{"long after", now.Add(-settleTime), slotInterval},
	} {
		if got := lookAfter(c.settled, now); got != c.want {
			t.Errorf("%s: after %s, want %s", c.why, got, c.want)
		}
	}
}
