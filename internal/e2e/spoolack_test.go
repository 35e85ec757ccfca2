package e2e

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/holdfast-dr/holdfast/internal/pg/pgtest"
)

// TestWhatTheSpoolAcknowledgedSurvives kills the agent while the repository cannot be reached, and the source after it:
// with acknowledge: spool everything that the server was told to be durable comes from the spool alone.
func TestWhatTheSpoolAcknowledgedSurvives(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Options{Version: "15"})
	w.configure(setup{log: "{interval: 300ms, acknowledge: spool}"})
	w.run("repo", "init")
	agent := w.agent()
	w.server.Exec("", "CREATE TABLE t AS SELECT 1 AS i")
	w.run("snapshot", "create", system)

	repository := filepath.Join(w.dir, "repository")
	if err := os.Chmod(repository, 0); err != nil {
		t.Fatal(err)
	}
	w.server.Exec("", "INSERT INTO t SELECT generate_series(2, 50000)", "INSERT INTO t VALUES (50001)")
	end := w.server.Query("", "SELECT pg_current_wal_flush_lsn()")
	w.until("the server is told that it is durable", func() bool {
		return w.server.Query("", "SELECT count(*) FROM pg_stat_replication WHERE application_name = 'holdfast' AND flush_lsn >= '"+end+"'") == "1"
	})
	agent.kill9()
	w.server.Kill9()
	if err := os.Chmod(repository, 0o700); err != nil { //nolint:gosec // a directory
		t.Fatal(err)
	}

	agent = w.start("agent") // it cannot reach the source, and stores what the spool has
	w.logReaches(1, end)
	agent.kill9()
	if err := os.RemoveAll(w.server.DataDir); err != nil {
		t.Fatal(err)
	}
	r := w.restore("restored", "--start")
	if got := r.query("SELECT max(i) FROM t"); got != "50001" {
		t.Errorf("the newest row is %s, want 50001", got)
	}
	r.stop()
}
