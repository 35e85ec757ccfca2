package restore_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/pg/control"
	"github.com/holdfast-dr/holdfast/internal/pg/pgtest"
	"github.com/holdfast-dr/holdfast/internal/restore"
	"github.com/holdfast-dr/holdfast/internal/store"
)

// Each pack of a snapshot whose tree has many nodes is damaged or lost once: what the report does not name comes back
// as it was, and what it names does not come back with other bytes. Only with KeepDamage, and with a whole pg_control, the
// directory can be started. With the pack back, the same restore ends as if nothing had been.
func TestEveryDamagedPack(t *testing.T) {
	y := newTiny(t)
	y.grow(200)
	whole := y.stored(t)
	var packs []string
	if err := whole.List(t.Context(), "packs/", "", func(i store.Info) error { packs = append(packs, i.Name); return nil }); err != nil {
		t.Fatal(err)
	}
	base, inTree, ofControl := pgtest.TempDir(t), 0, 0
	for n, pack := range packs {
		for how, change := range map[string]func([]byte) []byte{
			"lost": nil, "flipped": func(b []byte) []byte { b[len(b)/2] ^= 8; return b }, "cut": func(b []byte) []byte { return b[:len(b)/3] },
		} {
			st := whole.Clone()
			b, err := st.Get(t.Context(), pack, 1<<30)
			if err == nil && change == nil {
				err = st.Delete(t.Context(), pack)
			} else if err == nil {
				err = st.Put(t.Context(), pack, change(bytes.Clone(b)))
			}
			if err != nil {
				t.Fatal(err)
			}
			target := filepath.Join(base, fmt.Sprintf("%s-%d", how, n))
			damage := y.restoreDamaged(t, st, target, restore.RefuseDamage)
			if damage == nil {
				y.wantFiles(t, target, nil) // the bit is in a directory, or in what only the other packs' repair needs
				continue
			}
			y.wantFiles(t, target, damage)
			if _, err := os.Stat(filepath.Join(target, control.Path)); err == nil {
				t.Errorf("%s %s: the directory could be started", pack, how)
			}
			if len(damage.Lost) > 0 {
				inTree++
			}
			kept := y.restoreDamaged(t, st, target+"-kept", restore.KeepDamage)
			y.wantFiles(t, target+"-kept", kept)
			_, err = os.Stat(filepath.Join(target+"-kept", control.Path))
			if (err == nil) != kept.Startable || kept.Startable == names(kept, control.Path) {
				t.Errorf("%s %s: %v, startable is %v, %v", pack, how, err, kept.Startable, kept)
			}
			if !kept.Startable {
				ofControl++
			}
			if how == "lost" {
				if err := y.restore(t, whole, target); err != nil {
					t.Errorf("%s: with the pack back: %v", pack, err)
				}
				y.wantFiles(t, target, nil)
			}
			for _, dir := range []string{target, target + "-kept"} {
				if err := os.RemoveAll(dir); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	t.Logf("in %d packs, %d damages met the tree and %d pg_control", len(packs), inTree, ofControl)
	if inTree < 6 || ofControl == 0 {
		t.Errorf("in %d packs, %d damages met the tree and %d pg_control: the test tests little", len(packs), inTree, ofControl)
	}
}

// restoreDamaged restores and wants all or damage; nothing else may be said.
func (y *tiny) restoreDamaged(t *testing.T, st store.Store, to string, how restore.Damage) *restore.DamageError {
	t.Helper()
	err := y.restoreWith(t, st, restore.Options{To: to, Workers: 2, Damage: how, Settings: unserved})
	var damage *restore.DamageError
	if err != nil && !errors.As(err, &damage) && !strings.Contains(err.Error(), "every path is lost") {
		t.Fatalf("restore of a damaged snapshot: %v", err)
	}
	if err != nil && damage == nil { // the root is lost
		if _, err := os.Stat(to); err == nil {
			t.Error("of a snapshot without a root something was restored")
		}
		damage = &restore.DamageError{Lost: []restore.LostPaths{{}}}
	}
	return damage
}

// names tells whether a report names a path.
func names(d *restore.DamageError, path string) bool {
	if d == nil {
		return false
	}
	for _, r := range d.Ranges {
		if r.File == path {
			return true
		}
	}
	for _, l := range d.Lost {
		if path > l.After && (path <= l.To || l.To == "") {
			return true
		}
	}
	return false
}

// wantFiles wants all files of the snapshot, but those that a report names.
func (y *tiny) wantFiles(t *testing.T, dir string, d *restore.DamageError) {
	t.Helper()
	for p, want := range y.files {
		got, err := os.ReadFile(filepath.Join(dir, p))
		switch {
		case !names(d, p):
			if err != nil || !bytes.Equal(got, want) {
				t.Errorf("%s, which is not named as damaged: %d bytes of %d, %v (%v)", p, len(got), len(want), err, d)
			}
		case err == nil && p != "postgresql.conf":
			for i, c := range got {
				if c != want[i] && c != 0 {
					t.Errorf("%s, which is damaged, has other bytes than it had", p)
					break
				}
			}
		case err != nil && !errors.Is(err, fs.ErrNotExist):
			t.Error(err)
		}
	}
}

// A cluster is not overwritten by what is left of a damaged tree.
func TestDeltaFromADamagedTree(t *testing.T) {
	y := newTiny(t)
	y.grow(200)
	whole := y.stored(t)
	target := filepath.Join(pgtest.TempDir(t), "cluster")
	if err := y.restore(t, whole, target); err != nil {
		t.Fatal(err)
	}
	before, err := digest(target)
	if err != nil {
		t.Fatal(err)
	}
	refused := 0
	if err := whole.List(t.Context(), "packs/", "", func(i store.Info) error {
		st := whole.Clone()
		if err := st.Delete(t.Context(), i.Name); err != nil {
			return err
		}
		err := y.restoreWith(t, st, restore.Options{To: filepath.Join(filepath.Dir(target), "probe"), Damage: restore.KeepDamage, Settings: unserved})
		os.RemoveAll(filepath.Join(filepath.Dir(target), "probe"))
		var damage *restore.DamageError
		if errors.As(err, &damage) && len(damage.Lost) == 0 || err == nil {
			return nil
		}
		refused++
		err = y.restoreWith(t, st, restore.Options{To: target, Mode: restore.Delta, Settings: unserved})
		after, digestErr := digest(target)
		if err == nil || !strings.Contains(err.Error(), "is lost") || digestErr != nil || len(after) != len(before) {
			t.Errorf("without %s: %v; %d entries, before there were %d", i.Name, err, len(after), len(before))
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if refused < 2 {
		t.Errorf("%d packs hold a part of the tree: the test tests little", refused)
	}
}

// A tree that is damaged between two runs of a restore costs nothing that the first one had restored: it stays, the
// report counts it, and with the tree back the same restore ends as if nothing had been.
func TestResumeFromATreeDamagedSince(t *testing.T) {
	y := newTiny(t)
	for i := range 300 { // in many directories: some are lost with all that they hold
		dir := "base"
		if i >= 150 {
			dir = "queue" // behind postgresql.conf, which is lost too then
		}
		y.files[fmt.Sprintf("%s/%d/%05d", dir, 100+i/4, 20000+i)] = []byte(fmt.Sprint("file number ", i))
	}
	y.packBytes = 4 << 10
	whole := y.stored(t)
	base, tested := pgtest.TempDir(t), 0
	if err := whole.List(t.Context(), "packs/", "", func(i store.Info) error {
		st, target := whole.Clone(), filepath.Join(base, fmt.Sprint(tested))
		journalled := y.interrupt(t, st, target)
		if err := st.Delete(t.Context(), i.Name); err != nil {
			return err
		}
		// These are nobody's.
		for _, name := range []string{"base/130/20120x", "base/130/extra/file", "base/1305/file"} {
			if err := errors.Join(os.MkdirAll(filepath.Dir(filepath.Join(target, name)), 0o700), os.WriteFile(filepath.Join(target, name), nil, 0o600)); err != nil {
				return err
			}
		}
		err := y.restore(t, st, target)
		var damage *restore.DamageError
		if !errors.As(err, &damage) || len(damage.Lost) == 0 {
			return os.RemoveAll(target) // not of the tree, or the root of it
		}
		tested++
		lost, rescued := &restore.DamageError{Lost: damage.Lost}, int64(0) // without what the same pack had of files
		for p, want := range y.files {
			got, err := os.ReadFile(filepath.Join(target, p))
			switch {
			case journalled[p] || !names(damage, p):
				if names(lost, p) {
					rescued++
				}
				if err != nil || !bytes.Equal(got, want) {
					t.Errorf("without %s: %s, which the first run had restored: %d bytes of %d, %v", i.Name, p, len(got), len(want), err)
				}
			case names(lost, p) && !errors.Is(err, fs.ErrNotExist):
				t.Errorf("without %s: %s, which nobody knows to be whole, was kept: %v", i.Name, p, err)
			}
		}
		if said := "restored by an earlier run"; damage.Rescued != rescued || strings.Contains(damage.Error(), said) != (rescued > 0) {
			t.Errorf("without %s: %d files are said to be kept, want %d: %v", i.Name, damage.Rescued, rescued, damage)
		}
		for _, name := range []string{"base/130/20120x", "base/130/extra", "base/1305"} {
			if _, err := os.Stat(filepath.Join(target, name)); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("without %s: %s was kept: %v", i.Name, name, err)
			}
		}
		if err := y.restore(t, whole, target); err != nil {
			t.Errorf("with %s back: %v", i.Name, err)
		}
		y.wantFiles(t, target, nil)
		return os.RemoveAll(target)
	}); err != nil {
		t.Fatal(err)
	}
	if tested < 2 {
		t.Errorf("%d packs hold a part of the tree: the test tests little", tested)
	}
}

// interrupt leaves a directory as a restore does that is killed before it writes pg_control, when its journal has only
// every other file, and returns the names of these.
func (y *tiny) interrupt(t *testing.T, st store.Store, to string) (journalled map[string]bool) {
	t.Helper()
	var lines []string
	journal := filepath.Join(to, "holdfast.restore")
	o := restore.Options{To: to, Settings: unserved, Progress: func(p dr.Progress) {
		if p.Phase == "finishing" {
			b, err := os.ReadFile(journal)
			if err != nil {
				t.Error(err)
			}
			lines = slices.Collect(strings.Lines(string(b)))
		}
	}}
	if err := y.restoreWith(t, st, o); err != nil {
		t.Fatal(err)
	}
	if len(lines) != 1+len(y.files) {
		t.Fatalf("the journal has %d lines, want %d", len(lines), 1+len(y.files))
	}
	journalled, kept := map[string]bool{}, lines[0]
	for i, line := range lines[1:] {
		var l struct{ Path string }
		if err := json.Unmarshal([]byte(line), &l); err != nil {
			t.Fatal(err)
		}
		if i%2 == 0 || l.Path == "postgresql.conf" {
			journalled[l.Path], kept = true, kept+line
		}
	}
	if err := errors.Join(os.WriteFile(journal, []byte(kept), 0o600), os.Remove(filepath.Join(to, control.Path))); err != nil {
		t.Fatal(err)
	}
	return journalled
}
