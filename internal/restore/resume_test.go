package restore_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/pg/control"
	"github.com/holdfast-dr/holdfast/internal/pg/pgtest"
	"github.com/holdfast-dr/holdfast/internal/restore"
)

// child runs a restore that kills itself at a step; killed is false where it came to its end before.
func (w *world) child(to string, step int, mode restore.Mode) (killed bool) {
	w.t.Helper()
	cmd := exec.Command(w.bin)
	cmd.Env = append(os.Environ(), roleEnv+"=restore", repoEnv+"="+w.dir, toEnv+"="+to, fmt.Sprintf("%s=%d", killEnv, step), modeEnv+"="+string(mode))
	var said bytes.Buffer
	cmd.Stderr = &said
	err := cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() == -1 {
		return true
	}
	if err != nil {
		w.t.Fatalf("the restore failed: %v\n%s", err, &said)
	}
	return false
}

func smallWorld(t *testing.T) *world {
	w := newWorld(t, pgtest.Options{Version: "15", Checksums: true})
	w.s.Tablespace("far")
	w.s.Exec("", "CREATE TABLE t AS SELECT i, repeat('x', 50) AS s FROM generate_series(1, 60000) AS i", "CREATE TABLE f (i int) TABLESPACE far",
		"INSERT INTO f SELECT generate_series(1, 1000)")
	w.snapshot(w.s)
	w.s.Exec("", "INSERT INTO t VALUES (0)")
	w.archive(w.s)
	return w
}

func same(t *testing.T, got, want string) {
	t.Helper()
	g, err := digestOf(got, short)
	if err != nil {
		t.Fatal(err)
	}
	h, err := digestOf(want, short)
	if err != nil {
		t.Fatal(err)
	}
	for name := range h {
		if name == filepath.Join("pg_tblspc", "16384") {
			g[name], h[name] = "", "" // the link names the directory
		}
	}
	if !maps.Equal(g, h) {
		t.Fatalf("%s differs from %s: %s", got, want, cmp.Diff(h, g))
	}
}

