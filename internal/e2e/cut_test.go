package e2e

import (
	"context"
	"flag"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/holdfast-dr/holdfast/internal/pg/pgtest"
	"github.com/holdfast-dr/holdfast/internal/store/storetest"
	"github.com/holdfast-dr/holdfast/internal/workspace"
)

var regionCuts = flag.Bool("regions.cuts", false, "cut regions off from each other")

// regions is a world whose database is in one network namespace, and whose sites here and there are S3 servers in two others.
type regions struct {
	*world
	home, here, there *storetest.Region
	s3                map[string]*storetest.S3Server // by site
}

func newRegions(t *testing.T) *regions {
	t.Helper()
	if !*regionCuts {
		t.Skip("a site that falls silent is waited for, for minutes in all: make regions")
	}
	n := storetest.NewNet(t)
	r := &regions{home: n.Region(t, "home"), here: n.Region(t, "here"), there: n.Region(t, "there")}
	r.s3 = map[string]*storetest.S3Server{"here": r.here.S3(t), "there": r.there.S3(t)}
	r.world = newWorld(t, pgtest.Options{Version: "15"})
	r.place = r.home
	r.env = awsEnv(r.s3["here"])
	r.direct()
	r.run("repo", "init")
	return r
}

// direct lets what is started from now on reach both sites as they are.
func (r *regions) direct() {
	r.t.Helper()
	r.reach(r.s3["here"].Endpoint, r.s3["there"].Endpoint)
}

func (r *regions) reach(here, there string) {
	r.t.Helper()
	r.configure(setup{url: s3URL(r.s3["here"], here), other: s3URL(r.s3["there"], there)})
}

// over lets what is started from now on reach a site over a line of its own.
func (r *regions) over(site string) *storetest.Proxy {
	r.t.Helper()
	line := r.home.Proxy(r.t, r.s3[site].Endpoint)
	if site == "here" {
		r.reach(line.Endpoint, r.s3["there"].Endpoint)
	} else {
		r.reach(r.s3["here"].Endpoint, line.Endpoint)
	}
	return line
}

// statuses returns what geo status says of each site; it need not be well.
func (w *world) statuses(args ...string) map[string]workspace.ReplicaStatus {
	w.t.Helper()
	out := map[string]workspace.ReplicaStatus{}
	for _, s := range decode[[]workspace.ReplicaStatus](w.t, w.try(append([]string{"geo", "status", "-o", "json"}, args...)...).out) {
		out[s.Site] = s
	}
	if len(out) != 2 {
		w.t.Fatalf("geo status tells of %v", out)
	}
	return out
}

// alike waits until both sites hold the same snapshots, and the log up to where the server is now.
func (w *world) alike() {
	w.t.Helper()
	w.until("both sites are alike", func() bool {
		var lists [2][]string
		for i, site := range []string{"here", "there"} {
			for _, s := range decode[[]listed](w.t, w.run("snapshot", "list", "--site", site, "-o", "json")) {
				lists[i] = append(lists[i], s.ID)
			}
		}
		s := w.statuses()
		return slices.Equal(lists[0], lists[1]) && s["here"].Point.Equal(s["there"].Point) &&
			s["here"].Missing+s["there"].Missing == 0 && s["here"].Problem+s["there"].Problem == ""
	})
}

// snapshotAtBoth takes a snapshot by hand and copies it: the agent knows only of those that it takes itself, for some minutes.
func (w *world) snapshotAtBoth() string {
	w.t.Helper()
	id := w.snapshot().Snapshot.ID
	w.run("geo", "copy")
	w.alike()
	return id
}

// intact reads back everything that both sites hold.
func (w *world) intact() {
	w.t.Helper()
	for _, site := range []string{"here", "there"} {
		w.run("repo", "check", "--site", site, "--read-data")
	}
}

