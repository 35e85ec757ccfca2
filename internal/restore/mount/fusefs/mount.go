package fusefs

import (
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"strconv"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/restore/mount/layer"
)

// Writes says who keeps what is written until it is synced.
type Writes string

// The ways.
const (
	BestWrites  Writes = ""          // Passthrough where that can be had
	Passthrough Writes = "direct"    // nobody, and files that need nothing of us are read and written below us
	Cached      Writes = "writeback" // the kernel's cache of this filesystem
)

// Options say how a directory is shown.
type Options struct {
	Name   string // of the mount's source, as the kernel shows it
	Hidden string // a name in the directory that is not shown
	// Shown is a path that is shown in place of Kept, in the same directory; Kept itself is not. Empty: there is none.
	Shown, Kept string
	ReadOnly    bool
	Writes      Writes
	Failed      func(path string, err error) // is told why a read or a write failed; may be nil
	// Settled waits until what was there before the mount is durable: no sync is answered before. May be nil.
	Settled func() error
}

// Mount is a directory that is shown through a layer.
type Mount struct {
	server *fuse.Server
	Writes Writes // the way that was chosen
}

// filesystem is what the nodes share.
type filesystem struct {
	dir         *os.File // what is below
	layer       *layer.Layer
	opts        Options
	passthrough bool
}

// The kernel asks again what it knows only after this: nothing changes behind its back.
const known = time.Hour

// Serve mounts over a directory, of which dir is a descriptor from before, and serves until it is unmounted.
func Serve(path string, dir *os.File, l *layer.Layer, o Options) (*Mount, error) {
	f := &filesystem{dir: dir, layer: l, opts: o}
	var st unix.Stat_t
	if err := unix.Fstat(int(dir.Fd()), &st); err != nil {
		return nil, err
	}
	if f.opts.Failed == nil {
		f.opts.Failed = func(string, error) {}
	}
	if f.opts.Settled == nil {
		f.opts.Settled = func() error { return nil }
	}
	m := &Mount{Writes: o.Writes}
	if m.Writes == BestWrites {
		m.Writes = Cached
		if canPassThrough() {
			m.Writes = Passthrough
		}
	}
	forever := known
	mo := fuse.MountOptions{
		AllowOther: os.Geteuid() == 0, Options: []string{"default_permissions"}, FsName: o.Name, Name: "holdfast",
		MaxBackground: 64, MaxWrite: 1 << 20, MaxInflightRequestBytes: 32 << 20, DisableXAttrs: true, ExplicitDataCacheControl: true,
		DirectMount: os.Geteuid() == 0, Logger: log.New(io.Discard, "", 0),
	}
	if o.ReadOnly {
		mo.Options = append(mo.Options, "ro")
		mo.DirectMountFlags = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_RDONLY
	}
	if m.Writes == Passthrough {
		f.passthrough = true
		mo.MaxStackDepth = 1
	} else {
		mo.ExtraCapabilities = fuse.CAP_WRITEBACK_CACHE
		mo.DisabledCapabilities = fuse.CAP_PASSTHROUGH
	}
	root := &node{fs: f}
	server, err := fs.Mount(path, root, &fs.Options{
		MountOptions: mo, EntryTimeout: &forever, AttrTimeout: &forever, NegativeTimeout: &forever, NullPermissions: true,
		RootStableAttr: &fs.StableAttr{Ino: st.Ino, Gen: 1}, Logger: mo.Logger,
	})
	if err != nil {
		return nil, explain(path, err)
	}
	m.server = server
	if err := keepDevice(); err != nil {
		return nil, errors.Join(err, m.Unmount())
	}
	if f.passthrough && server.KernelSettings().Flags64()&fuse.CAP_PASSTHROUGH == 0 {
		// The kernel is new enough, and was built without. It has not been asked for anything yet.
		if err := m.Unmount(); err != nil {
			return nil, err
		}
		o.Writes = Cached
		return Serve(path, dir, l, o)
	}
	return m, nil
}

// keepDevice keeps the descriptors of mounts from the programs that this process starts: a server that had one would keep the mount
// waiting for answers after this process has died.
func keepDevice() error {
	all, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return err
	}
	for _, e := range all {
		fd, err := strconv.Atoi(e.Name())
		if to, linkErr := os.Readlink("/proc/self/fd/" + e.Name()); err == nil && linkErr == nil && to == "/dev/fuse" {
			unix.CloseOnExec(fd)
		}
	}
	return nil
}

func explain(path string, err error) error {
	f := dr.Fail(fmt.Sprintf("mount over %q", path), err, "see whether /dev/fuse is there and may be used; in a container it has to be given: --device /dev/fuse --cap-add SYS_ADMIN")
	if os.Geteuid() != 0 {
		f = dr.Fail(fmt.Sprintf("mount over %q", path), err, "run this as root, or install fusermount3 (package fuse3), which mounts for other users")
	}
	return f
}

// canPassThrough tells whether the kernel lets files be read and written below us: from 6.9 on, and for root.
func canPassThrough() bool {
	var u unix.Utsname
	if os.Geteuid() != 0 || unix.Uname(&u) != nil {
		return false
	}
	var major, minor int
	if _, err := fmt.Sscanf(unix.ByteSliceToString(u.Release[:]), "%d.%d", &major, &minor); err != nil {
		return false
	}
	return major > 6 || major == 6 && minor >= 9
}

// Wait waits until it is unmounted.
func (m *Mount) Wait() { m.server.Wait() }

// Unmount takes it away. It fails while anybody uses it.
func (m *Mount) Unmount() error { return m.server.Unmount() }

// Detach takes the mount point away at once; what is open remains served until it is closed.
func Detach(path string) error {
	err := unix.Unmount(path, unix.MNT_DETACH)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
		return nil // it is no mount point
	}
	return err
}
