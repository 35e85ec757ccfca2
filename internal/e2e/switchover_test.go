package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-dr/holdfast/internal/pg/pgtest"
)

// TestSwitchoverDuringASnapshot promotes a standby while a snapshot is taken from the primary. The agent knows both
// hosts, and goes on with the one that accepts writes.
func TestSwitchoverDuringASnapshot(t *testing.T) {
	t.Parallel()
	o := pgtest.Options{Version: "15", TCP: true, Checksums: true, Conf: map[string]string{"max_slot_wal_keep_size": "2GB"}}
	w := newWorld(t, o)
	standby := w.server.Standby(pgtest.Options{TCP: true, Conf: o.Conf})
	w.configure(setup{remote: true, connection: fmt.Sprintf(
		"host=127.0.0.1,127.0.0.1 port=%d,%d user=postgres dbname=postgres sslmode=disable target_session_attrs=read-write", w.server.Port, standby.Port)})
	w.run("repo", "init")
	agent := w.agentOn(w.server)
	w.server.Exec("", ledgerTable, "CREATE TABLE big AS SELECT i, md5(i::text) AS v FROM generate_series(1, 400000) AS i")
	w.run("snapshot", "create", system)
	w.server.Exec("", "INSERT INTO book VALUES ('before', '')")
	w.until("the standby has replayed it", func() bool {
		return standby.Query("", "SELECT count(*) FROM pg_tables WHERE tablename = 'big'") == "1" && standby.Query("", "SELECT count(*) FROM book") == "1"
	})
	end := w.server.Query("", "SELECT pg_current_wal_flush_lsn()")
	w.logReaches(1, end)

	during := w.start("snapshot", "create", system)
	pause(150 * time.Millisecond)
	w.server.Stop(pgtest.Fast)
	standby.Promote()
	standby.Exec("", "INSERT INTO book VALUES ('after', '')")
	r := during.wait()
	t.Logf("the snapshot that met the switchover ends with %d: %s", r.code, r.stderr)
	if r.code != 0 && !strings.Contains(r.stderr, "holdfast: ") {
		t.Errorf("the snapshot failed without saying why: %s", r.stderr)
	}
	w.until("the agent follows", func() bool {
		return standby.Query("", "SELECT count(*) FROM pg_stat_replication WHERE application_name LIKE 'holdfast%'") == "1"
	})
	w.run("snapshot", "create", system)
	standby.Exec("", "INSERT INTO book VALUES ('the end', '')")
	want := digest(t, standby.ConnString, true)
	standby.Stop(pgtest.Fast)
	agent.stop()

	back := w.restore("back", "--start")
	if d := cmp.Diff(want, digest(t, back.connString, false)); d != "" {
		t.Errorf("after the switchover (-source +restored):\n%s", d)
	}
	back.stop()
	// The oldest snapshot reaches the end over the switch of timelines.
	list := w.snapshots()
	for _, s := range list[1:] {
		w.run("snapshot", "forget", system, s.ID, "--confirm", system)
	}
	oldest := w.restore("oldest", "--start")
	if d := cmp.Diff(want, digest(t, oldest.connString, false)); d != "" {
		t.Errorf("from the snapshot before the switchover (-source +restored):\n%s", d)
	}
	oldest.stop()
}

// TestTwentyTimelines promotes one server again and again, past timeline 0x10, whose names are hexadecimal.
func TestTwentyTimelines(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Options{Version: "15"})
	w.run("repo", "init")
	w.server.Exec("", ledgerTable)
	agent := w.agent()
	w.run("snapshot", "create", system)
	const last = 19
	for timeline := 2; timeline <= last; timeline++ {
		w.server.Exec("", fmt.Sprintf("INSERT INTO book VALUES ('on %d', '')", timeline-1))
		w.promoteInPlace()
	}
	w.server.Exec("", "INSERT INTO book VALUES ('the end', '')")
	w.logReaches(last, w.server.Query("", "SELECT pg_current_wal_flush_lsn()"))
	want := digest(t, w.server.ConnString, true)
	w.server.Stop(pgtest.Fast)
	agent.stop()

	r := w.restore("back", "--start")
	if d := cmp.Diff(want, digest(t, r.connString, false)); d != "" {
		t.Errorf("over %d timelines (-source +restored):\n%s", last, d)
	}
	if r.Recovery.Timeline <= last {
		t.Errorf("the restored server is on timeline %d, want one of its own above %d", r.Recovery.Timeline, last)
	}
	r.stop()

	old := w.restore("old", "--start", "--timeline", "17")
	if got := old.query("SELECT string_agg(entry, ',' ORDER BY entry) FROM book WHERE entry IN ('on 16', 'on 17', 'on 18', 'the end')"); got != "on 16,on 17" {
		t.Errorf("timeline 17 ends with %q", got)
	}
	old.stop()
}

// agentOn is agent for a server that is not the only one.
func (w *world) agentOn(s *pgtest.Server) *process {
	w.t.Helper()
	p := w.start("agent")
	w.until("the agent receives the log", func() bool {
		return s.Query("", "SELECT count(*) FROM pg_stat_replication WHERE application_name = 'holdfast' AND state = 'streaming'") == "1"
	})
	return p
}

// logReaches waits until the repository holds a timeline's log up to a position.
func (w *world) logReaches(timeline int, lsn string) {
	w.t.Helper()
	w.until(fmt.Sprintf("the log of timeline %d reaches %s", timeline, lsn), func() bool {
		status := decode[struct {
			Timelines []struct {
				Timeline int
				To       string
			}
		}](w.t, w.run("log", "status", system, "-o", "json"))
		for _, tl := range status.Timelines {
			if tl.Timeline == timeline && position(w.t, tl.To) >= position(w.t, lsn) {
				return true
			}
		}
		return false
	})
}

func position(t *testing.T, lsn string) uint64 {
	t.Helper()
	var hi, lo uint64
	if _, err := fmt.Sscanf(lsn, "%X/%X", &hi, &lo); err != nil {
		t.Fatalf("%q is no position in the log: %v", lsn, err)
	}
	return hi<<32 | lo
}
