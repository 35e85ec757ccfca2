package mount_test

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/holdfast-dr/holdfast/internal/pg/control"
	"github.com/holdfast-dr/holdfast/internal/restore"
	"github.com/holdfast-dr/holdfast/internal/restore/mount"
	"github.com/holdfast-dr/holdfast/internal/restore/mount/fusefs"
)

func sameTree(t *testing.T, got, want string) {
	t.Helper()
	g, w := digest(t, got), digest(t, want)
	for name, content := range w {
		if g[name] != content {
			t.Errorf("%s differs: %d bytes and mode, want %d", name, len(g[name]), len(content))
		}
	}
	for name := range g {
		if _, ok := w[name]; !ok {
			t.Errorf("%s is more than there should be", name)
		}
	}
}

// What is mounted reads as what is restored, in both ways of writing; and when it is finished it is the same directory.
func TestMountIsARestore(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "CREATE TABLE t AS SELECT i, repeat('x', i%200) AS s FROM generate_series(1, 100000) AS i")
	w.archive()
	whole := w.path("whole")
	p := w.plan()
	if _, err := restore.Run(t.Context(), w.r, p, restore.Options{To: whole, Owner: w.owner, Settings: settings}); err != nil {
		t.Fatal(err)
	}
	for _, writes := range []fusefs.Writes{fusefs.BestWrites, fusefs.Cached} {
		dir := w.path("mount-" + string(writes))
		m, err := mount.Begin(t.Context(), w.r, p, dir, mount.Options{Owner: w.owner, Settings: settings, Writes: writes})
		if err != nil {
			t.Fatal(err)
		}
		if got, all := m.Fetched(), m.State().Bytes; got > all/20 {
			t.Errorf("%d bytes of %d were fetched to mount", got, all)
		}
		sameTree(t, dir, whole)
		if err := m.Finish(t.Context()); err == nil {
			t.Error("finished before it was whole")
		}
		if err := m.Hydrate(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := m.Finish(t.Context()); err != nil {
			t.Fatal(err)
		}
		sameTree(t, dir, whole)
	}
}

// Where the mount is gone no server can start, and what was synced is there again when it is resumed.
func TestUnmountedIsNoCluster(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.archive()
	dir := w.path("m")
	m, err := mount.Begin(t.Context(), w.r, w.plan(), dir, mount.Options{Owner: w.owner, Settings: settings})
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(dir, "base/5/1259")
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	mark := bytes.Repeat([]byte("mark"), 2048)
	if _, err := f.WriteAt(mark, 8192); err != nil {
		t.Fatal(err)
	}
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
	f.Close()
	if _, err := os.Stat(filepath.Join(dir, mount.StateDir)); err == nil {
		t.Error("the mount shows its own state")
	}
	if _, err := mount.Begin(t.Context(), w.r, w.plan(), dir, mount.Options{Owner: w.owner, Settings: settings}); err == nil {
		t.Error("mounted twice")
	}
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, control.Path)); err == nil {
		t.Error("without the mount there is a pg_control")
	}
	if _, err := mount.Begin(t.Context(), w.r, w.plan(), dir, mount.Options{Owner: w.owner, Settings: settings}); err == nil {
		t.Error("begun over what is there")
	}
	if m, err = mount.Resume(t.Context(), w.r, dir, mount.Options{}); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(b[8192:16384], mark) {
		t.Error("what was written is not there")
	}
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	if err := mount.Abort(t.Context(), dir); err != nil {
		t.Fatal(err)
	}
	if all, err := os.ReadDir(dir); err != nil || len(all) > 0 {
		t.Errorf("after abort there is %v, %v", all, err)
	}
}
