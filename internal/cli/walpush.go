package cli

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/holdfast-dr/holdfast/internal/capture"
	"github.com/holdfast-dr/holdfast/internal/quick"
	"github.com/holdfast-dr/holdfast/internal/repo"
	"github.com/holdfast-dr/holdfast/internal/sidecar"
	"github.com/holdfast-dr/holdfast/internal/workspace"
)

func newWALPushCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "push SYSTEM FILE",
		Short: "Store a file of the log that PostgreSQL archives (archive_command)",
		Long: `Brings the file that PostgreSQL gives as %p into the repository; when it ends with 0 the file is durable there.
The first call starts a helper that keeps the repository open and stores ahead what waits, so that the next calls
return at once; it ends by itself.

The log stream of the agent loses at most a second; archiving loses up to a segment. Use this where no replication
connection is possible, or as a second way beside the stream: both may run at once.`,
		Example: "  archive_command = 'holdfast wal push orders-db %p'",
		Args:    cobra.ExactArgs(2),
		RunE:    func(c *cobra.Command, args []string) error { return a.pushWAL(c.Context(), args[0], args[1]) },
	}
}

func (a *app) pushWAL(ctx context.Context, system, path string) error {
	alias := quick.Address(a.configPath, system)
	w, err := a.workspace(nil)
	if err != nil {
		return err
	}
	defer w.Close() //nolint:errcheck // what was written is durable
	at, err := archiverPlace(w, system, alias)
	if err != nil {
		return err
	}
	q := capture.PushRequest{Path: absolute(path)}
	answer, err := sidecar.Ask[capture.PushRequest, capture.PushAnswer](ctx, at.Dir, q)
	if err != nil {
		var died <-chan struct{}
		if died, err = a.startArchiver(system); err == nil {
			answer, err = sidecar.AskNew[capture.PushRequest, capture.PushAnswer](ctx, at.Dir, q, died)
		}
	}
	if err == nil {
		return answer.Err()
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return pushTo(ctx, w, system, path)
}

// pushTo pushes one file without help.
func pushTo(ctx context.Context, w *workspace.Workspace, system, path string) error {
	log, err := openLog(ctx, w, system)
	if err == nil {
		_, err = capture.Push(ctx, log, path)
	}
	return err
}

func openLog(ctx context.Context, w *workspace.Workspace, system string) (*repo.Log, error) {
	s, err := w.System(ctx, system)
	if err != nil {
		return nil, err
	}
	log := s.Repo.Log(string(s.Name))
	return log, log.Register(ctx, s.Group())
}

// archiverPlace returns where the archiver of a system is asked. One that runs on another configuration or is another
// program is another one, and ends by itself. alias is its quick.Address, from before the configuration was read: one that
// was edited meanwhile has another address, at which nobody must answer who has read the old one.
func archiverPlace(w *workspace.Workspace, system, alias string) (sidecar.Place, error) {
	if _, err := w.Config.System(system); err != nil {
		return sidecar.Place{}, err
	}
	dir, err := w.SystemDir(system)
	if err != nil {
		return sidecar.Place{}, err
	}
	return sidecar.Place{Dir: filepath.Join(dir, "archiver-"+alias), Alias: alias}, nil
}

// startArchiver starts this program again, beside the server.
func (a *app) startArchiver(system string) (<-chan struct{}, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	args := append([]string{"wal", "archiver", system, "--quiet"}, a.repositoryArgs(&breakGlass{})...)
	return sidecar.Detach(exec.Command(self, args...))
}

func newWALArchiverCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:    "archiver SYSTEM",
		Short:  "Store the log ahead of archive_command; wal push starts it",
		Hidden: true,
		Args:   cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			alias := quick.Address(a.configPath, args[0])
			w, err := a.workspace(nil)
			if err != nil {
				return err
			}
			defer w.Close() //nolint:errcheck // what was written is durable
			at, err := archiverPlace(w, args[0], alias)
			if err != nil {
				return err
			}
			log, err := openLog(c.Context(), w, args[0])
			if err != nil {
				return err
			}
			return (&capture.Archiver{Log: log}).Serve(c.Context(), at)
		},
	}
}
