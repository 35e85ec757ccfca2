package dr

import (
	"fmt"
	"strings"
	"time"
)

// Window is a part of the day by the clock on the wall, "22:00-06:00". Its beginning belongs to it, its end does
// not; one that ends before it begins goes over midnight.
type Window struct {
	from, to int // minutes since midnight; 0 <= from < 1440, 0 < to <= 1440
}

// ParseWindow reads "HH:MM-HH:MM". "24:00" is allowed as an end.
func ParseWindow(s string) (Window, error) {
	a, b, ok := strings.Cut(s, "-")
	from, errFrom := parseClock(strings.TrimSpace(a))
	to, errTo := parseClock(strings.TrimSpace(b))
	switch {
	case !ok || errFrom != nil || errTo != nil || from == minutesPerDay:
		return Window{}, fmt.Errorf(`%q is no window: write it as "22:00-06:00"`, s)
	case from == to:
		return Window{}, fmt.Errorf("window %q is empty; for the whole day name no window", s)
	}
	if to == 0 {
		to = minutesPerDay
	}
	return Window{from, to}, nil
}

const minutesPerDay = 24 * 60

// parseClock reads "HH:MM" as minutes since midnight.
func parseClock(s string) (int, error) {
	if s == "24:00" {
		return minutesPerDay, nil
	}
	t, err := time.Parse("15:04", s)
	return t.Hour()*60 + t.Minute(), err
}

// String returns the window as ParseWindow reads it.
func (w Window) String() string {
	return fmt.Sprintf("%02d:%02d-%02d:%02d", w.from/60, w.from%60, w.to/60, w.to%60)
}

// Contains tells whether the clock at t's location shows a time in w.
func (w Window) Contains(t time.Time) bool {
	m := t.Hour()*60 + t.Minute()
	if w.from < w.to {
		return w.from <= m && m < w.to
	}
	return w.from <= m || m < w.to
}

// Length returns how long w is on a day without a change of clocks.
func (w Window) Length() time.Duration {
	m := w.to - w.from
	if m < 0 {
		m += minutesPerDay
	}
	return time.Duration(m) * time.Minute
}

// Windows are the times of day at which something may begin. None at all means any time.
type Windows []Window

// Contain tells whether something may begin at t.
func (ws Windows) Contain(t time.Time) bool {
	for _, w := range ws {
		if w.Contains(t) {
			return true
		}
	}
	return len(ws) == 0
}

// Next returns the first instant, t itself or later, at which something may begin.
func (ws Windows) Next(t time.Time) time.Time {
	if ws.Contain(t) {
		return t
	}
	// Minute by minute, because nothing shorter is right on the day on which clocks are changed. A window that
	// such a change swallows opens on the next day: 49 hours are enough.
	m := t.Add(-time.Duration(t.Second())*time.Second - time.Duration(t.Nanosecond()))
	for range 49 * 60 {
		m = m.Add(time.Minute)
		if ws.Contain(m) {
			return m
		}
	}
	return t
}
