package sftp

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"

	"github.com/pkg/sftp"

	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/store"
)

// partSize is how much is read or written between two looks at the context.
const partSize = 4 << 20

// Get returns the whole object.
func (s *Store) Get(ctx context.Context, name string, max int64) (body []byte, err error) {
	err = s.read(ctx, name, max, func(ctx context.Context, c *conn, f *sftp.File) error {
		size, err := s.size(c, f)
		if err != nil {
			return err
		}
		if size > max {
			return store.Damagedf("it has %s; at most %s are expected", dr.Bytes(size), dr.Bytes(max))
		}
		body = make([]byte, size)
		return s.readAt(ctx, c, f, body, 0)
	})
	if err != nil {
		return nil, err
	}
	return body, nil
}

// GetRange fills dst with the object's bytes from off on.
func (s *Store) GetRange(ctx context.Context, name string, off int64, dst []byte) error {
	return s.read(ctx, name, int64(len(dst)), func(ctx context.Context, c *conn, f *sftp.File) error {
		switch {
		case off < 0:
			return fmt.Errorf("offset %d is negative", off)
		case off+int64(len(dst)) < off:
			return store.Damagedf("no object has %d bytes from %d on", len(dst), off)
		case len(dst) == 0: // a read that asks for nothing would find nothing out
			size, err := s.size(c, f)
			if err == nil && off > size {
				err = tooShort(size, off, 0)
			}
			return err
		}
		return s.readAt(ctx, c, f, dst, off)
	})
}

// read opens an object's file for fn.
func (s *Store) read(ctx context.Context, name string, size int64, fn func(context.Context, *conn, *sftp.File) error) error {
	if err := store.CheckName(name); err != nil {
		return s.fail(ctx, "get", name, err)
	}
	return s.call(ctx, "get", name, size, func(ctx context.Context, c *conn) error {
		f, err := c.Open(s.path(name))
		if err != nil {
			return s.missing(c, name, did("open", err))
		}
		defer f.Close()
		return fn(ctx, c, f)
	})
}

// size returns the length of an open object.
func (s *Store) size(c *conn, f *sftp.File) (int64, error) {
	fi, err := f.Stat()
	if err != nil {
		return 0, did("stat", err)
	}
	return s.regular(c, fi)
}

// regular returns the length of an object; a directory in its place is none.
func (s *Store) regular(c *conn, fi fs.FileInfo) (int64, error) {
	switch {
	case fi.IsDir():
		return 0, s.absent(c)
	case !fi.Mode().IsRegular():
		return 0, store.Damagedf("it is a link, a device, a socket or a pipe, not a file")
	}
	return fi.Size(), nil
}

// readAt fills dst. Where it ends too early, the file does, or the server gave less than it was asked for.
func (s *Store) readAt(ctx context.Context, c *conn, f *sftp.File, dst []byte, off int64) error {
	for len(dst) > 0 {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		part := dst[:min(len(dst), partSize)]
		n, err := f.ReadAt(part, off)
		if err != nil && !errors.Is(err, io.EOF) {
			// A directory can be opened, and not read; and some offsets are too large for a server.
			switch size, sizeErr := s.size(c, f); {
			case errors.Is(sizeErr, store.ErrNotExist):
				return sizeErr
			case sizeErr == nil && off+int64(len(dst)) > size:
				return tooShort(size, off, len(dst))
			}
			return did("read", err)
		}
		if err != nil || n == 0 {
			size, err := s.size(c, f)
			if err != nil {
				return err
			}
			if end := off + int64(len(dst)); end > size {
				return tooShort(size, off, len(dst))
			}
			if n == 0 {
				return busy("read: the server gave nothing of what it has")
			}
		}
		dst, off = dst[n:], off+int64(n)
	}
	return nil
}

func tooShort(size, off int64, n int) error {
	return store.Damagedf("it ends at byte %d; %d bytes from %d on are expected", size, n, off)
}

// Stat returns name and size.
func (s *Store) Stat(ctx context.Context, name string) (info store.Info, err error) {
	if err := store.CheckName(name); err != nil {
		return info, s.fail(ctx, "stat", name, err)
	}
	err = s.call(ctx, "stat", name, 0, func(_ context.Context, c *conn) error {
		fi, err := c.Lstat(s.path(name))
		if err != nil {
			return s.missing(c, name, did("stat", err))
		}
		size, err := s.regular(c, fi)
		if err == nil {
			info = store.Info{Name: name, Size: size}
		}
		return err
	})
	return info, err
}

// missing returns ErrNotExist when err means that there is no such object, and otherwise err. Some servers answer
// with a mere failure where a file is in the place of one of its directories.
func (s *Store) missing(c *conn, name string, err error) error {
	if isAbsent(err) {
		return s.absent(c)
	}
	if !failure(err) || !strings.Contains(name, "/") {
		return err
	}
	for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
		if fi, statErr := c.Lstat(s.path(dir)); statErr == nil {
			if fi.IsDir() {
				return err
			}
			return s.absent(c)
		}
	}
	return err
}
