package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/holdfast-dr/holdfast/internal/capture"
	"github.com/holdfast-dr/holdfast/internal/config"
	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/store/meter"
)

// operations are what a keeper does to its system. They are called by one goroutine, one at a time.
type operations interface {
	newest(ctx context.Context, now time.Time) (known, error)
	// settle gives the snapshots that an agent was taking, or writing anew, when it died the outcome "aborted".
	settle(ctx context.Context) error
	do(ctx context.Context, j job, progress dr.ProgressFunc) outcome
}

// job is a task to be done now.
type job struct {
	task   task
	budget int64            // of an optimization: bytes that it may store again
	until  time.Time        // when the next snapshot is due: an optimization ends early then; zero: never
	wanted bool             // of a snapshot: nothing can be recovered to now until there is one, so that it is taken in any case
	found  []capture.Missed // for a snapshot: see State.Found
}

// logStream receives the log. It ends with ctx, or because a person must decide something.
type logStream interface {
	run(ctx context.Context) error
	status() *StreamStatus
	recoveryPoint() time.Time // zero where the stream proves none
}

// keeper keeps one system protected.
type keeper struct {
	system config.System
	policy config.Policy
	site   string
	plan   plan
	file   *stateFile
	ops    operations
	stream logStream // nil where the policy streams no log
	copies []*mirror // to other sites
	tester *tester   // nil where no restore tests are run
	heavy  chan struct{}
	now    func() time.Time
	log    *slog.Logger

	gaps     int          // that the loop knows of
	requests *meter.Meter // what is asked of the store; nil: nobody counts

	// mu guards what follows. Not held during I/O. Only the loop changes the state.
	mu       sync.Mutex
	state    State
	task     task
	progress *dr.Progress
	failures map[string]int64
	refused  error
}

// The kinds of failures that are counted, beside the tasks.
const (
	failureStream = "stream"
	failureState  = "state"
	failureDamage = "damage" // objects that checks found
	failureVerify = "verify" // restore tests that could not be run
)

func newFailures() map[string]int64 {
	f := map[string]int64{failureStream: 0, failureState: 0, failureDamage: 0, failureVerify: 0}
	for _, t := range tasks {
		f[string(t)] = 0
	}
	return f
}

// maxDoze bounds every sleep of the loop, because the clock on the wall may be set while it sleeps, and stands
// still, for timers, while a machine is suspended.
const maxDoze = time.Minute

// run keeps the system protected until ctx ends, or until it must not: another agent does it.
func (k *keeper) run(ctx context.Context) error {
	var g errgroup.Group
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	if k.stream != nil {
		g.Go(func() error {
			err := k.stream.run(ctx)
			if err != nil && ctx.Err() == nil {
				k.refuse(err)
				cancel(err) // whoever may not receive the log may not take snapshots either
			}
			return err
		})
	}
	for _, m := range k.copies {
		g.Go(func() error { m.run(ctx); return nil })
	}
	if k.tester != nil {
		g.Go(func() error { k.tester.run(ctx, k.since); return nil })
	}
	g.Go(func() error { k.loop(ctx); return nil })
	return g.Wait()
}

// since returns when the state was begun; zero before it was read.
func (k *keeper) since() time.Time {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.state.Since
}

// loop does what is due until ctx ends.
func (k *keeper) loop(ctx context.Context) {
	k.resume(ctx)
	for ctx.Err() == nil {
		if k.newGap() {
			k.learn(ctx)
		}
		now := k.now()
		a := decide(k.state, now, k.plan)
		k.foresee(now)
		if a.task != "" {
			k.perform(ctx, a.task)
			continue
		}
		d := maxDoze
		if !a.until.IsZero() {
			d = min(d, a.until.Sub(now))
		}
		wait(ctx, d)
	}
}

// newGap tells whether the stream has noticed gaps since this was asked last.
func (k *keeper) newGap() bool {
	if k.stream == nil {
		return false
	}
	gaps := len(k.stream.status().Gaps)
	grown := gaps > k.gaps
	k.gaps = gaps
	return grown
}

