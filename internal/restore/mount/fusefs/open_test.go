package fusefs

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/holdfast-dr/holdfast/internal/restore/mount/layer"
)

// A write of which only a part finds room has failed.
func TestPartOfAWriteIsAFailure(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=64k"); err != nil {
		t.Skipf("to mount a small file system takes root: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	for _, layered := range []bool{false, true} {
		f, err := os.Create(filepath.Join(dir, "f"))
		if err != nil {
			t.Fatal(err)
		}
		o := &open{local: f}
		if layered {
			o.file, err = layer.New(nil, nil).Attach(layer.Ident{ID: 1, Path: "f"}, func() (layer.Backing, error) { return Local{f}, nil })
			if err != nil {
				t.Fatal(err)
			}
		}
		h := &handle{n: &node{fs: &filesystem{opts: Options{Failed: func(string, error) {}}}}, o: o}
		if n, errno := h.Write(t.Context(), make([]byte, 1<<20), 0); !errors.Is(errno, syscall.ENOSPC) || n != 0 {
			t.Errorf("layered %t: %d bytes, %v", layered, n, errno)
		}
		f.Close()
	}
}
