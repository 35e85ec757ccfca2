package local

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-dr/holdfast/internal/store"
)

const (
	tempDir = ".tmp~"

	// writeSize is how much is written between two looks at the context.
	writeSize = 4 << 20

	// staleAge is when a temporary file counts as abandoned on a file system without locks. A clock that is
	// wrong costs a repeated write and nothing else, see removeStale.
	staleAge = 24 * time.Hour
)

// temp is a finished temporary file: whole, synced, not yet published. Its open descriptor holds the lock that
// tells other processes that its writer lives.
type temp struct {
	dir, fd    int
	base, path string
}

func (t *temp) close() {
	_ = unix.Close(t.fd)
	_ = unix.Close(t.dir)
}

// writeTemp writes body to a new temporary file and syncs it.
func (s *Store) writeTemp(ctx context.Context, body []byte) (*temp, error) {
	dir, err := s.openTempDir()
	if err != nil {
		return nil, err
	}
	t := &temp{dir: dir, fd: -1, base: rand.Text()}
	t.path = tempDir + "/" + t.base
	if err := s.before(Step{Op: OpCreate, Path: t.path}); err != nil {
		_ = unix.Close(dir)
		return nil, err
	}
	t.fd, err = ignoringEINTR2(func() (int, error) {
		return unix.Openat(dir, t.base, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	})
	if err != nil {
		_ = unix.Close(dir)
		err = fmt.Errorf("make temporary file %s: %w", t.path, err)
		if errors.Is(err, unix.ENOENT) { // somebody removed the directory
			err = store.WithKind(store.Busy, err)
		}
		return nil, err
	}
	// The lock is for removeStale alone; where there are no locks, the age decides.
	_ = unix.Flock(t.fd, unix.LOCK_EX|unix.LOCK_NB)
	if err := s.fill(ctx, t, body); err != nil {
		s.dropTemp(t)
		t.close()
		return nil, err
	}
	return t, nil
}

func (s *Store) openTempDir() (int, error) {
	fd, err := openAt(s.root, tempDir)
	if errors.Is(err, unix.ENOENT) {
		if err := s.before(Step{Op: OpMkdir, Path: tempDir}); err != nil {
			return -1, err
		}
		err = ignoringEINTR(func() error { return unix.Mkdirat(s.root, tempDir, 0o700) })
		if err != nil && !errors.Is(err, unix.EEXIST) {
			return -1, fmt.Errorf("make directory %s: %w", tempDir, err)
		}
		fd, err = openAt(s.root, tempDir)
	}
	if err != nil {
		return -1, fmt.Errorf("open directory %s: %w", tempDir, err)
	}
	return fd, nil
}

func (s *Store) fill(ctx context.Context, t *temp, body []byte) error {
	for len(body) > 0 {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		part := body[:min(len(body), writeSize)]
		if err := s.before(Step{Op: OpWrite, Path: t.path, Data: part}); err != nil {
			return err
		}
		n, err := ignoringEINTR2(func() (int, error) { return unix.Write(t.fd, part) })
		if err != nil {
			return fmt.Errorf("write: %w", err)
		}
		body = body[n:]
	}
	if err := s.before(Step{Op: OpSync, Path: t.path}); err != nil {
		return err
	}
	if err := ignoringEINTR(func() error { return unix.Fsync(t.fd) }); err != nil {
		return fmt.Errorf("sync: %w", err)
	}
	return nil
}

// dropTemp removes a temporary file's name. It is no error of the write when that fails: nobody reads it, and
// the next Open tries again.
func (s *Store) dropTemp(t *temp) {
	if s.before(Step{Op: OpUnlink, Path: t.path}) == nil {
		_ = ignoringEINTR(func() error { return unix.Unlinkat(t.dir, t.base, 0) })
	}
}

// removeStale removes what dead writers left: temporary files whose lock is free, since the kernel frees a
// lock when its holder ends, however it ends.
//
// No safety depends on this rule. A writer whose temporary file is taken from it all the same (the moment
// between creating and locking; a file system without locks and a wrong clock) fails to publish it, returns
// Busy and writes again. Failures are not reported: the store may be read-only, and is good to read.
func (s *Store) removeStale() {
	fd, err := openAt(s.root, tempDir)
	if err != nil {
		return
	}
	f := os.NewFile(uintptr(fd), filepath.Join(s.dir, tempDir))
	defer f.Close()
	names, _ := f.Readdirnames(-1)
	for _, name := range names {
		if abandoned(fd, name) {
			_ = ignoringEINTR(func() error { return unix.Unlinkat(fd, name, 0) })
		}
	}
}

func abandoned(dir int, name string) bool {
	fd, err := ignoringEINTR2(func() (int, error) {
		return unix.Openat(dir, name, unix.O_RDWR|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	})
	if err != nil {
		return false
	}
	defer func() { _ = unix.Close(fd) }()
	var st unix.Stat_t
	if unix.Fstat(fd, &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
		return false
	}
	err = unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB)
	if err == nil || errors.Is(err, unix.EWOULDBLOCK) {
		return err == nil
	}
	return time.Since(time.Unix(st.Mtim.Unix())) > staleAge
}
