package cli

import (
	"context"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/holdfast-dr/holdfast/internal/capture"
	"github.com/holdfast-dr/holdfast/internal/workspace"
)

func newWALPushCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "push SYSTEM FILE",
		Short: "Store a file of the log that PostgreSQL archives (archive_command)",
		Long: `Brings the file that PostgreSQL gives as %p into the repository; when it ends with 0 the file is durable there.
Where further segments wait beside it they are stored ahead, so that the next calls return at once.

The log stream of the agent loses at most a second; archiving loses up to a segment. Use this where no replication
connection is possible, or as a second way beside the stream: both may run at once.`,
		Example: "  archive_command = 'holdfast wal push orders-db %p'",
		Args:    cobra.ExactArgs(2),
		RunE:    func(c *cobra.Command, args []string) error { return a.pushWAL(c.Context(), args[0], args[1]) },
	}
}

func (a *app) pushWAL(ctx context.Context, system, path string) error {
	w, err := a.workspace(nil)
	if err != nil {
		return err
	}
	defer w.Close() //nolint:errcheck // what was written is durable
	configured, err := w.Config.System(system)
	if err != nil {
		return err
	}
	dir, err := w.SystemDir(system)
	if err != nil {
		return err
	}
	o := capture.PushOptions{AckDir: filepath.Join(dir, "pushed"), Repository: configured.Repository + "/" + system}
	// Pushed ahead already: no repository need be opened, which is most of the time of a call.
	if capture.PushKnown(o.AckDir, o.Repository, path) {
		return nil
	}
	s, err := w.System(ctx, system)
	if err != nil {
		return err
	}
	return pushTo(ctx, s, path, o)
}

func pushTo(ctx context.Context, s workspace.System, path string, o capture.PushOptions) error {
	log := s.Repo.Log(string(s.Name))
	if err := log.Register(ctx, s.Group()); err != nil {
		return err
	}
	_, err := capture.Push(ctx, log, path, o)
	return err
}
