package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/holdfast-dr/holdfast/internal/pg/pgtest"
	"github.com/holdfast-dr/holdfast/internal/workspace"
)

// copied is what geo copy prints.
type copied struct {
	Site      string
	Snapshots []string
	Extents   int
	Bytes     int64
}

func (w *world) geoCopy(args ...string) copied {
	w.t.Helper()
	c := decode[[]copied](w.t, w.run(append([]string{"geo", "copy", "-o", "json"}, args...)...))
	if len(c) != 1 || c[0].Site != "there" {
		w.t.Fatalf("copied %+v", c)
	}
	return c[0]
}

func (w *world) geoStatus() (here, there workspace.ReplicaStatus) {
	w.t.Helper()
	s := decode[[]workspace.ReplicaStatus](w.t, w.run("geo", "status", "-o", "json"))
	if len(s) != 2 || s[0].Site != "here" || s[1].Site != "there" {
		w.t.Fatalf("sites: %+v", s)
	}
	return s[0], s[1]
}

// TestASiteIsLost copies a repository to a second site while the server works, now and then, loses the server and the first
// site with everything in it, and recovers from the second.
func TestASiteIsLost(t *testing.T) {
	w := newWorld(t, pgtest.Options{Version: "15"})
	w.configure(setup{other: "file://" + w.dir + "/there/replica"})
	w.run("repo", "init")
	if r := w.try("geo", "status"); r.code != 3 {
		t.Errorf("with no replica there geo status ends with %d:\n%s", r.code, r.stderr)
	}
	agent := w.agent()
	w.server.Exec("", "CREATE TABLE account (id int PRIMARY KEY, balance int)", "INSERT INTO account SELECT i, 0 FROM generate_series(1, 50000) i")
	first := w.snapshot().Snapshot.ID
	if c := w.geoCopy(); len(c.Snapshots) < 1 || c.Extents == 0 {
		t.Errorf("the first copy: %+v", c)
	}
	full := w.geoCopy("orders-db", "--to", "there")
	if len(full.Snapshots) != 0 {
		t.Errorf("copied again: %+v", full)
	}
	for range 3 {
		w.server.Exec("", "UPDATE account SET balance = balance + 1 WHERE id % 500 = 7", "CHECKPOINT")
		if s := w.snapshot(); s.FullScan != "" {
			t.Errorf("a snapshot has read everything: %s", s.FullScan)
		}
	}
	if _, there := w.geoStatus(); there.Missing != 3 || string(there.Newest) != first || there.Lag <= 0 {
		t.Errorf("there: %+v", there)
	}
	if c := w.geoCopy(); len(c.Snapshots) != 3 || c.Bytes > 20<<20 {
		t.Errorf("three snapshots of some pages: %+v", c)
	}
	w.server.Exec("", "INSERT INTO account VALUES (100000, 1)")
	source := digest(t, w.server.ConnString, false)
	w.until("the repository has the log", func() bool {
		w.geoCopy()
		here, there := w.geoStatus()
		return there.Missing == 0 && there.Problem == "" && here.Point.Equal(there.Point) && w.reached()
	})
	// Each site collects by itself, and the other does not lose anything by it.
	w.run("repo", "prune", "--site", "there", "--confirm", "main")
	w.run("repo", "check", "--site", "there", "--read-data")
	w.geoCopy()

	w.server.Kill9()
	agent.kill9()
	for _, gone := range []string{w.server.DataDir, filepath.Join(w.dir, "repository"), filepath.Join(w.dir, "cache"), filepath.Join(w.dir, "state")} {
		if err := os.RemoveAll(gone); err != nil {
			t.Fatal(err)
		}
	}
	r := w.restore("back", "--site", "there", "--start")
	compareRestored(t, r, source)
}

// TestResidency copies nothing to where a system's data may not be, whoever asks for it.
func TestResidency(t *testing.T) {
	w := newWorld(t, pgtest.Options{Version: "15"})
	there := filepath.Join(w.dir, "there")
	w.configure(setup{other: "file://" + there})
	text, err := os.ReadFile(w.config)
	if err != nil {
		t.Fatal(err)
	}
	w.write("holdfast.yaml", strings.Replace(string(text), "    policy: gold\n", "    policy: gold\n    jurisdictions: [EU]\n", 1))
	w.run("repo", "init")
	w.run("snapshot", "create", system)
	if out := w.run("geo", "copy"); !strings.Contains(out, "no other site") {
		t.Errorf("geo copy says %q", out)
	}
	r := w.try("geo", "copy", "--to", "there")
	if r.code == 0 || !strings.Contains(r.stderr, `the site's jurisdiction is "CH"`) {
		t.Errorf("geo copy --to there ends with %d: %s", r.code, r.stderr)
	}
	if _, err := os.Stat(there); err == nil {
		t.Error("something was made there")
	}
}

// reached tells whether the repository has all log of the server.
func (w *world) reached() bool {
	return w.server.Query("", "SELECT bool_and(flush_lsn >= pg_current_wal_flush_lsn()) FROM pg_stat_replication") == "t"
}
