package local

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/holdfast-dr/holdfast/internal/store"
)

// place is where an object's name is: an open directory, and the name in it.
type place struct {
	fd        int
	dir, base string
}

func (p place) path() string {
	if p.dir == "" {
		return p.base
	}
	return p.dir + "/" + p.base
}

// Put makes name hold body. The calls cannot be interrupted in the middle of a system call: a mount that hangs
// hangs them, whatever the context says.
func (s *Store) Put(ctx context.Context, name string, body []byte) error {
	if err := s.write(ctx, name, body, s.replace); err != nil {
		return s.fail("put", name, err)
	}
	return nil
}

// Create makes name hold body where there is no such object. ErrExists is returned only when the object that
// exists is durable itself, so what was decided by it does not change after a power failure.
func (s *Store) Create(ctx context.Context, name string, body []byte) error {
	if err := s.write(ctx, name, body, s.add); err != nil {
		return s.fail("create", name, err)
	}
	return nil
}

func (s *Store) write(ctx context.Context, name string, body []byte, publish func(*temp, place) error) error {
	if err := store.CheckName(name); err != nil {
		return err
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	dir, base := split(name)
	fd, err := s.makeDir(dir)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	t, err := s.writeTemp(ctx, body)
	if err != nil {
		return err
	}
	defer t.close()
	return publish(t, place{fd, dir, base})
}

// replace publishes t under a name, new or not.
func (s *Store) replace(t *temp, p place) error {
	if err := s.before(Step{Op: OpRename, Path: t.path, To: p.path()}); err != nil {
		s.dropTemp(t)
		return err
	}
	err := ignoringEINTR(func() error { return unix.Renameat(t.dir, t.base, p.fd, p.base) })
	if err != nil {
		s.dropTemp(t)
		return s.unpublished("rename", p, err)
	}
	return s.syncDir(p.fd, p.dir)
}

// add publishes t under a name that must be new. link(2) is the one call that fails where there is a file, on
// every kind of file system and over the network.
func (s *Store) add(t *temp, p place) error {
	defer s.dropTemp(t)
	if err := s.before(Step{Op: OpLink, Path: t.path, To: p.path()}); err != nil {
		return err
	}
	err := ignoringEINTR(func() error { return unix.Linkat(t.dir, t.base, p.fd, p.base, 0) })
	if errors.Is(err, unix.EEXIST) {
		// Over NFS the answer to a link that was made can get lost and the repeated call find it there:
		// the second name of the temporary file is then ours (open(2), O_EXCL).
		var st unix.Stat_t
		if unix.Fstat(t.fd, &st) == nil && st.Nlink == 2 {
			return s.syncDir(p.fd, p.dir)
		}
		return s.taken(p)
	}
	if err != nil {
		return s.unpublished("link", p, err)
	}
	return s.syncDir(p.fd, p.dir)
}

// taken says what holds the name, and makes the name durable first when that is an object.
func (s *Store) taken(p place) error {
	var st unix.Stat_t
	if fstatAt(p.fd, p.base, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR {
		return s.unpublished("link", p, unix.EISDIR)
	}
	if err := s.syncDir(p.fd, p.dir); err != nil {
		return err
	}
	return store.ErrExists
}

// unpublished says why a finished temporary file did not get its name.
func (s *Store) unpublished(call string, p place, err error) error {
	switch {
	case errors.Is(err, unix.ENOENT):
		s.forgetDurable()
		return store.WithKind(store.Busy, fmt.Errorf("the temporary file or directory %q was removed meanwhile: %w", p.dir, err))
	case errors.Is(err, unix.EISDIR):
		return fmt.Errorf("%s is a directory of other objects: %w", p.path(), err)
	case errors.Is(err, unix.EXDEV):
		return fmt.Errorf("%s is on another file system than the store's root; a store must be on one: %w", p.path(), err)
	case call == "link" && (errors.Is(err, unix.EPERM) || errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOSYS)):
		return store.WithKind(store.Other, fmt.Errorf("the file system has no hard links, which exclusive creation needs: %w", err))
	}
	return fmt.Errorf("%s: %w", call, err)
}

// Delete removes name.
func (s *Store) Delete(ctx context.Context, name string) error {
	if err := s.remove(ctx, name); err != nil {
		return s.fail("delete", name, err)
	}
	return nil
}

func (s *Store) remove(ctx context.Context, name string) error {
	if err := store.CheckName(name); err != nil {
		return err
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	dir, base := split(name)
	fd, err := s.openDir(dir)
	if errors.Is(err, store.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	if err := s.before(Step{Op: OpUnlink, Path: name}); err != nil {
		return err
	}
	err = ignoringEINTR(func() error { return unix.Unlinkat(fd, base, 0) })
	// A directory is no object. An absent name may have been removed by somebody who did not come to the sync.
	if err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EISDIR) {
		return fmt.Errorf("unlink: %w", err)
	}
	return s.syncDir(fd, dir)
}
