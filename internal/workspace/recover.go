package workspace

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/holdfast-dr/holdfast/internal/capture"
	"github.com/holdfast-dr/holdfast/internal/config"
	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/geo"
	"github.com/holdfast-dr/holdfast/internal/pg/wal"
	"github.com/holdfast-dr/holdfast/internal/pg/wal/changed"
	"github.com/holdfast-dr/holdfast/internal/repo"
	"github.com/holdfast-dr/holdfast/internal/restore"
	"github.com/holdfast-dr/holdfast/internal/restore/boot"
	"github.com/holdfast-dr/holdfast/internal/restore/points"
)

// RecoverOptions say what is brought back, and where to. To and RestoreCommand are needed.
type RecoverOptions struct {
	Target         points.Target
	Timeline       points.Timeline
	Loss           points.Loss
	To             string
	Tablespaces    map[string]string
	Mode           restore.Mode
	Damage         restore.Damage
	Archiving      restore.Archiving
	Subscriptions  restore.Subscriptions
	Ending         restore.Ending // for a recovery that is not started here
	RestoreCommand string
	Upstream       string // of a standby that is not started here: its Ending is restore.Follow; see restore.Settings
	Owner          string // user whom the files belong to; see restore.ChooseOwner
	BinDir         string
	Boot           *boot.Options // start the server and see it through; nil: only restore
	Progress       dr.ProgressFunc

	snapshot repo.SnapshotID // the one that is recovered from; empty: the plan's choice
}

// Recovery is what Recover did.
type Recovery struct {
	Snapshot repo.SnapshotID `json:"snapshot"`
	Doubt    string          `json:"doubt,omitempty"`    // why the snapshot may lack changes
	InFlight *points.Flight  `json:"inFlight,omitempty"` // log that came behind the end, and cannot be used
	Target   points.Target   `json:"target"`
	Files    *restore.Result `json:"files"`
	Boot     *boot.Report    `json:"recovery,omitempty"`
	Phases   []boot.Phase    `json:"phases"` // all of them, in order
	Notes    []string        `json:"notes,omitempty"`
	Server   *boot.Server    `json:"server,omitempty"`

	manifest *repo.Manifest // of the snapshot; nil: none was chosen
}

// RTO returns how long all phases took together.
func (r *Recovery) RTO() time.Duration {
	var sum time.Duration
	for _, p := range r.Phases {
		sum += p.Took
	}
	return sum
}

// changes tells a delta restore what the log in the repository changed.
func changes(r *repo.Repository, p *points.Plan) restore.ChangesFunc {
	f := p.Snapshot.Facts
	c := capture.ChangesConfig{SegmentSize: wal.SegmentSize(f.SegmentSize), SystemID: f.SystemID, PageSize: f.PageSize}
	return func(ctx context.Context, way *wal.Timelines, from, to wal.LSN) (*changed.Map, error) {
		return capture.ChangedBlocks(ctx, r.Log(p.System), way, c, from, to)
	}
}

// Newest is points.Recent, and points.Load where the newest snapshot does not say that nothing is alarming: then others tell which are doubtful.
func Newest(ctx context.Context, r *repo.Repository, system string) (*points.View, error) {
	v, err := points.Recent(ctx, r, system)
	if err == nil && len(v.Snapshots) > 0 && !capture.TellsNoAlarm(v.Snapshots[len(v.Snapshots)-1].Manifest) {
		return points.Load(ctx, r, system)
	}
	return v, err
}

// Recover restores a system into a directory and, where asked, starts a server on it and waits until it has
// recovered to the target. The result tells how far it came also where there is an error.
func (w *Workspace) Recover(ctx context.Context, r *repo.Repository, system string, o RecoverOptions) (*Recovery, error) {
	out := &Recovery{Target: o.Target}
	defer w.help(r, system, out)()
	plan, owner, ending, err := w.prepare(ctx, r, system, &o, out)
	if err != nil {
		return out, err
	}
	more := func() []string { return nil }
	if restore.IsLatest(plan) {
		more = w.haveMore(ctx, r, system)
	}
	began := time.Now()
	out.Files, err = restore.Run(ctx, r, plan, restore.Options{
		To: o.To, Tablespaces: o.Tablespaces, Mode: o.Mode, Owner: owner, Damage: o.Damage, Progress: o.Progress,
		Changes:  changes(r, plan),
		Settings: restore.Settings{RestoreCommand: o.RestoreCommand, Ending: ending, Archiving: o.Archiving, Subscriptions: o.Subscriptions, Upstream: o.Upstream},
	})
	out.Notes = append(out.Notes, more()...)
	out.phase("files", began)
	damage := err // of a directory that was finished all the same
	var d *restore.DamageError
	if o.Boot == nil || (err != nil && !(errors.As(err, &d) && d.Startable)) {
		return out, err
	}
	b := *o.Boot
	b.Owner, b.Ending, b.Progress, b.Log = owner, ending, o.Progress, r
	out.Server, out.Boot, err = boot.Start(ctx, o.To, plan, b)
	if out.Boot != nil {
		out.Phases = append(out.Phases, out.Boot.Phases...)
	}
	if err == nil {
		return out, damage
	}
	return out, errors.Join(err, damage)
}