// Killed at any step, a restore leaves a directory that cannot be started, and the same restore finishes it.
func TestResumeAfterKill(t *testing.T) {
	w := smallWorld(t)
	whole := filepath.Join(w.base, "whole")
	if w.child(whole, 0, restore.Fresh) {
		t.Fatal("killed at no step")
	}
	unsaid := filepath.Join(w.base, "unsaid") // killed before its journal said what it is
	for _, err := range []error{os.Mkdir(unsaid, 0o700), os.WriteFile(filepath.Join(unsaid, "holdfast.restore"), []byte(`{"sys`), 0o600)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	w.child(unsaid, 0, restore.Fresh)
	same(t, unsaid, whole)
	for step := 1; ; step += 1 + step/3 {
		to := filepath.Join(w.base, fmt.Sprintf("killed-%d", step))
		if !w.child(to, step, restore.Fresh) {
			if step < 40 {
				t.Errorf("only %d steps", step)
			}
			break
		}
		if _, err := os.Stat(filepath.Join(to, control.Path)); err == nil {
			t.Fatalf("killed at step %d it has a pg_control", step)
		}
		w.child(to, step/2+1, restore.Fresh) // and once more on the way
		w.child(to, 0, restore.Fresh)
		same(t, to, whole)
		if err := os.RemoveAll(to); err != nil {
			t.Fatal(err)
		}
		os.RemoveAll(to + "_tablespaces")
	}
}

// Killed at any step, a Delta over a diverged cluster is finished by the same command, and is then what a fresh
// restore is: also where it was killed before it had removed everything of the old cluster, and where it had come to
// its end but for its journal, and a server has run on the directory since.
func TestResumeDeltaAfterKill(t *testing.T) {
	w := smallWorld(t)
	whole, old := filepath.Join(w.base, "whole"), filepath.Join(w.base, "old")
	if w.child(whole, 0, restore.Fresh) || w.child(old, 0, restore.Fresh) {
		t.Fatal("killed at no step")
	}
	relation := filepath.Join("base", "5", w.s.Query("", "SELECT pg_relation_filenode('t')"))
	diverge := func(dir string) {
		t.Helper()
		stale := bytes.Repeat([]byte("of another moment"), 2000)
		for _, name := range []string{relation + "_vm", relation + ".1", "base/5/99999", "pg_wal/000000010000000000000099"} {
			if err := os.WriteFile(filepath.Join(dir, name), stale, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	diverge(old)
	for step := 1; ; step += 1 + step {
		to := filepath.Join(w.base, fmt.Sprintf("killed-%d", step))
		if out, err := exec.Command("cp", "-a", old, to).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		if !w.child(to, step, restore.Delta) {
			same(t, to, whole)
			break
		}
		if _, err := os.Stat(filepath.Join(to, "holdfast.restore")); err == nil {
			diverge(to) // what it removes, it may not have come to
		}
		w.child(to, 0, restore.Delta)
		same(t, to, whole)
		if err := os.RemoveAll(to); err != nil {
			t.Fatal(err)
		}
	}
	journal := filepath.Join(old, "holdfast.restore")
	head, err := json.Marshal(map[string]any{"system": system, "snapshot": w.mustPlan("latest").Snapshot.Manifest.ID, "root": w.mustPlan("latest").Snapshot.Manifest.Root})
	if err != nil {
		t.Fatal(err)
	}
	fi, err := os.Stat(filepath.Join(whole, relation))
	if err != nil {
		t.Fatal(err)
	}
	done := fmt.Sprintf("%s\n{\"path\":%q,\"size\":%d}\n", head, relation, fi.Size())
	if err := errors.Join(os.WriteFile(journal, []byte(done), 0o600), os.WriteFile(filepath.Join(old, relation), make([]byte, fi.Size()), 0o600)); err != nil {
		t.Fatal(err)
	}
	w.child(old, 0, restore.Fresh)
	same(t, old, whole)
}

// What a restore wrote before a server ran on the directory is not believed any more, neither by the next run, which
// finds pg_control there, nor by those after it, if that one is killed when it has taken pg_control away.
func TestDistrustLasts(t *testing.T) {
	y := newTiny(t)
	st := y.stored(t)
	const path = "base/1/1259"
	target := filepath.Join(pgtest.TempDir(t), "target")
	journal := filepath.Join(target, "holdfast.restore")
	var written []byte // the journal when all files were
	var err error
	// One worker ends with the first chunk after the context, and that is not of this file.
	o := restore.Options{To: target, Workers: 1, Settings: unserved}
	o.Progress = func(p dr.Progress) {
		if p.Phase == "finishing" {
			written, err = os.ReadFile(journal)
		}
	}
	if runErr := y.restoreWith(t, st, o); runErr != nil || err != nil {
		t.Fatal(runErr, err)
	}
	if !bytes.Contains(written, []byte(path)) {
		t.Fatalf("the journal never named %s: %s", path, written)
	}
	// As if it had been killed when all but its journal's removal was done, and a server had run then.
	changed := bytes.Clone(y.files[path])
	copy(changed[8192:], "changed by a server")
	if err := errors.Join(os.WriteFile(journal, written, 0o600), os.WriteFile(filepath.Join(target, path), changed, 0o600)); err != nil {
		t.Fatal(err)
	}
	// The next one ends when nothing but pg_control has changed: before it writes the first file.
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	o.Progress = func(p dr.Progress) {
		if p.Phase == "writing files" {
			cancel()
		}
	}
	if err := y.restoreContext(ctx, t, st, o); !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v, want %v", err, context.Canceled)
	}
	if _, err := os.Stat(filepath.Join(target, control.Path)); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("pg_control: %v, want that it is gone", err)
	}
	if got, err := os.ReadFile(filepath.Join(target, path)); err != nil || !bytes.Equal(got, changed) {
		t.Fatalf("the run that was to end early has written %s already (%v)", path, err)
	}
	o.Progress = nil
	if err := y.restoreWith(t, st, o); err != nil {
		t.Fatal(err)
	}
	y.wantFiles(t, target, nil)
}

// A file that the journal calls whole is written again where it is gone, or has another size, whoever did that.
func TestResumeWithoutAFileOfTheJournal(t *testing.T) {
	y := newTiny(t)
	st, target := y.stored(t), filepath.Join(pgtest.TempDir(t), "target")
	y.interrupt(t, st, target)
	journal, err := os.ReadFile(filepath.Join(target, "holdfast.restore"))
	if err != nil {
		t.Fatal(err)
	}
	for p := range y.files {
		journal = fmt.Appendf(journal, "{\"path\":%q,\"size\":%d}\n", p, len(y.files[p]))
	}
	err = errors.Join(os.WriteFile(filepath.Join(target, "holdfast.restore"), journal, 0o600),
		os.Remove(filepath.Join(target, "base/1/1259")), os.Truncate(filepath.Join(target, "base/5/16384"), 8192))
	if err != nil {
		t.Fatal(err)
	}
	if err := y.restore(t, st, target); err != nil {
		t.Fatal(err)
	}
	y.wantFiles(t, target, nil)
}

// Delta makes of a diverged cluster exactly what the snapshot is, and reads what it keeps.
func TestDeltaOverADivergedDirectory(t *testing.T) {
	w := smallWorld(t)
	o := w.options("live")
	o.Settings.Ending = restore.Promote
	p := w.mustPlan("latest")
	if _, err := restore.Run(t.Context(), w.r, p, o); err != nil {
		t.Fatal(err)
	}
	s := w.open(o.To)
	s.Start()
	s.Until(t, "", "SELECT pg_is_in_recovery()", "f")
	s.Exec("", "UPDATE t SET s = 'other' WHERE i % 100 = 0", "CREATE TABLE more AS SELECT 1", "DROP TABLE f", "CREATE DATABASE gone", "CHECKPOINT")

	delta := o
	delta.Mode = restore.Delta
	_, err := restore.Run(t.Context(), w.r, p, delta)
	golden(t, w, "running", err)
	s.Kill9()
	_, err = restore.Run(t.Context(), w.r, p, o)
	golden(t, w, "not-empty", err)

	if err := os.Symlink("/etc", filepath.Join(o.To, "base", "link")); err != nil {
		t.Fatal(err)
	}
	result, err := restore.Run(t.Context(), w.r, p, delta)
	if err != nil {
		t.Fatal(err)
	}
	if result.Kept < result.Bytes/3 {
		t.Errorf("kept %d of %d bytes", result.Kept, result.Bytes)
	}
	if _, err := os.Stat("/etc/passwd"); err != nil {
		t.Fatal("followed a link out of the directory")
	}
	fresh := w.options("fresh")
	if _, err := restore.Run(t.Context(), w.r, p, fresh); err != nil {
		t.Fatal(err)
	}
	same(t, o.To, fresh.To)
	same(t, o.To+"_tablespaces", fresh.To+"_tablespaces")
	s = w.open(o.To)
	s.Start()
	if got := s.Query("", "SELECT count(*) FROM t WHERE s IS DISTINCT FROM 'other'"); got != "60001" {
		t.Errorf("t has %s rows, want 60001", got)
	}
	s.Until(t, "", "SELECT pg_is_in_recovery()", "f")
	if out, err := exec.Command(s.Bin("pg_amcheck"), "--install-missing", "--heapallindexed", "-h", s.Socket, "-U", "postgres", "postgres").CombinedOutput(); err != nil {
		t.Errorf("pg_amcheck: %v\n%s", err, out)
	}
	s.Stop(pgtest.Fast)
	if out, err := exec.Command(s.Bin("pg_checksums"), "--check", "-D", o.To).CombinedOutput(); err != nil {
		t.Errorf("pg_checksums: %v\n%s", err, out)
	}
}
