package workspace

import (
	"context"
	"path/filepath"

	"github.com/holdfast-dr/holdfast/internal/capture"
	"github.com/holdfast-dr/holdfast/internal/config"
)

// StreamConfig returns how a system's log is received: through its slot, as its policy says. It registers the
// system and opens its spool, which the caller closes.
func (w *Workspace) StreamConfig(ctx context.Context, s System) (capture.StreamConfig, error) {
	cfg := capture.StreamConfig{
		Connection: s.Postgres.Connection.DSN(), Slot: SlotName(s.System), Log: s.Repo.Log(string(s.Name)),
		Interval: s.Policy.Log.Interval, AckSpool: s.Policy.Log.Acknowledge == config.AcknowledgeSpool, Logger: w.log,
	}
	if err := cfg.Log.Register(ctx, s.Group()); err != nil {
		return cfg, err
	}
	dir, err := w.SystemDir(string(s.Name))
	if err != nil {
		return cfg, err
	}
	cfg.Spool, err = capture.OpenSpool(filepath.Join(dir, "spool"), s.Repo.Keys(), string(s.Name), s.Policy.Log.SpoolLimit)
	return cfg, err
}
