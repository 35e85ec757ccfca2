package agent

import (
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-dr/holdfast/internal/capture"
	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/repo"
)

func mustTiming(t *testing.T, schedule string, jitter time.Duration, windows ...string) dr.Timing {
	t.Helper()
	s, err := dr.ParseSchedule(schedule)
	if err != nil {
		t.Fatal(err)
	}
	tm := dr.Timing{Schedule: s, Jitter: jitter}
	for _, w := range windows {
		p, err := dr.ParseWindow(w)
		if err != nil {
			t.Fatal(err)
		}
		tm.Windows = append(tm.Windows, p)
	}
	return tm
}

func mustTime(t *testing.T, s string) time.Time {
	t.Helper()
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Skip("no time zones here")
	}
	v, err := time.ParseInLocation(time.DateTime, s, berlin)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestDecide(t *testing.T) {
	at := func(s string) time.Time { return mustTime(t, s) }
	hourly := mustTiming(t, "hourly", 0)
	nightly := mustTiming(t, "hourly", 0, "22:00-06:00")
	early := mustTiming(t, "30 2 * * *", 0) // exists twice, or not at all, when clocks are changed
	done := func(s string) TaskRun {
		return TaskRun{Started: at(s), Finished: at(s).Add(time.Minute), Succeeded: at(s)}
	}
	failed := func(last, tried string, n int) TaskRun {
		return TaskRun{Started: at(tried), Finished: at(tried).Add(time.Minute), Succeeded: at(last), Failures: n}
	}
	rested := func(s State) State { // what is not looked at has just been done
		s.Since = at("2026-03-02 00:00:00")
		return s
	}
	now := "2026-03-02 14:05:00"
	for _, c := range []struct {
		name   string
		now    string
		timing dr.Timing
		state  State
		want   action
	}{
		{"nothing yet: at once", now, hourly, State{}, action{task: taskSnapshot}},
		{"nothing yet, outside of the window", now, nightly, State{}, action{until: at("2026-03-02 22:00:00")}},
		{"not due", now, hourly, State{Snapshot: done("2026-03-02 14:00:00")}, action{until: at("2026-03-02 15:00:00")}},
		{"due to the second", "2026-03-02 15:00:00", hourly, State{Snapshot: done("2026-03-02 14:00:00")}, action{task: taskSnapshot}},
		{"missed while away: once, at once", now, hourly, State{Snapshot: done("2026-03-02 03:00:00")}, action{task: taskSnapshot}},
		{"missed while away, outside of the window", now, nightly, State{Snapshot: done("2026-03-02 03:00:00")}, action{until: at("2026-03-02 22:00:00")}},
		{"never scheduled", now, dr.Timing{}, State{}, action{until: at("2026-03-03 00:00:00")}}, // the collection
		{"failed once", now, hourly, State{Snapshot: failed("2026-03-02 13:00:00", "2026-03-02 14:04:00", 1)}, action{until: at("2026-03-02 14:05:30")}},
		{"failed thrice", now, hourly, State{Snapshot: failed("2026-03-02 13:00:00", "2026-03-02 14:04:00", 3)}, action{until: at("2026-03-02 14:07:00")}},
		{"failed too often: next time", now, hourly, State{Snapshot: failed("2026-03-02 13:00:00", "2026-03-02 14:04:00", 6)}, action{until: at("2026-03-02 15:00:00")}},
		{"failed at the next time too: retries again", "2026-03-02 15:01:30", hourly, State{Snapshot: failed("2026-03-02 13:00:00", "2026-03-02 15:00:00", 7)}, action{task: taskSnapshot}},
		{"a retry is never later than the next time", "2026-03-02 14:58:00", hourly, State{Snapshot: failed("2026-03-02 13:00:00", "2026-03-02 14:56:00", 5)}, action{until: at("2026-03-02 15:00:00")}},
		{"a retry waits for the window too", "2026-03-02 06:30:00", nightly, State{Snapshot: failed("2026-03-02 05:00:00", "2026-03-02 05:59:00", 1)}, action{until: at("2026-03-02 22:00:00")}},
		{"a gap: at once, whatever the window says", now, nightly, State{Snapshot: TaskRun{Succeeded: at("2026-03-02 14:00:00"), Pending: true}}, action{task: taskSnapshot}},
		{"a gap, and the snapshot failed", now, hourly, State{Snapshot: TaskRun{Started: at("2026-03-02 14:04:00"), Finished: at("2026-03-02 14:04:50"), Pending: true, Failures: 1}}, action{until: at("2026-03-02 14:05:20")}},
		{"the clock went back: the last snapshot is in the future", now, hourly, State{Snapshot: done("2027-01-01 00:00:00")}, action{task: taskSnapshot}},
		{"the clock went back after a failure", now, hourly, State{Snapshot: failed("2026-03-02 13:00:00", "2026-05-02 14:04:00", 3)}, action{task: taskSnapshot}},
		{"retention follows", now, hourly, State{Snapshot: done("2026-03-02 14:00:00"), Retention: TaskRun{Pending: true}}, action{task: taskRetention}},
		{"retention comes before the next snapshot", now, hourly, State{Snapshot: done("2026-03-02 13:00:00"), Retention: TaskRun{Pending: true}}, action{task: taskRetention}},
		{"and so does collection", now, hourly, State{Snapshot: done("2026-03-02 13:00:00"), Collection: TaskRun{Pending: true}}, action{task: taskCollection}},
		{"but not what failed", now, hourly, State{Snapshot: done("2026-03-02 13:00:00"), Retention: TaskRun{Pending: true, Failures: 1}}, action{task: taskSnapshot}},
		{"nor before a snapshot that is wanted", now, hourly, State{Snapshot: TaskRun{Succeeded: at("2026-03-02 13:00:00"), Pending: true}, Retention: TaskRun{Pending: true}}, action{task: taskSnapshot}},
		{"retention gives up until the next snapshot", now, hourly, State{Snapshot: done("2026-03-02 14:00:00"), Retention: TaskRun{Pending: true, Failures: 6, Finished: at("2026-03-02 14:04:00")}}, action{until: at("2026-03-02 15:00:00")}},
		{"collection follows", now, hourly, State{Snapshot: done("2026-03-02 14:00:00"), Collection: TaskRun{Pending: true}}, action{task: taskCollection}},
		{"optimization follows", now, hourly, State{Snapshot: done("2026-03-02 14:00:00"), Optimize: TaskRun{Pending: true}}, action{task: taskOptimize}},
		{"optimization never comes before a snapshot", now, hourly, State{Snapshot: done("2026-03-02 13:00:00"), Optimize: TaskRun{Pending: true}}, action{task: taskSnapshot}},
		{"optimization comes after what gives space back", now, hourly, State{Snapshot: done("2026-03-02 14:00:00"), Optimize: TaskRun{Pending: true}, Collection: TaskRun{Pending: true}}, action{task: taskCollection}},
		{"collection waits for a writer", now, hourly, State{Snapshot: done("2026-03-02 14:00:00"), Collection: TaskRun{Pending: true, Waits: true, Finished: at("2026-03-02 13:50:00"), Succeeded: at("2026-03-02 13:50:00")}}, action{until: at("2026-03-02 14:50:00")}},
		{"collection once a day", "2026-03-03 00:00:00", hourly, State{Snapshot: done("2026-03-03 00:00:00")}, action{task: taskCollection}},
		{"the hour that is skipped is made up for after the gap", "2026-03-29 01:59:00", early, State{Snapshot: done("2026-03-28 02:30:00"), Collection: done("2026-03-29 01:00:00")}, action{until: at("2026-03-29 03:30:00")}},
		{"the hour that comes twice comes once: the collection is next", "2026-10-25 03:10:00", early, State{Snapshot: done("2026-10-25 02:30:00"), Collection: done("2026-10-25 01:00:00")}, action{until: at("2026-10-26 00:00:00")}},
	} {
		p := plan{system: "a", snapshots: c.timing, checks: dr.Timing{}, retry: firstRetry, windows: c.timing.Windows}
		got := decide(rested(c.state), at(c.now), p)
		if diff := cmp.Diff(c.want, got, cmp.AllowUnexported(action{})); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, diff)
		}
	}
}

