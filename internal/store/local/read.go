package local

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/store"
)

// readSize is how much is read between two looks at the context.
const readSize = 4 << 20

// Get returns the whole object.
func (s *Store) Get(ctx context.Context, name string, max int64) ([]byte, error) {
	fd, size, err := s.openObject(ctx, name)
	if err != nil {
		return nil, s.fail("get", name, err)
	}
	defer func() { _ = unix.Close(fd) }()
	if size > max {
		return nil, s.fail("get", name, store.Damagedf("it has %s; at most %s are expected", dr.Bytes(size), dr.Bytes(max)))
	}
	body := make([]byte, size)
	if err := readAt(ctx, fd, body, 0, size); err != nil {
		return nil, s.fail("get", name, err)
	}
	return body, nil
}

// GetRange fills dst with the object's bytes from off on.
func (s *Store) GetRange(ctx context.Context, name string, off int64, dst []byte) error {
	fd, size, err := s.openObject(ctx, name)
	if err != nil {
		return s.fail("get", name, err)
	}
	defer func() { _ = unix.Close(fd) }()
	if off < 0 {
		return s.fail("get", name, fmt.Errorf("offset %d is negative", off))
	}
	if err := readAt(ctx, fd, dst, off, size); err != nil {
		return s.fail("get", name, err)
	}
	return nil
}

func readAt(ctx context.Context, fd int, dst []byte, off, size int64) error {
	if end := off + int64(len(dst)); end > size || end < off {
		return tooShort(size, off, len(dst))
	}
	for len(dst) > 0 {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		part := dst[:min(len(dst), readSize)]
		n, err := ignoringEINTR2(func() (int, error) { return unix.Pread(fd, part, off) })
		if err != nil {
			return fmt.Errorf("read: %w", err)
		}
		if n == 0 {
			return tooShort(off, off, len(dst))
		}
		dst, off = dst[n:], off+int64(n)
	}
	return nil
}

func tooShort(size, off int64, n int) error {
	return store.Damagedf("it ends at byte %d; %d bytes from %d on are expected", size, n, off)
}

// Stat returns name and size.
func (s *Store) Stat(ctx context.Context, name string) (store.Info, error) {
	fd, size, err := s.openObject(ctx, name)
	if err != nil {
		return store.Info{}, s.fail("stat", name, err)
	}
	return store.Info{Name: name, Size: size}, unix.Close(fd)
}

// O_NONBLOCK: a FIFO in the place of an object must not hold us.
const readFlags = unix.O_RDONLY | unix.O_NOFOLLOW | unix.O_NONBLOCK | unix.O_CLOEXEC

// openAtOnce opens an object's file with one call, where the kernel has it (Linux 5.6, openat2(2)): to walk to it takes ten,
// longer than reading a small chunk.
func (s *Store) openAtOnce(name string) (int, error) {
	return ignoringEINTR2(func() (int, error) {
		return unix.Openat2(s.root, name, &unix.OpenHow{Flags: readFlags, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS})
	})
}

// openByElements does the same with a call for each directory, and finds out what is wrong.
func (s *Store) openByElements(name string) (int, error) {
	dir, base := split(name)
	at, err := s.openDir(dir)
	if err != nil {
		return -1, err
	}
	defer func() { _ = unix.Close(at) }()
	return ignoringEINTR2(func() (int, error) { return unix.Openat(at, base, readFlags, 0) })
}

// openObject opens the file of an object for the caller to close.
func (s *Store) openObject(ctx context.Context, name string) (fd int, size int64, err error) {
	if err := store.CheckName(name); err != nil {
		return -1, 0, err
	}
	if ctx.Err() != nil {
		return -1, 0, context.Cause(ctx)
	}
	fd, err = s.openAtOnce(name)
	if err != nil && !errors.Is(err, unix.ENOENT) {
		fd, err = s.openByElements(name)
	}
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, store.ErrNotExist):
		root, err := s.openRoot() // what was removed as a whole is not an object that is missing
		if err != nil {
			return -1, 0, err
		}
		_ = unix.Close(root)
		return -1, 0, store.ErrNotExist
	case errors.Is(err, unix.ELOOP):
		return -1, 0, store.WithKind(store.Damaged, errors.New("it is a symbolic link; none is followed below the store's root"))
	case err != nil:
		return -1, 0, fmt.Errorf("open: %w", err)
	}
	var st unix.Stat_t
	err = unix.Fstat(fd, &st)
	switch mode := st.Mode & unix.S_IFMT; {
	case err != nil:
		err = fmt.Errorf("stat: %w", err)
	case mode == unix.S_IFDIR:
		err = store.ErrNotExist
	case mode != unix.S_IFREG:
		err = store.WithKind(store.Damaged, errors.New("it is a device, a socket or a pipe, not a file"))
	default:
		return fd, st.Size, nil
	}
	_ = unix.Close(fd)
	return -1, 0, err
}
