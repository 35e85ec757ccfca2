package fusefs

import (
	"context"
	"errors"
	"os"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/holdfast-dr/holdfast/internal/restore/mount/layer"
)

// open is what all who have a file open share. The kernel does not read and write a file below us while anybody has it open
// through us: so how it is open is decided by the first, and remains until the last has closed it.
type open struct {
	users  int
	local  *os.File
	file   *layer.File // nil: an ordinary file, or one that was whole when it was opened
	passes bool        // the kernel reads and writes below us
}

// handle is one use of a file.
type handle struct {
	n *node
	o *open
}

// PassthroughFd implements fs.FilePassthroughFder.
func (h *handle) PassthroughFd() (int, bool) { return int(h.o.local.Fd()), h.o.passes }

// Open implements fs.NodeOpener.
func (n *node) Open(context.Context, uint32) (fs.FileHandle, uint32, syscall.Errno) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.open == nil {
		// For reading and writing, whatever is asked for: what is read for the first time is written here, and the kernel has checked who may.
		fd, err := beneath(int(n.fs.dir.Fd()), n.path(), unix.O_RDWR, 0)
		if errors.Is(err, unix.EACCES) || errors.Is(err, unix.EROFS) {
			fd, err = beneath(int(n.fs.dir.Fd()), n.path(), unix.O_RDONLY, 0)
		}
		if err != nil {
			return nil, 0, fs.ToErrno(err)
		}
		if err := n.begin(os.NewFile(uintptr(fd), n.path())); err != nil {
			n.fs.opts.Failed(n.path(), err)
			return nil, 0, syscall.EIO
		}
	}
	return n.use()
}

// use counts in a user. It needs mu.
func (n *node) use() (fs.FileHandle, uint32, syscall.Errno) {
	n.open.users++
	return &handle{n, n.open}, fuse.FOPEN_KEEP_CACHE, 0
}

// begin takes a file that was opened. It needs mu.
func (n *node) begin(local *os.File) error {
	o := &open{local: local}
	id, is, err := IdentOf(local)
	if err == nil && is && !n.fs.layer.Whole(id.ID) {
		o.file, err = n.fs.layer.Attach(id, func() (layer.Backing, error) {
			fd, err := unix.FcntlInt(local.Fd(), unix.F_DUPFD_CLOEXEC, 0)
			return Local{os.NewFile(uintptr(fd), local.Name())}, err
		})
	}
	if err != nil {
		return errors.Join(err, local.Close())
	}
	o.passes = n.fs.passthrough && o.file == nil
	n.open = o
	return nil
}

// Create implements fs.NodeCreater.
func (n *node) Create(ctx context.Context, name string, flags, mode uint32, out *fuse.EntryOut) (c *fs.Inode, h fs.FileHandle, open uint32, errno syscall.Errno) {
	errno = n.at(name, func(dir int, name string) error {
		fd, err := beneath(dir, name, unix.O_RDWR|unix.O_CREAT|int(flags)&(unix.O_EXCL|unix.O_TRUNC), mode&0o7777)
		if err != nil {
			return err
		}
		f := os.NewFile(uintptr(fd), name)
		if c, err = n.made(ctx, dir, name, out); err != nil {
			return errors.Join(err, f.Close())
		}
		made := c.Operations().(*node)
		made.mu.Lock()
		defer made.mu.Unlock()
		if made.open != nil { // somebody has looked it up meanwhile, and opened it
			err = f.Close()
		} else {
			err = made.begin(f)
		}
		if err == nil {
			h, open, _ = made.use()
		}
		return err
	})
	return c, h, open, errno
}

// Release implements fs.FileReleaser.
func (h *handle) Release(context.Context) syscall.Errno {
	h.n.mu.Lock()
	defer h.n.mu.Unlock()
	if h.o.users--; h.o.users > 0 {
		return 0
	}
	if h.n.open == h.o {
		h.n.open = nil
	}
	err := h.o.local.Close()
	if h.o.file != nil {
		err = errors.Join(err, h.n.fs.layer.Detach(h.o.file))
	}
	return fs.ToErrno(err)
}

// failed tells what went wrong, and returns what the kernel is told of it.
func (h *handle) failed(err error) syscall.Errno {
	var errno syscall.Errno
	if errors.As(err, &errno) && errno != syscall.EINTR {
		if errno != syscall.ENOSPC && errno != syscall.EDQUOT {
			h.n.fs.opts.Failed(h.o.local.Name(), err)
		}
		return errno
	}
	h.n.fs.opts.Failed(h.o.local.Name(), err)
	return syscall.EIO
}

// Read implements fs.FileReader. A signal to whoever reads does not end it: a disk's reads are not ended, either.
func (h *handle) Read(ctx context.Context, dest []byte, off int64) (fuse.ReadResult, syscall.Errno) {
	if h.o.file == nil {
		n, err := unix.Pread(int(h.o.local.Fd()), dest, off)
		if err != nil {
			return nil, fs.ToErrno(err)
		}
		return fuse.ReadResultData(dest[:n]), 0
	}
	n, err := h.o.file.ReadAt(context.WithoutCancel(ctx), dest, off)
	if err != nil {
		return nil, h.failed(err)
	}
	return fuse.ReadResultData(dest[:n]), 0
}

