package agent

import (
	"slices"
	"time"

	"github.com/holdfast-dr/holdfast/internal/capture"
	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/repo"
)

// task is what a keeper does by the clock.
type task string

// The tasks.
const (
	taskSnapshot   task = "snapshot"
	taskRetention  task = "retention"
	taskCollection task = "collection"
	taskOptimize   task = "optimize"
	taskCheck      task = "check"
)

var tasks = []task{taskSnapshot, taskRetention, taskCollection, taskOptimize, taskCheck}

const (
	// A task that failed is tried again after 30 s, 1, 2, 4 and 8 minutes; after that, or when it is due
	// anyway, as its schedule says.
	firstRetry = 30 * time.Second
	maxRetries = 5

	// collectEvery is how often space is given back. A collection goes through all that the repository holds, so that it may
	// not follow each snapshot that is forgotten, as often as one is taken.
	collectEvery = 24 * time.Hour
	// collectAgain is when a collection that had to wait for a writer looks again.
	collectAgain = time.Hour
)

// calendar says when something is due after its last start; the zero time is never. dr.Timing is one.
type calendar interface {
	Next(system dr.SystemName, last time.Time) time.Time
}

// plan is when a system's tasks are due.
type plan struct {
	system    dr.SystemName
	snapshots calendar
	checks    calendar
	windows   dr.Windows    // when a snapshot may begin
	optimize  float64       // how much may be stored again, as a part of what snapshots store
	retry     time.Duration // after the first failure; each time it doubles
}

// action is what to do now: a task, or nothing until a time.
type action struct {
	task  task      // "" for nothing
	until time.Time // zero: for ever; it may come otherwise
}

// decide says what is due. It is a function of its arguments only. Times in the state that lie after now come
// from a clock that was wrong, or is wrong now, and count as unknown: what depends on them is due at once, for
// a task too early does no harm, and one that waits for a date in the future does.
func decide(s State, now time.Time, p plan) action {
	var next action
	for _, t := range byUrgency(s) {
		at := dueAt(t, s, now, p)
		switch {
		case at.IsZero():
		case !at.After(now):
			return action{task: t}
		case next.until.IsZero() || at.Before(next.until):
			next.until = at
		}
	}
	return next
}

// byUrgency returns the tasks in the order in which they are done when several are due. What a snapshot leaves to
// be done comes before the next one: where snapshots take longer than their interval, one is always due. Whatever
// fails comes after the snapshot, and so does a collection that no snapshot asked for. An optimization always does: it
// spares time in a restore, and a snapshot that is late costs some.
func byUrgency(s State) []task {
	order := []task{taskSnapshot, taskRetention, taskCollection, taskOptimize, taskCheck}
	if s.Snapshot.Pending {
		return order
	}
	follows := func(t task) bool {
		r := s.run(t)
		return t != taskSnapshot && t != taskOptimize && r.Pending && r.Failures == 0 && !r.Waits
	}
	slices.SortStableFunc(order, func(a, b task) int {
		switch fa, fb := follows(a), follows(b); {
		case fa && !fb:
			return -1
		case fb && !fa:
			return 1
		}
		return 0
	})
	return order
}

// dueAt returns when a task is due; the zero time is never.
func dueAt(t task, s State, now time.Time, p plan) time.Time {
	switch t {
	case taskSnapshot:
		return snapshotDue(s.Snapshot, now, p)
	case taskRetention:
		return pendingDue(s.Retention, now, p)
	case taskOptimize:
		return pendingDue(s.Optimize, now, p)
	case taskCollection:
		return collectionDue(s, now, p)
	case taskCheck:
		last := s.Check.Succeeded
		if last.IsZero() {
			last = s.Since
		}
		return scheduledDue(s.Check, last, now, p, p.checks)
	}
	return time.Time{}
}

// snapshotDue is also the catch-up: what was due while nothing ran is due once, as soon as a window is open.
func snapshotDue(r TaskRun, now time.Time, p plan) time.Time {
	if r.Pending {
		return retryDue(r, now, now, p) // nothing can be recovered until there is one: windows do not count
	}
	at := scheduledDue(r, r.Succeeded, now, p, p.snapshots)
	if at.IsZero() {
		return at
	}
	if at.Before(now) {
		at = now
	}
	return p.windows.Next(at)
}

// scheduledDue returns when a task with a calendar is due: as the calendar says after the last success, and
// after a failure as retryDue says.
func scheduledDue(r TaskRun, last, now time.Time, p plan, c calendar) time.Time {
	if r.Failures > 0 && !r.Started.IsZero() && !r.Started.After(now) {
		return retryDue(r, now, c.Next(p.system, r.Started), p)
	}
	if last.IsZero() || last.After(now) {
		if c.Next(p.system, now).IsZero() {
			return time.Time{}
		}
		return now
	}
	return c.Next(p.system, last)
}

