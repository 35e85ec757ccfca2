package dr

import (
	"testing"
	"time"
)

func TestPace(t *testing.T) {
	for _, c := range []struct {
		text   string
		perDay float64 // of 1000 bytes
		round  time.Duration
	}{
		{"5%/day", 50, 20 * 24 * time.Hour},
		{"100%/day", 1000, 24 * time.Hour},
		{"400 % / day", 4000, 6 * time.Hour},
		{"2kB/day", 2000, 0},
		{"1MiB/s", 86400 << 20, 0},
		{"off", 0, 0},
	} {
		p, err := ParsePace(c.text)
		if err != nil || p.PerDay(1000) != c.perDay || p.Round() != c.round || p.Off() != (c.perDay == 0) {
			t.Errorf("ParsePace(%q) = %+v (%v a day, a round in %s), %v", c.text, p, p.PerDay(1000), p.Round(), err)
		}
		if again, err := ParsePace(p.String()); err != nil || again != p {
			t.Errorf("%q is read back as %+v, %v", p, again, err)
		}
	}
	if p, err := ParsePace("5%/day"); err != nil || p != Daily(0.05) {
		t.Errorf("%+v is another pace than %+v", p, Daily(0.05))
	}
	if !Daily(0).Off() || Daily(0).IsZero() {
		t.Error("nothing a day is not off")
	}
	for _, text := range []string{"", "5%", "5%/s", "0%/day", "-1%/day", "5/week", "0B/day", "day", "NaN%/day", "%/day", "1GiB"} {
		if p, err := ParsePace(text); err == nil {
			t.Errorf("ParsePace(%q) = %+v", text, p)
		}
	}
}
