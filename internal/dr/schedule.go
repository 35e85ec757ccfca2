package dr

import (
	"fmt"
	"hash/fnv"
	"strings"
	"time"

	"github.com/robfig/cron/v3"
)

// Schedule says when something is due. It is a value without a clock: Next is a function of its argument. The
// zero value is never due.
type Schedule struct {
	text  string
	every time.Duration // for "every D"; otherwise spec is set
	spec  cron.Schedule
	// wall is true where the cron expression names hours: then it is the clock on the wall that counts, and
	// each named time comes exactly once a day, also on the days on which clocks are changed.
	wall bool
}

// The schedules that have a name, as cron expressions in local time.
var namedSchedules = map[string]string{
	"hourly": "0 * * * *",
	"daily":  "0 0 * * *",
	"weekly": "0 0 * * 0",
}

var fiveFields = cron.NewParser(cron.Minute | cron.Hour | cron.Dom | cron.Month | cron.Dow)

// continuous is the schedule of who wants a snapshot as soon as there is anything to gain from one.
const continuous = "continuous"

// ParseSchedule reads "hourly", "daily", "weekly", "continuous", "every 15m" or a cron expression of five fields (minute,
// hour, day of month, month, day of week), which is in local time.
func ParseSchedule(s string) (Schedule, error) {
	text := strings.Join(strings.Fields(s), " ")
	if d, ok := strings.CutPrefix(text, "every "); ok {
		return parseEvery(text, d)
	}
	expr, named := namedSchedules[text]
	switch {
	case named:
	case text == continuous:
		return Schedule{text: text, every: time.Minute}, nil
	case strings.Contains(text, "=") || len(strings.Fields(text)) != 5:
		return Schedule{}, fmt.Errorf(`%q is no schedule: write hourly, daily, weekly, continuous, "every 15m" or five cron fields such as "30 2 * * *"`, s)
	default:
		expr = text
	}
	spec, err := fiveFields.Parse(expr)
	if err != nil {
		return Schedule{}, fmt.Errorf("%q is no schedule: %w", s, err)
	}
	sched := Schedule{text: text, spec: spec, wall: !strings.HasPrefix(strings.Fields(expr)[1], "*")}
	if sched.Next(reference).IsZero() {
		return Schedule{}, fmt.Errorf("schedule %q is never due", s)
	}
	return sched, nil
}

// reference is any instant from which schedules are looked at for their own sake. It is two months before a
// 29 February, which cron expressions may name.
var reference = time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC)

func parseEvery(text, d string) (Schedule, error) {
	every, err := time.ParseDuration(d)
	if err != nil {
		return Schedule{}, fmt.Errorf(`%q is no schedule: write the interval as in "every 15m" or "every 6h"`, text)
	}
	if every < time.Minute || every > 366*24*time.Hour || every%time.Second != 0 {
		return Schedule{}, fmt.Errorf("schedule %q: an interval has whole seconds, at least a minute and at most a year", text)
	}
	return Schedule{text: text, every: every}, nil
}

// String returns the schedule as ParseSchedule reads it.
func (s Schedule) String() string { return s.text }

// Continuous tells that a snapshot is wanted after every checkpoint of the source. Next then says when to look: every
// minute.
func (s Schedule) Continuous() bool { return s.text == continuous }

// IsZero tells that s was never set.
func (s Schedule) IsZero() bool { return s.text == "" }

// Next returns the first instant after the given one at which s is due, in the location of after, or the zero
// time where there is none within five years. Intervals are counted from midnight UTC of 1 January of year 1,
// so that "every 15m" means the full quarters, however often the process is restarted.
func (s Schedule) Next(after time.Time) time.Time {
	switch {
	case s.every > 0:
		return after.Truncate(s.every).Add(s.every)
	case s.spec == nil:
		return time.Time{}
	case !s.wall:
		return s.spec.Next(after)
	}
	// robfig/cron leaves out the times that the change to summer time skips, and repeats those that the change
	// back repeats. A named hour is looked up on a clock without such changes instead; time.Date picks one of
	// two equal times.
	loc, clock := after.Location(), onWall(after)
	for {
		clock = s.spec.Next(clock)
		if clock.IsZero() {
			return clock
		}
		t := time.Date(clock.Year(), clock.Month(), clock.Day(), clock.Hour(), clock.Minute(), 0, 0, loc)
		if early := clock.Sub(onWall(t)); early > 0 {
			t = t.Add(early) // this time does not exist: after the gap rather than before it, perhaps on another day
		}
		if t.After(after) {
			return t
		}
	}
}

// onWall returns what a clock shows at t, as if it were UTC.
func onWall(t time.Time) time.Time {
	return time.Date(t.Year(), t.Month(), t.Day(), t.Hour(), t.Minute(), t.Second(), t.Nanosecond(), time.UTC)
}

// Interval returns the shortest span between two instants at which s is due.
func (s Schedule) Interval() time.Duration {
	if s.every > 0 || s.spec == nil {
		return s.every
	}
	// 100 instants see every distance within an hour, and within a week for what is due a few times a day.
	shortest, t := time.Duration(0), s.Next(reference)
	for range 100 {
		n := s.Next(t)
		if n.IsZero() {
			break
		}
		if d := n.Sub(t); shortest == 0 || d < shortest {
			shortest = d
		}
		t = n
	}
	return shortest
}

// Timing is a schedule as a policy bends it: moved into windows, and spread over the systems by jitter.
type Timing struct {
	Schedule Schedule
	Jitter   time.Duration // each system starts up to this much later; shorter than the schedule's interval
	Windows  Windows
}

// Next returns when the system is due after its last start: the schedule's next instant, moved to the opening
// of the next window where it lies in none, and the system's jitter later if that stays inside the window.
// What was due while nothing ran is therefore due once, in the past; a caller that catches up begins at
// Windows.Next(now).
func (t Timing) Next(system SystemName, last time.Time) time.Time {
	due := t.Schedule.Next(last)
	if due.IsZero() {
		return due
	}
	due = t.Windows.Next(due)
	if later := due.Add(Jitter(system, t.Jitter)); t.Windows.Contain(later) {
		return later
	}
	return due
}

// Jitter returns a duration of whole seconds in [0, limit), always the same for the same system, so that the
// systems of one policy do not all begin at once, and each still begins at regular intervals.
func Jitter(system SystemName, limit time.Duration) time.Duration {
	seconds := uint64(limit / time.Second)
	if limit < time.Second {
		return 0
	}
	h := fnv.New64a()
	_, _ = h.Write([]byte(system)) // a hash never fails
	return time.Duration(mix(h.Sum64())%seconds) * time.Second
}

// mix spreads the bits of a hash whose low bits differ little for names that differ little (the finalizer of
// MurmurHash3).
func mix(x uint64) uint64 {
	x = (x ^ x>>33) * 0xff51afd7ed558ccd
	x = (x ^ x>>33) * 0xc4ceb9fe1a85ec53
	return x ^ x>>33
}
