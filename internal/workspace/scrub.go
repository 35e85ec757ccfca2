package workspace

import (
	"cmp"
	"context"
	"path/filepath"
	"time"

	"github.com/holdfast-dr/holdfast/internal/config"
	"github.com/holdfast-dr/holdfast/internal/repo"
	"github.com/holdfast-dr/holdfast/internal/repo/scrub"
	"github.com/holdfast-dr/holdfast/internal/store/meter"
)

// scrubDir returns where a replica's ledger is kept on this host.
func (w *Workspace) scrubDir(repository, site string) string {
	return filepath.Join(w.Config.Agent.State, "scrub", repository, site)
}

// Scrub opens the ledger of a repository's replica, of the one that is worked with. What o leaves out is that of the configuration. What
// the replica is asked is counted by the workspace's meter, so it is for this alone.
func (w *Workspace) Scrub(ctx context.Context, repository string, o scrub.Options) (*scrub.Scrub, error) {
	c, err := w.Config.Repository(repository)
	if err != nil {
		return nil, err
	}
	rep, err := w.Config.Replica(c, w.Site)
	if err != nil {
		return nil, err
	}
	if w.Meter == nil {
		w.Meter = new(meter.Meter)
	}
	r, err := w.Repository(ctx, repository)
	if err != nil {
		return nil, err
	}
	if o.Pace.IsZero() {
		o.Pace = rep.Scrub.Budget
	}
	o.Window = scrubWindow(rep)
	o.Dir, o.Place, o.Meter, o.Log = w.scrubDir(repository, rep.Site), string(rep.URL), w.Meter, w.log
	o.Helpers = func(ctx context.Context) ([]*repo.Repository, func()) { return w.healers(ctx, r, repository) }
	return scrub.Open(r, o)
}

// scrubWindow returns in how much time everything is to be read.
func scrubWindow(rep config.Replica) time.Duration {
	return cmp.Or(rep.Scrub.Window, config.DefaultWindow)
}

// ScrubStatement returns what this host knows of a replica: fs.ErrNotExist is in the error where it never read it.
func (w *Workspace) ScrubStatement(repository, site string, now time.Time) (scrub.Statement, error) {
	c, err := w.Config.Repository(repository)
	if err != nil {
		return scrub.Statement{}, err
	}
	rep, err := w.Config.Replica(c, site)
	if err != nil {
		return scrub.Statement{}, err
	}
	return scrub.Read(w.scrubDir(repository, rep.Site), string(rep.URL), scrubWindow(rep), now)
}

// healers opens what damage in a replica is put back from: its parity first, then the other replicas that can be reached.
func (w *Workspace) healers(ctx context.Context, r *repo.Repository, repository string) (from []*repo.Repository, close func()) {
	others, closeAll := w.Siblings(ctx, r, repository)
	view, closeView := w.Rebuilt(ctx, r, repository)
	if view != nil {
		from = append(from, view)
	}
	return append(from, others...), func() { closeView(); closeAll() }
}

// PutBack heals what a check of a replica has found; see repo.PutBack.
func (w *Workspace) PutBack(ctx context.Context, r *repo.Repository, repository string, found *repo.CheckReport, check func() (*repo.CheckReport, error)) (*repo.CheckReport, *repo.HealReport, error) {
	from, end := w.healers(ctx, r, repository)
	defer end()
	return r.PutBack(ctx, from, found, check)
}
