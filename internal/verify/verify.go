package verify

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/holdfast-dr/holdfast/internal/config"
	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/repo"
	"github.com/holdfast-dr/holdfast/internal/restore/boot"
	"github.com/holdfast-dr/holdfast/internal/restore/points"
)

// Options say how deep a test goes. The zero value reads all that a recovery would need.
type Options struct {
	Depth Depth // empty: Objects
	// Sample is how much of the files' content is read at the depths Objects and Pages: a part, chosen anew each time. 0: all of it.
	Sample float64
	// Unread are the snapshots that are listed and cannot be read (points.View): of what is tested they are problems.
	Unread   []error
	Site     string // from which it is read, for the Result
	Progress dr.ProgressFunc

	// For the depths with a server:
	Opener         Opener        // nil: FullRestore
	Sandbox        string        // directory below which the sandbox is made; empty: that of temporary files
	RestoreCommand string        // see restore.Settings; the log is served by Run
	BinDir         string        // of PostgreSQL's programs; see boot.FindBinaries
	User           string        // who runs the server, for root; empty: a user that nobody else has
	Superuser      string        // of the cluster; empty: postgres
	Memory         dr.Bytes      // that the server may take, where control groups are; 0: no bound
	Preload        []string      // libraries that it loads at its start
	Timeout        time.Duration // of each statement; 0: none
	Assertions     []config.Assertion
	PlanTook       time.Duration // how long it took to find the point: it is a part of the RTO
}

// Run tests a point of a system. The error says that it is not known how the point is, since the test could not be carried out: a
// store did not answer, programs are missing, there is no room. Whatever is wrong with the point itself is in the Result.
func Run(ctx context.Context, r *repo.Repository, p *points.Plan, o Options) (*Result, error) {
	if o.Depth == "" {
		o.Depth = Objects
	}
	if o.Sample <= 0 || o.Sample > 1 {
		o.Sample = 1
	}
	t := &test{repo: r, plan: p, opts: o, result: &Result{
		System: p.System, Snapshot: p.Snapshot.Manifest.ID, Target: p.Target, Timeline: p.Way.Timeline, Site: o.Site,
		Depth: o.Depth, Outcome: Failed, Started: time.Now().UTC(), Notes: p.Notes,
		moment: p.Snapshot.Manifest.Moment(),
	}}
	if o.Sample < 1 {
		t.result.sample = o.Sample
	}
	for _, err := range o.Unread {
		t.result.problem(Objects, "a snapshot", "%v", err)
	}
	if p.Doubt != "" {
		t.result.problem(Objects, "snapshot "+string(t.result.Snapshot), "%s", p.Doubt)
	}
	err := t.run(ctx)
	if t.result.ProblemCount == 0 && err == nil {
		t.result.Outcome = Passed
	}
	t.result.Took = time.Since(t.result.Started)
	if err != nil {
		return t.result, fmt.Errorf("verify %s: %w", p.System, err)
	}
	return t.result, nil
}

// test is one Run.
type test struct {
	repo   *repo.Repository
	plan   *points.Plan
	opts   Options
	result *Result
}

func (t *test) run(ctx context.Context) error {
	if !t.opts.Depth.Includes(Boot) {
		return t.stored(ctx, t.reading())
	}
	if t.opts.Opener == nil {
		t.opts.Opener = FullRestore{}
	}
	if t.opts.PlanTook > 0 {
		t.result.Phases = append(t.result.Phases, boot.Phase{Name: "plan", Took: t.opts.PlanTook})
		t.result.RTO = t.opts.PlanTook
	}
	return t.sandboxed(ctx)
}

func (t *test) reading() *reading {
	return &reading{repo: t.repo, plan: t.plan, sample: t.opts.Sample, progress: t.opts.Progress, result: t.result}
}

// stored proves what the repository holds of the point.
func (t *test) stored(ctx context.Context, x *reading) error {
	began := time.Now()
	if t.opts.Depth.Includes(Pages) {
		x.pages = newPageCheck(t.plan.Snapshot.Manifest, t.plan.Snapshot.Facts, t.result, &x.mu)
	}
	eg, gctx := errgroup.WithContext(ctx)
	eg.Go(func() error { return x.files(gctx) })
	eg.Go(func() error { return x.log(gctx) })
	if err := eg.Wait(); err != nil {
		return err
	}
	if x.restored != "" {
		t.result.Figures.Read = t.result.Figures.Bytes // by the restore
	}
	t.result.phase("reading it all", began)
	t.readCoverage()
	t.result.prove(Objects)
	if x.pages != nil {
		x.pages.finish(t.opts.Sample >= 1)
		t.result.prove(Pages)
	}
	return nil
}

// readCoverage says what was read, and of what is in a repository was not.
func (t *test) readCoverage() {
	r := t.result
	r.cover("the snapshot's tree, and %s of the %s of its %d files, each part opened, decoded and compared with its ID", r.Figures.Read, r.Figures.Bytes, r.Figures.Files)
	if t.opts.Sample < 1 {
		r.leave("the rest of the files' content: a sample of %.3g%% was asked for", t.opts.Sample*100)
	}
	r.cover("the log from %s to %s: %s", r.From, r.To, r.Figures.Log)
	for _, err := range t.repo.IndexDamage() {
		r.problem(Objects, "the index", "%v; snapshots stay readable, since packs name their chunks themselves: holdfast repo check --repair-index", err)
	}
	r.leave("other snapshots, and what of packs and indexes this one does not use: holdfast repo check reads these")
	r.leave("other replicas: each site is tested by itself")
}
