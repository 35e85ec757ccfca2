package e2e

import (
	"os"
	"testing"

	"github.com/holdfast-dr/holdfast/internal/pg/pgtest"
)

// TestRestoreToTheEndOfTheLastSnapshot restores to the position at which a snapshot ends, by its number, where no log follows.
func TestRestoreToTheEndOfTheLastSnapshot(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Options{Version: "15"})
	w.run("repo", "init")
	agent := w.agent()
	w.server.Exec("", ledgerTable, "INSERT INTO book VALUES ('held', '')")
	w.snapshot() // the agent has taken one, or does so
	agent.kill9()
	w.snapshot() // which brings the log up to its own end itself
	w.server.Kill9()
	if err := os.RemoveAll(w.server.DataDir); err != nil {
		t.Fatal(err)
	}
	all := w.snapshots()
	last := all[0]
	for _, s := range all {
		if s.moment() > last.moment() {
			last = s
		}
	}
	r := w.restore("back", "--at", last.Manifest.Facts.StopLSN, "--start")
	if got := r.query("SELECT string_agg(entry, ',') FROM book"); got != "held" {
		t.Errorf("it has %q", got)
	}
	r.stop()
}
