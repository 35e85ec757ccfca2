package verify

import (
	"context"
	"errors"
	"log/slog"

	"golang.org/x/sync/errgroup"

	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/repo"
	"github.com/holdfast-dr/holdfast/internal/restore"
	"github.com/holdfast-dr/holdfast/internal/restore/mount"
	"github.com/holdfast-dr/holdfast/internal/restore/points"
)

// Opener brings the snapshot of a plan into a directory of the sandbox, from which a server can recover: a full restore, or a mount.
type Opener interface {
	// Open makes the data directory to, which does not exist yet. The files are the owner's, and its settings those that
	// boot.Start needs: restore.Settings with the command and the ending.
	Open(ctx context.Context, r *repo.Repository, p *points.Plan, to string, o OpenOptions) (Opened, error)
	// Way says what it does, for a person: "full restore".
	Way() string
	// Whole tells that everything was read and proven when Open returns; otherwise that is done as the server asks for it.
	Whole() bool
}

// OpenOptions are what an Opener is told.
type OpenOptions struct {
	Owner    *restore.Owner
	Settings restore.Settings
	Progress dr.ProgressFunc
}

// Opened is a directory that a server may be started on.
type Opened interface {
	// Notes are what a person should know.
	Notes() []string
	// Fetched returns how many bytes of files have come from the repository so far.
	Fetched() int64
	// Close takes away what holds the directory in place, such as a mount; the files themselves are the sandbox's.
	Close() error
}

// FullRestore is an Opener that writes all files.
type FullRestore struct{}

var _ Opener = FullRestore{}

// Way is "full restore".
func (FullRestore) Way() string { return "full restore" }

// Whole is true: the restore compares every chunk with its ID.
func (FullRestore) Whole() bool { return true }

// Open restores. Where something is lost the error is a *restore.DamageError.
func (FullRestore) Open(ctx context.Context, r *repo.Repository, p *points.Plan, to string, o OpenOptions) (Opened, error) {
	result, err := restore.Run(ctx, r, p, restore.Options{To: to, Owner: o.Owner, Settings: o.Settings, Progress: o.Progress})
	if err != nil {
		return nil, err
	}
	return restored{result}, nil
}

type restored struct{ *restore.Result }

func (r restored) Notes() []string { return r.Result.Notes }
func (r restored) Fetched() int64  { return r.Bytes }
func (restored) Close() error      { return nil }

// lostFiles makes problems of what a restore could not bring back; false: the error says something else.
func lostFiles(r *Result, err error) bool {
	var d *restore.DamageError
	if !errors.As(err, &d) {
		return false
	}
	for _, l := range d.Lost {
		r.problem(Objects, "the snapshot's tree: "+l.String(), "%s", l.Reason)
	}
	for _, f := range d.Ranges {
		r.problem(Objects, f.File, "%d bytes from byte %d on: %s", f.Length, f.Offset, f.Reason)
	}
	return true
}

// Mount is an Opener that mounts the snapshot: what the server asks for is fetched as it asks, and what it writes is thrown away.
type Mount struct{ Log *slog.Logger }

var _ Opener = Mount{}

// Way is "instant mount".
func (Mount) Way() string { return "instant mount" }

// Whole is false: what nobody has asked for was not read.
func (Mount) Whole() bool { return false }

// Open mounts, and fetches ahead what the replay will read.
func (o Mount) Open(ctx context.Context, r *repo.Repository, p *points.Plan, to string, opts OpenOptions) (Opened, error) {
	m, err := mount.Begin(ctx, r, p, to, mount.Options{Settings: opts.Settings, Owner: opts.Owner, ThrowAway: true, Progress: opts.Progress, Log: o.Log})
	if err != nil {
		return nil, err
	}
	out := &mounted{Mount: m}
	ahead, stop := context.WithCancel(ctx)
	out.stop = stop
	out.ahead.Go(func() error {
		// What it cannot fetch the server asks for itself.
		_ = m.Foresee(ahead, p)
		return nil
	})
	return out, nil
}

// mounted is a snapshot that is mounted.
type mounted struct {
	*mount.Mount
	stop  context.CancelFunc
	ahead errgroup.Group
}

func (m *mounted) Notes() []string {
	if m.Files == nil {
		return nil
	}
	return m.Files.Notes
}

func (m *mounted) Close() error {
	m.stop()
	return errors.Join(m.ahead.Wait(), m.Mount.Close())
}