// TestRegionsThatAreCutOff takes a region away in the middle of a snapshot, of a copy and of a collection. What was restorable stays
// so, what is told of it is true, and when it is back both are alike.
func TestRegionsThatAreCutOff(t *testing.T) {
	t.Parallel()
	w := newRegions(t)
	w.there.Bandwidth(t, "60mbit")
	agent := w.agent()
	w.server.Exec("", ledgerTable, "CREATE TABLE big AS SELECT i, md5(i::text) || md5((i * 7)::text) AS v FROM generate_series(1, 100000) AS i")
	w.members(agent, 2)
	before := w.snapshotAtBoth()

	// The first region, while a snapshot is written to it: the log goes on at the other, from which everything can be recovered.
	line := w.over("here")
	w.server.Exec("", "UPDATE big SET v = md5(v)")
	hit := line.Cut(storetest.Cut{Kind: "PUT", After: 100 << 10, Do: func() { w.here.Cut(t) }})
	during := w.start("snapshot", "create", system)
	w.inFlight("an upload of the snapshot", hit)
	w.direct()
	w.server.Exec("", "INSERT INTO book VALUES ('while the first region was away', '')")
	source := digest(t, w.server.ConnString, true)
	reached := w.server.Query("", "SELECT pg_current_wal_flush_lsn()")
	w.until("the log is at the other region", func() bool { return w.logEnd("there") >= position(t, reached) })
	during.kill9()
	s := w.statuses()
	if s["here"].Problem == "" || s["there"].Problem != "" || string(s["there"].Newest) != before || s["there"].Missing != 0 {
		t.Errorf("with the first region away geo status says %+v", s)
	}
	r := w.restore("from-there", "--site", "there", "--start")
	if d := cmp.Diff(source, digest(t, r.connString, false)); d != "" {
		t.Errorf("-source +restored:\n%s", d)
	}
	r.stop()
	w.here.Mend(t)
	w.members(agent, 2)
	w.alike()

	// The other region, while a snapshot is copied to it.
	w.server.Exec("", "UPDATE big SET v = md5(v)")
	agent.stop()
	w.snapshot()
	line = w.over("there")
	hit = line.Cut(storetest.Cut{Kind: "PUT", After: 100 << 10, Do: func() { w.there.Cut(t) }})
	during = w.start("geo", "copy")
	w.inFlight("an upload of the copy", hit)
	during.kill9()
	w.direct()
	if s := w.statuses(); s["here"].Problem != "" || s["there"].Problem == "" || s["there"].Missing != len(w.snapshots()) {
		t.Errorf("with the other region away geo status says %+v", s)
	}
	w.there.Mend(t)
	if s := w.statuses(); s["there"].Problem != "" || s["there"].Missing != 1 {
		t.Errorf("with the other region back geo status says %+v", s)
	}
	w.run("geo", "copy")
	w.alike()
	if r := w.restore("alike", "--site", "there"); strings.Contains(strings.Join(r.Notes, "\n"), "has more of the log") {
		t.Errorf("a restore from a site that has everything says %q", r.Notes)
	}

	// The same while its collection deletes what no snapshot needs.
	line = w.over("there")
	w.setup.keep = 1
	w.configure(w.setup)
	hit = line.Cut(storetest.Cut{Kind: "DELETE", Do: func() { w.there.Cut(t) }})
	during = w.start("repo", "prune", "--site", "there", "--confirm", "main")
	w.inFlight("a deletion", hit)
	during.kill9()
	w.there.Mend(t)
	for _, site := range []string{"there", "here"} {
		w.run("repo", "check", "--site", site, "--read-data")
		w.run("repo", "prune", "--site", site, "--confirm", "main")
	}
	w.alike()
	w.intact()
}

// TestALineFallsSilent leaves all connections to the other site half open, over a line that is far, unsteady and loses things: commits
// that wait for both sites go on after the patience, and the site has everything when new connections are answered again.
func TestALineFallsSilent(t *testing.T) {
	t.Parallel()
	w := newRegions(t)
	line := w.over("there")
	line.SetQuality(storetest.Quality{Delay: 10 * time.Millisecond, Jitter: 10 * time.Millisecond, Loss: 0.02})
	w.setup.copies = "{sync: 2, min: 2, patience: 2s}"
	w.configure(w.setup)
	agent := w.agent()
	w.server.Exec("", ledgerTable)
	w.members(agent, 2)
	w.synchronous()
	l := startLedger(t, w.server, "silent")
	w.until("there are commits", func() bool { return l.count() > 50 })
	line.Silence()
	w.until("fewer sites suffice", func() bool { c, healthy := w.copies(agent); return c.GaveUp && !healthy })
	before := l.count()
	w.until("commits go on", func() bool { return l.count() > before+50 })
	line.Mend()
	for range 3 { // a request on a connection that is silent is given up after half a minute, and then tried again
		if c, _ := w.copies(agent); !c.GaveUp {
			break
		}
		pause(30 * time.Second)
	}
	w.members(agent, 2)
	w.until("there is no alarm", func() bool { c, healthy := w.copies(agent); return !c.GaveUp && c.Short.IsZero() && healthy })
	before = l.count()
	w.until("commits go on at both", func() bool { return l.count() > before+50 })
	w.server.Kill9()
	agent.kill9()
	l.wg.Wait()
	w.direct()
	r := w.restore("back", "--site", "there", "--start")
	if m := l.missing(t, r, time.Now()); len(m) > 0 {
		t.Errorf("of %d acknowledged commits %d are not at the site that was silent: %.2000q", len(l.commits), len(m), m)
	}
	r.stop()
	w.intact()
}

