package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/holdfast-dr/holdfast/internal/capture"
	"github.com/holdfast-dr/holdfast/internal/config"
	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/pg/wal"
	"github.com/holdfast-dr/holdfast/internal/repo"
	"github.com/holdfast-dr/holdfast/internal/seal"
	"github.com/holdfast-dr/holdfast/internal/store"
	"github.com/holdfast-dr/holdfast/internal/workspace"
)

// systemOperations does a system's tasks. Its workspace is its own, so that after a rotation of the keys it can
// be opened anew without asking the others.
type systemOperations struct {
	ws      *workspace.Workspace
	openAt  func(site string) *workspace.Workspace // one of its own
	home    string                                 // site of ws
	system  config.System
	policy  config.Policy
	stream  *systemStream // nil where the policy streams no log
	workers int           // of a snapshot
	failing bool          // the last snapshot failed, and its evidence was recorded
	log     *slog.Logger
}

var _ operations = (*systemOperations)(nil)

// connectLimit is how long a snapshot waits for the log stream to begin.
const connectLimit = time.Minute

func (o *systemOperations) name() string { return string(o.system.Name) }

// open opens the system's repository with the keys of today.
func (o *systemOperations) open(ctx context.Context) (workspace.System, error) {
	sys, err := o.ws.System(ctx, o.name())
	if err != nil {
		return sys, err
	}
	err = sys.Repo.Refresh(ctx)
	if !rotated(err) {
		return sys, err
	}
	if err := o.reopen(); err != nil {
		return sys, err
	}
	return o.ws.System(ctx, o.name())
}

// reopen makes everybody who works for this system use the keys of today.
func (o *systemOperations) reopen() error {
	if o.stream != nil {
		o.stream.reopen()
	}
	return o.ws.Reopen(o.system.Repository)
}

func (o *systemOperations) do(ctx context.Context, j job, progress dr.ProgressFunc) outcome {
	out := o.try(ctx, j, progress)
	if rotated(out.err) {
		if err := o.reopen(); err != nil {
			return outcome{err: err}
		}
		out = o.try(ctx, j, progress)
	}
	if out.err != nil {
		o.forget()
	}
	return out
}

// forget makes the next use open the repository anew: what failed may have been at a place that is gone, and comes back as another.
func (o *systemOperations) forget() {
	if err := o.ws.Reopen(o.system.Repository); err != nil {
		o.log.Debug("a repository could not be closed", dr.KeyError, err)
	}
}

// rotated tells whether an error means that a repository has other keys than when it was opened.
func rotated(err error) bool {
	return errors.Is(err, repo.ErrKeysRotated) || errors.Is(err, seal.ErrUnknownEpoch)
}

// away returns the site at which the log is written, where that is not done at home: what is worked with is there, until home
// has caught up. Empty: at home.
func (o *systemOperations) away() string {
	if o.stream == nil {
		return ""
	}
	fan := o.stream.sites()
	if fan == nil {
		return ""
	}
	if site := fan.Source(); site != o.home {
		return site
	}
	return ""
}

// where calls f with the system at the site where the log is written: it has what came lately, and is in reach.
func (o *systemOperations) where(ctx context.Context, f func(ws *workspace.Workspace, sys workspace.System, site string) error) error {
	site := o.away()
	if site == "" {
		sys, err := o.open(ctx)
		if err != nil {
			return err
		}
		return f(o.ws, sys, "")
	}
	ws := o.openAt(site)
	sys, err := ws.System(ctx, o.name())
	if err == nil {
		err = f(ws, sys, site)
	}
	return errors.Join(err, ws.Close())
}

