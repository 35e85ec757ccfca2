package workspace

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/holdfast-dr/holdfast/internal/capture"
	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/geo"
	"github.com/holdfast-dr/holdfast/internal/repo"
)

// FannedStream is a stream's configuration whose log goes to several sites at once.
type FannedStream struct {
	capture.StreamConfig
	Fan *geo.Fan // nil: there is one site

	repo *repo.Repository
}

// endPatience is how long what was written is waited for at the sites when a stream ends.
const endPatience = 10 * time.Second

// FannedStream is StreamConfig for all sites of a system. The one that is worked with is a member of the Fan; the others have to
// join. It must be closed.
func (w *Workspace) FannedStream(ctx context.Context, s System, log *slog.Logger) (_ *FannedStream, err error) {
	out := &FannedStream{}
	if out.StreamConfig, err = w.StreamConfig(ctx, s); err != nil {
		return nil, err
	}
	var sites []string
	for _, rep := range w.Config.CopiesOf(s.System) {
		sites = append(sites, rep.Site)
	}
	if len(sites) < 2 {
		return out, nil
	}
	c := w.Config.RepositoryOf(s.System)
	own, replica, err := w.replicaHere(ctx, s)
	if err != nil {
		return nil, errors.Join(err, out.Spool.Close())
	}
	copies, known := s.Policy.Copies, repo.NewHolders()
	out.Fan = geo.NewFan(ctx, sites, own.Site, s.Repo.Store(), geo.FanOptions{Sync: copies.Sync, Patience: copies.Patience, Free: repo.FreeOfOrder(), Known: known, Replica: replica, Log: log})
	if out.repo, err = s.Repo.Beside(ctx, out.Fan, w.options(c, own)); err != nil {
		return nil, errors.Join(err, out.Close(ctx))
	}
	out.Log = out.repo.Log(string(s.Name))
	out.Log.Tell(known, "") // the Fan tells what is stored, and where
	return out, nil
}

// Close ends the stream's parts: what is on its way to a site is given some time.
func (f *FannedStream) Close(ctx context.Context) error {
	err := f.Spool.Close()
	if f.Fan == nil {
		return err
	}
	ctx, stop := context.WithTimeout(context.WithoutCancel(ctx), endPatience)
	defer stop()
	f.Fan.End(ctx)
	if f.repo != nil {
		err = errors.Join(err, f.repo.Close())
	}
	return err
}

// Join makes the replica's site a member of a Fan again. Copy has been called, and has told how far the log goes there: what came
// since is copied.
func (r *Replica) Join(ctx context.Context, fan *geo.Fan, site, from string, copied geo.Ends, w *Workspace) (ends geo.Ends, err error) {
	name := string(r.system.Name)
	// It may have what the other lacks: log and snapshots of an agent that could not reach that one, or that one was put back from an
	// older copy of itself. What cannot be read there is no reason to stay away.
	switch report, err := geo.Copy(ctx, r.repo, r.system.Repo, name, r.options()); {
	case err != nil && report.Ends == nil:
		return nil, err
	case err != nil:
		w.log.Warn("not everything that a site has and others lack can be brought from there", "site", site, dr.KeyError, err, dr.KeyNext, "holdfast repo check --site "+site)
	}
	// A reader must be able to prove what this process writes there.
	if err := r.repo.Log(name).Register(ctx, r.system.Group()); err != nil {
		return nil, err
	}
	replica, err := r.repo.Replica(ctx)
	if err != nil {
		return nil, err
	}
	own, err := w.beside(ctx, r.system, site) // the Fan's own, which it closes
	if err != nil {
		return nil, err
	}
	j := geo.Joining{Site: site, Replica: replica, Ends: copied, Store: own.Store(), Close: func() { closeReplica(own) }}
	err = fan.Join(ctx, j, from, func(ctx context.Context) error {
		var err error
		ends, err = geo.CopyLog(ctx, r.system.Repo, r.repo, name, r.options())
		return err
	})
	return ends, err
}
