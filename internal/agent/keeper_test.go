package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-dr/holdfast/internal/capture"
	"github.com/holdfast-dr/holdfast/internal/config"
	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/pg"
	"github.com/holdfast-dr/holdfast/internal/repo"
)

// journal is what a keeper did: it stands for the database and the repository, about which the loop knows nothing.
type journal struct {
	settled int // calls of settle
	now     func() time.Time
	took    time.Duration

	mu       sync.Mutex // guards what follows
	done     map[task][]time.Time
	fail     map[task]int         // how often it fails from now on
	still    func(time.Time) bool // tells that a snapshot would gain nothing; nil: never
	asked    []bool               // for each snapshot, whether it was wanted in any case
	last     *LastSnapshot
	wanted   bool
	alarm    *capture.Alarm   // that the repository tells of after a snapshot that was told of found
	found    []capture.Missed // by a snapshot that fails
	away     bool             // the repository does not answer
	parallel int
	most     int
}

func newJournal(now func() time.Time) *journal {
	return &journal{now: now, done: map[task][]time.Time{}, fail: map[task]int{}}
}

func (j *journal) settle(context.Context) error {
	j.settled++
	return nil
}

func (j *journal) newest(context.Context, time.Time) (known, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.away {
		return known{}, errors.New("away")
	}
	return known{last: j.last, wanted: j.wanted, alarm: j.alarm}, nil
}

func (j *journal) do(ctx context.Context, job job, _ dr.ProgressFunc) outcome {
	t := job.task
	j.mu.Lock()
	began := j.now()
	j.done[t] = append(j.done[t], began)
	j.parallel++
	j.most = max(j.most, j.parallel)
	j.mu.Unlock()
	wait(ctx, j.took)
	j.mu.Lock()
	defer j.mu.Unlock()
	j.parallel--
	if j.fail[t] > 0 || ctx.Err() != nil {
		j.fail[t]--
		return outcome{err: errors.New("boom"), found: j.found}
	}
	if t != taskSnapshot {
		return outcome{}
	}
	j.asked = append(j.asked, job.wanted)
	if j.still != nil && !job.wanted && j.still(began) {
		return outcome{unneeded: true}
	}
	j.last = &LastSnapshot{ID: repo.NewSnapshotID(began), Started: began, Finished: j.now()}
	j.wanted = false
	if len(job.found) > 0 {
		j.alarm = &capture.Alarm{Alarm: pg.Alarm{Missed: int64(len(job.found)), Snapshot: string(j.last.ID)}, Doubtful: []repo.SnapshotID{"before"}}
	}
	return outcome{last: j.last, alarmed: j.alarm != nil}
}

func (j *journal) times(t task) []string {
	j.mu.Lock()
	defer j.mu.Unlock()
	var out []string
	for _, at := range j.done[t] {
		out = append(out, at.UTC().Format("15:04:05"))
	}
	return out
}

// noStream is a log stream that is told what to say.
type noStream struct {
	mu   sync.Mutex // guards said
	said StreamStatus
	end  chan error
}

func (s *noStream) run(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case err := <-s.end:
		return err
	}
}

func (s *noStream) status() *StreamStatus {
	s.mu.Lock()
	defer s.mu.Unlock()
	said := s.said
	return &said
}

func (s *noStream) recoveryPoint() time.Time { return time.Time{} }

func newKeeper(t *testing.T, j *journal, dir string) *keeper {
	return &keeper{
		system: config.System{Name: "a", Repository: "main"}, site: "here",
		plan: plan{system: "a", snapshots: mustTiming(t, "hourly", 0), checks: dr.Timing{}, retry: firstRetry},
		file: &stateFile{path: filepath.Join(dir, "agent.json")}, ops: j, heavy: make(chan struct{}, 1),
		now: j.now, log: slog.New(slog.DiscardHandler), failures: newFailures(),
	}
}

func utc() time.Time { return time.Now().Round(0).UTC() }

// play runs a keeper for a time, in a clock that nobody waits for. It begins at midnight, 2000-01-01 UTC.
func play(t *testing.T, k *keeper, d time.Duration) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	defer cancel()
	if err := k.run(ctx); err != nil {
		t.Fatal(err)
	}
}

func want(t *testing.T, j *journal, what task, times ...string) {
	t.Helper()
	if got := j.times(what); !slices.Equal(got, times) {
		t.Errorf("%s at %v, want %v", what, got, times)
	}
}

