package restore_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/holdfast-dr/holdfast/internal/pg/pgtest"
	"github.com/holdfast-dr/holdfast/internal/restore"
	"github.com/holdfast-dr/holdfast/internal/store"
)

// A directory whose own entry is lost, of whose files some are not, is made as any other: for the owner, and for nobody
// else. So is one that an earlier run made and was killed before it gave it to the owner.
func TestDirectoriesBelongToTheOwner(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root restores for another user")
	}
	base := pgtest.TempDir(t)
	owner, err := restore.ChooseOwner(base, "nobody")
	if err != nil {
		t.Fatal(err)
	}
	y := newTiny(t)
	y.grow(200)
	y.files["base/7/20199.d/deeper/file"] = []byte("in directories that only it names")
	whole, lost := y.stored(t), 0
	restored := func(st store.Store, target string) {
		t.Helper()
		var damage *restore.DamageError
		err := y.restoreWith(t, st, restore.Options{To: target, Owner: owner, Damage: restore.KeepDamage, Settings: unserved})
		if err != nil && !errors.As(err, &damage) {
			return // the tree's root is lost
		}
		err = filepath.WalkDir(target, func(path string, d fs.DirEntry, err error) error {
			if err != nil || !d.IsDir() {
				return err
			}
			rel, err := filepath.Rel(target, path)
			if names(damage, rel) {
				lost++
			}
			var st syscall.Stat_t
			if err := errors.Join(err, syscall.Stat(path, &st)); err != nil {
				return err
			}
			if int(st.Uid) != owner.UID || int(st.Gid) != owner.GID || st.Mode&0o777 != 0o700 {
				t.Errorf("%s belongs to %d:%d and has mode %o, want %d:%d and 700 (%v)", rel, st.Uid, st.Gid, st.Mode&0o777, owner.UID, owner.GID, damage)
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	}
	err = whole.List(t.Context(), "packs/", "", func(i store.Info) error {
		st := whole.Clone()
		if err := st.Delete(t.Context(), i.Name); err != nil {
			return err
		}
		restored(st, filepath.Join(base, filepath.Base(i.Name)))
		return nil
	})
	if err != nil || lost < 3 {
		t.Errorf("%d directories were made whose entries are lost: the test tests little (%v)", lost, err)
	}
	killed := filepath.Join(base, "killed")
	y.interrupt(t, whole, killed) // as root: nothing belongs to the owner yet
	restored(whole, killed)
}
