package workspace

import (
	"context"
	"errors"
	"math"
	"strings"
	"time"

	"github.com/holdfast-dr/holdfast/internal/config"
	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/repo"
	"github.com/holdfast-dr/holdfast/internal/seal"
	"github.com/holdfast-dr/holdfast/internal/store"
	"github.com/holdfast-dr/holdfast/internal/store/open"
	"github.com/holdfast-dr/holdfast/internal/store/parity"
)

// place opens the store of a replica, by open.Store or open.Create, with the parity and the lock that the configuration wants; or as
// it stood at a time.
func (w *Workspace) place(ctx context.Context, rep config.Replica, by func(context.Context, string, open.Options) (store.Store, error)) (store.Store, error) {
	o := open.Options{Meter: w.Meter}
	if l := rep.Lock; l.For > 0 {
		o.Lock = store.Lock{Mode: store.LockMode(strings.ToUpper(string(l.Mode))), For: repo.LockFor(l.For)}
	}
	st, err := by(ctx, string(rep.URL), o)
	if err == nil && rep.Parity > 0 {
		st = parity.Wrap(st, int(math.Round(float64(rep.Parity)*100)))
	}
	if err != nil || w.AsOf.IsZero() {
		return st, err
	}
	if then := store.AsOf(st, w.AsOf); then != nil {
		return then, nil
	}
	return nil, errors.Join(dr.Fail("read "+st.String()+" as it stood at "+w.AsOf.UTC().Format(time.RFC3339),
		errors.New("only a bucket with versioning keeps what was there"), "leave --as-of out"), st.Close())
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

// openRebuilt opens a repository of which the marker, the epochs or the slots are damaged, with what parity gives of them. Where there is
// none, or that is not why it does not open, the error is the first one. In a bucket with versions these say what was there.
func (w *Workspace) openRebuilt(ctx context.Context, st store.Store, c seal.Credentials, o repo.Options, why error) (*repo.Repository, error) {
	if !parity.Has(st) || store.VaultOf(st) != nil || store.KindOf(why) == store.Busy || ctx.Err() != nil {
		return nil, why
	}
	r, err := repo.OpenRebuilt(ctx, st, parity.Rebuild(st), c, o)
	if err != nil {
		return nil, why
	}
	w.log.Warn("what opens the repository is damaged, and was read from its parity: holdfast repo check --repair puts it back", dr.KeyError, why)
	return r, nil
}
