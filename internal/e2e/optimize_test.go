package e2e

import (
	"os"
	"testing"

	"github.com/holdfast-dr/holdfast/internal/pg/pgtest"
	"github.com/holdfast-dr/holdfast/internal/repo"
)

// optimize rewrites whatever is in pieces.
func (w *world) optimize() repo.OptimizeReport {
	w.t.Helper()
	o := decode[[]repo.OptimizeReport](w.t, w.run("repo", "optimize", system, "--bound", "1.01", "-o", "json"))
	if len(o) != 1 || len(o[0].Problems) > 0 || o[0].Rewritten == "" {
		w.t.Fatalf("optimized: %+v", o)
	}
	w.t.Logf("fragmentation %.2f to %.2f, %d parts, %d bytes", o[0].Before.Ratio(), o[0].After.Ratio(), o[0].Parts, o[0].Bytes)
	return o[0]
}

// TestOptimizedSnapshots rewrites snapshots of a server whose pages change here and there, takes further ones on top, and
// restores one that was rewritten.
func TestOptimizedSnapshots(t *testing.T) {
	t.Parallel()
	w := newWorldAsIs(t, pgtest.Options{Version: pgtest.Versions(t)[0], Checksums: true})
	w.run("repo", "init")
	agent := w.agent()
	w.server.Exec("", "CREATE TABLE account (id int PRIMARY KEY, balance int, filler text) WITH (fillfactor = 80)",
		"INSERT INTO account SELECT i, 0, repeat('x', 80) FROM generate_series(1, 200000) i", "VACUUM account", "CHECKPOINT")
	w.run("snapshot", "create", system)
	change := func() {
		w.server.Exec("", "UPDATE account SET balance = balance + 1 WHERE id IN (SELECT (random() * 200000)::int FROM generate_series(1, 100))", "CHECKPOINT")
		if c := w.snapshot(); c.FullScan != "" {
			t.Errorf("a snapshot has read everything: %s", c.FullScan)
		}
	}
	for range 3 {
		change()
	}
	w.optimize()
	for range 4 { // on top of what was rewritten
		change()
	}
	last := w.optimize().Rewritten
	source := digest(t, w.server.ConnString, true)
	w.server.Stop(pgtest.Fast)
	agent.stop()
	if err := os.RemoveAll(w.server.DataDir); err != nil {
		t.Fatal(err)
	}
	w.run("repo", "prune", "--confirm", "main")
	w.run("repo", "check", "--read-data")
	r := w.restore("back", "--start")
	if r.Snapshot != string(last) {
		t.Fatalf("restored from %s, want %s", r.Snapshot, last)
	}
	compareRestored(t, r, source)
}
