package restore

import (
	"errors"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/holdfast-dr/holdfast/internal/repo"
)

// Large files are written past the page cache (O_DIRECT): the kernel then copies nothing, takes no memory from
// others, and the sync at the end finds nothing left to do (docs/decisions/0008-restore-past-the-page-cache.md).

// directFrom is the smallest file that is written so. What is smaller is mostly catalogs, which the starting
// server reads at once: it finds them in the page cache.
const directFrom = repo.Grid

// directUnit is what lengths written past the page cache are multiples of: no less than a block of any disk that
// is in use. Offsets are on the grid, and buffers on a page of memory.
const directUnit = 4096

// buffer returns n bytes that begin a page of memory, and what gives them back.
func buffer(n int) (b []byte, free func() error, err error) {
	b, err = unix.Mmap(-1, 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	return b, func() error { return unix.Munmap(b) }, err
}

// openDirect opens an open file once more, for writing past the page cache, and reading. Where the file system refuses, or
// anything else is in the way, the file is written as any other.
func (f *file) openDirect() {
	if f.e.Size < directFrom || f.a.buffered.Load() || f.known && len(f.pages) < pagesOfChunk {
		return
	}
	folder, name := f.a.folder(f.rel)
	d, err := folder.OpenFile(name, os.O_RDWR|unix.O_DIRECT, 0)
	if err != nil {
		f.a.refused(err)
		return
	}
	f.direct = d
}

// refused notes that a file system does not write past the page cache, if that is what the error says.
func (a *area) refused(err error) bool {
	if !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.EOPNOTSUPP) {
		return false
	}
	a.buffered.Store(true)
	return true
}

// put writes a chunk, the pieces of which begin pages of memory, and reports whether it lies in the page cache now.
func (f *file) put(pieces [][]byte, offset int64) (cached bool, err error) {
	if f.direct != nil && sizeOf(pieces)%directUnit == 0 && !f.a.buffered.Load() {
		if err := writeAt(f.direct, pieces, offset); err == nil || !f.a.refused(err) {
			return false, err
		}
	}
	return true, writeAt(f.f, pieces, offset)
}

// writeAt writes pieces one behind the other.
func writeAt(f *os.File, pieces [][]byte, offset int64) error {
	if len(pieces) == 1 {
		_, err := f.WriteAt(pieces[0], offset)
		return err
	}
	n, err := unix.Pwritev(int(f.Fd()), pieces, offset)
	switch {
	case errors.Is(err, unix.EINTR):
		n = 0
	case err != nil:
		return &os.PathError{Op: "write", Path: f.Name(), Err: err}
	}
	// What was not written tells why when it is written by itself.
	for _, p := range pieces {
		done := min(n, len(p))
		if n -= done; done < len(p) {
			if _, err := f.WriteAt(p[done:], offset+int64(done)); err != nil {
				return err
			}
		}
		offset += int64(len(p))
	}
	return nil
}

func sizeOf(pieces [][]byte) (n int) {
	for _, p := range pieces {
		n += len(p)
	}
	return n
}

// resize gives a file its size, and its room on the disk at once: then no write has to look for some.
func resize(f *os.File, size int64) error {
	if err := f.Truncate(size); err != nil || size < directFrom {
		return err
	}
	for {
		err := unix.Fallocate(int(f.Fd()), 0, 0, size)
		switch {
		case errors.Is(err, unix.EINTR):
		case isFull(err):
			return &os.PathError{Op: "reserve room for", Path: f.Name(), Err: err}
		default:
			return nil // it is a kindness: what the file system cannot do, the writes do
		}
	}
}

// inCache tells whether most of a part of a file lies in the page cache, by one page of memory in each chunk; also where the
// kernel does not tell.
func inCache(f *os.File, offset int64, length int) bool {
	m, err := unix.Mmap(int(f.Fd()), offset, length, unix.PROT_NONE, unix.MAP_SHARED)
	if err != nil {
		return true
	}
	defer unix.Munmap(m) //nolint:errcheck // nothing was done with it
	asked, resident := 0, 0
	for at := 0; at < length; at += repo.Grid {
		var in byte
		page := m[at:][:1]
		_, _, errno := unix.Syscall(unix.SYS_MINCORE, uintptr(unsafe.Pointer(unsafe.SliceData(page))), 1, uintptr(unsafe.Pointer(&in)))
		if errno != 0 {
			return true
		}
		asked, resident = asked+1, resident+int(in&1)
	}
	return 2*resident > asked
}
