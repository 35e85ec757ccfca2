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
		st = parity.Wrap(st, int(math.Ceil(float64(rep.Parity)*100)))
	}
	return st, err
}

// rebuilt opens a view of a replica that reads what its parity gives.
func (w *Workspace) rebuilt(ctx context.Context, r *repo.Repository, c config.Repository, rep config.Replica) []*repo.Repository {
	o := w.options(c, rep)
	o.CacheDir, o.Rebuilt = "", true
	view, err := r.Beside(ctx, parity.Rebuild(r.Store()), o)
	if err != nil {
		w.log.Warn("parity cannot be used", "site", rep.Site, dr.KeyError, err)
		return nil
	}
	return []*repo.Repository{view}
}
