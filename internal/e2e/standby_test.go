package e2e

import (
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-dr/holdfast/internal/pg/pgtest"
)

// TestSnapshotOfAStandby takes snapshots from a standby, in both ways, while the log comes from its primary, and
// recovers to the end of that log.
func TestSnapshotOfAStandby(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Options{Version: "15"})
	w.server.Exec("", ledgerTable, "CREATE TABLE big AS SELECT i, md5(i::text) AS v FROM generate_series(1, 100000) AS i")
	standby := w.server.Standby(pgtest.Options{Version: "15"})
	w.run("repo", "init")
	agent := w.agentOn(w.server)
	primary := w.server
	for _, remote := range []bool{false, true} {
		w.server = standby
		w.configure(setup{remote: remote})
		during := w.start("snapshot", "create", system)
		w.server = primary
		// A backup of a standby ends with what is replayed; its log is complete once the primary has sent it.
		primary.Exec("", "UPDATE big SET v = md5(v) WHERE i % 3 = 0", "INSERT INTO book VALUES ('snapshot with remote "+map[bool]string{true: "on", false: "off"}[remote]+"', '')")
		if r := during.wait(); r.code != 0 {
			t.Fatalf("the snapshot ends with %d:\n%s", r.code, r.stderr)
		}
	}
	primary.Exec("", "INSERT INTO book VALUES ('the end', '')")
	want := digest(t, primary.ConnString, true)
	primary.Stop(pgtest.Fast)
	agent.stop()
	if err := os.RemoveAll(primary.DataDir); err != nil {
		t.Fatal(err)
	}
	list := w.snapshots()
	if len(list) < 2 {
		t.Fatalf("%d snapshots, want one of each way", len(list))
	}
	for _, s := range []listed{list[len(list)-1], list[len(list)-2]} { // the agent may have taken one of the primary before
		r := w.restore("back", "--start")
		if r.Snapshot != s.ID {
			t.Errorf("restored from %s, want %s", r.Snapshot, s.ID)
		}
		if d := cmp.Diff(want, digest(t, r.connString, false)); d != "" {
			t.Errorf("from %s (-source +restored):\n%s", s.ID, d)
		}
		r.stop()
		r.remove()
		w.run("snapshot", "forget", system, s.ID, "--confirm", system)
	}
}
