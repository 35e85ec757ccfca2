package agent

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/repo"
	"github.com/holdfast-dr/holdfast/internal/workspace"
)

// renewLock retains for longer what is still needed, where the replica is locked and that is due. Whatever one system's agent renews
// need not be renewed by another's.
func renewLock(ctx context.Context, log *slog.Logger, ws *workspace.Workspace, name, site string, r *repo.Repository, progress dr.ProgressFunc) error {
	began := time.Now()
	report, err := r.RenewLock(ctx, repo.LockOptions{Progress: progress})
	if errors.Is(err, repo.ErrNoLock) {
		return nil
	}
	if ctx.Err() == nil {
		ws.RecordLock(ctx, r, site, report, began, err)
	}
	log = log.With(dr.KeyRepository, name)
	if err == nil && report.Due {
		log.Info("lock renewed", "objects", report.Objects, "renewed", report.Renewed, "until", report.Until)
	}
	for _, object := range report.Hidden {
		log.Error("somebody has hidden an object that nothing removes", dr.KeyObject, object, dr.KeyNext, "holdfast repo check --repair "+name)
	}
	for _, object := range report.Doubted {
		log.Error("no version of an object is what was stored", dr.KeyObject, object, dr.KeyNext, "holdfast repo check --repair "+name)
	}
	return err
}

// siteLock renews the lock of a replica at another site. That is a step of its own, which needs nothing but that site: whether something
// can be copied there, or is copied from there, must not let what is there lose its lock.
type siteLock struct {
	open func(context.Context) (_ *repo.Repository, _ *workspace.Workspace, _ error) // the workspace is to be closed
	name string                                                                      // of the repository
	site string
	next time.Time
}

// lockAt returns what renews the lock at a site.
func lockAt(open func(site string) *workspace.Workspace, repository, site string) *siteLock {
	return &siteLock{name: repository, site: site, open: func(ctx context.Context) (*repo.Repository, *workspace.Workspace, error) {
		ws := open(site)
		r, err := ws.Repository(ctx, repository)
		return r, ws, err
	}}
}

// renew renews the lock where that is due, and looks once an hour.
func (l *siteLock) renew(ctx context.Context, log *slog.Logger) {
	if l == nil || time.Now().Before(l.next) {
		return
	}
	l.next = time.Now().Add(copyAll)
	r, ws, err := l.open(ctx)
	defer ws.Close() //nolint:errcheck // what was written is durable
	if err == nil {
		err = renewLock(ctx, log, ws, l.name, l.site, r, nil)
	}
	if err != nil && ctx.Err() == nil && !errors.Is(err, repo.ErrNone) {
		log.Error("the lock of what is at another site cannot be renewed; it is tried again in an hour", dr.KeyError, err, dr.KeyNext, dr.Advice(err))
	}
}
