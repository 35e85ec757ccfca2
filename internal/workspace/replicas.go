package workspace

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/user"
	"slices"
	"sync"
	"time"

	"github.com/holdfast-dr/holdfast/internal/config"
	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/geo"
	"github.com/holdfast-dr/holdfast/internal/repo"
	"github.com/holdfast-dr/holdfast/internal/restore/points"
	"github.com/holdfast-dr/holdfast/internal/store"
	"github.com/holdfast-dr/holdfast/internal/store/open"
)

// Others returns the replicas of a system's repository that get its data, beside the one that is worked with.
func (w *Workspace) Others(s System) (out []config.Replica) {
	own, err := w.Config.Replica(w.Config.RepositoryOf(s.System), w.Site)
	for _, rep := range w.Config.CopiesOf(s.System) {
		if err != nil || rep != own {
			out = append(out, rep)
		}
	}
	return out
}

// Replica is another replica of a system's repository.
type Replica struct {
	system System
	repo   *repo.Repository
}

// Replica opens the replica at a site, makes it where there is none, and records that the system's data comes there. override is
// why it may although the configuration forbids it. It must be closed.
func (w *Workspace) Replica(ctx context.Context, s System, site, override string) (*Replica, error) {
	r, err := w.besideFor(ctx, s, site, override, true)
	if err != nil {
		return nil, err
	}
	rep, err := w.Config.Replica(w.Config.RepositoryOf(s.System), site)
	if err == nil {
		place := repo.Place{
			System: string(s.Name), Site: rep.Site, Jurisdiction: w.Config.Sites[rep.Site].Jurisdiction, Location: string(rep.URL),
			Since: time.Now(), User: userName(), Override: override,
		}
		place.Host, _ = os.Hostname()
		began := time.Now()
		if err = s.Repo.PutPlace(ctx, r, place); err == nil && override != "" {
			w.Record(ctx, s.Repo, overridden(s, rep, place.Jurisdiction, override, began))
		}
	}
	if err != nil {
		closeReplica(r)
		return nil, err
	}
	return &Replica{s, r}, nil
}

// userName returns who runs this process.
func userName() string {
	u, err := user.Current()
	if err != nil {
		return ""
	}
	return u.Username
}

// Close closes the replica.
func (r *Replica) Close() { closeReplica(r.repo) }

// Copy brings what the replica lacks of the system from the one that is worked with.
func (r *Replica) Copy(ctx context.Context, progress dr.ProgressFunc) (geo.Report, error) {
	s := r.system
	if err := s.Repo.CopyKeys(ctx, r.repo.Store()); err != nil { // somebody may have been let in since
		return geo.Report{}, err
	}
	o := r.options()
	o.Progress = progress
	return geo.Copy(ctx, s.Repo, r.repo, string(s.Name), o)
}

// Behind tells whether the one that is worked with has snapshots that are newer than one.
func (r *Replica) Behind(ctx context.Context, newest repo.SnapshotID) (bool, error) {
	return r.system.Repo.HasNewer(ctx, string(r.system.Name), newest)
}

func (r *Replica) options() geo.Options {
	s := r.system
	return geo.Options{
		Keep: func(all []*repo.Manifest) []*repo.Manifest { return kept(s.Policy.Retention, all) },
		Floors: func(ctx context.Context, snapshots []*repo.Manifest) (map[repo.StreamID]uint64, error) {
			v, err := points.Load(ctx, s.Repo, string(s.Name))
			if errors.Is(err, store.ErrNotExist) {
				return nil, nil //nolint:nilnil // there is no snapshot yet: all of the log may be needed
			}
			if err == nil {
				v, err = v.With(snapshots)
			}
			if err != nil {
				return nil, err
			}
			return logFloors(v), nil
		},
	}
}

// Tail brings what came behind the ends that Copy, or Tail, has told.
func (r *Replica) Tail(ctx context.Context, ends geo.Ends) (geo.Ends, error) {
	return geo.Tail(ctx, r.system.Repo, r.repo, string(r.system.Name), ends)
}

// kept returns the snapshots that a retention keeps.
func kept(retention dr.Retention, all []*repo.Manifest) (out []*repo.Manifest) {
	taken := make([]time.Time, len(all))
	for i, m := range all {
		taken[i] = m.Started
	}
	for i, reasons := range retention.Select(taken) {
		if len(reasons) > 0 {
			out = append(out, all[i])
		}
	}
	return out
}

// beside opens the replica at a site, with the keys of the one that is worked with.
func (w *Workspace) beside(ctx context.Context, s System, site string) (*repo.Repository, error) {
	return w.besideFor(ctx, s, site, "", false)
}