// retryDue returns when a task that failed is tried again, which is never later than its regular time.
func retryDue(r TaskRun, now, regular time.Time, p plan) time.Time {
	if r.Failures == 0 || r.Finished.After(now) {
		return now
	}
	n := (r.Failures - 1) % (maxRetries + 1)
	if n == maxRetries {
		// The regular time may have passed while the last try ran.
		return later(regular, r.Finished.Add(p.retry))
	}
	at := r.Finished.Add(p.retry << n)
	if regular.After(now) && regular.Before(at) {
		return regular
	}
	return at
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// pendingDue is for a task that follows another one: at once, then as retries go, then not before that one.
func pendingDue(r TaskRun, now time.Time, p plan) time.Time {
	if !r.Pending || r.Failures > maxRetries {
		return time.Time{}
	}
	return retryDue(r, now, time.Time{}, p)
}

func collectionDue(s State, now time.Time, p plan) time.Time {
	r := s.Collection
	switch {
	case r.Failures > 0 && r.Failures <= maxRetries:
		return retryDue(r, now, time.Time{}, p)
	case r.Failures > 0:
		return r.Finished.Add(collectEvery)
	case r.Pending && r.Waits && !r.Finished.After(now):
		return r.Finished.Add(collectAgain)
	case r.Pending:
		return now
	}
	return dailyCollection(s, now)
}

// dailyCollection returns when a collection is due as long as none has failed.
func dailyCollection(s State, now time.Time) time.Time {
	last := s.Collection.Succeeded
	switch {
	case last.IsZero():
		last = s.Since
	case last.After(now):
		return now
	}
	return last.Add(collectEvery)
}

// outcome is how a task ended.
type outcome struct {
	err     error
	stopped bool // it was interrupted by the end of the agent: no failure

	last     *LastSnapshot    // of a snapshot
	again    bool             // a snapshot is wanted once more: the log has a gap behind its start
	unneeded bool             // no snapshot was taken: there is nothing to gain from one
	alarmed  bool             // the snapshot tells of an alarm
	found    []capture.Missed // by a snapshot that failed afterwards
	waits    bool             // a collection waits for writers

	stored        int64              // bytes that a snapshot had to store, before compression
	rewritten     int64              // bytes that an optimization has stored again, before compression
	fragmentation repo.Fragmentation // that it has left

	problems int    // that a check found
	damage   string // what they are; a check that finds damage has not failed
}

// begun returns the state in which a task has begun.
func begun(s State, t task, now time.Time) State {
	r := s.run(t)
	r.Started = now
	r.Running = true
	return s
}

// ended returns the state after a task.
func ended(s State, t task, now time.Time, o outcome, p plan) State {
	r := s.run(t)
	r.Running = false
	r.Finished = now
	if len(o.found) > 0 {
		s.Found = o.found // those of before among them
	}
	if o.stopped {
		return s
	}
	if o.err != nil {
		r.Failures++
		r.Error = o.err.Error()
		return s
	}
	r.Succeeded, r.Failures, r.Error, r.Pending, r.Waits = r.Started, 0, "", false, false
	switch t {
	case taskSnapshot:
		if o.unneeded {
			return s
		}
		r.Pending = o.again
		s.Last, s.Found = o.last, nil
		s.Retention.Pending, s.Retention.Failures = true, 0
		if p.optimize > 0 {
			s.Optimize.Pending, s.Optimize.Failures = true, 0
			s.Budget += int64(float64(o.stored) * p.optimize)
		}
	case taskRetention:
		if !dailyCollection(s, now).After(now) {
			s.Collection.Pending = true // before the next snapshot
		}
	case taskCollection:
		r.Pending, r.Waits = o.waits, o.waits
	case taskOptimize:
		s.Budget = max(s.Budget-o.rewritten, 0)
		s.Fragmentation = o.fragmentation.Ratio()
	case taskCheck:
		s.Damage = o.damage
	}
	return s
}

// resumed returns the state with which a process goes on after another one, which may have been killed.
func resumed(s State, now time.Time) State {
	if s.Since.IsZero() {
		s.Since = now
	}
	for _, t := range tasks {
		if r := s.run(t); r.Running {
			// What kills the agent may kill it again: an interrupted task waits as a failed one does.
			r.Running = false
			r.Finished = r.Started
			r.Failures++
			r.Error = "the agent was killed in the middle of it"
		}
	}
	return s
}

// known is what the repository tells of a system's snapshots, which others may have taken.
type known struct {
	last   *LastSnapshot  // the newest one that can be read and was begun before now; nil: none
	wanted bool           // nothing after it can be recovered, because the log has a gap
	alarm  *capture.Alarm // nil: none
}

// learned returns the state after the repository told.
func learned(s State, k known) State {
	last := k.last
	s.Last, s.Alarm = last, k.alarm
	s.Snapshot.Pending = k.wanted
	switch {
	case last == nil:
		s.Snapshot.Succeeded = time.Time{}
	case last.Started.After(s.Snapshot.Succeeded):
		s.Snapshot.Succeeded = last.Started
		if last.Started.After(s.Snapshot.Started) {
			s.Snapshot.Failures, s.Snapshot.Error = 0, ""
		}
	}
	return s
}