func wait(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// resume goes on from what the process before left.
func (k *keeper) resume(ctx context.Context) {
	s, err := k.file.load()
	if err != nil {
		k.count(failureState)
		k.log.Warn("the state cannot be read; what is due is found out from the repository", dr.KeyFile, k.file.path, dr.KeyError, err)
	}
	if s.Snapshot.Running || s.Optimize.Running {
		// Without this every collection would wait for the dead writer until its patience ends.
		if err := k.ops.settle(ctx); err != nil && ctx.Err() == nil {
			k.log.Warn("a snapshot that was interrupted cannot be settled; a collection does it later", dr.KeyError, err)
		}
	}
	k.set(resumed(s, k.now()))
	k.learn(ctx)
	k.save()
}

// learn asks the repository, which knows better than the state file. Where it does not answer, the file counts.
func (k *keeper) learn(ctx context.Context) {
	told, err := k.ops.newest(ctx, k.now())
	if err != nil {
		if ctx.Err() == nil {
			k.log.Warn("the repository does not tell of its snapshots", dr.KeyRepository, k.system.Repository, dr.KeyError, err)
		}
		return
	}
	k.set(learned(k.state, told))
}

// perform does one task, and remembers how it went.
func (k *keeper) perform(ctx context.Context, t task) {
	select {
	case k.heavy <- struct{}{}:
		defer func() { <-k.heavy }()
	case <-ctx.Done():
		return
	}
	if t == taskSnapshot {
		// Somebody may have taken one by hand.
		if k.learn(ctx); decide(k.state, k.now(), k.plan).task != t {
			return
		}
	}
	k.mu.Lock()
	k.state, k.task = begun(k.state, t, k.now()), t
	k.mu.Unlock()
	k.save()
	began := time.Now()
	k.log.Debug("task begins", "task", string(t))
	o := k.ops.do(ctx, job{t, k.state.Budget, k.state.Next, k.state.Snapshot.Pending, k.state.Found}, k.report)
	o.stopped = o.err != nil && ctx.Err() != nil
	k.mu.Lock()
	k.state, k.task, k.progress = ended(k.state, t, k.now(), o, k.plan), "", nil
	if o.err != nil && !o.stopped {
		k.failures[string(t)]++
	}
	k.failures[failureDamage] += int64(o.problems)
	k.mu.Unlock()
	k.tell(t, o, time.Since(began))
	if o.alarmed || o.last != nil && k.state.Alarm != nil {
		k.learn(ctx) // which snapshots are doubtful
	}
	k.foresee(k.now())
	k.save()
}

// tell writes what an operator wants to know of a task's end.
func (k *keeper) tell(t task, o outcome, took time.Duration) {
	args := []any{"task", string(t), dr.KeyDuration, took.Round(time.Millisecond)}
	switch {
	case o.stopped:
		k.log.Info("task stopped with the agent", args...)
	case o.err != nil:
		now := k.now()
		again := later(dueAt(t, k.state, now, k.plan), now).Sub(now)
		k.log.Error("task failed", append(args, dr.KeyError, o.err, dr.KeyNext, dr.Advice(o.err), "again", again.Round(time.Second))...)
	case o.unneeded:
		k.log.Debug("no snapshot is needed", args...)
	case t == taskSnapshot:
		k.log.Info("snapshot taken", append(args, dr.KeySnapshot, o.last.ID, dr.KeyBytes, o.last.Bytes, "added", o.last.Added)...)
	default:
		k.log.Info("task done", args...)
	}
}

// foresee notes when the next snapshot is due.
func (k *keeper) foresee(now time.Time) {
	k.mu.Lock()
	defer k.mu.Unlock()
	due := snapshotDue(k.state.Snapshot, now, k.plan)
	// What is due already stays due since then, instead of since each time somebody looks.
	if due.After(now) || k.state.Next.IsZero() || k.state.Next.After(now) {
		k.state.Next = due
	}
}

func (k *keeper) save() {
	if err := k.file.save(k.state); err != nil {
		k.count(failureState)
		k.log.Warn("the state cannot be saved; after a restart it is found out from the repository", dr.KeyFile, k.file.path, dr.KeyError, err)
	}
}

func (k *keeper) set(s State) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.state = s
}

func (k *keeper) count(kind string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.failures[kind]++
}

func (k *keeper) refuse(err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.refused = err
}

func (k *keeper) report(p dr.Progress) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.progress = &p
}

// status says how the system's protection stands.
func (k *keeper) status(now time.Time) SystemStatus {
	s := SystemStatus{
		System: k.system.Name, Repository: k.system.Repository, Site: k.site,
		RPO: k.policy.Objectives.RPO.Seconds(), RTO: k.policy.Objectives.RTO.Seconds(),
	}
	s.State, s.Stream, s.RecoveryPoint = k.reach()
	k.mu.Lock()
	s.Task, s.Phase, s.Failures = string(k.task), k.progress, maps.Clone(k.failures)
	refused := k.refused
	k.mu.Unlock()
	if s.Stream != nil {
		s.Failures[failureStream] = s.Stream.Failures
	}
	if k.requests != nil {
		totals := k.requests.Read()
		s.Store = &totals
	}
	for _, m := range k.copies {
		if m.site != k.site {
			s.Replicas = append(s.Replicas, m.read())
		}
	}
	if s.Tests = k.tester.status(); s.Tests != nil {
		s.Failures[failureVerify] = s.Tests.total
	}
	s.MinCopies = k.policy.Copies.Min
	s.Reasons = illnesses(s, refused, now)
	s.Healthy = len(s.Reasons) == 0
	return s
}

// reach says up to which moment the system can be recovered, and what that rests on.
func (k *keeper) reach() (st State, stream *StreamStatus, point time.Time) {
	var proven time.Time
	if k.stream != nil {
		stream, proven = k.stream.status(), k.stream.recoveryPoint()
	}
	k.mu.Lock()
	st = k.state
	k.mu.Unlock()
	if st.Last != nil {
		// Behind a gap nothing can be recovered until there is a snapshot.
		point = st.Last.Finished
		if !st.Snapshot.Pending {
			point = later(point, proven)
		}
	}
	return st, stream, point
}

// home says what a mirror copies from. It is asked every second or so.
func (k *keeper) home() (seen, time.Time) {
	st, stream, point := k.reach()
	out := seen{}
	if st.Last != nil {
		out.snapshot, out.site = st.Last.ID, st.Last.Site
	}
	if stream != nil {
		out.timeline, out.durable = stream.Timeline, stream.Durable
	}
	return out, point
}

// refusedAll is the error of Run where no system is left.
func refusedAll(errs []error) error {
	if len(errs) == 1 {
		return errs[0]
	}
	return fmt.Errorf("agent: no system is left to protect: %w", errors.Join(errs...))
}
