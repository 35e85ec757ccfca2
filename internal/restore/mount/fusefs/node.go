package fusefs

import (
	"context"
	"errors"
	"os"
	"path"
	"sync"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// node is a name below. A file's node keeps what its users share.
type node struct {
	fs.Inode
	fs *filesystem

	mu   sync.Mutex // guards open
	open *open      // nil: nobody has it open
}

// path returns where a node is below.
func (n *node) path() string { return n.fs.below(n.Path(nil)) }

// below returns the path below of one that is shown.
func (f *filesystem) below(shown string) string {
	if shown == f.opts.Shown && shown != "" {
		return f.opts.Kept
	}
	return shown
}

// in opens the directory that a node is, for the calls that take a directory and a name.
func (n *node) in() (int, error) {
	return beneath(int(n.fs.dir.Fd()), n.path(), unix.O_PATH|unix.O_DIRECTORY, 0)
}

// name returns the name below of one that is shown in a directory; false where it is not to be seen.
func (n *node) name(shown string) (string, bool) {
	o := n.fs.opts
	switch {
	case shown == o.Hidden:
		return shown, !n.IsRoot()
	case o.Kept == "" || shown != path.Base(o.Shown) && shown != path.Base(o.Kept) || n.Path(nil) != path.Dir(o.Shown):
		return shown, true
	}
	return path.Base(o.Kept), shown == path.Base(o.Shown)
}

// at calls fn with the directory that a node is, and with the name below, but for names that nobody may touch.
func (n *node) at(shown string, fn func(dir int, name string) error) syscall.Errno {
	name, ok := n.name(shown)
	if !ok {
		return syscall.EACCES
	}
	dir, err := n.in()
	if err != nil {
		return fs.ToErrno(err)
	}
	defer unix.Close(dir) //nolint:errcheck // nothing was written through it
	return fs.ToErrno(fn(dir, name))
}

// child returns the node of a name, and its attributes.
func (n *node) child(ctx context.Context, dir int, name string, out *fuse.EntryOut) (*fs.Inode, error) {
	var st unix.Statx_t
	if err := unix.Statx(dir, name, unix.AT_SYMLINK_NOFOLLOW, unix.STATX_BASIC_STATS|unix.STATX_BTIME, &st); err != nil {
		return nil, err
	}
	fill(&out.Attr, &st)
	return n.NewInode(ctx, &node{fs: n.fs}, identity(&st)), nil
}

// identity tells a file from another that has its inode's number after it.
func identity(st *unix.Statx_t) fs.StableAttr {
	return fs.StableAttr{Mode: uint32(st.Mode) & syscall.S_IFMT, Ino: st.Ino, Gen: uint64(st.Btime.Sec)*1e9 + uint64(st.Btime.Nsec) | 1}
}

func fill(a *fuse.Attr, st *unix.Statx_t) {
	a.Ino, a.Size, a.Blocks, a.Mode, a.Nlink, a.Blksize = st.Ino, st.Size, st.Blocks, uint32(st.Mode), st.Nlink, st.Blksize
	a.Owner = fuse.Owner{Uid: st.Uid, Gid: st.Gid}
	a.Atime, a.Atimensec = uint64(st.Atime.Sec), st.Atime.Nsec
	a.Mtime, a.Mtimensec = uint64(st.Mtime.Sec), st.Mtime.Nsec
	a.Ctime, a.Ctimensec = uint64(st.Ctime.Sec), st.Ctime.Nsec
	a.Rdev = uint32(unix.Mkdev(st.Rdev_major, st.Rdev_minor))
}

// Lookup implements fs.NodeLookuper.
func (n *node) Lookup(ctx context.Context, name string, out *fuse.EntryOut) (c *fs.Inode, errno syscall.Errno) {
	if _, ok := n.name(name); !ok {
		return nil, syscall.ENOENT
	}
	errno = n.at(name, func(dir int, name string) (err error) {
		c, err = n.child(ctx, dir, name, out)
		return err
	})
	return c, errno
}

// made gives what was just made to whoever asked for it, and returns its node.
func (n *node) made(ctx context.Context, dir int, name string, out *fuse.EntryOut) (*fs.Inode, error) {
	if caller, ok := fuse.FromContext(ctx); ok && os.Geteuid() == 0 {
		if err := unix.Fchownat(dir, name, int(caller.Uid), int(caller.Gid), unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return nil, err
		}
	}
	return n.child(ctx, dir, name, out)
}

// Mkdir implements fs.NodeMkdirer.
func (n *node) Mkdir(ctx context.Context, name string, mode uint32, out *fuse.EntryOut) (c *fs.Inode, errno syscall.Errno) {
	errno = n.at(name, func(dir int, name string) (err error) {
		if err := unix.Mkdirat(dir, name, mode); err != nil {
			return err
		}
		c, err = n.made(ctx, dir, name, out)
		return err
	})
	return c, errno
}

// Mknod implements fs.NodeMknoder: a server's socket may be here.
func (n *node) Mknod(ctx context.Context, name string, mode, _ uint32, out *fuse.EntryOut) (c *fs.Inode, errno syscall.Errno) {
	switch mode & syscall.S_IFMT {
	case syscall.S_IFREG, syscall.S_IFIFO, syscall.S_IFSOCK:
	default:
		return nil, syscall.EPERM
	}
	errno = n.at(name, func(dir int, name string) (err error) {
		if err := unix.Mknodat(dir, name, mode, 0); err != nil {
			return err
		}
		c, err = n.made(ctx, dir, name, out)
		return err
	})
	return c, errno
}

// Symlink implements fs.NodeSymlinker.
func (n *node) Symlink(ctx context.Context, target, name string, out *fuse.EntryOut) (c *fs.Inode, errno syscall.Errno) {
	errno = n.at(name, func(dir int, name string) (err error) {
		if err := unix.Symlinkat(target, dir, name); err != nil {
			return err
		}
		c, err = n.made(ctx, dir, name, out)
		return err
	})
	return c, errno
}

// Link implements fs.NodeLinker.
func (n *node) Link(ctx context.Context, target fs.InodeEmbedder, name string, out *fuse.EntryOut) (c *fs.Inode, errno syscall.Errno) {
	base, above := target.EmbeddedInode().Parent()
	if above == nil {
		return nil, syscall.ENOENT
	}
	errno = above.Operations().(*node).at(base, func(from int, base string) error {
		if errno := n.at(name, func(dir int, name string) (err error) {
			if err := unix.Linkat(from, base, dir, name, 0); err != nil {
				return err
			}
			c, err = n.child(ctx, dir, name, out)
			return err
		}); errno != 0 {
			return errno
		}
		return nil
	})
	return c, errno
}

// Unlink implements fs.NodeUnlinker.
func (n *node) Unlink(_ context.Context, name string) syscall.Errno {
	return n.at(name, func(dir int, name string) error { return unix.Unlinkat(dir, name, 0) })
}

// Rmdir implements fs.NodeRmdirer.
func (n *node) Rmdir(_ context.Context, name string) syscall.Errno {
	return n.at(name, func(dir int, name string) error { return unix.Unlinkat(dir, name, unix.AT_REMOVEDIR) })
}

// Rename implements fs.NodeRenamer.
func (n *node) Rename(_ context.Context, name string, newParent fs.InodeEmbedder, newName string, flags uint32) syscall.Errno {
	other := newParent.EmbeddedInode().Operations().(*node)
	return n.at(name, func(dir int, name string) error {
		if errno := other.at(newName, func(to int, newName string) error { return unix.Renameat2(dir, name, to, newName, uint(flags)) }); errno != 0 {
			return errno
		}
		return nil
	})
}

// Readlink implements fs.NodeReadlinker.
func (n *node) Readlink(context.Context) ([]byte, syscall.Errno) {
	base, above := n.Parent()
	if above == nil {
		return nil, syscall.ENOENT
	}
	b := make([]byte, unix.PathMax)
	errno := above.Operations().(*node).at(base, func(dir int, base string) error {
		length, err := unix.Readlinkat(dir, base, b)
		b = b[:max(length, 0)]
		return err
	})
	return b, errno
}

// Readdir implements fs.NodeReaddirer.
func (n *node) Readdir(context.Context) (fs.DirStream, syscall.Errno) {
	fd, err := beneath(int(n.fs.dir.Fd()), n.path(), unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, fs.ToErrno(err)
	}
	f := os.NewFile(uintptr(fd), "")
	defer f.Close() //nolint:errcheck // only read
	all, err := f.ReadDir(-1)
	if err != nil {
		return nil, fs.ToErrno(err)
	}
	out := make([]fuse.DirEntry, 0, len(all))
	for _, e := range all {
		name := e.Name()
		if _, ok := n.name(name); !ok {
			if name != path.Base(n.fs.opts.Kept) {
				continue
			}
			name = path.Base(n.fs.opts.Shown)
		}
		mode := uint32(syscall.S_IFREG)
		switch {
		case e.IsDir():
			mode = syscall.S_IFDIR
		case e.Type()&os.ModeSymlink != 0:
			mode = syscall.S_IFLNK
		case e.Type()&os.ModeSocket != 0:
			mode = syscall.S_IFSOCK
		case e.Type()&os.ModeNamedPipe != 0:
			mode = syscall.S_IFIFO
		}
		out = append(out, fuse.DirEntry{Name: name, Mode: mode})
	}
	return fs.NewListDirStream(out), 0
}

// Statfs implements fs.NodeStatfser.
func (n *node) Statfs(_ context.Context, out *fuse.StatfsOut) syscall.Errno {
	var st syscall.Statfs_t
	if err := syscall.Fstatfs(int(n.fs.dir.Fd()), &st); err != nil {
		return fs.ToErrno(err)
	}
	out.FromStatfsT(&st)
	return 0
}

// Getattr implements fs.NodeGetattrer.
func (n *node) Getattr(_ context.Context, _ fs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	return fs.ToErrno(n.withDescriptor(unix.O_PATH, func(fd int) error {
		var st unix.Statx_t
		if err := unix.Statx(fd, "", unix.AT_EMPTY_PATH, unix.STATX_BASIC_STATS, &st); err != nil {
			return err
		}
		fill(&out.Attr, &st)
		return nil
	}))
}

// withDescriptor calls fn with a descriptor of what a node is: that of who has it open, or one that is opened for it.
func (n *node) withDescriptor(flags int, fn func(fd int) error) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.open != nil {
		return fn(int(n.open.local.Fd()))
	}
	if n.IsRoot() {
		return fn(int(n.fs.dir.Fd()))
	}
	base, above := n.Parent()
	if above == nil {
		return syscall.ENOENT
	}
	if flags == unix.O_PATH { // a link is not followed, and may be what is meant
		errno := above.Operations().(*node).at(base, func(dir int, name string) error {
			fd, err := unix.Openat(dir, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
			if err != nil {
				return err
			}
			defer unix.Close(fd) //nolint:errcheck // nothing was written through it
			return fn(fd)
		})
		if errno != 0 {
			return errno
		}
		return nil
	}
	fd, err := beneath(int(n.fs.dir.Fd()), n.path(), flags|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	return errors.Join(fn(fd), unix.Close(fd))
}
