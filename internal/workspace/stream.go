package workspace

import (
	"context"
	"path/filepath"
	"time"

	"github.com/holdfast-dr/holdfast/internal/capture"
	"github.com/holdfast-dr/holdfast/internal/config"
	"github.com/holdfast-dr/holdfast/internal/repo"
)

// StreamConfig returns how a system's log is received: through its slot, as its policy says. It registers the
// system and opens its spool, which the caller closes.
func (w *Workspace) StreamConfig(ctx context.Context, s System) (capture.StreamConfig, error) {
	cfg := capture.StreamConfig{
		Connection: s.Postgres.Connection.DSN(), Slot: SlotName(s.System), Log: s.Repo.Log(string(s.Name)),
		Interval: s.Policy.Log.Interval, IdleMarks: idleMarks(s.Policy.Objectives.RPO), AckSpool: s.Policy.Log.Acknowledge == config.AcknowledgeSpool, Logger: w.log,
	}
	if err := cfg.Log.Register(ctx, s.Group()); err != nil {
		return cfg, err
	}
	own, replica, err := w.replicaHere(ctx, s)
	if err != nil {
		return cfg, err
	}
	known := repo.NewHolders()
	known.Join(own.Site, replica, nil)
	cfg.Log.Tell(known, own.Site)
	dir, err := w.SystemDir(string(s.Name))
	if err != nil {
		return cfg, err
	}
	cfg.Spool, err = capture.OpenSpool(filepath.Join(dir, "spool"), s.Repo.Keys(), string(s.Name), s.Policy.Log.SpoolLimit)
	return cfg, err
}

// replicaHere returns the replica that is worked with, and its name.
func (w *Workspace) replicaHere(ctx context.Context, s System) (own config.Replica, name string, err error) {
	if own, err = w.Config.Replica(w.Config.RepositoryOf(s.System), w.Site); err != nil {
		return own, "", err
	}
	name, err = s.Repo.Replica(ctx)
	return own, name, err
}

// idleMarks is how often the log of a source in which nothing happens is marked. A mark proves that nothing was committed since the one
// before; each is a request at every site. Whoever wants to know it closer than by some minutes has an objective.
func idleMarks(objective time.Duration) time.Duration {
	const least, most = time.Minute, 5 * time.Minute
	if objective <= 0 {
		return most
	}
	return min(max(objective/2, least), most)
}
