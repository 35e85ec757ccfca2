package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-dr/holdfast/internal/evidence"
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

// TestCopyByHand copies a repository to a second site, with no agent, and shows that each of the two lives by itself.
func TestCopyByHand(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Options{Version: "15"})
	w.configure(setup{other: "file://" + w.dir + "/there/replica", keep: 2})
	w.run("repo", "init")
	if r := w.try("geo", "status"); r.code != 3 {
		t.Errorf("with no replica there geo status ends with %d:\n%s", r.code, r.stderr)
	}
	w.server.Exec("", "CREATE TABLE account (id int PRIMARY KEY, balance int)", "INSERT INTO account SELECT i, 0 FROM generate_series(1, 50000) i")
	first := w.snapshot().Snapshot.ID
	if c := w.geoCopy(); len(c.Snapshots) != 1 || c.Extents == 0 {
		t.Errorf("the first copy: %+v", c)
	}
	if again := w.geoCopy("orders-db", "--to", "there"); len(again.Snapshots) != 0 || again.Bytes != 0 {
		t.Errorf("copied again: %+v", again)
	}
	for range 3 {
		w.server.Exec("", "UPDATE account SET balance = balance + 1 WHERE id % 500 = 7", "CHECKPOINT")
		w.snapshot()
	}
	if _, there := w.geoStatus(); there.Missing != 2 || string(there.Newest) != first || there.Lag <= 0 || there.Bytes == 0 {
		t.Errorf("there: %+v", there)
	}
	if r := w.restore("behind", "--site", "there"); !strings.Contains(strings.Join(r.Notes, "\n"), "site here has more of the log") {
		t.Errorf("a restore from the site that is behind says %q", r.Notes)
	}
	if c := w.geoCopy(); len(c.Snapshots) != 2 { // the policy keeps no more
		t.Errorf("snapshots that the policy keeps: %+v", c)
	}
	w.run("repo", "prune", "--confirm", "main")
	if here, there := w.geoStatus(); here.Snapshots != 2 || there.Snapshots != 3 || here.Problem+there.Problem != "" {
		t.Errorf("what is forgotten here stays there: %+v, %+v", here, there)
	}
	w.run("repo", "prune", "--site", "there", "--confirm", "main")
	w.run("repo", "check", "--site", "there", "--read-data")
	if c := w.geoCopy(); len(c.Snapshots) != 0 {
		t.Errorf("what each site has forgotten came back: %+v", c)
	}
	source := digest(t, w.server.ConnString, false)
	w.server.Stop(pgtest.Fast)
	r := w.restore("back", "--site", "there", "--start", "--at", "immediate")
	if d := cmp.Diff(source, digest(t, r.connString, false)); d != "" {
		t.Errorf("-source +restored:\n%s", d)
	}
	r.stop()
}

// TestASiteIsLost lets the agent copy to a second site, cuts that off for a while, and then loses the server in the middle of a
// load, and the first site with everything in it. What was committed some seconds before comes back from the second.
func TestASiteIsLost(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Options{Version: "15"})
	w.configure(setup{other: "file://" + w.dir + "/there/replica"})
	w.mkdir("there")
	w.run("repo", "init")
	agent := w.agent()
	w.server.Exec("", ledgerTable, "INSERT INTO book SELECT 'before ' || i, repeat(md5(i::text), 10) FROM generate_series(1, 20000) AS i", "CHECKPOINT")
	alike := func() {
		t.Helper()
		end := w.server.Query("", "SELECT pg_current_wal_flush_lsn()")
		w.logReaches(1, end)
		w.until("the other site has everything", func() bool {
			r := w.try("geo", "status", "-o", "json")
			if r.code != 0 {
				return false
			}
			s := decode[[]workspace.ReplicaStatus](t, r.out)
			return s[1].Missing == 0 && !s[1].Point.Before(s[0].Point)
		})
	}
	alike() // the agent takes the first snapshot, and copies it
	w.snapshot()
	away := filepath.Join(w.dir, "away")
	if err := os.Rename(filepath.Join(w.dir, "there"), away); err != nil {
		t.Fatal(err)
	}
	w.server.Exec("", "UPDATE book SET filler = '' WHERE entry LIKE 'before 1%'", "CHECKPOINT")
	if s := w.snapshot(); s.FullScan != "" {
		t.Errorf("a snapshot has read everything: %s", s.FullScan)
	}
	if err := os.Rename(away, filepath.Join(w.dir, "there")); err != nil {
		t.Fatal(err)
	}
	w.geoCopy() // beside the agent, which knows only of the snapshots that it takes itself, for some minutes
	alike()

	l := startLedger(t, w.server, "load")
	pause(6 * time.Second)
	disaster := time.Now()
	w.server.Kill9()
	agent.kill9()
	l.wg.Wait()
	w.lose()
	r := w.restore("back", "--site", "there", "--start")
	if m := l.missing(t, r, disaster.Add(-5*time.Second)); len(m) > 0 {
		t.Errorf("of %d commits, %d that were acknowledged more than 5 s before %s are gone: %.1000q", len(l.commits), len(m), disaster.Format("15:04:05.000"), m)
	}
	if n := r.query("SELECT count(*) FROM book WHERE filler = ''"); n == "0" {
		t.Error("what was changed while the site was away is not there")
	}
	t.Logf("%d commits, lost at all: %d", len(l.commits), len(l.missing(t, r, disaster.Add(time.Hour))))
	r.stop()
	w.run("repo", "check", "--site", "there", "--read-data")
	if got := w.recorded("there", system); !strings.Contains(got, "snapshot") || !strings.HasSuffix(got, "recovery") {
		t.Errorf("the other site has evidence of %s", got)
	}
}

// TestResidency copies nothing to where a system's data may not be, whoever asks for it.
func TestResidency(t *testing.T) {
	t.Parallel()
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
	if r := w.try("geo", "copy", "--to", "there", "--override-residency", "why"); r.code != 2 {
		t.Errorf("with no system that it is for, --override-residency ends with %d: %s", r.code, r.stderr)
	}
	w.run("geo", "copy", system, "--to", "there", "--override-residency", "the court of Zurich asks for it")
	w.run("geo", "copy", system, "--to", "there", "--override-residency", "the court of Zurich asks for it")
	for _, site := range []string{"here", "there"} {
		type place struct{ System, Site, Jurisdiction, Override, User, Location string }
		all := decode[[]place](t, w.run("geo", "places", "--site", site, "-o", "json"))
		want := place{System: system, Site: "there", Jurisdiction: "CH", Override: "the court of Zurich asks for it", Location: "file://" + there}
		if len(all) != 1 || all[0].User == "" {
			t.Fatalf("site %s knows of the places %+v", site, all)
		}
		if all[0].User = ""; all[0] != want {
			t.Errorf("site %s knows of %+v, want %+v", site, all[0], want)
		}
		if got := w.recorded(site, system); got != "snapshot residency-override residency-override" {
			t.Errorf("site %s has evidence of %s", site, got)
		}
		w.run("repo", "check", "--site", site)
	}
	w.run("evidence", "verify")
}

// recorded returns the kinds of what a site has evidence of, in the order in which it ended.
func (w *world) recorded(site, system string) string {
	w.t.Helper()
	var kinds []string
	for _, r := range decode[[]struct{ Statement evidence.Statement }](w.t, w.run("evidence", "list", system, "--site", site, "-o", "json")) {
		kinds = append(kinds, string(r.Statement.Kind))
	}
	return strings.Join(kinds, " ")
}
