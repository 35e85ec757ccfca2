package fusefs

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"

	"github.com/holdfast-dr/holdfast/internal/restore/mount/layer"
)

// Local is a local file, as a layer wants it.
type Local struct{ *os.File }

// Sync makes the content and the size durable.
func (l Local) Sync() error { return unix.Fdatasync(int(l.Fd())) }

// Size returns the size.
func (l Local) Size() (int64, error) {
	var st unix.Stat_t
	err := unix.Fstat(int(l.Fd()), &st)
	return st.Size, err
}

// beneath opens a path below a directory. No link of it is followed: whoever may write there must not lead root elsewhere.
func beneath(dir int, path string, flags int, mode uint32) (int, error) {
	if path == "" {
		path = "."
	}
	how := unix.OpenHow{
		Flags: uint64(flags | unix.O_CLOEXEC | unix.O_NOFOLLOW), Mode: uint64(mode),
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS,
	}
	for {
		fd, err := unix.Openat2(dir, path, &how)
		if !errors.Is(err, unix.EINTR) && !errors.Is(err, unix.EAGAIN) { // something was renamed meanwhile
			return fd, err
		}
	}
}

// OpenLocal opens a file below a directory for reading and writing.
func OpenLocal(dir *os.File, path string) (Local, error) {
	fd, err := beneath(int(dir.Fd()), path, unix.O_RDWR, 0)
	if err != nil {
		return Local{}, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return Local{os.NewFile(uintptr(fd), path)}, nil
}

// IdentOf returns which of the snapshot's files a file is; false where it is none.
func IdentOf(f *os.File) (layer.Ident, bool, error) {
	b := make([]byte, 512)
	n, err := unix.Fgetxattr(int(f.Fd()), Attribute, b)
	switch {
	case errors.Is(err, unix.ENODATA), errors.Is(err, unix.ENOTSUP):
		return layer.Ident{}, false, nil
	case errors.Is(err, unix.ERANGE):
		b = make([]byte, 1<<16)
		n, err = unix.Fgetxattr(int(f.Fd()), Attribute, b)
	}
	if err != nil {
		return layer.Ident{}, false, &os.PathError{Op: "read the attribute of", Path: f.Name(), Err: err}
	}
	id, err := Unmarshal(b[:n])
	return id, err == nil, err
}

// SetIdent says which of the snapshot's files a file is.
func SetIdent(f *os.File, id layer.Ident) error {
	if err := unix.Fsetxattr(int(f.Fd()), Attribute, Marshal(id), 0); err != nil {
		return &os.PathError{Op: "set the attribute " + Attribute + " of", Path: f.Name(), Err: err}
	}
	return nil
}

// ForgetIdent makes a file an ordinary one.
func ForgetIdent(f *os.File) error {
	if err := unix.Fremovexattr(int(f.Fd()), Attribute); err != nil && !errors.Is(err, unix.ENODATA) {
		return &os.PathError{Op: "remove the attribute of", Path: f.Name(), Err: err}
	}
	return nil
}
