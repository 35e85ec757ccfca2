package restore_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/holdfast-dr/holdfast/internal/pg/pgtest"
	"github.com/holdfast-dr/holdfast/internal/repo"
	"github.com/holdfast-dr/holdfast/internal/restore"
	"github.com/holdfast-dr/holdfast/internal/store/local"
)

// Files of every sort of size come back whole, on a disk and on a file system without one, also over files that are
// shorter, longer, or other in single blocks.
func TestFilesOfEverySize(t *testing.T) {
	y := newTiny(t)
	for i, size := range []int{1, 512, 4095, 4096, 8192, repo.Grid - 1, repo.Grid, repo.Grid + 1, repo.Grid + 512, repo.Grid + 8192, 3*repo.Grid + 100, 4*repo.Grid - 4096} {
		b := make([]byte, size)
		for k := range b {
			b[k] = byte(k*k>>9 + i)
		}
		y.files[fmt.Sprintf("base/7/%05d", 20000+i)] = b
	}
	base := pgtest.TempDir(t)
	st, err := local.Create(filepath.Join(base, "repository"), local.Options{})
	if err != nil {
		t.Fatal(err)
	}
	y.store(t, st)
	t.Run("disk", func(t *testing.T) { y.freshAndDelta(t, st, filepath.Join(base, "to")) })
	t.Run("tmpfs", func(t *testing.T) {
		mem := filepath.Join(base, "mem")
		if err := os.Mkdir(mem, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := unix.Mount("tmpfs", mem, "tmpfs", 0, "size=200m"); err != nil {
			t.Skipf("mount a tmpfs: %v", err)
		}
		defer unix.Unmount(mem, unix.MNT_DETACH) //nolint:errcheck // the test's directory is removed anyway
		y.freshAndDelta(t, st, filepath.Join(mem, "to"))
	})
}

func (y *tiny) freshAndDelta(t *testing.T, st *local.Store, to string) {
	check := func(what string) {
		t.Helper()
		for p, want := range y.files {
			if got, err := os.ReadFile(filepath.Join(to, p)); err != nil || !bytes.Equal(got, want) {
				t.Errorf("%s: %s of %d bytes differs: %v, %d bytes", what, p, len(want), err, len(got))
			}
		}
	}
	if err := y.restore(t, st, to); err != nil {
		t.Fatal(err)
	}
	check("fresh")
	n := 0
	for p, b := range y.files {
		other := bytes.Clone(b)
		n++
		switch {
		case len(b) == 0 || n%4 == 0:
			other = append(other, "and more"...)
		case n%4 == 1:
			other = other[:len(b)/2]
		default:
			other[len(b)/3] ^= 1
			other[len(b)-1] ^= 1
		}
		if err := os.WriteFile(filepath.Join(to, p), other, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	o := restore.Options{To: to, Mode: restore.Delta, Workers: 2, Settings: unserved}
	if err := y.restoreWith(t, st, o); err != nil {
		t.Fatal(err)
	}
	check("delta")
}
