package restore_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/pg/pgtest"
	"github.com/holdfast-dr/holdfast/internal/repo"
	"github.com/holdfast-dr/holdfast/internal/restore"
)

// A restore that ends early leaves none of its files open: neither those of which only some pieces were taken, nor its
// journal.
func TestNothingStaysOpen(t *testing.T) {
	y := newTiny(t)
	y.zeros = map[string]int64{}
	for i := range 3 { // each of several pieces
		y.zeros[fmt.Sprintf("base/5/%d", 20000+i)] = 4 * repo.ListLen * repo.Grid
	}
	st, base := y.stored(t), pgtest.TempDir(t)
	for workers := 1; workers <= 6; workers++ {
		ctx, cancel := context.WithCancel(t.Context())
		to := filepath.Join(base, fmt.Sprint(workers))
		o := restore.Options{To: to, Workers: workers, Settings: unserved, Progress: func(p dr.Progress) {
			if p.Phase == "writing files" && p.Done > 4<<20 {
				cancel()
			}
		}}
		if err := y.restoreContext(ctx, t, st, o); err == nil {
			t.Fatal("it came to its end")
		}
		if open := openBelow(t, to); len(open) > 0 {
			t.Errorf("%d workers: still open: %s", workers, open)
		}
		if err := os.WriteFile(filepath.Join(to, "holdfast.restore"), journalWithALongLine(t, to), 0o600); err != nil {
			t.Fatal(err)
		}
		o.Progress = nil
		if err := y.restoreWith(t, st, o); err == nil {
			t.Fatal("it believed a journal with a line of megabytes")
		}
		if open := openBelow(t, to); len(open) > 0 {
			t.Errorf("a broken journal: still open: %s", open)
		}
	}
}

func journalWithALongLine(t *testing.T, dir string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, "holdfast.restore"))
	if err != nil {
		t.Fatal(err)
	}
	return append(b, strings.Repeat("x", 2<<20)...)
}

// openBelow names the files of a directory that this process has open.
func openBelow(t *testing.T, dir string) []string {
	t.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	var open []string
	for _, fd := range fds {
		// That of the listing itself is closed by now.
		if path, err := os.Readlink(filepath.Join("/proc/self/fd", fd.Name())); err == nil && strings.HasPrefix(path, dir+"/") || path == dir {
			open = append(open, strings.TrimPrefix(path, dir))
		}
	}
	return open
}
