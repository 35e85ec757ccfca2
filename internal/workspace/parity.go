package workspace

import (
	"context"
	"math"

	"github.com/holdfast-dr/holdfast/internal/config"
	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/repo"
	"github.com/holdfast-dr/holdfast/internal/store"
	"github.com/holdfast-dr/holdfast/internal/store/open"
	"github.com/holdfast-dr/holdfast/internal/store/parity"
)

// place opens the store of a replica, by open.Store or open.Create, with the parity that the configuration wants.
func (w *Workspace) place(ctx context.Context, rep config.Replica, by func(context.Context, string, open.Options) (store.Store, error)) (store.Store, error) {
	st, err := by(ctx, string(rep.URL), open.Options{Meter: w.Meter})
	if err == nil && rep.Parity > 0 {
		st = parity.Wrap(st, int(math.Round(float64(rep.Parity)*100)))
	}
	return st, err
}

// Rebuilt opens a view of a repository that reads what its parity gives; nil where it has none. close closes it.
func (w *Workspace) Rebuilt(ctx context.Context, r *repo.Repository, name string) (view *repo.Repository, close func()) {
	c, err := w.Config.Repository(name)
	if err != nil {
		return nil, func() {}
	}
	own, err := w.Config.Replica(c, w.Site)
	if err != nil || own.Parity == 0 {
		return nil, func() {}
	}
	o := w.options(c, own)
	o.CacheDir = "" // two repositories do not share one
	view, err = r.Beside(ctx, parity.Rebuild(r.Store()), o)
	if err != nil {
		w.log.Warn("parity cannot be used", "site", own.Site, dr.KeyError, err)
		return nil, func() {}
	}
	return view, func() { closeReplica(view) }
}