func TestLoopFollowsTheSchedule(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := newJournal(utc)
		j.took = time.Minute
		play(t, newKeeper(t, j, t.TempDir()), 3*time.Hour+30*time.Minute)
		want(t, j, taskSnapshot, "00:00:00", "01:00:00", "02:00:00", "03:00:00")
		want(t, j, taskRetention, "00:01:00", "01:01:00", "02:01:00", "03:01:00")
		want(t, j, taskCollection)
		if j.most != 1 {
			t.Errorf("%d tasks ran at once", j.most)
		}
	})
}

// Where a snapshot takes longer than its interval, one is always due.
func TestLoopDoesNotStarveRetention(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := newJournal(utc)
		j.took = 70 * time.Minute
		play(t, newKeeper(t, j, t.TempDir()), 31*time.Hour)
		want(t, j, taskSnapshot, "00:00:00", "02:20:00", "04:40:00", "07:00:00", "09:20:00", "11:40:00", "14:00:00", "16:20:00",
			"18:40:00", "21:00:00", "23:20:00", "02:50:00", "05:10:00")
		want(t, j, taskRetention, "01:10:00", "03:30:00", "05:50:00", "08:10:00", "10:30:00", "12:50:00", "15:10:00", "17:30:00",
			"19:50:00", "22:10:00", "00:30:00", "04:00:00", "06:20:00")
		want(t, j, taskCollection, "01:40:00")
	})
}

// A continuous schedule looks every minute. Where nothing was checkpointed since the last snapshot nothing follows; one without
// which nothing can be recovered is taken all the same.
func TestLoopLooksEveryMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := newJournal(utc)
		j.still = func(at time.Time) bool { return at.Minute()%5 != 0 }
		k := newKeeper(t, j, t.TempDir())
		k.plan.snapshots = mustTiming(t, "continuous", 0)
		play(t, k, 6*time.Minute+30*time.Second)
		want(t, j, taskSnapshot, "00:00:00", "00:01:00", "00:02:00", "00:03:00", "00:04:00", "00:05:00", "00:06:00")
		want(t, j, taskRetention, "00:00:00", "00:05:00")
		if last := j.last.Started.Format("15:04:05"); last != "00:05:00" || k.state.Last.ID != j.last.ID || k.state.Snapshot.Failures != 0 {
			t.Errorf("the last snapshot is of %s, the state %+v", last, k.state)
		}
		j.wanted = true // the log has a gap behind it
		play(t, newKeeper(t, j, t.TempDir()), 10*time.Second)
		if !j.asked[len(j.asked)-1] || j.wanted {
			t.Errorf("snapshots were asked for as %v", j.asked)
		}
	})
}

func TestLoopRetries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := newJournal(utc)
		j.fail[taskSnapshot] = 8
		k := newKeeper(t, j, t.TempDir())
		play(t, k, 2*time.Hour+30*time.Minute)
		want(t, j, taskSnapshot, "00:00:00", "00:00:30", "00:01:30", "00:03:30", "00:07:30", "00:15:30", // and no more until
			"01:00:00", "01:00:30", "01:01:30", "02:00:00")
		if k.failures["snapshot"] != 8 || k.state.Snapshot.Failures != 0 {
			t.Errorf("counted %v, state %+v", k.failures, k.state.Snapshot)
		}
	})
}

// What was missed is known until a snapshot tells of it, and the alarm until the repository tells of none.
func TestLoopKeepsWhatWasMissed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		j := newJournal(utc)
		j.fail[taskSnapshot], j.found = 1, []capture.Missed{{Path: "base/5/1", Block: 7}}
		alarmed := func(k *keeper) bool {
			s := k.status(k.now())
			return !s.Healthy && slices.ContainsFunc(s.Reasons, func(r string) bool { return strings.Contains(r, "the log did not tell") })
		}
		k := newKeeper(t, j, dir)
		play(t, k, 10*time.Second)
		if !alarmed(k) || k.state.Alarm != nil {
			t.Errorf("the snapshot that was to tell of it has failed: %+v", k.status(k.now()))
		}
		k = newKeeper(t, j, dir)
		play(t, k, time.Minute)
		if !alarmed(k) || k.state.Alarm == nil || k.state.Found != nil {
			t.Errorf("a snapshot tells of it: %+v", k.state)
		}
		j.away = true
		k = newKeeper(t, j, dir)
		play(t, k, time.Minute)
		if !alarmed(k) {
			t.Errorf("after a restart, without the repository: %+v", k.state)
		}
		j.away, j.alarm = false, nil
		play(t, k, 3*time.Hour)
		if alarmed(k) {
			t.Errorf("the repository tells of no alarm: %+v", k.state)
		}
	})
}

func TestLoopCatchesUpOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		j := newJournal(utc)
		play(t, newKeeper(t, j, dir), 90*time.Minute)
		wait(t.Context(), 5*time.Hour) // away until 06:30
		play(t, newKeeper(t, j, dir), time.Hour)
		want(t, j, taskSnapshot, "00:00:00", "01:00:00", "06:30:00", "07:00:00")
		wait(t.Context(), time.Minute) // not away when anything was due
		play(t, newKeeper(t, j, dir), time.Hour)
		want(t, j, taskSnapshot, "00:00:00", "01:00:00", "06:30:00", "07:00:00", "08:00:00")
	})
}

func TestLoopAfterTheStateWasLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := newJournal(utc)
		play(t, newKeeper(t, j, t.TempDir()), 90*time.Minute)
		play(t, newKeeper(t, j, t.TempDir()), time.Hour) // the repository knows of the snapshot at 01:00
		want(t, j, taskSnapshot, "00:00:00", "01:00:00", "02:00:00")
	})
}

func TestLoopSeesTheClockBeingSet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex // guards shift
		var shift time.Duration
		j := newJournal(func() time.Time {
			mu.Lock()
			defer mu.Unlock()
			return utc().Add(shift)
		})
		k := newKeeper(t, j, t.TempDir())
		set := func(after, to time.Duration) {
			time.AfterFunc(after, func() {
				mu.Lock()
				defer mu.Unlock()
				shift = to
			})
		}
		set(80*time.Minute+10*time.Second, -24*time.Hour) // back a day, at 01:20: the snapshot at 01:00 is in the future. It is noticed within a minute
		set(150*time.Minute+10*time.Second, 0)            // and forward again, at 02:30
		play(t, k, 190*time.Minute)
		want(t, j, taskSnapshot, "00:00:00", "01:00:00", "01:21:00", "02:00:00", "02:31:00", "03:00:00")
	})
}

func TestLoopTakesASnapshotBehindAGap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := newJournal(utc)
		k := newKeeper(t, j, t.TempDir())
		s := &noStream{}
		k.stream = s
		time.AfterFunc(9*time.Minute+30*time.Second, func() {
			j.mu.Lock()
			j.wanted = true
			j.mu.Unlock()
			s.mu.Lock()
			s.said.Gaps = []capture.LogGap{{Timeline: 1}}
			s.mu.Unlock()
		})
		play(t, k, 30*time.Minute)
		want(t, j, taskSnapshot, "00:00:00", "00:10:00")
	})
}

func TestLoopStopsInTheMiddleOfATask(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		j := newJournal(utc)
		j.took = 10 * time.Minute
		k := newKeeper(t, j, dir)
		play(t, k, time.Minute)
		if k.state.Snapshot.Running || k.state.Snapshot.Failures != 0 || k.failures["snapshot"] != 0 {
			t.Errorf("after a clean stop: %+v, %v", k.state.Snapshot, k.failures)
		}
		play(t, newKeeper(t, j, dir), time.Minute)
		want(t, j, taskSnapshot, "00:00:00", "00:01:00") // at once, for the first one came to nothing
	})
}

func TestKeeperEndsWhereAnotherAgentProtects(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := newJournal(utc)
		k := newKeeper(t, j, t.TempDir())
		s := &noStream{end: make(chan error, 1)}
		k.stream = s
		s.end <- fmt.Errorf("the slot: %w", ErrSecondAgent)
		if err := k.run(t.Context()); !errors.Is(err, ErrSecondAgent) {
			t.Errorf("run ends with %v", err)
		}
		if st := k.status(utc()); st.Healthy {
			t.Error("it is healthy nevertheless")
		}
	})
}

func TestTasksOfSystemsShareThePlaces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := newJournal(utc)
		j.took = time.Minute
		heavy := make(chan struct{}, 2)
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour-time.Second)
		defer cancel()
		var all sync.WaitGroup
		for range 5 {
			k := newKeeper(t, j, t.TempDir())
			k.heavy = heavy
			k.plan.snapshots = mustTiming(t, "daily", 0)
			all.Go(func() { _ = k.run(ctx) })
		}
		all.Wait()
		if j.most != 2 || len(j.done[taskSnapshot]) == 0 {
			t.Errorf("%d tasks ran at once, want 2", j.most)
		}
	})
}