func (o *systemOperations) try(ctx context.Context, j job, progress dr.ProgressFunc) outcome {
	if j.task == taskSnapshot {
		var out outcome
		err := o.where(ctx, func(ws *workspace.Workspace, sys workspace.System, site string) error {
			if out = o.snapshot(ctx, ws, sys, j, progress); out.last != nil {
				out.last.Site = site
			}
			return nil
		})
		if err != nil && out.last == nil {
			out.err = errors.Join(out.err, err)
		}
		return out
	}
	sys, err := o.open(ctx)
	if err != nil {
		return outcome{err: err}
	}
	switch j.task {
	case taskRetention:
		return o.retain(ctx, sys)
	case taskCollection:
		return o.collect(ctx, sys, progress)
	case taskOptimize:
		return o.optimize(ctx, sys, j, progress)
	case taskCheck:
		return o.check(ctx, sys, progress)
	}
	return outcome{err: fmt.Errorf("task %q is unknown", j.task)}
}

func (o *systemOperations) snapshot(ctx context.Context, ws *workspace.Workspace, sys workspace.System, j job, progress dr.ProgressFunc) outcome {
	if o.stream != nil {
		if err := o.stream.connected(ctx, connectLimit); err != nil {
			return outcome{err: err}
		}
	}
	cfg := ws.SnapshotConfig(sys, workspace.SnapshotOptions{Progress: progress})
	cfg.Workers, cfg.Log, cfg.Found = o.workers, o.log, j.found
	cfg.AfterCheckpoint = sys.Policy.Schedule.Continuous() && !j.wanted && len(j.found) == 0
	if inRepository := cfg.WaitLog; o.stream != nil {
		// Our own stream knows when it is worth asking the repository, which has the last word.
		cfg.WaitLog = func(ctx context.Context, tl wal.TimelineID, start, end wal.LSN) error {
			if err := o.stream.reached(ctx, end); err != nil {
				return err
			}
			return inRepository(ctx, tl, start, end)
		}
	}
	log := sys.Repo.Log(o.name())
	began := time.Now()
	report, err := capture.Snapshot(ctx, sys.Repo, cfg)
	if errors.Is(err, capture.ErrNoCheckpoint) {
		return outcome{unneeded: true}
	}
	if ctx.Err() == nil && (err == nil || !o.failing) { // of tries that fail one after the other the first says all
		ws.RecordSnapshot(ctx, sys, report, began, err)
		o.failing = err != nil
	}
	if err != nil {
		out := outcome{err: err}
		if missed := new(capture.MissedError); errors.As(err, &missed) {
			out.found = missed.Missed
			o.logMissed(missed.Missed, int64(len(missed.Missed)), "the snapshot that reads everything has failed, and is tried again: see the next message")
		}
		return out
	}
	if report.MissedPages > 0 {
		o.logMissed(report.Missed, report.MissedPages, "report them with the server's version; snapshot "+string(report.Snapshot.ID)+" holds everything, earlier ones may lack such changes")
	}
	for _, p := range report.Problems {
		o.log.Error("the source is damaged; it is stored as it is", dr.KeySnapshot, report.Snapshot.ID, "problem", p.String(),
			dr.KeyNext, "find out why with pg_amcheck, and keep the older snapshots")
	}
	gaps, err := capture.ReadLogGaps(ctx, log)
	if err != nil {
		// The snapshot is there. What the gaps say is asked for again before the next one.
		o.log.Warn("the gaps of the log cannot be read", dr.KeyError, err)
	}
	return outcome{
		last: lastSnapshot(report.Snapshot), again: cutOff(report.Snapshot, gaps), stored: report.Snapshot.Written.NewBytes,
		alarmed: capture.Alarmed(report.Snapshot),
	}
}

// logMissed names pages that changed in silence.
func (o *systemOperations) logMissed(pages []capture.Missed, n int64, next string) {
	var names []string
	for _, m := range pages {
		names = append(names, m.String())
	}
	o.log.Error("pages changed of which the log did not tell", "count", n, "pages", names, dr.KeyNext, next)
}