// Write implements fs.FileWriter. A part that was written does not count: the kernel, which writes back what it keeps, looks at nothing but
// the error.
func (h *handle) Write(ctx context.Context, b []byte, off int64) (uint32, syscall.Errno) {
	if h.o.file == nil {
		n, err := h.o.local.WriteAt(b, off)
		if err != nil {
			return 0, h.failed(err)
		}
		return uint32(n), 0
	}
	n, err := h.o.file.WriteAt(context.WithoutCancel(ctx), b, off)
	if err != nil {
		return 0, h.failed(err)
	}
	return uint32(n), 0
}

// Allocate implements fs.FileAllocater. What would change content is refused.
func (h *handle) Allocate(_ context.Context, off, size uint64, mode uint32) syscall.Errno {
	if mode&^unix.FALLOC_FL_KEEP_SIZE != 0 && h.o.file != nil {
		return syscall.EOPNOTSUPP
	}
	return fs.ToErrno(unix.Fallocate(int(h.o.local.Fd()), mode, int64(off), int64(size)))
}

// Flush implements fs.FileFlusher: nothing is done when a file is closed, and the kernel need not ask again.
func (h *handle) Flush(context.Context) syscall.Errno { return syscall.ENOSYS }

// Fsync implements fs.FileFsyncer.
func (h *handle) Fsync(_ context.Context, flags uint32) syscall.Errno {
	const dataOnly = 1 // FUSE_FSYNC_FDATASYNC
	var err error
	switch {
	case h.o.file != nil:
		err = h.o.file.Sync()
	case flags&dataOnly != 0:
		err = unix.Fdatasync(int(h.o.local.Fd()))
	default:
		err = unix.Fsync(int(h.o.local.Fd()))
	}
	if err != nil {
		return h.failed(err)
	}
	return fs.ToErrno(h.n.fs.opts.Settled())
}

// Fsync implements fs.NodeFsyncer, for directories; files have theirs.
func (n *node) Fsync(ctx context.Context, f fs.FileHandle, flags uint32) syscall.Errno {
	if h, ok := f.(*handle); ok {
		return h.Fsync(ctx, flags)
	}
	fd, err := beneath(int(n.fs.dir.Fd()), n.path(), unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return fs.ToErrno(err)
	}
	if err := errors.Join(unix.Fsync(fd), unix.Close(fd)); err != nil {
		return fs.ToErrno(err)
	}
	return fs.ToErrno(n.fs.opts.Settled())
}

// Setattr implements fs.NodeSetattrer.
func (n *node) Setattr(ctx context.Context, _ fs.FileHandle, in *fuse.SetAttrIn, out *fuse.AttrOut) syscall.Errno {
	if size, ok := in.GetSize(); ok {
		if errno := n.resize(ctx, int64(size)); errno != 0 {
			return errno
		}
	}
	if errno := n.setOthers(in); errno != 0 {
		return errno
	}
	return n.Getattr(ctx, nil, out)
}

// resize changes a file's size, whether anybody has it open or not.
func (n *node) resize(ctx context.Context, size int64) syscall.Errno {
	f, _, errno := n.Open(ctx, 0)
	if errno != 0 {
		return errno
	}
	h := f.(*handle)
	var err error
	if h.o.file != nil {
		err = h.o.file.Truncate(size)
	} else {
		err = unix.Ftruncate(int(h.o.local.Fd()), size)
	}
	if err != nil {
		errno = h.failed(err)
	}
	h.Release(ctx)
	return errno
}

// setOthers changes mode, owner and times.
func (n *node) setOthers(in *fuse.SetAttrIn) syscall.Errno {
	const others = fuse.FATTR_MODE | fuse.FATTR_UID | fuse.FATTR_GID | fuse.FATTR_ATIME | fuse.FATTR_MTIME
	if in.Valid&others == 0 {
		return 0
	}
	if n.Mode() == syscall.S_IFLNK {
		return 0 // nobody asks a link
	}
	return fs.ToErrno(n.withDescriptor(unix.O_RDONLY, func(fd int) error {
		if mode, ok := in.GetMode(); ok {
			if err := unix.Fchmod(fd, mode&0o7777); err != nil {
				return err
			}
		}
		uid, gid := -1, -1
		if u, ok := in.GetUID(); ok {
			uid = int(u)
		}
		if g, ok := in.GetGID(); ok {
			gid = int(g)
		}
		if uid != -1 || gid != -1 {
			if err := unix.Fchown(fd, uid, gid); err != nil {
				return err
			}
		}
		return setTimes(fd, in)
	}))
}

func setTimes(fd int, in *fuse.SetAttrIn) error {
	omit := unix.Timespec{Nsec: unix.UTIME_OMIT}
	times := []unix.Timespec{omit, omit}
	if t, ok := in.GetATime(); ok {
		times[0] = unix.NsecToTimespec(t.UnixNano())
	}
	if t, ok := in.GetMTime(); ok {
		times[1] = unix.NsecToTimespec(t.UnixNano())
	}
	if times[0] == omit && times[1] == omit {
		return nil
	}
	return unix.UtimesNanoAt(fd, "", times, unix.AT_EMPTY_PATH)
}
