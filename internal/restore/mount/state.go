package mount

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-dr/holdfast/internal/dr"
	pgcontrol "github.com/holdfast-dr/holdfast/internal/pg/control"
	"github.com/holdfast-dr/holdfast/internal/repo"
	"github.com/holdfast-dr/holdfast/internal/restore/mount/layer"
	"github.com/holdfast-dr/holdfast/internal/restore/points"
)

// Names in the directory below the mount.
const (
	StateDir    = ".holdfast"
	stateName   = "mount.json"
	lockName    = "lock"
	controlDir  = "control"                    // of the process that serves it
	controlName = pgcontrol.Path + ".holdfast" // pg_control, while there is a mount
)

// stateNames are all that is in StateDir.
func stateNames() []string {
	return append(layer.JournalNames(), stateName, stateName+".new", lockName, controlDir)
}

// Phase is how far a mount has come.
type Phase string

// The phases.
const (
	Laying    Phase = "laying"    // its files are being made: nothing in it counts
	Laid      Phase = "laid"      // a server may have begun to recover on it
	Recovered Phase = "recovered" // the server accepts writes, or has: from here on it is started as any other
	Plain     Phase = "plain"     // all is here, and the mount is gone: what is left is to say so
)

// State is what is kept of a mount, for whoever resumes it.
type State struct {
	Version     int               `json:"version"`
	System      string            `json:"system"`
	Snapshot    repo.SnapshotID   `json:"snapshot"`
	Root        string            `json:"root"`
	Target      points.Target     `json:"target"`
	Timeline    points.Timeline   `json:"timeline"`
	Loss        points.Loss       `json:"acceptLoss,omitempty"`
	Phase       Phase             `json:"phase"`
	Areas       []string          `json:"areas"` // the data directory, and the tablespaces outside of it
	Tablespaces map[string]string `json:"tablespaces,omitempty"`
	Files       int64             `json:"files"`
	Bytes       int64             `json:"bytes"`
	Begun       time.Time         `json:"begun"`
	// Claimed says that nothing else was in the areas when they were taken: only then may what is in them be removed.
	Claimed bool          `json:"claimed"`
	ID      layer.MountID `json:"id"` // which the journal has, too
}

// ReadState returns the state of the mount below a directory, nil where there is none. Where something is mounted over it, that hides
// it.
func ReadState(dir string) (*State, error) {
	root, err := openOwn(filepath.Join(dir, StateDir))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer root.Close() //nolint:errcheck // only read
	b, err := root.ReadFile(stateName)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var s State
	if err := json.Unmarshal(b, &s); err != nil || s.Version != 1 {
		return nil, fmt.Errorf("%s is not one of this version: %w", filepath.Join(dir, StateDir, stateName), errors.Join(err, errors.New("version is not 1")))
	}
	return &s, nil
}

// openOwn opens a directory that must be this user's own, and no link: it lies in one of the server's user, and what it says is believed.
func openOwn(path string) (*os.Root, error) {
	fi, err := os.Lstat(path)
	if err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(path)
	if err != nil {
		return nil, err
	}
	opened, err := root.Stat(".")
	if err == nil && (!fi.IsDir() || !os.SameFile(fi, opened) || int(opened.Sys().(*syscall.Stat_t).Uid) != os.Geteuid()) {
		err = &dr.Failure{
			What: "read the state of a mount in " + path, Reason: "it belongs to another user, or is a link",
			Next: "run this as the user who has mounted it; if nobody has, remove " + path,
		}
	}
	if err != nil {
		return nil, errors.Join(err, root.Close())
	}
	return root, nil
}

// below is a directory below a mount, held from before.
type below struct {
	path  string
	dir   *os.File
	state *os.Root // StateDir; nil of a tablespace
}

func openBelow(path string) (*below, error) {
	d, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	return &below{path: path, dir: d}, nil
}

// openState opens the directory's own part, and takes its lock: one process serves a directory.
func (b *below) openState() (err error) {
	path := filepath.Join(b.path, StateDir)
	if err := os.Mkdir(path, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	b.state, err = openOwn(path)
	return err
}

func (b *below) close() error {
	err := b.dir.Close()
	if b.state != nil {
		err = errors.Join(err, b.state.Close())
	}
	return err
}

// lock keeps other processes from a directory until the file is closed.
func (b *below) lock() (*os.File, error) {
	f, err := b.state.OpenFile(lockName, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, errors.Join(&dr.Failure{
			What:   fmt.Sprintf("mount %q", b.path),
			Reason: "another process serves it",
			Next:   "holdfast mount list shows it",
			Err:    err,
		}, f.Close())
	}
	return f, nil
}

// reset removes, durably, what an earlier mount has left of its state: the files of the next one have the same numbers in its journal. The
// lock stays.
func (b *below) reset() error {
	for _, name := range append(layer.JournalNames(), stateName+".new", stateName) {
		if err := b.state.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return b.sync()
}

// sync makes the names durable.
func (b *below) sync() error {
	d, err := b.state.Open(".")
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// write keeps a state, durably.
func (b *below) write(s *State) error {
	text, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	f, err := b.state.OpenFile(stateName+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(append(text, '\n'))
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return b.Rename(stateName+".new", stateName)
}

// Rename implements layer.Disk.
func (b *below) Rename(from, to string) error {
	if err := b.state.Rename(from, to); err != nil {
		return err
	}
	return b.sync()
}

// Open implements layer.Disk.
func (b *below) Open(name string) (layer.Backing, error) {
	f, err := b.state.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	return local(f), nil
}
