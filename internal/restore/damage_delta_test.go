package restore_test

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/pg/control"
	"github.com/holdfast-dr/holdfast/internal/pg/pgtest"
	"github.com/holdfast-dr/holdfast/internal/restore"
	"github.com/holdfast-dr/holdfast/internal/store"
)

// A tree that is damaged before a Delta, or between two runs of one, costs nothing of the cluster that is there: its
// files in the lost parts may be the last copies. Without KeepDamage nothing is touched; with it they stay as they are,
// each is named, and with the tree back the same restore makes of the directory what the snapshot is.
func TestDeltaLeavesTheLastCopies(t *testing.T) {
	y := newTiny(t)
	y.grow(200)
	whole, base := y.stored(t), pgtest.TempDir(t)
	for name, interrupted := range map[string]bool{"first run": false, "resumed": true} {
		t.Run(name, func(t *testing.T) {
			old := filepath.Join(base, strings.ReplaceAll(name, " ", "-"))
			y.diverged(t, whole, old)
			if interrupted {
				y.interruptDelta(t, whole, old)
			}
			tested, left := 0, 0
			err := whole.List(t.Context(), "packs/", "", func(i store.Info) error {
				st := whole.Clone()
				if err := st.Delete(t.Context(), i.Name); err != nil {
					return err
				}
				n, ok := y.deltaFromDamaged(t, st, old)
				if left += n; ok {
					tested++
					if err := y.restoreWith(t, whole, restore.Options{To: old + "-kept", Mode: restore.Delta, Settings: unserved}); err != nil {
						t.Errorf("with %s back: %v", i.Name, err)
					}
					y.wantFiles(t, old+"-kept", nil)
					wantGone(t, old+"-kept", "base/7/old", "base/7/20001.old")
				}
				return os.RemoveAll(old + "-kept")
			})
			if err != nil || tested < 2 || left < 10 {
				t.Errorf("%d packs hold a part of the tree, and %d files were left: the test tests little (%v)", tested, left, err)
			}
		})
	}
}

// diverged makes a cluster whose files all differ from the snapshot's, and that has some more.
func (y *tiny) diverged(t *testing.T, whole store.Store, to string) {
	t.Helper()
	if err := y.restore(t, whole, to); err != nil {
		t.Fatal(err)
	}
	errs := []error{os.Mkdir(filepath.Join(to, "base/7/old"), 0o700), os.Mkdir(filepath.Join(to, "pg_replslot"), 0o700)}
	for p := range y.files {
		errs = append(errs, os.WriteFile(filepath.Join(to, p), y.ofBefore(p), 0o600))
	}
	for _, p := range []string{"base/7/old/file", "base/7/20001.old", "base/7/pgsql_tmp1.0", "pg_wal/000000010000000000000001", "pg_replslot/state", "postmaster.opts"} {
		errs = append(errs, os.WriteFile(filepath.Join(to, p), []byte("old"), 0o600))
	}
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// ofBefore is what a file is in the diverged cluster.
func (y *tiny) ofBefore(path string) []byte {
	if sameInBoth(path) {
		return y.files[path]
	}
	return append(bytes.ToUpper(y.files[path]), "OLD"...)
}

func sameInBoth(path string) bool { return path == "PG_VERSION" || path == "postgresql.conf" }

// interruptDelta runs a Delta that ends when some files are restored.
func (y *tiny) interruptDelta(t *testing.T, whole store.Store, to string) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	o := restore.Options{To: to, Mode: restore.Delta, Workers: 1, Settings: unserved, Progress: func(p dr.Progress) {
		if p.Phase == "writing files" && p.Done > 100*14 { // bytes of small files
			cancel()
		}
	}}
	if err := y.restoreContext(ctx, t, whole, o); !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v, want %v", err, context.Canceled)
	}
}

// deltaFromDamaged restores from a damaged store onto old, which is not to be touched, and then, with KeepDamage, onto a
// copy of it. It returns how many files were left as they were, and whether the store's damage was in the tree.
func (y *tiny) deltaFromDamaged(t *testing.T, st store.Store, old string) (left int, inTree bool) {
	t.Helper()
	before, err := digest(old)
	if err != nil {
		t.Fatal(err)
	}
	kept := old + "-kept"
	if out, err := exec.Command("cp", "-a", old, kept).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	o := restore.Options{To: kept, Mode: restore.Delta, Damage: restore.KeepDamage, Settings: unserved}
	var damage *restore.DamageError
	if err := y.restoreWith(t, st, o); !errors.As(err, &damage) || len(damage.Lost) == 0 {
		return 0, false // not of the tree, or the root of it
	}
	lost := &restore.DamageError{Lost: damage.Lost} // without what the same pack had of files
	var want []string
	for p := range before {
		if !names(lost, p) || strings.HasSuffix(p, "/") || p == "backup_label" || p == "holdfast.restore" || sameInBoth(p) {
			continue
		}
		got, err := os.ReadFile(filepath.Join(kept, p))
		switch {
		case strings.HasPrefix(p, "pg_wal/"), strings.HasPrefix(p, "pg_replslot/"), strings.Contains(p, "pgsql_tmp"), p == "postmaster.opts", p == control.Path:
			if !errors.Is(err, fs.ErrNotExist) && p != control.Path {
				t.Errorf("%s, which no snapshot has, was left (%v)", p, err)
			}
		case err != nil || string(got) != before[p]:
			t.Errorf("%s, which may be the last copy, has %d bytes of %d (%v)", p, len(got), len(before[p]), err)
		case y.files[p] == nil || !bytes.Equal(got, y.files[p]):
			want = append(want, p)
		}
	}
	slices.Sort(want)
	got := slices.DeleteFunc(slices.Clone(damage.Old), sameInBoth)
	slices.Sort(got)
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("files that are said to be left (%v): %s", damage.Lost, d)
	}
	if len(want) > 0 && !strings.Contains(damage.Error(), "in the cluster before") {
		t.Errorf("the message does not tell of the files that were left: %v", damage)
	}
	o.To, o.Damage = old, restore.RefuseDamage
	err = y.restoreWith(t, st, o)
	if after, digestErr := digest(old); err == nil || !strings.Contains(err.Error(), "is lost") || digestErr != nil || !cmp.Equal(before, after) {
		t.Errorf("a Delta without KeepDamage: %v; it changed %s", err, cmp.Diff(before, after))
	}
	return len(want), true
}

func wantGone(t *testing.T, dir string, paths ...string) {
	t.Helper()
	for _, p := range paths {
		if _, err := os.Lstat(filepath.Join(dir, p)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s is still there (%v)", p, err)
		}
	}
}
