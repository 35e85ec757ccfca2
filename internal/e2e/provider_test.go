package e2e

import (
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-dr/holdfast/internal/pg/pgtest"
	"github.com/holdfast-dr/holdfast/internal/store/storetest"
)

// TestASiteIsLostDuringARestore kills the server of the first site in the middle of a read: the restore goes on from the other.
func TestASiteIsLostDuringARestore(t *testing.T) {
	t.Parallel()
	if !*regionCuts {
		t.Skip("a site that does not answer is tried for a while: make regions")
	}
	s3, w := s3World(t)
	w.configure(setup{url: s3URL(s3, s3.Endpoint), other: "file://" + w.dir + "/there"})
	w.run("repo", "init")
	agent := w.agent()
	w.server.Exec("", "CREATE TABLE big AS SELECT i, md5(i::text) || md5((i * 7)::text) AS v FROM generate_series(1, 150000) AS i", "CHECKPOINT")
	w.members(agent, 2)
	w.snapshotAtBoth()
	w.server.Exec("", "UPDATE big SET v = md5(v) WHERE i % 3 = 0", "SELECT pg_switch_wal()")
	source := digest(t, w.server.ConnString, true)
	w.logReaches(1, w.server.Query("", "SELECT pg_current_wal_flush_lsn()"))
	w.alike()
	w.server.Stop(pgtest.Fast)
	agent.stop()
	line := storetest.NewProxy(t, s3.Endpoint)
	w.configure(setup{url: s3URL(s3, line.Endpoint), other: "file://" + w.dir + "/there"})
	hit := line.Cut(storetest.Cut{Kind: "GET", Answer: true, After: 200 << 10, Do: s3.Kill})
	r := w.restore("back", "--start")
	w.inFlight("a read of the restore", hit)
	if d := cmp.Diff(source, digest(t, r.connString, false)); d != "" {
		t.Errorf("-source +restored:\n%s", d)
	}
	if !strings.Contains(strings.Join(r.Notes, "\n"), "parts came from other sites") {
		t.Errorf("the restore says %q", r.Notes)
	}
	r.stop()
}

// TestAProviderThatRefusesHalfOfAll makes commits wait for a site whose provider refuses half of all requests with 503, and whose
// clock is wrong by minutes: what was acknowledged is there, and so is what was copied.
func TestAProviderThatRefusesHalfOfAll(t *testing.T) {
	t.Parallel()
	s3, w := s3World(t)
	provider := storetest.NewProvider(t, s3)
	provider.Skew(7 * time.Minute)
	w.configure(setup{other: s3URL(s3, provider.Endpoint), copies: "{sync: 2, min: 2, patience: 0s}"})
	w.run("repo", "init")
	agent := w.agent()
	w.server.Exec("", ledgerTable)
	w.members(agent, 2)
	w.synchronous()
	w.until("the first snapshot is there", func() bool { return w.statuses()["there"].Problem == "" })
	provider.Busy(0.5)
	l := startLedger(t, w.server, "half")
	w.until("there are commits", func() bool { return l.count() > 30 })
	w.server.Exec("", "CHECKPOINT")
	w.snapshot()
	w.run("geo", "copy")
	w.server.Kill9()
	agent.kill9()
	l.wg.Wait()
	w.lose()
	provider.Busy(0.05) // a thousand files are as many requests: with half of them refused it takes minutes
	r := w.restore("back", "--site", "there", "--start")
	if m := l.missing(t, r, time.Now()); len(m) > 0 {
		t.Errorf("of %d acknowledged commits %d are gone: %.2000q", len(l.commits), len(m), m)
	}
	provider.Busy(0)
	refused, _, _ := provider.Seen()
	t.Logf("%d commits were acknowledged, %d requests were refused", len(l.commits), refused)
	if refused == 0 {
		t.Error("no request was refused")
	}
	r.stop()
	w.run("repo", "check", "--site", "there", "--read-data")
}

