package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/internal/pg/pgtest"
)

// created is what snapshot create prints.
type created struct {
	Snapshot struct {
		ID      string `json:"id"`
		Files   int64  `json:"files"`
		Written struct {
			NewBytes int64 `json:"newBytes"`
		} `json:"written"`
	} `json:"snapshot"`
	FullScan    string   `json:"fullScan"`
	Pages       int64    `json:"pages"`
	Compared    int64    `json:"compared"`
	Missed      []any    `json:"missed"`
	NotCompared string   `json:"notCompared"`
	Problems    []any    `json:"problems"`
	Skipped     []string `json:"skipped"`
}

func (w *world) snapshot(args ...string) created {
	w.t.Helper()
	c := decode[created](w.t, w.run(append([]string{"snapshot", "create", system, "-o", "json"}, args...)...))
	if len(c.Missed) > 0 {
		w.t.Errorf("the log did not tell of %v", c.Missed)
	}
	return c
}

// TestSnapshotsOfWhatChanged takes snapshots one upon the other while files come, move, shrink and go, and a server
// crashes. None of them may read everything, what a scan of everything finds must be what the log told, and the last must
// restore to what the source was.
func TestSnapshotsOfWhatChanged(t *testing.T) {
	for _, v := range pgtest.Versions(t) {
		for _, checksums := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s/checksums=%v", v, checksums), func(t *testing.T) { snapshotsOfWhatChanged(t, v, checksums, false) })
		}
		t.Run(v+"/remote", func(t *testing.T) { snapshotsOfWhatChanged(t, v, true, true) })
	}
}

func snapshotsOfWhatChanged(t *testing.T, version string, checksums, remote bool) {
	w := newWorldAsIs(t, pgtest.Options{Version: version, Checksums: checksums, Conf: map[string]string{
		"max_prepared_transactions": "300", "checkpoint_timeout": "30s", "max_wal_size": "128MB",
	}})
	w.configure(setup{remote: remote})
	w.run("repo", "init")
	for i := range 3 {
		w.mkdir(fmt.Sprintf("space%d", i))
	}
	agent := w.agent()
	w.server.Exec("", "CREATE TABLE still AS SELECT i, repeat('x', 100) AS s FROM generate_series(1, 50000) i", "VACUUM still", "CHECKPOINT")
	w.run("snapshot", "create", system)
	m := startMover(t, w.server, w.dir)
	for i := range 6 {
		pause(700 * time.Millisecond)
		if i%2 == 0 {
			w.server.Exec("", "CHECKPOINT")
		}
		if i == 3 {
			w.server.Kill9()
			w.server.Start()
			w.until("the agent is connected again", func() bool {
				return w.server.Query("", "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'") == "1"
			})
		}
		c := w.snapshot()
		t.Logf("snapshot %d: %d pages, %d compared, new %d bytes; %s", i, c.Pages, c.Compared, c.Snapshot.Written.NewBytes, c.FullScan)
		if c.FullScan != "" {
			t.Errorf("snapshot %d has read everything: %s", i, c.FullScan)
		}
	}
	full := w.snapshot("--full-scan")
	if full.NotCompared != "" || full.Compared == 0 && full.FullScan == "" {
		t.Errorf("the full scan compared %d pages: %s", full.Compared, full.NotCompared)
	}
	t.Logf("full scan: %d pages, of these %d compared", full.Pages, full.Compared)
	w.server.Exec("", "CHECKPOINT")
	m.stop()
	last := w.snapshot()
	w.until("the agent is connected again", func() bool {
		return w.server.Query("", "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'") == "1"
	})
	source := digest(t, w.server.ConnString, true)
	w.server.Stop(pgtest.Fast)
	agent.stop()
	if err := os.RemoveAll(w.server.DataDir); err != nil {
		t.Fatal(err)
	}
	w.run("repo", "check", "--read-data")
	for i := range 3 {
		emptyDirectory(t, filepath.Join(w.dir, fmt.Sprintf("space%d", i))) // the source's, which the log names
	}
	r := w.restore("back", "--start")
	if r.Snapshot != last.Snapshot.ID {
		t.Fatalf("restored from %s, want %s", r.Snapshot, last.Snapshot.ID)
	}
	compareRestored(t, r, source)
}