// What a killed agent had announced is settled by the next one, and only then: otherwise a writer that is alive
// would be aborted.
func TestKeeperSettlesWhatAKilledAgentBegan(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, killed := range []bool{false, true} {
			j, dir := newJournal(utc), t.TempDir()
			k := newKeeper(t, j, dir)
			if err := k.file.save(State{Version: stateVersion, Since: utc(), Snapshot: TaskRun{Running: killed, Started: utc()}}); err != nil {
				t.Fatal(err)
			}
			play(t, k, time.Minute)
			if got := j.settled == 1; got != killed {
				t.Errorf("killed %v: settled %d times", killed, j.settled)
			}
		}
	})
}

// A site that is behind, or out of reach, for longer than a while makes the system ill.
func TestSitesThatAreBehind(t *testing.T) {
	now := time.Date(2026, 3, 2, 14, 0, 0, 0, time.UTC)
	long, soon := now.Add(-time.Hour), now.Add(-time.Minute)
	for _, c := range []struct {
		replica ReplicaStatus
		want    string // empty: well
	}{
		{ReplicaStatus{RecoveryPoint: soon, Since: soon}, ""},
		{ReplicaStatus{RecoveryPoint: long, Since: long}, "site there is behind"},
		{ReplicaStatus{RecoveryPoint: long, Since: soon, Error: "cut"}, ""},
		{ReplicaStatus{RecoveryPoint: long, Since: long, Error: "cut"}, "nothing can be copied to site there since 2026-03-02T13:00:00Z: cut"},
		{ReplicaStatus{Since: soon}, ""},
		{ReplicaStatus{Since: long}, "site there cannot be recovered from yet"},
	} {
		c.replica.Site = "there"
		got := strings.Join(illnesses(SystemStatus{RecoveryPoint: now, Replicas: []ReplicaStatus{c.replica}}, nil, now), "; ")
		if !strings.HasPrefix(got, c.want) || c.want == "" && got != "" {
			t.Errorf("%+v: %q, want %q", c.replica, got, c.want)
		}
	}
}

// Fewer sites than the policy asks for make the system ill: at once where commits rely on them, after a while where copies do.
func TestFewerSitesThanThePolicyAsksFor(t *testing.T) {
	now := time.Date(2026, 3, 2, 14, 0, 0, 0, time.UTC)
	s := SystemStatus{RecoveryPoint: now, MinCopies: 2, Replicas: []ReplicaStatus{{Site: "there", RecoveryPoint: now, Since: now}}}
	s.Stream = &StreamStatus{Connected: true, Copies: &CopiesStatus{Sync: 2, Short: now, Sites: []SiteStatus{{Site: "here", Member: true, Since: now}, {Site: "there", Error: "cut", Since: now}}}}
	if got := illnesses(s, nil, now); len(got) != 0 {
		t.Errorf("sites are waited for: %q", got)
	}
	s.Stream.Copies.GaveUp = true
	if got := strings.Join(illnesses(s, nil, now), "; "); got != "since 2026-03-02T14:00:00Z the log is acknowledged with 1 of 2 sites (here); there: cut" {
		t.Errorf("fewer suffice: %q", got)
	}
	s.Stream = nil
	s.Replicas[0].Since, s.Replicas[0].RecoveryPoint = now.Add(-time.Hour), now.Add(-time.Hour)
	if got := strings.Join(illnesses(s, nil, now), "; "); !strings.Contains(got, "it can be recovered from 1 sites, and its policy asks for 2") {
		t.Errorf("one site of two is behind: %q", got)
	}
	s.Replicas[0].Since, s.Replicas[0].RecoveryPoint, s.Site = now, now, "here"
	s.Stream = &StreamStatus{Connected: true, Copies: &CopiesStatus{Sync: 1, Sites: []SiteStatus{{Site: "here", Since: now.Add(-time.Hour), Error: "cut"}, {Site: "there", Member: true, Since: now}}}}
	got := strings.Join(illnesses(s, nil, now), "; ")
	for _, want := range []string{"the log is not written at site here since 2026-03-02T13:00:00Z: cut", "it can be recovered from 1 sites, and its policy asks for 2"} {
		if !strings.Contains(got, want) {
			t.Errorf("the first site is away: %q, want %q", got, want)
		}
	}
}
