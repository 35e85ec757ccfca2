package restore_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/holdfast-dr/holdfast/internal/pg/pgtest"
	"github.com/holdfast-dr/holdfast/internal/repo"
	"github.com/holdfast-dr/holdfast/internal/restore"
)

// Whatever size a file of the snapshot has, whatever became of it in the cluster (shorter, longer, with holes, with pages
// that differ), and wherever it lies: in the page cache, out of it, or half in it, a Delta leaves the snapshot's bytes.
func TestDeltaOfAnySize(t *testing.T) {
	sizes := []int{1, 4095, 8192, repo.Grid - 1, repo.Grid, repo.Grid + 1, 2*repo.Grid + 8192, 8*repo.Grid - 4096, 8 * repo.Grid, 8*repo.Grid + 100, 17*repo.Grid + 4096}
	random := rand.New(rand.NewPCG(1, 2))
	y := newTiny(t)
	var paths []string
	for i, size := range sizes {
		for _, dir := range []string{"base/5", "pg_xact"} { // with pages, and without
			b := make([]byte, size)
			for at := 0; at < size; at += 16 {
				b[at] = byte(random.Uint32())
			}
			if size > 3*repo.Grid {
				clear(b[repo.Grid/2 : 3*repo.Grid]) // where a hole has the right bytes, too
			}
			path := fmt.Sprintf("%s/%d", dir, 30000+i)
			y.files[path], paths = b, append(paths, path)
		}
	}
	st, target := y.stored(t), filepath.Join(pgtest.TempDir(t), "to")
	if err := y.restore(t, st, target); err != nil {
		t.Fatal(err)
	}
	for range 6 {
		for _, path := range paths {
			diverge(t, random, filepath.Join(target, path), y.files[path])
		}
		if err := y.restoreWith(t, st, restore.Options{To: target, Mode: restore.Delta, Settings: unserved}); err != nil {
			t.Fatal(err)
		}
		y.wantFiles(t, target, nil)
	}
}

// diverge makes a file one that a server may have left instead of b.
func diverge(t *testing.T, random *rand.Rand, name string, b []byte) {
	t.Helper()
	b = bytes.Clone(b)
	for range random.IntN(4) {
		b[random.IntN(len(b))] ^= 1
	}
	switch random.IntN(4) {
	case 0:
		b = b[:random.IntN(len(b))]
	case 1:
		b = append(b, make([]byte, random.IntN(2*repo.Grid))...)
	}
	if err := os.WriteFile(name, b, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close() //nolint:errcheck // a test's
	if n := int64(len(b)); random.IntN(2) == 0 && n > 0 {
		// What cannot be done here leaves a file without holes.
		_ = unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, random.Int64N(n), 1+random.Int64N(n))
	}
	if random.IntN(3) > 0 {
		if err := f.Sync(); err != nil {
			t.Fatal(err)
		}
		if err := unix.Fadvise(int(f.Fd()), random.Int64N(int64(len(b))+1), 0, unix.FADV_DONTNEED); err != nil {
			t.Fatal(err)
		}
		if random.IntN(2) == 0 {
			_, _ = f.WriteAt([]byte{7}, random.Int64N(int64(len(b))+1)) // a page of it is dirty again
		}
	}
}
