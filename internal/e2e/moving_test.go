package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-dr/holdfast/internal/pg/pgtest"
)

// TestEverythingThatMovesFiles takes snapshots while files come, move, shrink and go, and the primary crashes. What
// is restored from the first and from the last of them must be what the source was when it stopped.
func TestEverythingThatMovesFiles(t *testing.T) {
	all := pgtest.Versions(t)
	seen := map[string]bool{}
	for _, v := range []string{"15", all[0], all[len(all)-1]} {
		if !seen[v] {
			t.Run(v, func(t *testing.T) { movingFiles(t, v, v == "15") })
		}
		seen[v] = true
	}
}

func movingFiles(t *testing.T, version string, long bool) {
	w := newWorld(t, pgtest.Options{Version: version, Conf: map[string]string{
		"max_prepared_transactions": "300", "checkpoint_timeout": "30s", "max_wal_size": "128MB", "wal_keep_size": "0",
	}})
	w.run("repo", "init")
	var spaces []string
	for i := range 3 {
		spaces = append(spaces, w.mkdir(fmt.Sprintf("space%d", i)))
	}
	agent := w.agent()
	m := startMover(t, w.server, w.dir)
	w.run("snapshot", "create", system)
	if long {
		pause(2 * time.Second)
		w.run("snapshot", "create", system)
	}
	// The crash meets a snapshot that is under way: it may come too late for it, never in silence.
	during := w.start("snapshot", "create", system)
	pause(300 * time.Millisecond)
	w.server.Crash()
	if r := during.wait(); r.code != 0 && r.stderr == "" {
		t.Errorf("the snapshot that a crash interrupted ends with %d and says nothing", r.code)
	}
	pause(2 * time.Second)
	w.run("snapshot", "create", system)
	pause(time.Second)
	m.stop()
	t.Logf("the load did: %v", m.done)
	want := []string{
		"business", "commit prepared", "copy", "copy freeze", "create database file_copy", "create database wal_log", "create index",
		"create index concurrently", "create tablespace", "drop database", "drop tablespace", "extension", "large object", "move from tablespace",
		"prepared transaction", "truncate", "truncation", "unlogged", "vacuum full",
	}
	if version == "13" {
		want = append(append([]string{}, want[:4]...), append([]string{"create database"}, want[6:]...)...)
	}
	if d := cmp.Diff(want, m.kindsDone()); d != "" && long {
		t.Errorf("the load did not do everything (-want +got):\n%s", d)
	}
	w.until("the agent is connected again", func() bool {
		return w.server.Query("", "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'") == "1"
	})
	source := digest(t, w.server.ConnString, true)
	w.server.Stop(pgtest.Fast)
	agent.stop()
	if err := os.RemoveAll(w.server.DataDir); err != nil {
		t.Fatal(err)
	}

	list := w.snapshots()
	for i, s := range list {
		if i != 0 && i != len(list)-1 {
			w.run("snapshot", "forget", system, s.ID, "--confirm", system)
		}
	}
	for i, s := range []listed{list[len(list)-1], list[0]} {
		for _, dir := range spaces { // the source's, which the log names
			emptyDirectory(t, dir)
		}
		if i == 1 {
			w.run("snapshot", "forget", system, list[len(list)-1].ID, "--confirm", system)
		}
		r := w.restore(fmt.Sprintf("back%d", i), "--start")
		if r.Snapshot != s.ID {
			t.Fatalf("restored from %s, want %s", r.Snapshot, s.ID)
		}
		compareRestored(t, r, source)
		r.remove()
	}
	w.run("repo", "check", "--read-data")
}

// compareRestored holds a running, restored server against the source's digest and PostgreSQL's own checks, and
// stops it.
func compareRestored(t *testing.T, r *restored, source map[string]string) {
	t.Helper()
	if d := cmp.Diff(source, digest(t, r.connString, false)); d != "" {
		t.Fatalf("restored from %s it differs from the source (-source +restored):\n%s", r.Snapshot, d)
	}
	if r.w.has("pg_amcheck") {
		r.w.program("pg_amcheck", "-h", r.Server.Socket, "-p", fmt.Sprint(r.Server.Port), "-U", "postgres",
			"--all", "--install-missing", "--heapallindexed", "--parent-check")
	}
	checksums := r.query("current_setting('data_checksums')") == "on"
	r.stop()
	if checksums && r.w.has("pg_checksums") {
		r.w.program("pg_checksums", "--check", "-D", r.dir)
	}
	if _, err := os.Stat(filepath.Join(r.dir, "standby.signal")); err == nil {
		t.Error("standby.signal is still there")
	}
}
