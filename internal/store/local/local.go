package local

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/store"
)

// Options are for tests; the zero value is right everywhere else.
type Options struct {
	// Before is called before each step that changes the file system, from the goroutine that makes it. An
	// error keeps the step from happening and fails the call. Crash tests kill their process in it.
	Before func(Step) error
}

// Store is a directory of objects.
type Store struct {
	dir  string // absolute
	opts Options

	// root is a descriptor and not a path: when the disk is unmounted or another one is mounted over the
	// path, later writes must not go to whatever directory is found there then.
	root    int
	counted bool // its file system counts in how many directories a directory is: 0 means that it was removed

	// mu guards durable. Not held during I/O.
	mu      sync.Mutex
	durable map[string]struct{} // directories whose names this process has synced
}

var _ store.Store = (*Store)(nil)

// Open opens the directory dir, which must exist: a missing one may be a disk that is not mounted, and writing
// to the disk below the mount point would look like success. Temporary files of dead writers are removed.
func Open(dir string, opts Options) (*Store, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, dr.Fail("open store "+dir, err, "give the absolute path of a directory")
	}
	root, err := ignoringEINTR2(func() (int, error) {
		return unix.Open(abs, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	})
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, &dr.Failure{
			What: "open store " + abs, Reason: "there is no such directory", Err: err,
			Next: "mount the disk that holds it; a new repository's directory is made by: holdfast repo init",
		}
	case errors.Is(err, unix.ENOTDIR):
		return nil, &dr.Failure{
			What: "open store " + abs, Reason: "it is a file, or a part of its path is one", Err: err,
			Next: "give the path of a directory",
		}
	case errors.Is(err, fs.ErrPermission):
		return nil, dr.Fail("open store "+abs, err, "run as the user who owns it, or give this user access to it")
	case err != nil:
		return nil, dr.Fail("open store "+abs, err, "check the disk and its file system (dmesg)")
	}
	n, err := linksOf(root)
	if err != nil {
		return nil, errors.Join(dr.Fail("open store "+abs, err, "check the disk and its file system (dmesg)"), unix.Close(root))
	}
	s := &Store{dir: abs, opts: opts, root: root, counted: n > 0, durable: map[string]struct{}{}}
	s.removeStale()
	return s, nil
}

// Create is Open for a directory that is made, with its parents, where it is missing.
func Create(dir string, opts Options) (*Store, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, dr.Fail("create store "+dir, err, "give the absolute path of a directory")
	}
	if err := mkdirAllDurable(abs); err != nil {
		return nil, dr.Fail("create store "+abs, err, "make the directory yourself, for the user who runs holdfast")
	}
	return Open(abs, opts)
}

// mkdirAllDurable makes dir and its parents, and syncs each new name.
func mkdirAllDurable(dir string) error {
	if fi, err := os.Stat(dir); err == nil && fi.IsDir() {
		return nil
	}
	parent := filepath.Dir(dir)
	if parent != dir {
		if err := mkdirAllDurable(parent); err != nil {
			return err
		}
	}
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	f, err := os.Open(parent)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// String returns the directory's absolute path.
func (s *Store) String() string { return s.dir }

// Close closes the directory. No method may be called after it.
func (s *Store) Close() error { return unix.Close(s.root) }

func ignoringEINTR(fn func() error) error {
	for {
		if err := fn(); err != unix.EINTR { //nolint:errorlint // a bare errno
			return err
		}
	}
}

func ignoringEINTR2(fn func() (int, error)) (int, error) {
	for {
		if n, err := fn(); err != unix.EINTR { //nolint:errorlint // a bare errno
			return n, err
		}
	}
}
