package sftp

import (
	"context"
	"fmt"
	"path"

	"github.com/holdfast-dr/holdfast/internal/store"
)

// Put makes name hold body.
func (s *Store) Put(ctx context.Context, name string, body []byte) error {
	return s.write(ctx, "put", name, body, s.replace)
}

// Create makes name hold body where there is no such object.
func (s *Store) Create(ctx context.Context, name string, body []byte) error {
	return s.write(ctx, "create", name, body, s.add)
}

func (s *Store) write(ctx context.Context, op, name string, body []byte, publish func(context.Context, *conn, *temp, string) error) error {
	if err := store.CheckName(name); err != nil {
		return s.fail(ctx, op, name, err)
	}
	return s.call(ctx, op, name, int64(len(body)), func(ctx context.Context, c *conn) error {
		if err := s.makeDir(c, path.Dir(name)); err != nil {
			return s.explain(c, len(body), err)
		}
		t, err := s.writeTemp(ctx, c, body)
		if err != nil {
			return s.explain(c, len(body), err)
		}
		defer t.close(c)
		return s.explain(c, len(body), publish(ctx, c, t, name))
	})
}

// makeDir makes a directory of objects, and those above it, where they are missing.
func (s *Store) makeDir(c *conn, dir string) error {
	if dir == "." || s.isMade(dir) {
		return nil
	}
	err := c.Mkdir(s.path(dir))
	if isAbsent(err) {
		if path.Dir(dir) == "." {
			return s.vanished(c, dir)
		}
		if err := s.makeDir(c, path.Dir(dir)); err != nil {
			return err
		}
		if err = c.Mkdir(s.path(dir)); isAbsent(err) {
			return s.vanished(c, dir)
		}
	}
	if err != nil {
		// It was there, or something else is in its place, or of one above it.
		fi, statErr := c.Lstat(s.path(dir))
		switch {
		case statErr == nil && fi.IsDir():
		case statErr == nil:
			return fmt.Errorf("%s is a file or a symbolic link, not a directory", dir)
		case failure(err) && path.Dir(dir) != ".":
			if err := s.makeDir(c, path.Dir(dir)); err != nil {
				return err
			}
			fallthrough
		default:
			return did("make directory "+dir, err)
		}
	}
	s.setMade(dir)
	return nil
}

// replace publishes t under a name, new or not.
func (s *Store) replace(_ context.Context, c *conn, t *temp, name string) error {
	if err := c.PosixRename(t.path, s.path(name)); err != nil {
		return s.unpublished(c, t, name, did("rename", err))
	}
	t.published = true
	return t.sync(c)
}

// unpublished says why a finished temporary file did not get its name.
func (s *Store) unpublished(c *conn, t *temp, name string, err error) error {
	switch fi, statErr := c.Lstat(s.path(name)); {
	case isAbsent(err):
		return s.vanished(c, name)
	case statErr == nil && fi.IsDir():
		return fmt.Errorf("%s is a directory of other objects", name)
	}
	return err
}

// vanished is the error of a write for which something was there that is no more: the root itself, which repeating
// does not bring back, or what somebody removed below it.
func (s *Store) vanished(c *conn, name string) error {
	s.forgetMade()
	if err := s.absent(c); !isGone(err) {
		return err
	}
	return busy("the directory of %s, or a temporary file, was removed meanwhile", name)
}

// Delete removes name. The removed file is synced, if the server can, as its name goes with it.
func (s *Store) Delete(ctx context.Context, name string) error {
	if err := store.CheckName(name); err != nil {
		return s.fail(ctx, "delete", name, err)
	}
	return s.call(ctx, "delete", name, 0, func(_ context.Context, c *conn) error {
		err := s.remove(c, name)
		if isGone(err) {
			return nil
		}
		return err
	})
}

func (s *Store) remove(c *conn, name string) error {
	// The library would remove an empty directory.
	fi, err := c.Lstat(s.path(name))
	if err != nil {
		return s.missing(c, name, did("stat", err))
	}
	if fi.IsDir() {
		return store.ErrNotExist
	}
	t := &temp{path: s.path(name), published: true}
	if c.fsync && fi.Mode().IsRegular() {
		if t.file, err = c.Open(t.path); err != nil {
			t.file = nil // gone meanwhile, or not ours to read: the removal tells
		}
	}
	defer t.close(c)
	if err := c.Remove(t.path); err != nil {
		return s.missing(c, name, did("remove", err))
	}
	return t.sync(c)
}

// explain finds out whether a write failed for want of space, or of the right to write at all, which most servers
// do not say.
func (s *Store) explain(c *conn, size int, err error) error {
	if err == nil || !failure(err) || c.line.broken() != nil {
		return err
	}
	if saysFull(err.Error()) {
		return store.WithKind(store.Full, err)
	}
	if v, ok := c.HasExtension("statvfs@openssh.com"); !ok || v != "2" {
		return err
	}
	const readOnly = 1 // SSH_FXE_STATVFS_ST_RDONLY (OpenSSH, PROTOCOL)
	switch st, statErr := c.StatVFS(s.opts.Dir); {
	case statErr != nil || st.Frsize == 0:
	case st.Flag&readOnly != 0:
		return store.WithKind(store.Denied, fmt.Errorf("%w; its file system is read-only", err))
	case st.Bavail < uint64(size)/st.Frsize+1, st.Files > 0 && st.Favail == 0: //nolint:gosec // a length
		return store.WithKind(store.Full, fmt.Errorf("%w; its file system is full", err))
	}
	return err
}

func (s *Store) isMade(dir string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.made[dir]
	return ok
}

// maxMade bounds the memory of which directories are there; beyond it we forget and ask again.
const maxMade = 1 << 16

func (s *Store) setMade(dir string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.made) >= maxMade {
		clear(s.made)
	}
	s.made[dir] = struct{}{}
}

func (s *Store) forgetMade() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.made)
}