// besideFor is beside that may make the replica, and go against the system's jurisdictions.
func (w *Workspace) besideFor(ctx context.Context, s System, site, override string, create bool) (*repo.Repository, error) {
	c := w.Config.RepositoryOf(s.System)
	rep, err := w.Config.Replica(c, site)
	if err != nil {
		return nil, err
	}
	if where := w.Config.Sites[rep.Site]; !s.MayBeAt(where) && override == "" {
		return nil, &dr.Failure{
			What:   fmt.Sprintf("copy %s to site %s", s.Name, rep.Site),
			Reason: fmt.Sprintf("its data may not be there: the site's jurisdiction is %q, and the system's jurisdictions are %q", where.Jurisdiction, s.Jurisdictions),
			Next:   "choose another site (what is allowed is systems." + string(s.Name) + ".jurisdictions), or say why with --override-residency: that is recorded",
			Err:    ErrResidency,
		}
	}
	if own, err := w.Config.Replica(c, w.Site); err == nil && own == rep {
		return nil, dr.Fail(fmt.Sprintf("copy %s to site %s", s.Name, rep.Site), errors.New("it would be copied from there"), "choose another site with --to, or copy from another with --site")
	}
	return w.sibling(ctx, s.Repo, c, rep, create)
}

// ErrResidency is the error of a copy to a site where the system's data may not be.
var ErrResidency = errors.New("the system's data may not be at this site")

// Siblings opens the other replicas of a repository that can be reached. close closes them.
func (w *Workspace) Siblings(ctx context.Context, r *repo.Repository, name string) (all []*repo.Repository, close func()) {
	c, err := w.Config.Repository(name)
	if err != nil {
		return nil, func() {}
	}
	own, err := w.Config.Replica(c, w.Site)
	for _, rep := range c.Replicas {
		if err == nil && rep == own {
			continue
		}
		other, err := w.sibling(ctx, r, c, rep, false)
		if err != nil {
			w.log.Warn("a replica cannot be opened", "site", rep.Site, dr.KeyError, err)
			continue
		}
		all = append(all, other)
	}
	return all, func() {
		for _, other := range all {
			closeReplica(other)
		}
	}
}

// Help lets the replicas at other sites give what is damaged, missing or out of reach at the one from which a system is read. end is
// called when nobody reads any more; it returns how many parts came from there.
func (w *Workspace) Help(r *repo.Repository, system string) (end func() int64) {
	s, err := w.Config.System(system)
	if err != nil {
		// Of a repository that is named by hand others are not known; it may have earlier versions of what is missing.
		return r.Help(repo.Helpers{})
	}
	closeAll, closeView := func() {}, func() {}
	stop := r.Help(repo.Helpers{
		Others: func(ctx context.Context) (all []*repo.Repository) {
			all, closeAll = w.Siblings(ctx, r, s.Repository)
			return all
		},
		Rebuilt: func(ctx context.Context) (view *repo.Repository) {
			view, closeView = w.Rebuilt(ctx, r, s.Repository)
			return view
		},
	})
	return func() int64 {
		n := stop()
		closeAll()
		closeView()
		return n
	}
}

// sibling opens a replica with the keys of another one, and may make it.
func (w *Workspace) sibling(ctx context.Context, r *repo.Repository, c config.Repository, rep config.Replica, create bool) (*repo.Repository, error) {
	openStore := open.Store
	if create {
		openStore = open.Create
	}
	st, err := w.place(ctx, rep, openStore)
	if err != nil {
		return nil, err
	}
	if create {
		err = r.CopyKeys(ctx, st)
	}
	var other *repo.Repository
	if err == nil {
		other, err = r.Beside(ctx, st, w.options(c, rep))
	}
	if err != nil {
		return nil, errors.Join(err, st.Close())
	}
	return other, nil
}

func closeReplica(r *repo.Repository) {
	_ = errors.Join(r.Close(), r.Store().Close()) // what was written is durable
}

// ReplicaStatus says what a site holds of a system.
type ReplicaStatus struct {
	System    string          `json:"system"`
	Site      string          `json:"site"`
	Snapshots int             `json:"snapshots"`
	Newest    repo.SnapshotID `json:"newestSnapshot,omitempty"`
	Point     time.Time       `json:"newestRecoveryPoint,omitzero"`
	Lag       time.Duration   `json:"lagNs"`        // behind the newest recovery point of all sites
	Missing   int             `json:"missing"`      // snapshots that are to be copied there
	Bytes     int64           `json:"missingBytes"` // that these added where they were taken
	Log       int             `json:"missingLog"`   // objects of the log that are to be copied there
	LogBytes  int64           `json:"missingLogBytes"`
	Gap       *points.Gap     `json:"gap,omitempty"` // at which the log ends there: what came behind it was in flight
	Problem   string          `json:"problem,omitempty"`
}

// lookFor is how long a site is waited for that is only asked what it has.
const lookFor = 20 * time.Second

var errNoAnswer = fmt.Errorf("it did not answer within %s", lookFor)

