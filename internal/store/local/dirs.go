package local

import (
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/holdfast-dr/holdfast/internal/store"
)

// maxDurable bounds the memory of which directories are synced already; beyond it we forget and sync again.
const maxDurable = 1 << 16

// split returns the directory of an object's name, "" for the root, and its last element.
func split(name string) (dir, base string) {
	i := strings.LastIndexByte(name, '/')
	if i < 0 {
		return "", name
	}
	return name[:i], name[i+1:]
}

// openAt opens the directory elem of the directory at. A symbolic link is refused with ENOTDIR.
func openAt(at int, elem string) (int, error) {
	return ignoringEINTR2(func() (int, error) {
		return unix.Openat(at, elem, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	})
}

// errRemoved is the error where the store's own directory is no longer in any other: whatever is asked for would look as if it
// had never been there, and what comes back at the path is another directory.
var errRemoved = errors.New("the store's directory was removed")

// openRoot opens the store's own directory for the caller to close.
func (s *Store) openRoot() (int, error) {
	fd, err := openAt(s.root, ".")
	if err != nil {
		return -1, err
	}
	n, err := linksOf(fd)
	if err == nil && n == 0 && s.counted {
		err = errRemoved
	}
	if err != nil {
		_ = unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// linksOf returns in how many directories a directory is.
func linksOf(fd int) (uint64, error) {
	var st unix.Stat_t
	err := ignoringEINTR(func() error { return unix.Fstat(fd, &st) })
	return uint64(st.Nlink), err //nolint:unconvert // not everywhere
}

// openDir opens an existing directory for the caller to close. A missing one, or a file in its place, is
// ErrNotExist; a symbolic link is Damaged.
func (s *Store) openDir(dir string) (int, error) {
	fd, err := s.openRoot()
	if err != nil || dir == "" {
		return fd, err
	}
	for elem := range strings.SplitSeq(dir, "/") {
		next, err := openAt(fd, elem)
		if err != nil {
			err = s.explain(fd, elem, err)
			_ = unix.Close(fd)
			return -1, err
		}
		_ = unix.Close(fd)
		fd = next
	}
	return fd, nil
}

// explain turns the error of opening elem into what it means for an object that would be below it.
func (s *Store) explain(at int, elem string, err error) error {
	if errors.Is(err, unix.ENOENT) {
		return store.ErrNotExist
	}
	var st unix.Stat_t
	if !errors.Is(err, unix.ENOTDIR) || fstatAt(at, elem, &st) != nil {
		return err
	}
	if st.Mode&unix.S_IFMT == unix.S_IFLNK {
		return store.Damagedf("%q is a symbolic link; none is followed below the store's root", elem)
	}
	return store.ErrNotExist
}

// makeDir opens the directory dir, made where it is missing, such that its name is durable: every level that
// this process meets for the first time is synced into its parent, even when it was there already, because
// whoever made it may not have come to its own sync.
func (s *Store) makeDir(dir string) (int, error) {
	fd, err := s.openRoot()
	if err != nil || dir == "" {
		return fd, err
	}
	parent := ""
	for elem := range strings.SplitSeq(dir, "/") {
		path := elem
		if parent != "" {
			path = parent + "/" + elem
		}
		next, err := s.makeLevel(fd, parent, elem, path)
		_ = unix.Close(fd)
		if err != nil {
			return -1, err
		}
		fd, parent = next, path
	}
	return fd, nil
}

func (s *Store) makeLevel(at int, parent, elem, path string) (int, error) {
	if !s.isDurable(path) {
		if err := s.before(Step{Op: OpMkdir, Path: path}); err != nil {
			return -1, err
		}
		err := ignoringEINTR(func() error { return unix.Mkdirat(at, elem, 0o700) })
		if err != nil && !errors.Is(err, unix.EEXIST) {
			return -1, fmt.Errorf("make directory %s: %w", path, err)
		}
		if err := s.syncDir(at, parent); err != nil {
			return -1, err
		}
		s.setDurable(path)
	}
	fd, err := openAt(at, elem)
	switch {
	case errors.Is(err, unix.ENOENT):
		s.forgetDurable() // somebody removed it since
		return -1, store.WithKind(store.Busy, fmt.Errorf("directory %s was removed meanwhile: %w", path, err))
	case errors.Is(err, unix.ENOTDIR):
		return -1, fmt.Errorf("%s is a file or a symbolic link, not a directory: %w", path, err)
	case err != nil:
		return -1, fmt.Errorf("open directory %s: %w", path, err)
	}
	return fd, nil
}

// syncDir makes the names in a directory durable; path is its name for messages and for the hook.
func (s *Store) syncDir(fd int, path string) error {
	if err := s.before(Step{Op: OpSyncDir, Path: path}); err != nil {
		return err
	}
	err := ignoringEINTR(func() error { return unix.Fsync(fd) })
	if err != nil {
		return fmt.Errorf("sync directory %q: %w", path, err)
	}
	return nil
}

func (s *Store) isDurable(path string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.durable[path]
	return ok
}

func (s *Store) setDurable(path string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.durable) >= maxDurable {
		clear(s.durable)
	}
	s.durable[path] = struct{}{}
}

func (s *Store) forgetDurable() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.durable)
}

func fstatAt(at int, elem string, st *unix.Stat_t) error {
	return ignoringEINTR(func() error { return unix.Fstatat(at, elem, st, unix.AT_SYMLINK_NOFOLLOW) })
}