// TestAProviderThatLosesWhatItHas lets the other site's provider acknowledge a part of the log, and a pack, that it does not keep: what
// is told of the site is true, a restore takes from the first what is missing, and what the first has is put back.
func TestAProviderThatLosesWhatItHas(t *testing.T) {
	t.Parallel()
	s3, w := s3World(t)
	provider := storetest.NewProvider(t, s3)
	w.configure(setup{other: s3URL(s3, provider.Endpoint)})
	w.run("repo", "init")
	agent := w.agent()
	w.server.Exec("", "CREATE TABLE big AS SELECT i, md5(i::text) || md5((i * 7)::text) AS v FROM generate_series(1, 100000) AS i")
	w.members(agent, 2)
	w.snapshotAtBoth()

	// A whole segment: what a piece of one lacks is healed by the whole that takes its place.
	segment := regexp.MustCompile(`^hf/log/.*000000-[0-9a-f]*000000$`)
	provider.Lose(segment.MatchString)
	w.until("a part of the log is lost", func() bool {
		w.server.Exec("", "UPDATE big SET v = md5(v) WHERE i < 10", "SELECT pg_switch_wal()")
		_, lost, _ := provider.Seen()
		return len(lost) > 0
	})
	for range 2 {
		w.server.Exec("", "UPDATE big SET v = md5(v) WHERE i < 20", "SELECT pg_switch_wal()")
	}
	source := digest(t, w.server.ConnString, true)
	end := position(t, w.server.Query("", "SELECT pg_current_wal_flush_lsn()"))
	w.until("the log is at the first site", func() bool { return w.logEnd("here") >= end })
	w.server.Stop(pgtest.Fast)
	agent.stop()
	s := w.statuses()
	if s["here"].Problem != "" || s["there"].Problem == "" && !s["there"].Point.Before(s["here"].Point) {
		t.Errorf("the log of site there has a hole, and geo status says %+v", s)
	}
	r := w.restore("back", "--site", "there", "--start")
	if d := cmp.Diff(source, digest(t, r.connString, false)); d != "" {
		t.Errorf("-source +restored:\n%s", d)
	}
	r.stop()
	w.run("geo", "copy")
	w.alike()

	w.server.Start()
	w.server.Exec("", "UPDATE big SET v = md5(v)", "CHECKPOINT")
	w.snapshot()
	provider.Lose(func(name string) bool { return strings.HasPrefix(name, "hf/packs/") })
	w.run("geo", "copy")
	if _, lost, _ := provider.Seen(); len(lost) != 2 {
		t.Fatalf("the provider has lost %q", lost)
	}
	if r := w.try("repo", "check", "--site", "there"); r.code != 3 {
		t.Errorf("a pack is lost, and the check ends with %d", r.code)
	}
	w.run("repo", "check", "--site", "there", "--read-data", "--repair")
	w.alike()
	w.intact()
}

// TestAProviderThatListsLate lets what was written be missing in listings for a while. Nothing is deleted there, not even by the
// agent, and when the listings are complete again both sites are alike.
func TestAProviderThatListsLate(t *testing.T) {
	t.Parallel()
	s3, w := s3World(t)
	provider := storetest.NewProvider(t, s3)
	w.configure(setup{url: s3URL(s3, provider.Endpoint), other: "file://" + w.dir + "/there", keep: 1})
	w.run("repo", "init")
	provider.ListLate(700 * time.Millisecond)
	agent := w.agent()
	w.server.Exec("", ledgerTable, "INSERT INTO book SELECT i::text, md5(i::text) FROM generate_series(1, 50000) AS i")
	w.members(agent, 2)
	for range 2 {
		w.server.Exec("", "UPDATE book SET filler = md5(filler)")
		w.snapshot()
	}
	if r := w.try("repo", "prune", "--confirm", "main"); r.code == 0 || !strings.Contains(r.stderr, "does not list at once") {
		t.Errorf("a collection where listings are late ends with %d: %s", r.code, r.stderr)
	}
	if _, _, hidden := provider.Seen(); hidden == 0 {
		t.Error("nothing was hidden")
	}
	provider.ListLate(0)
	source := digest(t, w.server.ConnString, true)
	w.logReaches(1, w.server.Query("", "SELECT pg_current_wal_flush_lsn()"))
	for _, site := range []string{"here", "there"} {
		w.run("geo", "copy", "--site", site)
	}
	w.run("repo", "prune", "--confirm", "main")
	w.run("repo", "prune", "--site", "there", "--confirm", "main")
	w.alike()
	w.server.Stop(pgtest.Fast)
	agent.stop()
	for _, site := range []string{"here", "there"} {
		w.run("repo", "check", "--site", site, "--read-data")
		r := w.restore("from-"+site, "--site", site, "--start")
		if d := cmp.Diff(source, digest(t, r.connString, false)); d != "" {
			t.Errorf("site %s: -source +restored:\n%s", site, d)
		}
		r.stop()
	}
}