// Replicas says what each site holds of a system, the one that is worked with first. All are asked at once. One that does not
// answer in time has that as its problem.
func (w *Workspace) Replicas(ctx context.Context, s System) ([]ReplicaStatus, error) {
	own, err := w.Config.Replica(w.Config.RepositoryOf(s.System), w.Site)
	if err != nil {
		return nil, err
	}
	sites := append([]config.Replica{own}, w.Others(s)...)
	all := make([]held, len(sites))
	look, stop := context.WithTimeoutCause(ctx, lookFor, errNoAnswer)
	defer stop()
	each := func(from int, do func(i int)) {
		var g sync.WaitGroup
		for i := from; i < len(sites); i++ {
			g.Go(func() { do(i) })
		}
		g.Wait()
	}
	each(0, func(i int) {
		h := &all[i]
		h.repo = s.Repo
		if i > 0 {
			var err error
			if h.repo, err = w.beside(look, s, sites[i].Site); err != nil {
				h.status = ReplicaStatus{System: string(s.Name), Site: sites[i].Site, Problem: unreachable(err)}
				return
			}
		}
		h.status, h.snapshots = replicaStatus(look, h.repo, s, sites[i].Site)
	})
	for i := range all {
		all[i].missing = missing(all, i, s.Policy.Retention)
	}
	each(1, func(i int) {
		h := &all[i]
		if h.repo == nil {
			return
		}
		defer closeReplica(h.repo)
		if all[0].status.Problem != "" {
			return
		}
		if err := logMissing(look, s, h.repo, slices.Concat(h.snapshots, h.missing), &h.status); err != nil && h.status.Problem == "" {
			h.status.Problem = unreachable(err)
		}
	})
	var newest time.Time
	for _, h := range all {
		if h.status.Point.After(newest) {
			newest = h.status.Point
		}
	}
	out := make([]ReplicaStatus, len(all))
	for i, h := range all {
		out[i] = h.status
		out[i].Missing, out[i].Bytes = len(h.missing), added(h.missing)
		if !h.status.Point.IsZero() {
			out[i].Lag = newest.Sub(h.status.Point)
		}
	}
	return out, ctx.Err()
}

// held is what was found at a site.
type held struct {
	repo      *repo.Repository // nil: it cannot be opened
	status    ReplicaStatus
	snapshots []*repo.Manifest
	missing   []*repo.Manifest
}

// missing returns the snapshots that the policy keeps of those of all sites, and that one of them has not.
func missing(all []held, site int, retention dr.Retention) []*repo.Manifest {
	var theirs []*repo.Manifest
	for i, h := range all {
		if i != site {
			theirs = append(theirs, geo.Wanted(h.snapshots, theirs, func(union []*repo.Manifest) []*repo.Manifest { return union })...)
		}
	}
	return geo.Wanted(theirs, all[site].snapshots, func(all []*repo.Manifest) []*repo.Manifest { return kept(retention, all) })
}

// logMissing notes what a replica lacks of the log that snapshots need.
func logMissing(ctx context.Context, s System, r *repo.Repository, snapshots []*repo.Manifest, st *ReplicaStatus) error {
	floors, err := (&Replica{s, r}).options().Floors(ctx, snapshots)
	if err != nil {
		return err
	}
	missing, err := geo.LogMissing(ctx, s.Repo, r, string(s.Name), floors)
	st.Log, st.LogBytes = missing.Objects, missing.Bytes
	return err
}

// unreachable says why a replica tells nothing.
func unreachable(err error) string {
	if errors.Is(err, store.ErrNotExist) {
		return "there is no replica yet"
	}
	return err.Error()
}

func added(all []*repo.Manifest) (n int64) {
	for _, m := range all {
		n += m.Written.StoredBytes
	}
	return n
}

// replicaStatus looks at one replica, and returns its snapshots.
func replicaStatus(ctx context.Context, r *repo.Repository, s System, site string) (ReplicaStatus, []*repo.Manifest) {
	out := ReplicaStatus{System: string(s.Name), Site: site}
	v, err := points.Recent(ctx, r, string(s.Name))
	if err != nil {
		out.Problem = unreachable(err)
		if errors.Is(err, store.ErrNotExist) {
			out.Problem = "nothing can be recovered: there is no snapshot"
		}
		return out, nil
	}
	list, err := r.Snapshots(ctx, string(s.Name))
	if err != nil {
		out.Problem = unreachable(err)
		return out, nil
	}
	var all []*repo.Manifest
	for _, l := range list {
		if l.Err == nil {
			all = append(all, l.Manifest)
		}
	}
	out.Snapshots, out.Newest = len(all), v.Snapshots[len(v.Snapshots)-1].Manifest.ID
	plan, err := v.Plan(ctx, points.Target{Kind: points.Latest}, points.Timeline{}, points.RefuseLoss)
	if err != nil {
		out.Problem = err.Error()
		return out, all
	}
	out.Point = plan.Range.ToTime
	if plan.Flight() != nil {
		out.Gap = plan.Range.Gap
	}
	return out, all
}