func TestDecideChecks(t *testing.T) {
	at := func(s string) time.Time { return mustTime(t, s) }
	p := plan{system: "a", snapshots: dr.Timing{}, checks: mustTiming(t, "daily", 0), retry: firstRetry}
	collected := TaskRun{Succeeded: at("2026-03-02 14:00:00")}
	for _, c := range []struct {
		name  string
		state State
		want  action
	}{
		{"not before its time, however new the state is", State{Since: at("2026-03-02 14:00:00")}, action{until: at("2026-03-03 00:00:00")}},
		{"missed while away", State{Since: at("2026-02-02 14:00:00")}, action{task: taskCheck}},
		{"done", State{Since: at("2026-02-02 14:00:00"), Check: TaskRun{Succeeded: at("2026-03-02 01:00:00")}}, action{until: at("2026-03-03 00:00:00")}},
		{"the state is from the future", State{Since: at("2027-02-02 14:00:00")}, action{task: taskCheck}},
	} {
		c.state.Collection = collected
		got := decide(c.state, at("2026-03-02 14:05:00"), p)
		if diff := cmp.Diff(c.want, got, cmp.AllowUnexported(action{})); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, diff)
		}
	}
}

func TestJitterSpreadsAndStaysTheSame(t *testing.T) {
	p := plan{system: "orders-db", snapshots: mustTiming(t, "hourly", 10*time.Minute), checks: dr.Timing{}, retry: firstRetry}
	last := mustTime(t, "2026-03-02 14:00:00")
	s := State{Since: last, Snapshot: TaskRun{Succeeded: last}}
	a := decide(s, last, p)
	if late := a.until.Sub(mustTime(t, "2026-03-02 15:00:00")); late != dr.Jitter("orders-db", 10*time.Minute) {
		t.Errorf("due %s late, want %s", late, dr.Jitter("orders-db", 10*time.Minute))
	}
	// From a start that was late by the jitter, the next one is an hour later, not two.
	s.Snapshot.Succeeded = a.until
	if got := decide(s, a.until, p).until.Sub(a.until); got != time.Hour {
		t.Errorf("the one after is due %s later, want 1h", got)
	}
}

