package walserve

import (
	"fmt"
	"io/fs"
	"os"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/holdfast-dr/holdfast/internal/restore/rights"
)

// place is a directory in which files are made for a server: its pg_wal. The server's user may be another than ours,
// and may have put anything there: every name is looked up within the directory, with his rights only.
type place struct {
	root  *os.Root
	owner *syscall.Credential // nil: this process's user
}

// openPlace opens a directory. One that is not its owner's is refused: a link may have led there.
func openPlace(dir string, owner *syscall.Credential) (*place, error) {
	p := &place{owner: owner}
	err := rights.As(owner, func() error {
		var err error
		p.root, err = os.OpenRoot(dir)
		return err
	})
	if err != nil || owner == nil {
		return p, err
	}
	info, err := p.root.Stat(".")
	if err != nil {
		return nil, err
	}
	if st, ok := info.Sys().(*syscall.Stat_t); !ok || st.Uid != owner.Uid {
		p.close()
		return nil, fmt.Errorf("%s does not belong to the user that the log is served for", dir)
	}
	return p, nil
}

func (p *place) close() { p.root.Close() } //nolint:errcheck // nothing is written through it

// create makes a file anew: whatever had its name, a link or a pipe too, is not touched through it.
func (p *place) create(name string) (f *os.File, err error) {
	err = rights.As(p.owner, func() error {
		if err := p.root.Remove(name); err != nil && !os.IsNotExist(err) {
			return err
		}
		f, err = p.root.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
		return err
	})
	return f, err
}

// reserve gives a new file the blocks that it will need, without changing its length: a write that finds them there costs
// the processor a third less than one that has to account for each. Where a file system cannot, nothing is lost, and where
// it has no room the write will say so.
func reserve(f *os.File, size int64) {
	_ = unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_KEEP_SIZE, 0, size)
}

// open opens a file or a directory, or makes a file.
func (p *place) open(name string, flag int) (f *os.File, err error) {
	err = rights.As(p.owner, func() error {
		f, err = p.root.OpenFile(name, flag, 0o600)
		return err
	})
	return f, err
}

func (p *place) mkdir(name string) error {
	return rights.As(p.owner, func() error { return p.root.Mkdir(name, 0o700) })
}

// rename gives a file its name. What has that name is removed first, as PostgreSQL itself does before it asks:
// when a rename replaces a file, ext4 writes the new one to the disk at once (its option auto_da_alloc), which takes
// longer than all the rest of a segment.
func (p *place) rename(from, to string) error {
	return rights.As(p.owner, func() error {
		if err := p.root.Remove(to); err != nil && !os.IsNotExist(err) {
			return err
		}
		return p.root.Rename(from, to)
	})
}

func (p *place) remove(name string) error {
	return rights.As(p.owner, func() error { return p.root.Remove(name) })
}

func (p *place) removeAll(name string) error {
	return rights.As(p.owner, func() error { return p.root.RemoveAll(name) })
}

func (p *place) list(name string) ([]fs.DirEntry, error) {
	d, err := p.open(name, os.O_RDONLY|syscall.O_DIRECTORY|syscall.O_NONBLOCK)
	if err != nil {
		return nil, err
	}
	defer d.Close() //nolint:errcheck // only read
	return d.ReadDir(-1)
}

// free returns how many bytes a user may still write there; 0 where nobody can say.
func (p *place) free() int64 {
	d, err := p.open(".", os.O_RDONLY|syscall.O_DIRECTORY)
	if err != nil {
		return 0
	}
	defer d.Close() //nolint:errcheck // only read
	var st unix.Statfs_t
	if unix.Fstatfs(int(d.Fd()), &st) != nil {
		return 0
	}
	return int64(st.Bavail) * st.Bsize
}

// isPlain tells whether a request's file is a name directly in the directory, and none of ours.
func isPlain(name string) bool {
	return name != "" && name != "." && name != ".." && name != SpoolName && !strings.ContainsAny(name, "/\x00")
}