// TestPartition lets both sides of a cut go on by themselves: the primary, with its agent and the first site, and a server that was
// recovered at the other site, with an agent there. When the cut heals, and the old primary is given up, both sites hold what either has.
func TestPartition(t *testing.T) {
	t.Parallel()
	w := newRegions(t)
	agent := w.agent()
	w.server.Exec("", ledgerTable, "INSERT INTO book VALUES ('before', '')")
	w.members(agent, 2)
	w.snapshotAtBoth()
	w.there.Cut(t)
	w.server.Exec("", "INSERT INTO book VALUES ('at the first site', '')")
	w.snapshot()
	old := digest(t, w.server.ConnString, true)
	w.logReaches(1, w.server.Query("", "SELECT pg_current_wal_flush_lsn()"))

	b := w.otherSide()
	r := b.restore("failover", "--site", "there", "--start")
	b.configure(setup{
		url: s3URL(w.s3["here"], w.s3["here"].Endpoint), other: s3URL(w.s3["there"], w.s3["there"].Endpoint),
		connection: r.connString("postgres"), remote: true, firstThere: true,
	})
	agentThere := b.start("agent")
	b.until("the other agent receives the log", func() bool {
		return r.query("SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'") == "1"
	})
	execute(t, r.connString("postgres"), "INSERT INTO book VALUES ('at the other site', '')")
	b.snapshot("--full-scan")
	if s := b.statuses(); s["here"].Problem == "" || s["there"].Problem != "" || s["there"].Snapshots != 3 {
		t.Errorf("at the other side of the cut geo status says %+v", s)
	}

	w.server.Kill9()
	agent.kill9()
	w.there.Mend(t)
	b.members(agentThere, 2)
	b.alike()
	now := digest(t, r.connString, true)
	end := position(t, r.query("SELECT pg_current_wal_flush_lsn()"))
	b.until("both sites have the end of the log", func() bool { return b.logEnd("here") >= end && b.logEnd("there") >= end })
	agentThere.stop()
	r.stop()
	for _, site := range []string{"here", "there"} {
		if n := len(decode[[]listed](t, b.run("snapshot", "list", "--site", site, "-o", "json"))); n != 4 {
			t.Errorf("site %s has %d snapshots, and four were taken", site, n)
		}
		for timeline, want := range map[string]map[string]string{"1": old, "2": now} {
			r := b.restore("from-"+site+"-"+timeline, "--site", site, "--timeline", timeline, "--start")
			if d := cmp.Diff(want, digest(t, r.connString, false)); d != "" {
				t.Errorf("site %s, timeline %s: -source +restored:\n%s", site, timeline, d)
			}
			r.stop()
		}
	}
	b.intact()
}

// otherSide is a world in the region there, with the same repository and what else such a place has.
func (r *regions) otherSide() *world {
	b := bareWorld(r.t)
	b.server, b.place, b.env = r.server, r.there, r.env
	b.configure(r.setup)
	return b
}

// logEnd returns how far the log goes at a site, on whatever timeline.
func (w *world) logEnd(site string) (end uint64) {
	w.t.Helper()
	type ranges struct{ Ranges []struct{ To string } }
	for _, r := range decode[ranges](w.t, w.try("recovery-points", system, "--site", site, "-o", "json").out).Ranges {
		end = max(end, position(w.t, r.To))
	}
	return end
}

func awsEnv(s3 *storetest.S3Server) []string {
	return []string{"AWS_ACCESS_KEY_ID=" + s3.AccessKey, "AWS_SECRET_ACCESS_KEY=" + s3.SecretKey, "AWS_EC2_METADATA_DISABLED=true"}
}

func execute(t *testing.T, connString, sql string) {
	t.Helper()
	ctx := context.Background()
	conn, err := pgx.Connect(ctx, connString)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx)
	if _, err := conn.Exec(ctx, sql); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}
