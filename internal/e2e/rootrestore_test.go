package e2e

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/holdfast-dr/holdfast/internal/pg/pgtest"
)

// TestRootRestoresWhatOnlyRootReads recovers as root with a configuration, a key and a repository that the user who
// runs PostgreSQL cannot read: the log comes from root's process.
func TestRootRestoresWhatOnlyRootReads(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root has what nobody else reads")
	}
	w := newWorld(t, pgtest.Options{Version: "15"})
	w.run("repo", "init")
	agent := w.agent()
	w.server.Exec("", "CREATE TABLE t AS SELECT generate_series(1, 1000) AS i")
	w.run("snapshot", "create", system)
	w.server.Exec("", "INSERT INTO t VALUES (2000)", "SELECT pg_create_restore_point('half')", "SELECT pg_switch_wal()",
		"INSERT INTO t VALUES (3000)", "SELECT pg_switch_wal()", "INSERT INTO t VALUES (4000)")
	w.server.Stop(pgtest.Fast)
	agent.stop()
	for _, name := range []string{"holdfast.yaml", "passphrase", "repository", "cache", "state"} {
		keepForRoot(t, filepath.Join(w.dir, name))
	}
	nowhere := w.mkdir("nowhere")
	if r := w.try("wal", "fetch", system, "000000010000000000000001", filepath.Join(nowhere, "RECOVERYXLOG")); r.code != 200 {
		t.Fatalf("the servers' user reads what only root should: exit %d\n%s", r.code, r.stderr)
	}

	w.root = true
	for _, c := range []struct {
		name, want string
		args       []string
	}{
		{"latest", "4000", nil},
		{"half", "2000", []string{"--at", "name:half"}},
		{"paused", "2000", []string{"--at", "name:half", "--action", "pause"}},
	} {
		r := w.restore(c.name, append([]string{"--start"}, c.args...)...)
		if got := r.query("SELECT max(i) FROM t"); got != c.want {
			t.Errorf("%s: the newest row is %s, want %s", c.name, got, c.want)
		}
		paused := slices.ContainsFunc(r.Recovery.Notes, func(n string) bool { return strings.Contains(n, "the recovery is paused") })
		if paused != (c.name == "paused") {
			t.Errorf("%s: the notes are %q", c.name, r.Recovery.Notes)
		}
		if _, err := os.Lstat(filepath.Join(r.dir, "pg_wal", "holdfast.prefetch")); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: what served the log left its directory behind: %v", c.name, err)
		}
		belongsToServer(t, r.dir)
		w.root = false // PostgreSQL's programs refuse root
		r.stop()
		w.root = true
	}
	if w.has("pg_dump") {
		dump := filepath.Join(w.dir, "t.sql")
		w.run("restore", system, "--database", "postgres", "--table", "public.t", "--dump", dump, "--dump-format", "plain", "--sandbox", w.dir)
		if !strings.Contains(read(dump), "\n4000\n") {
			t.Errorf("the dump lacks the newest row:\n%s", end(read(dump), 200))
		}
	}
}

// keepForRoot gives a file or a tree to root, and lets nobody else in.
func keepForRoot(t *testing.T, top string) {
	t.Helper()
	err := filepath.WalkDir(top, func(path string, _ fs.DirEntry, err error) error {
		return errors.Join(err, os.Lchown(path, 0, 0))
	})
	if err := errors.Join(err, os.Chmod(top, 0o700)); err != nil { //nolint:gosec // a directory's, most often
		t.Fatal(err)
	}
}

// belongsToServer checks that the servers' user owns a data directory whole.
func belongsToServer(t *testing.T, dir string) {
	t.Helper()
	want := serverUser(t).Uid
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // the server runs
		}
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return nil
		}
		if st := info.Sys().(*syscall.Stat_t); st.Uid != want {
			t.Errorf("%s belongs to user %d, want %d", path, st.Uid, want)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