func TestTransitions(t *testing.T) {
	t0 := mustTime(t, "2026-03-02 14:00:00")
	boom := errors.New("boom")
	s := resumed(State{}, t0)
	if s.Since != t0 {
		t.Errorf("a fresh state is since %v", s.Since)
	}
	s = begun(s, taskSnapshot, t0)
	killed := resumed(s, t0.Add(time.Minute))
	if killed.Snapshot.Running || killed.Snapshot.Failures != 1 || killed.Snapshot.Error == "" {
		t.Errorf("after a kill: %+v", killed.Snapshot)
	}
	if got := ended(s, taskSnapshot, t0.Add(time.Minute), outcome{err: boom, stopped: true}, plan{}).Snapshot; got.Failures != 0 || got.Running || !got.Succeeded.IsZero() {
		t.Errorf("after a clean stop: %+v", got)
	}
	bad := ended(s, taskSnapshot, t0.Add(time.Minute), outcome{err: boom}, plan{})
	if bad.Snapshot.Failures != 1 || bad.Snapshot.Error != "boom" || bad.Retention.Pending {
		t.Errorf("after a failure: %+v", bad)
	}
	last := &LastSnapshot{ID: "x", Started: t0, Finished: t0.Add(time.Minute)}
	good := ended(begun(bad, taskSnapshot, t0), taskSnapshot, t0.Add(time.Minute), outcome{last: last}, plan{})
	if good.Snapshot.Failures != 0 || good.Snapshot.Succeeded != t0 || !good.Retention.Pending || good.Last != last {
		t.Errorf("after a success: %+v", good)
	}
	if !ended(s, taskSnapshot, t0, outcome{last: last, again: true}, plan{}).Snapshot.Pending {
		t.Error("a snapshot that begins before a gap is not wanted again")
	}
	kept := ended(begun(good, taskRetention, t0), taskRetention, t0, outcome{}, plan{})
	if kept.Retention.Pending || kept.Collection.Pending {
		t.Errorf("after a retention within a day of the last collection: %+v", kept)
	}
	if day := t0.Add(collectEvery); !ended(begun(good, taskRetention, day), taskRetention, day, outcome{}, plan{}).Collection.Pending {
		t.Error("no collection follows a retention a day after the last one")
	}
	if w := ended(begun(kept, taskCollection, t0), taskCollection, t0, outcome{waits: true}, plan{}).Collection; !w.Pending || !w.Waits || w.Failures != 0 {
		t.Errorf("after a collection that waits: %+v", w)
	}
	if d := ended(begun(kept, taskCheck, t0), taskCheck, t0, outcome{damage: "pack x", problems: 1}, plan{}); d.Damage != "pack x" || d.Check.Failures != 0 {
		t.Errorf("after a check that found damage: %+v", d)
	}
	p := plan{optimize: 0.3}
	earned := ended(s, taskSnapshot, t0, outcome{last: last, stored: 1000}, p)
	if !earned.Optimize.Pending || earned.Budget != 300 {
		t.Errorf("after a snapshot that stored 1000: %+v", earned)
	}
	spent := ended(begun(earned, taskOptimize, t0), taskOptimize, t0, outcome{rewritten: 200, fragmentation: repo.Fragmentation{Pages: 10, Decoded: 12}}, p)
	if spent.Optimize.Pending || spent.Budget != 100 || spent.Fragmentation != 1.2 {
		t.Errorf("after an optimization: %+v", spent)
	}
	if s := ended(s, taskSnapshot, t0, outcome{last: last, stored: 1000}, plan{}); s.Optimize.Pending || s.Budget != 0 {
		t.Errorf("without a budget: %+v", s)
	}
	found := []capture.Missed{{Path: "base/5/1", Block: 7}}
	for _, o := range []outcome{{err: errors.New("boom"), found: found}, {err: errors.New("boom"), stopped: true, found: found}} {
		failed := ended(s, taskSnapshot, t0, o, p)
		if len(failed.Found) != 1 || len(learned(failed, known{last: last}).Found) != 1 {
			t.Errorf("a snapshot failed after it had found a miss: %+v", failed)
		}
		if done := ended(failed, taskSnapshot, t0, outcome{last: last}, p); done.Found != nil {
			t.Errorf("a snapshot told of the miss: %+v", done)
		}
	}
	alarm := &capture.Alarm{Doubtful: []repo.SnapshotID{"x"}}
	if l := learned(s, known{last: last, alarm: alarm}); l.Alarm != alarm || learned(l, known{last: last}).Alarm != nil {
		t.Errorf("after the repository told of an alarm: %+v", l)
	}
	newer := &LastSnapshot{ID: "y", Started: t0.Add(time.Hour)}
	if l := learned(bad, known{last: newer}); l.Snapshot.Succeeded != newer.Started || l.Snapshot.Failures != 0 {
		t.Errorf("after somebody else took a snapshot: %+v", l.Snapshot)
	}
	if l := learned(good, known{}); !l.Snapshot.Succeeded.IsZero() || l.Last != nil {
		t.Errorf("after the repository has none any more: %+v", l)
	}
}
