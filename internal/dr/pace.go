package dr

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Pace is how much of a store is read in a day: a share of what is there, or a number of bytes. The zero value is nothing.
type Pace struct {
	share float64 // of what is there, a day
	bytes Bytes   // a day
	text  string
}

const day = 24 * time.Hour

// ParsePace reads "5%/day", "50GiB/day", "20MiB/s", and "off".
func ParsePace(s string) (Pace, error) {
	text := strings.Join(strings.Fields(s), "")
	wrong := fmt.Errorf(`%q is no pace: write a share such as 5%%/day, an amount such as 50GiB/day or 20MiB/s, or off`, s)
	if text == "off" {
		return Pace{text: text}, nil
	}
	amount, unit, found := strings.Cut(text, "/")
	if !found || unit != "day" && unit != "s" {
		return Pace{}, wrong
	}
	if number, percent := strings.CutSuffix(amount, "%"); percent {
		v, err := strconv.ParseFloat(number, 64)
		if err != nil || unit != "day" || !(v >= 0.001 && v <= 10_000) {
			return Pace{}, wrong
		}
		return Pace{share: v / 100, text: text}, nil
	}
	b, err := ParseBytes(amount)
	if err == nil && unit == "s" {
		b *= Bytes(day / time.Second)
	}
	if err != nil || b <= 0 {
		return Pace{}, wrong
	}
	return Pace{bytes: b, text: text}, nil
}

// Daily returns the pace of a share of what is there, a day; 0 is off.
func Daily(share float64) Pace {
	if share <= 0 {
		return Pace{text: "off"}
	}
	return Pace{share: share, text: strconv.FormatFloat(share*100, 'g', 12, 64) + "%/day"}
}

// String returns the pace as ParsePace reads it; empty for the zero value.
func (p Pace) String() string { return p.text }

// IsZero tells that nothing was said, not even off.
func (p Pace) IsZero() bool { return p.text == "" }

// Off tells that nothing is read.
func (p Pace) Off() bool { return p.share == 0 && p.bytes == 0 }

// PerDay returns the bytes of a day where size bytes are there.
func (p Pace) PerDay(size int64) float64 {
	if p.share > 0 {
		return p.share * float64(size)
	}
	return float64(p.bytes)
}

// Round returns how long it takes to read everything; zero where that depends on how much is there.
func (p Pace) Round() time.Duration {
	if p.share == 0 {
		return 0
	}
	return time.Duration(float64(day) / p.share).Round(time.Second)
}
