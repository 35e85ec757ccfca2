package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/holdfast-dr/holdfast/internal/restore/walserve"
	"github.com/holdfast-dr/holdfast/internal/sidecar"
	"github.com/holdfast-dr/holdfast/internal/workspace"
)

func newWALCommand(a *app) *cobra.Command {
	return group("wal", "Serve PostgreSQL's archive_command and restore_command",
		newWALPushCommand(a), newWALArchiverCommand(a), newWALFetchCommand(a), newWALPrefetchCommand(a))
}

// walSource is what both commands that read the log share.
type walSource struct {
	app     *app
	glass   breakGlass
	dataDir string
}

func (s *walSource) addFlags(c *cobra.Command) {
	s.glass.addFlags(c)
	c.Flags().StringVar(&s.dataDir, "data-directory", ".", "`directory` of the recovering cluster, which holds the policy of its recovery")
}

// open opens the repository of system and returns the source of its log. close must be called.
func (s *walSource) open(ctx context.Context, system string) (_ *walserve.Source, w *workspace.Workspace, err error) {
	policy, err := walserve.ReadPolicy(s.dataDir)
	if err != nil {
		return nil, nil, err
	}
	if w, err = s.app.workspace(&s.glass); err != nil {
		return nil, nil, err
	}
	r, err := s.app.repositoryOf(ctx, w, system)
	if err != nil {
		return nil, nil, errors.Join(err, w.Close())
	}
	_ = w.Help(r, system) // until the process ends
	policy.System = system
	source := walserve.NewSource(r, policy)
	source.DataDir = absolute(s.dataDir)
	return source, w, nil
}

func newWALFetchCommand(a *app) *cobra.Command {
	s := &walSource{app: a}
	c := &cobra.Command{
		Use:   "fetch SYSTEM NAME FILE",
		Short: "Hand a recovering PostgreSQL a file of the log (restore_command)",
		Long: `Writes the file of the log that PostgreSQL asks for as %f to %p. The exit code decides over data:

  0     the file is there
  1     there is no more: PostgreSQL ends its recovery and accepts writes
  200   stop: the log has a gap, the store failed, or log is missing that once was there

The first call starts a helper that keeps the repository open and fetches ahead; it ends by itself.`,
		Example: "  restore_command = 'holdfast wal fetch orders-db %f %p'",
		Args:    cobra.ExactArgs(3),
		RunE: func(c *cobra.Command, args []string) error {
			return s.fetch(c.Context(), args[0], args[1], args[2])
		},
	}
	s.addFlags(c)
	return failsWithLogBroken(c)
}

func (s *walSource) fetch(ctx context.Context, system, name, path string) error {
	var opened *workspace.Workspace
	result := walserve.Fetch(ctx, name, path, walserve.FetchOptions{
		StartPrefetcher: func(walDir string) (<-chan struct{}, error) { return s.startPrefetcher(system, walDir) },
		Open: func(ctx context.Context) (*walserve.Source, error) {
			source, w, err := s.open(ctx, system)
			opened = w
			return source, err
		},
	})
	if opened != nil {
		defer opened.Close() //nolint:errcheck // only read
	}
	err := result.Err()
	if err == nil && result.ExitCode() != exitDone {
		err = fmt.Errorf("the log of %s has no %s", system, name)
	}
	return withExit(err, min(result.ExitCode(), exitLogBroken)) // one code for all that must stop a recovery
}

// startPrefetcher starts this program again, with the same flags, beside the server.
func (s *walSource) startPrefetcher(system, walDir string) (<-chan struct{}, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	args := append([]string{"wal", "prefetch", system, walDir, "--data-directory", s.dataDir, "--quiet"}, s.sourceArgs()...)
	return sidecar.Detach(exec.Command(self, args...))
}

// sourceArgs are the flags with which another process finds the same repository.
func (s *walSource) sourceArgs() []string { return s.app.repositoryArgs(&s.glass) }

// repositoryArgs are the flags with which another process finds the same repository. They hold no secret.
func (a *app) repositoryArgs(b *breakGlass) []string {
	var args []string
	if b.asOf != "" {
		args = append(args, "--as-of", b.asOf)
	}
	if b.url != "" {
		args = append(args, "--repo", b.url)
		if b.passphrase != "" {
			args = append(args, "--passphrase-file", absolute(b.passphrase))
		}
		for _, i := range b.identities {
			args = append(args, "--identity", absolute(i))
		}
		return args
	}
	if a.configPath != "" {
		args = append(args, "--config", absolute(a.configPath))
	}
	if b.site != "" {
		args = append(args, "--site", b.site)
	}
	return args
}

func newWALPrefetchCommand(a *app) *cobra.Command {
	s := &walSource{app: a}
	c := &cobra.Command{
		Use:    "prefetch SYSTEM DIRECTORY",
		Short:  "Fetch the log ahead of a recovering PostgreSQL; wal fetch starts it",
		Hidden: true,
		Args:   cobra.ExactArgs(2),
		RunE: func(c *cobra.Command, args []string) error {
			source, w, err := s.open(c.Context(), args[0])
			if err != nil {
				return err
			}
			defer w.Close() //nolint:errcheck // only read
			p := &walserve.Prefetcher{Source: source}
			return p.Run(c.Context(), args[1])
		},
	}
	s.addFlags(c)
	return c
}

// restoreCommand is the restore_command for a recovery of system. A holdfast that is too old to know the command
// ends with 2, which PostgreSQL would take for the end of the log: every code above 1 becomes 200.
func (a *app) restoreCommand(system string, b *breakGlass) (string, error) {
	self, err := ownPath()
	if err != nil {
		return "", err
	}
	command := quote(self) + " wal fetch " + quote(system) + ` "%f" "%p"`
	for _, arg := range a.repositoryArgs(b) {
		command += " " + quote(arg)
	}
	return fmt.Sprintf("%s; rc=$?; [ $rc -le 1 ] && exit $rc; exit %d", command, exitLogBroken), nil
}

// ownPath returns where this program is: on an empty machine there may be no /proc to say so.
func ownPath() (string, error) {
	self, err := os.Executable()
	if err == nil {
		return filepath.EvalSymlinks(self)
	}
	found, lookErr := exec.LookPath(os.Args[0])
	if lookErr != nil {
		return "", err
	}
	return filepath.Abs(found)
}

// quote makes one word of the shell of s, in which PostgreSQL replaces nothing.
func quote(s string) string {
	out := "'"
	for _, r := range s {
		switch r {
		case '\'':
			out += `'\''`
		case '%':
			out += "%%"
		default:
			out += string(r)
		}
	}
	return out + "'"
}
