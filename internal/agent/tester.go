package agent

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/holdfast-dr/holdfast/internal/config"
	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/evidence"
	"github.com/holdfast-dr/holdfast/internal/verify"
	"github.com/holdfast-dr/holdfast/internal/workspace"
)

// tester tests by the clock that a system can be recovered. It works beside the keeper's loop: a test may take hours, and no
// snapshot waits for it.
type tester struct {
	open    func() *workspace.Workspace // one of its own, for each test
	system  config.System
	policy  config.Policy
	command func(system string) (string, error) // see restore.Settings
	timing  dr.Timing
	dir     string        // where tests are kept
	one     chan struct{} // a place for the one test that runs at a time, over all systems
	retry   time.Duration // after the first failure; each time it doubles
	log     *slog.Logger

	mu       sync.Mutex // guards what follows
	running  bool
	failures int // tries that could not test anything, since the last one that could
	total    int64
	failed   time.Time // when the last of them ended
	err      string
}

// TestStatus is how the restore tests of a system stand.
type TestStatus struct {
	Running  bool             `json:"running,omitempty"`
	Failures int              `json:"failures,omitempty"` // tries that could not test anything, since the last one that could
	Error    string           `json:"error,omitempty"`    // of the last one
	Last     *verify.Summary  `json:"last,omitempty"`     // also of those that were run by hand on this host
	Proven   []verify.Summary `json:"proven,omitempty"`   // for each depth the newest test that passed it
	Booted   *verify.Summary  `json:"booted,omitempty"`   // the newest one whose server answered: it has the measured RTO

	total int64
}

// run tests until ctx ends. since is when this agent's state was begun: from then on tests are due.
func (t *tester) run(ctx context.Context, since func() time.Time) {
	for _, note := range verify.Cleanup(ctx, t.policy.Verify.Sandbox) {
		t.log.Info("after a restore test that was killed", "done", note)
	}
	if t.policy.Verify.Depth == config.VerifyNone {
		return
	}
	for ctx.Err() == nil {
		now := wallClock()
		due := t.due(now, since())
		if due.IsZero() {
			return
		}
		if due.After(now) {
			wait(ctx, min(maxDoze, due.Sub(now)))
			continue
		}
		select {
		case t.one <- struct{}{}:
		case <-ctx.Done():
			return
		}
		t.try(ctx)
		<-t.one
	}
}

// due returns when the next test is due: as the schedule says after the last one, and after a failure as retries go.
func (t *tester) due(now, since time.Time) time.Time {
	last := since
	all, err := verify.Tests(t.dir)
	if err != nil {
		t.log.Warn("the restore tests that were run cannot be read", dr.KeyError, err)
	}
	for _, s := range all {
		if s.Started.After(last) && !s.Started.After(now) {
			last = s.Started
		}
	}
	if last.IsZero() || last.After(now) {
		last = now
	}
	regular := t.timing.Next(t.system.Name, last)
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.failures == 0 {
		return regular
	}
	again := t.failed.Add(t.retry << min(t.failures-1, maxRetries))
	return later(regular, again)
}

// try runs one test, and keeps what it found.
func (t *tester) try(ctx context.Context) {
	t.mu.Lock()
	t.running = true
	t.mu.Unlock()
	began := time.Now()
	result, err := t.test(ctx)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.running = false
	switch {
	case ctx.Err() != nil:
		t.log.Info("restore test stopped with the agent")
	case err != nil:
		t.failures, t.total, t.failed, t.err = t.failures+1, t.total+1, wallClock(), err.Error()
		t.log.Error("no restore test could be run", dr.KeyDuration, time.Since(began).Round(time.Millisecond), dr.KeyError, err, dr.KeyNext, dr.Advice(err))
	default:
		t.failures, t.err = 0, ""
		t.tell(result)
	}
}

func (t *tester) tell(r *verify.Result) {
	args := []any{dr.KeySnapshot, r.Snapshot, "point", r.Target.String(), "depth", string(r.Depth), "proven", string(r.Proven), dr.KeyDuration, r.Took.Round(time.Millisecond)}
	if r.RTO > 0 {
		args = append(args, "rto", r.RTO.Round(time.Millisecond))
	}
	if r.Outcome == verify.Passed {
		t.log.Info("restore test passed", args...)
		return
	}
	for _, p := range r.Problems[:min(len(r.Problems), 20)] {
		t.log.Error("a restore test found a problem", dr.KeySnapshot, r.Snapshot, "problem", p.String())
	}
	t.log.Error("restore test FAILED", append(args, "problems", r.ProblemCount, dr.KeyNext, "holdfast verify "+r.System+" --depth "+string(r.Depth)+" says what was covered; try another replica with --site")...)
}

func (t *tester) test(ctx context.Context) (result *verify.Result, err error) {
	ws := t.open()
	defer func() { err = errors.Join(err, ws.Close()) }()
	sys, err := ws.System(ctx, string(t.system.Name))
	if err != nil {
		return nil, err
	}
	o := verify.FromConfig(t.system, t.policy, t.log)
	if o.RestoreCommand, err = t.command(string(t.system.Name)); err != nil {
		return nil, err
	}
	point, err := verify.Choose(ctx, sys.Repo, string(t.system.Name), string(t.policy.Verify.At))
	if err != nil {
		return nil, err
	}
	o.Unread, o.PlanTook, o.Site = point.Unread, point.Took, ws.Config.RepositoryOf(t.system).Replicas[0].Site
	if result, err = verify.Run(ctx, sys.Repo, point.Plan, o); err != nil {
		return nil, err
	}
	st := result.Statement()
	st.Subjects = []evidence.Subject{workspace.SnapshotSubject(point.Plan.Snapshot.Manifest)}
	ws.Record(ctx, sys.Repo, st)
	return result, verify.Keep(t.dir, result.Summary())
}

// status says how the tests stand.
func (t *tester) status() *TestStatus {
	if t == nil {
		return nil
	}
	all, _ := verify.Tests(t.dir) //nolint:errcheck // due has said so
	t.mu.Lock()
	defer t.mu.Unlock()
	s := &TestStatus{Running: t.running, Failures: t.failures, Error: t.err, total: t.total}
	if len(all) > 0 {
		s.Last = &all[len(all)-1]
	}
	for _, d := range verify.Depths {
		if p, ok := verify.Newest(all, d, nil); ok {
			s.Proven = append(s.Proven, p)
		}
	}
	if b, ok := verify.Newest(all, verify.Boot, func(s verify.Summary) bool { return s.RTO > 0 }); ok {
		s.Booted = &b
	}
	return s
}

// illness says what the tests found wrong.
func (s *TestStatus) illness() []string {
	switch {
	case s == nil:
	case s.Last != nil && s.Last.Outcome == verify.Failed:
		return []string{"the restore test of " + s.Last.Finished.Format(time.RFC3339) + " failed: " + oneLine(s.Last.First)}
	case s.Failures > maxRetries:
		return []string{"no restore test could be run: " + oneLine(s.Error)}
	}
	return nil
}
