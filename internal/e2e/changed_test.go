package e2e

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
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

// rounds is how many snapshots are taken one upon the other; make soak takes many.
var rounds = flag.Int("changed.rounds", 6, "snapshots of what changed, one upon the other")

// TestSnapshotsOfWhatChanged takes snapshots one upon the other while files come, move, shrink and go, and a server
// crashes, and is promoted. They may not read everything, what a scan of everything finds must be what the log told,
// and the last must restore to what the source was.
func TestSnapshotsOfWhatChanged(t *testing.T) {
	settings := []string{"unlogged", "checksums", "wal_log_hints", "remote"}
	for i, v := range pgtest.Versions(t) {
		for n, how := range settings {
			if *rounds > 6 || n == i || how == "remote" && v == "15" {
				t.Run(v+"/"+how, func(t *testing.T) { snapshotsOfWhatChanged(t, v, how) })
			}
		}
	}
}

func snapshotsOfWhatChanged(t *testing.T, version, how string) {
	chance := random(t)
	conf := map[string]string{"max_prepared_transactions": "300", "checkpoint_timeout": "30s", "max_wal_size": "128MB"}
	if how == "wal_log_hints" {
		conf["wal_log_hints"] = "on"
	}
	w := newWorldAsIs(t, pgtest.Options{Version: version, Checksums: how == "checksums" || how == "remote", Conf: conf})
	w.configure(setup{remote: how == "remote"})
	w.run("repo", "init")
	for i := range 3 {
		w.mkdir(fmt.Sprintf("space%d", i))
	}
	agent := w.agent()
	w.server.Exec("", "CREATE TABLE still AS SELECT i, repeat('x', 100) AS s FROM generate_series(1, 50000) i", "VACUUM still", "CHECKPOINT")
	w.run("snapshot", "create", system)
	m := startPacedMover(t, w.server, w.dir, 100*time.Millisecond)
	read, compared, late := int64(0), int64(0), 0
	for i := range *rounds {
		pause(time.Duration(chance.IntN(1000)) * time.Millisecond)
		switch {
		case i == 3 || i > 5 && chance.IntN(8) == 0:
			w.server.Crash()
			w.streams()
		case i == 4 || i > 5 && chance.IntN(12) == 0:
			w.promoteInPlace()
			w.streams()
		case chance.IntN(2) == 0:
			w.server.Exec("", "CHECKPOINT")
		}
		c := w.snapshot()
		switch {
		case c.FullScan == "" || strings.Contains(c.FullScan, "was left before"):
		case strings.Contains(c.FullScan, "is not known"):
			t.Logf("snapshot %d has read everything: %s", i, c.FullScan)
			late++ // on a machine that is busy enough the log may come too late
		default:
			t.Errorf("snapshot %d has read everything: %s", i, c.FullScan)
		}
		read, compared = read+c.Pages, compared+c.Compared
		if i%10 == 9 {
			compared += w.snapshot("--full-scan").Compared
		}
	}
	if late > *rounds/3 {
		t.Errorf("of %d snapshots %d have read everything", *rounds, late)
	}
	full := w.snapshot("--full-scan")
	if full.NotCompared != "" {
		t.Errorf("the full scan was not compared: %s", full.NotCompared)
	}
	t.Logf("%d pages were read because the log named them, and %d compared of which it did not tell: %d of these had changed",
		read, compared+full.Compared, len(full.Missed))
	w.server.Exec("", "CHECKPOINT")
	m.stop()
	last := w.snapshot()
	w.streams()
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

// streams waits until the agent receives the log.
func (w *world) streams() {
	w.t.Helper()
	w.until("the agent is connected again", func() bool { // it may be far behind
		return w.server.Query("", "SELECT count(*) FROM pg_stat_replication WHERE state IN ('catchup', 'streaming')") == "1"
	})
}

// promoteInPlace ends the server's timeline, and begins another one.
func (w *world) promoteInPlace() {
	w.t.Helper()
	w.server.Stop(pgtest.Fast)
	signal := filepath.Join(w.server.DataDir, "standby.signal")
	if err := os.WriteFile(signal, nil, 0o600); err != nil {
		w.t.Fatal(err)
	}
	pgtest.Chown(w.t, signal)
	w.server.Start()
	w.server.Promote()
}