// prepare plans a recovery, and finds what its start needs.
func (w *Workspace) prepare(ctx context.Context, r *repo.Repository, system string, o *RecoverOptions, out *Recovery) (plan *points.Plan, owner *restore.Owner, ending restore.Ending, err error) {
	began := time.Now()
	load := points.Load
	if (o.Target.Kind == points.Latest || o.Target.Kind == points.Immediate) && o.Timeline == (points.Timeline{}) {
		load = Newest
	}
	v, err := load(ctx, r, system)
	if err == nil && o.snapshot != "" {
		v, err = only(ctx, r, system, o.snapshot, v)
	}
	if err != nil {
		return nil, nil, "", err
	}
	if plan, err = v.Plan(ctx, o.Target, o.Timeline, o.Loss); err != nil {
		return nil, nil, "", err
	}
	out.manifest = plan.Snapshot.Manifest
	out.Snapshot, out.Notes, out.Doubt = plan.Snapshot.Manifest.ID, plan.Notes, plan.Doubt
	out.InFlight = plan.Flight()
	if out.Doubt != "" { // before hours pass
		w.log.Warn("the recovery is doubtful", dr.KeySystem, system, dr.KeySnapshot, out.Snapshot, dr.KeyReason, out.Doubt)
	}
	if o.Boot != nil {
		// What would hinder the start is found out before gigabytes are written.
		if o.Boot.BinDir, err = boot.FindBinaries(plan.Snapshot.Facts.Major(), o.BinDir); err != nil {
			return nil, nil, "", err
		}
	}
	if owner, err = restore.ChooseOwner(o.To, o.Owner); err != nil {
		return nil, nil, "", err
	}
	ending = o.Ending
	if o.Boot != nil && restore.IsLatest(plan) {
		ending = restore.Follow
	}
	out.phase("plan", began)
	return plan, owner, ending, nil
}

// only returns a view that has one snapshot.
func only(ctx context.Context, r *repo.Repository, system string, id repo.SnapshotID, v *points.View) (*points.View, error) {
	m, err := r.Manifest(ctx, system, id)
	if err != nil {
		return nil, err
	}
	return v.With([]*repo.Manifest{m})
}

// moreFor is how long sites that were asked whether they have more are waited for when the files are there. A site that is gone does not
// hold up a recovery.
const moreFor = time.Second

// haveMore begins to ask the other sites whether the log goes farther there than here. The answer is for who did not choose the
// site, or chose one that was behind. It must be waited for.
func (w *Workspace) haveMore(ctx context.Context, r *repo.Repository, system string) (answer func() []string) {
	s, err := w.Config.System(system)
	var own config.Replica
	if err == nil {
		own, err = w.Config.Replica(w.Config.RepositoryOf(s), w.Site)
	}
	if err != nil {
		return func() []string { return nil } // of a repository that is named by hand others are not known
	}
	ctx, stop := context.WithCancel(ctx)
	var g sync.WaitGroup
	notes := make(chan string, len(w.Config.CopiesOf(s)))
	for _, rep := range w.Config.CopiesOf(s) {
		if rep == own {
			continue
		}
		g.Go(func() {
			if note := w.farther(ctx, r, s, own, rep); note != "" {
				notes <- note
			}
		})
	}
	return func() (all []string) {
		late := time.AfterFunc(moreFor, stop)
		g.Wait()
		late.Stop()
		stop()
		close(notes)
		for n := range notes {
			all = append(all, n)
		}
		return all
	}
}

// farther says how far a system's log goes at a site, where that is farther than at the one that is worked with.
func (w *Workspace) farther(ctx context.Context, r *repo.Repository, s config.System, own, rep config.Replica) string {
	timeline, end, err := geo.LogEnd(ctx, r.Log(string(s.Name)))
	if err != nil {
		return "" // the recovery itself says so
	}
	other, err := w.sibling(ctx, r, w.Config.RepositoryOf(s), rep, false)
	if err != nil {
		w.log.Debug("whether this site has more of the log is not known", "site", rep.Site, dr.KeyError, err)
		return ""
	}
	defer closeReplica(other)
	theirs, theirEnd, err := geo.LogEnd(ctx, other.Log(string(s.Name)))
	if err != nil || theirs < timeline || theirs == timeline && theirEnd <= end {
		return ""
	}
	return fmt.Sprintf("site %s has more of the log: it goes to %s on timeline %d there, and to %s on timeline %d at site %s, from which this is; "+
		"to have that too, bring it here with holdfast geo copy --site %s --to %s, or restore with --site %s",
		rep.Site, wal.LSN(theirEnd), theirs, wal.LSN(end), timeline, own.Site, rep.Site, own.Site, rep.Site)
}

// help is Help that notes what came of it.
func (w *Workspace) help(r *repo.Repository, system string, out *Recovery) func() {
	end := w.Help(r, system)
	return func() {
		if n := end(); n > 0 {
			out.Notes = append(out.Notes, fmt.Sprintf("%d parts came from other sites: they are damaged, missing, slow or out of reach at this one; "+
				"holdfast repo check --read-data --repair puts back what is damaged or missing", n))
		}
	}
}

func (r *Recovery) phase(name string, began time.Time) {
	r.Phases = append(r.Phases, boot.Phase{Name: name, Took: time.Since(began)})
}