// TestASiteReturnsFromThePast puts an old copy of each site's directory back, of the first and of the other, while the agent runs:
// what the other has comes back, and nothing that is listed lacks a byte.
func TestASiteReturnsFromThePast(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Options{Version: "15"})
	w.configure(setup{url: "file://" + w.dir + "/here/replica", other: "file://" + w.dir + "/there/replica"})
	w.mkdir("here")
	w.mkdir("there")
	w.run("repo", "init")
	agent := w.agent()
	w.server.Exec("", ledgerTable, "INSERT INTO book SELECT i::text, md5(i::text) FROM generate_series(1, 50000) AS i")
	w.members(agent, 2)
	change := func() {
		w.server.Exec("", "UPDATE book SET filler = md5(filler) WHERE entry LIKE '%7'")
		w.snapshotAtBoth()
		w.server.Exec("", "SELECT pg_switch_wal()")
	}
	for _, site := range []string{"there", "here"} {
		change()
		old := filepath.Join(w.dir, "old-"+site)
		w.copyTree(filepath.Join(w.dir, site), old)
		change()
		change()
		w.members(agent, 2)
		all := w.snapshots()
		dir := filepath.Join(w.dir, site)
		// A directory that is only renamed is still written to, and one that is missing is made anew, and filled.
		if err := errors.Join(os.RemoveAll(dir), os.WriteFile(dir, nil, 0o600)); err != nil {
			t.Fatal(err)
		}
		w.server.Exec("", "UPDATE book SET filler = md5(filler) WHERE entry LIKE '%3'")
		w.members(agent, 1)
		if err := errors.Join(os.Remove(dir), os.Rename(old, dir)); err != nil {
			t.Fatal(err)
		}
		w.members(agent, 2)
		w.alike()
		if now := w.snapshots(); !slices.EqualFunc(all, now[:min(len(all), len(now))], func(a, b listed) bool { return a.ID == b.ID }) {
			t.Errorf("site %s came back from the past: there were %d snapshots, and there are %d", site, len(all), len(now))
		}
	}
	source := digest(t, w.server.ConnString, true)
	end := position(t, w.server.Query("", "SELECT pg_current_wal_flush_lsn()"))
	w.until("both sites have the end of the log", func() bool { return w.logEnd("here") >= end && w.logEnd("there") >= end })
	w.server.Stop(pgtest.Fast)
	agent.stop()
	for _, site := range []string{"here", "there"} {
		w.run("repo", "check", "--site", site, "--read-data")
		r := w.restore("from-"+site, "--site", site, "--start")
		if d := cmp.Diff(source, digest(t, r.connString, false)); d != "" {
			t.Errorf("site %s: -source +restored:\n%s", site, d)
		}
		r.stop()
	}
}

// copyTree copies a directory for the servers' user.
func (w *world) copyTree(from, to string) {
	w.t.Helper()
	if r := w.launch("/bin/cp", "-a", from, to).wait(); r.code != 0 {
		w.t.Fatal(r.stderr)
	}
}
