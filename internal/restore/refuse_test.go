package restore_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/holdfast-dr/holdfast/internal/pg/control"
	"github.com/holdfast-dr/holdfast/internal/pg/pgtest"
	"github.com/holdfast-dr/holdfast/internal/restore"
)

func TestRestoredClusterStartsOnlyWithItsLabel(t *testing.T) {
	for _, v := range pgtest.Versions(t) {
		t.Run(v, func(t *testing.T) {
			w := newWorld(t, pgtest.Options{Version: v})
			w.snapshot(w.s)
			w.archive(w.s)
			o := w.options("to")
			if _, err := restore.Run(t.Context(), w.r, w.mustPlan("latest"), o); err != nil {
				t.Fatal(err)
			}
			if err := os.Remove(filepath.Join(o.To, "backup_label")); err != nil {
				t.Fatal(err)
			}
			if err := w.open(o.To).TryStart(); err == nil {
				t.Fatal("it started without backup_label")
			}
		})
	}
}

func TestRefusals(t *testing.T) {
	w := smallWorld(t)
	p := w.mustPlan("latest")
	run := func(o restore.Options) error {
		_, err := restore.Run(t.Context(), w.r, p, o)
		return err
	}
	o := w.options("other")
	if err := os.MkdirAll(filepath.Join(o.To, "photos"), 0o755); err != nil {
		t.Fatal(err)
	}
	o.Mode = restore.Delta
	golden(t, w, "no-cluster", run(o))

	o = w.options("spaces")
	source := p.Snapshot.Facts.Tablespaces[0].Location
	o.Tablespaces = map[string]string{"far": source}
	golden(t, &world{base: filepath.Dir(source)}, "source-tablespace", run(o))
	o.Tablespaces = map[string]string{"fra": "/nowhere"}
	golden(t, &world{base: filepath.Dir(source)}, "unknown-tablespace", run(o))
	o.Tablespaces = map[string]string{"far": filepath.Join(o.To, "within")}
	golden(t, w, "tablespace-within", run(o))
	if _, err := os.Stat(o.To); err == nil {
		t.Error("a refused restore left a directory")
	}

	for _, target := range []string{"2020-01-01T00:00:00Z", "2199-01-01T00:00:00Z", "F/0", "0/1", "name:nobody"} {
		_, err := w.plan(target, pointsLatest)
		golden(t, w, "target-"+strings.NewReplacer("/", "-", ":", "-").Replace(target), err)
	}
}

// A damaged chunk: the file is named, everything else is there, and the directory cannot be started.
func TestDamagedChunk(t *testing.T) {
	w := smallWorld(t)
	whole, p := w.options("whole"), w.mustPlan("latest")
	if _, err := restore.Run(t.Context(), w.r, p, whole); err != nil {
		t.Fatal(err)
	}
	packs, err := filepath.Glob(filepath.Join(w.dir, "packs", "main", "*", "*"))
	if err != nil || len(packs) == 0 {
		t.Fatal(packs, err)
	}
	// The pack with the most chunks of files: trees and lists are written last.
	pack := packs[0]
	for _, other := range packs {
		if size(t, other) > size(t, pack) {
			pack = other
		}
	}
	b, err := os.ReadFile(pack)
	if err != nil {
		t.Fatal(err)
	}
	bad := bytes.Clone(b)
	bad[len(bad)/2] ^= 1
	if err := os.WriteFile(pack, bad, 0o600); err != nil {
		t.Fatal(err)
	}
	o := w.options("damaged")
	result, err := restore.Run(t.Context(), w.r, p, o)
	var damage *restore.DamageError
	if !errors.As(err, &damage) || result == nil {
		t.Fatalf("got %v, want damage", err)
	}
	// One chunk, which equal files of several databases share.
	hit := map[string]bool{}
	for _, r := range damage.Ranges {
		hit[r.File] = true
		if r.Reason != damage.Ranges[0].Reason {
			t.Errorf("more than one chunk: %s and %s", r.Reason, damage.Ranges[0].Reason)
		}
	}
	if _, err := os.Stat(filepath.Join(o.To, control.Path)); err == nil {
		t.Error("a damaged restore can be started")
	}
	g, err := digest(o.To)
	if err != nil {
		t.Fatal(err)
	}
	h, err := digest(whole.To)
	if err != nil {
		t.Fatal(err)
	}
	for name := range h {
		if !hit[name] && name != control.Path && !strings.HasPrefix(name, "pg_tblspc") && g[name] != h[name] {
			t.Errorf("%s differs, and only %v are damaged", name, hit)
		}
	}
	if !strings.Contains(damage.Error(), damage.Ranges[0].File) {
		t.Errorf("the message does not name the file: %v", damage)
	}
	// With the chunk back, the same restore finishes.
	if err := os.WriteFile(pack, b, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := restore.Run(t.Context(), w.r, p, o); err != nil {
		t.Fatal(err)
	}
	same(t, o.To, whole.To)
}

func size(t *testing.T, path string) int64 {
	fi, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return fi.Size()
}

// A target that is too small is refused before anything is written; one that fills up meanwhile fails, and
// continues when there is room.
func TestDiskFull(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounting a small file system needs root")
	}
	w := smallWorld(t)
	p := w.mustPlan("latest")
	small := filepath.Join(w.base, "small")
	if err := os.Mkdir(small, 0o755); err != nil {
		t.Fatal(err)
	}
	mount := func(size string, flags uintptr) {
		if err := unix.Mount("tmpfs", small, "tmpfs", flags, "size="+size); err != nil {
			t.Skipf("mount a tmpfs: %v", err)
		}
	}
	mount("16m", 0)
	defer unix.Unmount(small, unix.MNT_DETACH)
	o := w.options("small/data")
	o.Tablespaces = map[string]string{"far": filepath.Join(w.base, "far")}
	_, err := restore.Run(t.Context(), w.r, p, o)
	golden(t, w, "too-small", err)
	if _, err := os.Stat(o.To); err == nil {
		t.Error("a refused restore left a directory")
	}
	mount("140m", unix.MS_REMOUNT)
	filler := filepath.Join(small, "filler")
	o.Progress = fillWhenWriting(t, filler)
	_, err = restore.Run(t.Context(), w.r, p, o)
	if err == nil || !strings.Contains(err.Error(), "make room") {
		t.Fatalf("got %v, want advice to make room", err)
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	o.Progress = nil
	if _, err := restore.Run(t.Context(), w.r, p, o); err != nil {
		t.Fatal(err)
	}
}
