package e2e

import (
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-dr/holdfast/internal/pg/pgtest"
)

// TestSnapshotAmidstASegment keeps one snapshot, which begins at a checkpoint in the middle of a log segment, removes what
// is not needed any more, and loses server and agent at once before the segment is full: what lies before the checkpoint is
// needed too, since a server reads whole segments.
func TestSnapshotAmidstASegment(t *testing.T) {
	for _, mib := range []string{"16", "64"} {
		t.Run(mib+" MiB", func(t *testing.T) { amidstASegment(t, mib) })
	}
}

func amidstASegment(t *testing.T, mib string) {
	w := newWorld(t, pgtest.Options{Version: "15", InitArgs: []string{"--wal-segsize=" + mib}, Conf: map[string]string{"max_wal_size": "1GB"}})
	w.run("repo", "init")
	agent := w.agent()
	w.server.Exec("", ledgerTable, "SELECT pg_switch_wal()")
	w.run("snapshot", "create", system)
	rows := map[string]int{"16": 1000, "64": 100000}[mib] // of a larger segment, two of the pieces in which it is stored
	for n := range 3 {
		w.server.Exec("", fmt.Sprintf("INSERT INTO book SELECT '%d ' || i, repeat(md5(i::text), 4) FROM generate_series(1, %d) AS i", n, rows))
		pause(1500 * time.Millisecond) // so that its log is stored in pieces
	}
	w.server.Exec("", "CHECKPOINT")
	if c := w.snapshot(); c.FullScan != "" {
		t.Errorf("the snapshot read everything: %s", c.FullScan)
	}
	all := w.snapshots()
	for _, s := range all[:len(all)-1] {
		w.run("snapshot", "forget", system, s.ID, "--confirm", system)
	}
	w.run("repo", "prune", "--confirm", "main")
	w.server.Exec("", "INSERT INTO book VALUES ('last', 'one')")
	want := digest(t, w.server.ConnString, false)
	pause(2 * time.Second)
	w.server.Kill9()
	agent.kill9()
	if err := os.RemoveAll(w.server.DataDir); err != nil {
		t.Fatal(err)
	}
	r := w.restore("back", "--start")
	if d := cmp.Diff(want, digest(t, r.connString, false)); d != "" {
		t.Errorf("-source +restored:\n%s", d)
	}
	r.stop()
}
