package mount_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/holdfast-dr/holdfast/internal/restore/mount"
)

// A directory that holds anything is refused and stays as it is, however often and in whatever way somebody tries.
func TestRefusedDirectoryIsLeftAlone(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.archive()
	dir := w.path("cluster")
	for name, text := range map[string]string{"PG_VERSION": "15\n", "base/5/1259": "rows"} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	before := digest(t, dir)
	same := func(after string) {
		t.Helper()
		if now := digest(t, dir); len(now) != len(before) || now["base/5/1259"] != before["base/5/1259"] {
			t.Fatalf("after %s there is %d of %d entries", after, len(now), len(before))
		}
	}
	for _, throwAway := range []bool{true, false, false} {
		if _, err := mount.Begin(t.Context(), w.r, w.plan(), dir, mount.Options{Owner: w.owner, Settings: settings, ThrowAway: throwAway}); err == nil {
			t.Fatal("mounted over what was there")
		}
		same("a mount that was refused")
	}
	if err := mount.Abort(t.Context(), dir); err == nil {
		t.Error("something was removed that was never mounted")
	}
	same("an abort")

	// What a state says that was not written after the directory was looked at counts for nothing.
	if err := os.Mkdir(filepath.Join(dir, mount.StateDir), 0o700); err != nil {
		t.Fatal(err)
	}
	state := `{"version": 1, "phase": "laying", "areas": ["` + dir + `"]}`
	if err := os.WriteFile(filepath.Join(dir, mount.StateDir, "mount.json"), []byte(state), 0o600); err != nil {
		t.Fatal(err)
	}
	before = digest(t, dir)
	before[mount.StateDir+"/lock"] = "" // whoever looks locks
	if _, err := mount.Begin(t.Context(), w.r, w.plan(), dir, mount.Options{Owner: w.owner, Settings: settings}); err == nil {
		t.Fatal("mounted over what was there")
	}
	if err := mount.Abort(t.Context(), dir); err == nil {
		t.Error("something was removed that was never claimed")
	}
	same("a state that does not claim it")
}

// A second Begin while another has the directory removes nothing of it.
func TestSecondBeginLeavesTheFirstAlone(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.archive()
	dir := w.path("m")
	m, err := mount.Begin(t.Context(), w.r, w.plan(), dir, mount.Options{Owner: w.owner, Settings: settings, ThrowAway: true})
	if err != nil {
		t.Fatal(err)
	}
	before := digest(t, dir)
	below, err := os.ReadDir(filepath.Dir(m.Control()))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := mount.Begin(t.Context(), w.r, w.plan(), dir, mount.Options{Owner: w.owner, Settings: settings, ThrowAway: true}); err == nil {
		t.Fatal("mounted twice")
	}
	if now := digest(t, dir); len(now) != len(before) {
		t.Errorf("%d entries, there were %d", len(now), len(before))
	}
	if now, err := os.ReadDir(filepath.Dir(m.Control())); err != nil || len(now) != len(below) {
		t.Errorf("the state has %v (%v), it had %v", now, err, below)
	}
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(dir); err == nil {
		t.Error("what was thrown away is there")
	}
}