func (o *systemOperations) newest(ctx context.Context, now time.Time) (told known, err error) {
	err = o.where(ctx, func(_ *workspace.Workspace, sys workspace.System, site string) error {
		told, err = o.tell(ctx, sys, site, now)
		return err
	})
	if err != nil {
		o.forget()
	}
	return told, err
}

// tell says what the repository at a site knows.
func (o *systemOperations) tell(ctx context.Context, sys workspace.System, site string, now time.Time) (known, error) {
	list, err := o.readable(ctx, sys, now)
	if err != nil {
		return known{}, err
	}
	var newest *repo.Manifest
	for _, m := range list {
		if newest == nil || !m.Started.Before(newest.Started) { // of two of one moment the one that was written anew
			newest = m
		}
	}
	if newest == nil {
		return known{}, nil
	}
	last := lastSnapshot(newest)
	last.Site = site
	gaps, err := capture.ReadLogGaps(ctx, sys.Repo.Log(o.name()))
	return known{last, cutOff(newest, gaps), capture.AlarmOf(list)}, err
}

// readable returns the system's snapshots that can be read, oldest first.
func (o *systemOperations) readable(ctx context.Context, sys workspace.System, now time.Time) (out []*repo.Manifest, err error) {
	list, err := sys.Repo.Snapshots(ctx, o.name())
	for _, l := range list {
		switch {
		case l.Err != nil:
			o.log.Error("a snapshot cannot be read", dr.KeySnapshot, l.ID, dr.KeyError, l.Err)
		case l.Manifest.Started.After(now): // by a clock that is wrong, or was: it says nothing about today
		default:
			out = append(out, l.Manifest)
		}
	}
	return out, err
}

func (o *systemOperations) settle(ctx context.Context) error {
	sys, err := o.open(ctx)
	if err != nil {
		return err
	}
	n, err := sys.Repo.AbortWriters(ctx, o.name())
	if n > 0 {
		o.log.Info("interrupted snapshots were aborted", "count", n)
	}
	return err
}

// retain forgets the snapshots that no rule keeps.
func (o *systemOperations) retain(ctx context.Context, sys workspace.System) outcome {
	if !o.ws.Config.Agent.Prune {
		return outcome{}
	}
	done, err := o.ws.Retain(ctx, sys, workspace.Apply)
	for _, id := range done.Forgotten {
		o.log.Info("snapshot forgotten: no rule keeps it", dr.KeySnapshot, id)
	}
	return outcome{err: err}
}

// collect gives back the space of what was forgotten, and of the log that no snapshot needs. It never waits for writers: what
// has to wait is left to the next run. Of several systems in a repository one collects for all. Locks are renewed first, and whatever
// becomes of the rest: what hinders a collection must not let them end.
func (o *systemOperations) collect(ctx context.Context, sys workspace.System, progress dr.ProgressFunc) outcome {
	renewed := renewLock(ctx, o.log, o.ws, o.system.Repository, o.home, sys.Repo, progress)
	if !o.ws.Config.Agent.Prune || ctx.Err() != nil {
		return outcome{err: renewed}
	}
	out := o.giveBack(ctx, sys, progress)
	out.err = errors.Join(renewed, out.err)
	return out
}

