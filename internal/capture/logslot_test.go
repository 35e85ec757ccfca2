package capture

import (
	"strings"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/internal/pg/stream"
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

func TestSlotWarnings(t *testing.T) {
	at := func(retained, safe int64) stream.Slot {
		return stream.Slot{Name: "holdfast", Status: "extended", Retained: retained, Safe: safe}
	}
	var w slotWarnings
	for i, c := range []struct {
		slot stream.Slot
		want string // in the message; empty: nothing is said
	}{
		{at(10, 90), ""},
		{at(50, 50), "50 B of the allowed 100 B"},
		{at(60, 40), ""},
		{at(80, 20), "80 B of the allowed 100 B"},
		{at(120, 0), ""}, // the next checkpoint may lose it
		{at(60, 40), ""},
		{at(85, 15), "85 B"}, // once more
		{stream.Slot{Name: "holdfast", Status: "lost", Safe: -1}, ""},
		{at(500, -1), "max_slot_wal_keep_size is not set"},
		{at(600, -1), ""},
		{at(55, 45), "55 B"}, // somebody followed the advice
		{stream.Slot{Safe: -1}, ""},
	} {
		message, next := w.due(c.slot)
		if c.want == "" && message != "" || !strings.Contains(message, c.want) || (message == "") != (next == "") {
			t.Errorf("step %d: %+v is told as %q, next %q; want %q", i, c.slot, message, next, c.want)
		}
	}
}
