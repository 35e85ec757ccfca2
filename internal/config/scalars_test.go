package config

import (
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/internal/dr"
)

func TestWhatIsPrintedIsReadBack(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0s", time.Second: "1s", 90 * time.Second: "1m30s", time.Minute: "1m", time.Hour: "1h",
		36 * time.Hour: "36h", time.Hour + time.Second: "1h0m1s", 500 * time.Millisecond: "500ms", 10 * time.Minute: "10m",
	} {
		if got := printDuration(d); got != want {
			t.Errorf("%v prints as %q, want %q", d, got, want)
		}
		if got, err := parseDuration(want); err != nil || got != d {
			t.Errorf("%q is read as %v, %v", want, got, err)
		}
	}
	for b, want := range map[dr.Bytes]string{
		0: "0", 1: "1", 1000: "1kB", 1024: "1KiB", 384 << 20: "384MiB", 16 << 30: "16GiB", 40e9: "40GB", 1<<50 + 1: "1125899906842625",
	} {
		if got := printBytes(b); got != want {
			t.Errorf("%d bytes print as %q, want %q", int64(b), got, want)
		}
		if got, err := dr.ParseBytes(want); err != nil || got != b {
			t.Errorf("%q is read as %v, %v", want, got, err)
		}
	}
	for s, want := range map[string]time.Duration{"7d": 7 * 24 * time.Hour, "2w": 14 * 24 * time.Hour, "0": 0, "1h30m": 90 * time.Minute} {
		if got, err := parseDuration(s); err != nil || got != want {
			t.Errorf("%q is read as %v, %v; want %v", s, got, err, want)
		}
	}
	for _, s := range []string{"", "d", "1.5d", "-1d", "5", "1y", "999999999d"} {
		if got, err := parseDuration(s); err == nil {
			t.Errorf("%q is read as %v; want an error", s, got)
		}
	}
}

func TestClosest(t *testing.T) {
	known := []string{"systems", "sites", "policies", "ab"}
	for word, want := range map[string]string{
		"sytems": "systems", "systmes": "systems", "site": "sites", "policy": "", "x": "", "": "", "systems-of-others": "", "ba": "ab",
	} {
		if got := closest(word, known); got != want {
			t.Errorf("closest to %q is %q, want %q", word, got, want)
		}
	}
}