func (o *systemOperations) giveBack(ctx context.Context, sys workspace.System, progress dr.ProgressFunc) outcome {
	// What a store can do is seen each time, since providers change: where it cannot do enough nothing is deleted.
	abilities, err := store.Probe(ctx, sys.Repo.Store())
	if err != nil {
		return outcome{err: err}
	}
	options := repo.CollectOptions{NoExclusiveCreate: !abilities.ExclusiveCreate, ListsLate: !abilities.ListAfterWrite, Progress: progress}
	if err := sys.Repo.MayCollect(options); err != nil {
		return outcome{err: err}
	}
	objects, bytes, err := o.ws.RetainLog(ctx, sys)
	if objects > 0 {
		o.log.Info("log removed that no snapshot needs", "objects", objects, dr.KeyBytes, bytes)
	}
	if err != nil {
		return outcome{err: err}
	}
	if _, err := sys.Repo.Roll(ctx, o.name()); err != nil {
		o.log.Warn("the manifests of snapshots are not rolled up, so that they are listed slowly; it is tried again tomorrow", dr.KeyError, err)
	}
	last, err := sys.Repo.Collected(ctx)
	if err != nil {
		return outcome{err: err}
	}
	if since := time.Since(last); 0 <= since && since < collectEvery/2 {
		return outcome{}
	}
	began := time.Now()
	report, err := sys.Repo.Collect(ctx, options)
	if ctx.Err() == nil {
		o.ws.RecordCollection(ctx, sys.Repo, report, began, err)
	}
	if err != nil {
		return outcome{err: err}
	}
	for _, p := range report.Problems {
		o.log.Error("a pack cannot be read", dr.KeyRepository, o.system.Repository, "problem", p, dr.KeyNext, "holdfast repo check "+o.system.Repository)
	}
	if report.RemovedPacks > 0 || len(report.Aborted) > 0 {
		o.log.Info("space was given back", dr.KeyRepository, o.system.Repository, "packs", report.RemovedPacks,
			dr.KeyBytes, report.RemovedBytes, "aborted", len(report.Aborted))
	}
	return outcome{waits: len(report.Pending) > 0}
}

// optimize makes the newest snapshot quicker to read, as far as the budget goes and until the next snapshot is due.
func (o *systemOperations) optimize(ctx context.Context, sys workspace.System, j job, progress dr.ProgressFunc) outcome {
	report, err := o.ws.Optimize(ctx, sys, repo.OptimizeOptions{
		AtMost: max(j.budget, 1), // 0 would be no bound
		Enough: func() bool { return !j.until.IsZero() && !time.Now().Before(j.until) }, Progress: progress,
	})
	if errors.Is(err, repo.ErrCollecting) {
		o.log.Debug("optimization left to the next snapshot", dr.KeyError, err)
		return outcome{fragmentation: report.Before}
	}
	out := outcome{err: err, fragmentation: report.After}
	if report.Rewritten != "" {
		out.rewritten = report.Bytes
		o.log.Info("snapshot rewritten to be read quicker", dr.KeySnapshot, report.Rewritten, "was", report.Original, "parts", report.Parts,
			dr.KeyBytes, report.Bytes, "fragmentation", report.After.Ratio(), "before", report.Before.Ratio())
	}
	return out
}

// check looks whether everything is there, and reads back a sample of it.
func (o *systemOperations) check(ctx context.Context, sys workspace.System, progress dr.ProgressFunc) outcome {
	began := time.Now()
	report, err := sys.Repo.Check(ctx, repo.CheckOptions{Sample: float64(o.policy.Check.Sample), Progress: progress})
	if ctx.Err() == nil {
		o.ws.RecordCheck(ctx, sys.Repo, report, began, err)
	}
	if err != nil {
		return outcome{err: err}
	}
	for _, p := range report.Problems {
		o.log.Error("the repository is damaged", dr.KeyRepository, o.system.Repository, dr.KeyObject, p.Object, "problem", p.Reason,
			"snapshots", p.SnapshotCount, dr.KeyNext, "holdfast repo check "+o.system.Repository+" names what it touches; the rest is restorable")
	}
	o.log.Info("repository checked", dr.KeyRepository, o.system.Repository, "packs", report.Packs, "read", report.PacksRead+report.ExtentsRead,
		dr.KeyBytes, report.ReadBytes, "problems", len(report.Problems))
	out := outcome{problems: len(report.Problems)}
	if out.problems > 0 {
		first := report.Problems[0]
		out.damage = fmt.Sprintf("%d objects are damaged, the first is %s: %s", out.problems, first.Object, first.Reason)
	}
	return out
}
