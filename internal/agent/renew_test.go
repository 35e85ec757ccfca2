package agent

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/internal/config"
	"github.com/holdfast-dr/holdfast/internal/geo"
	"github.com/holdfast-dr/holdfast/internal/repo"
	"github.com/holdfast-dr/holdfast/internal/repo/repotest"
	"github.com/holdfast-dr/holdfast/internal/store"
	"github.com/holdfast-dr/holdfast/internal/store/storetest"
	"github.com/holdfast-dr/holdfast/internal/workspace"
)

// lateVersions keeps versions, and does not list at once.
type lateVersions struct {
	*storetest.Faulty
	versions *storetest.Versioned
}

func (l lateVersions) Vault() store.Vault { return l.versions.Vault() }

// lockedRepository has objects whose lock ends soon.
func lockedRepository(t *testing.T) (*repo.Repository, lateVersions, func()) {
	t.Helper()
	const month = 30 * 24 * time.Hour
	versions := storetest.NewVersioned(repo.LockFor(month))
	st := lateVersions{storetest.NewFaulty(versions), versions}
	r := repotest.Init(t, st, repo.Options{Lock: month, Now: versions.Now})
	versions.Pass(40 * 24 * time.Hour)
	return r, st, func() {
		t.Helper()
		for _, name := range versions.Names() {
			if left := versions.Until(name).Sub(versions.Now()); !store.Unlocked(name) && left < month {
				t.Errorf("%s is retained for %s only", name, left)
			}
		}
	}
}

// Where nothing can be collected locks are renewed all the same.
func TestLocksAreRenewedWhereNothingCanBeCollected(t *testing.T) {
	t.Parallel()
	r, st, wantRenewed := lockedRepository(t)
	st.DelayLists(5)
	o := &systemOperations{log: slog.New(slog.DiscardHandler), ws: lockedWorkspace(t)}
	if out := o.collect(t.Context(), workspace.System{Repo: r}, nil); out.err == nil {
		t.Error("something was collected")
	}
	wantRenewed()
}

// At another site they are while nothing can be copied there.
func TestLocksAreRenewedWhereNothingCanBeCopied(t *testing.T) {
	t.Parallel()
	r, _, wantRenewed := lockedRepository(t)
	ctx, stop := context.WithCancel(t.Context())
	m := &mirror{
		site: "frankfurt", home: "berlin", log: slog.New(slog.DiscardHandler), every: time.Hour,
		look: func() (seen, time.Time) { return seen{}, time.Time{} },
		open: func(string) *workspace.Workspace {
			stop() // it is tried once
			return workspace.New(&config.Config{}, slog.New(slog.DiscardHandler))
		},
		fan: func() *geo.Fan { return nil },
		lock: &siteLock{open: func(context.Context) (*repo.Repository, *workspace.Workspace, error) {
			return r, lockedWorkspace(t), nil
		}},
	}
	m.run(ctx)
	if !errors.Is(ctx.Err(), context.Canceled) {
		t.Error("nothing was copied, nor was that tried")
	}
	wantRenewed()
}

// lockedWorkspace is one whose host keeps what it records.
func lockedWorkspace(t *testing.T) *workspace.Workspace {
	return workspace.New(&config.Config{Agent: config.Agent{Prune: true, State: t.TempDir()}}, slog.New(slog.DiscardHandler))
}
