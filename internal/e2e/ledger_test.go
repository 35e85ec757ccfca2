package e2e

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/holdfast-dr/holdfast/internal/pg/pgtest"
)

// ledger writes numbered rows from several connections, and notes when the server acknowledged each.
type ledger struct {
	wg      sync.WaitGroup
	mu      sync.Mutex // guards commits
	commits map[string]time.Time
}

const ledgerTable = "CREATE TABLE IF NOT EXISTS book (entry text PRIMARY KEY, filler text)"

// startLedger begins to write; it ends when the server does. name keeps the entries of several ledgers apart.
func startLedger(t *testing.T, s *pgtest.Server, name string) *ledger {
	t.Helper()
	s.Exec("", ledgerTable)
	l := &ledger{commits: map[string]time.Time{}}
	for writer := range 4 {
		conn, err := pgx.Connect(t.Context(), s.ConnString(""))
		if err != nil {
			t.Fatal(err)
		}
		l.wg.Go(func() {
			defer conn.Close(context.Background()) //nolint:errcheck // the server is dead
			for n := 0; ; n++ {
				entry := fmt.Sprintf("%s %d %d", name, writer, n)
				if _, err := conn.Exec(context.Background(), "INSERT INTO book VALUES ($1, repeat(md5($1), 10))", entry); err != nil {
					return
				}
				l.mu.Lock()
				l.commits[entry] = time.Now()
				l.mu.Unlock()
			}
		})
	}
	return l
}

// count returns how many commits were acknowledged.
func (l *ledger) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.commits)
}

// missing returns the commits that are not in what came back, of those acknowledged before a moment.
func (l *ledger) missing(t *testing.T, r *restored, before time.Time) []string {
	t.Helper()
	have := map[string]bool{}
	for _, row := range rows(t, r.connString("postgres"), "SELECT entry, '' FROM book") {
		have[row[0]] = true
	}
	var missing []string
	for entry, at := range l.commits {
		if at.Before(before) && !have[entry] {
			missing = append(missing, entry+" at "+at.Format("15:04:05.000"))
		}
	}
	return missing
}

// lost returns when the commits were acknowledged that missing has returned.
func (l *ledger) lost(missing []string) (at []time.Time) {
	for _, m := range missing {
		entry, _, _ := strings.Cut(m, " at ")
		at = append(at, l.commits[entry])
	}
	return at
}

// TestAcknowledgedCommitsSurvive kills the primary and the agent at a random instant of a load, in several worlds, and
// holds what is recovered against what was acknowledged.
func TestAcknowledgedCommitsSurvive(t *testing.T) {
	t.Parallel()
	const rounds = 5
	chance := random(t)
	for round := range rounds {
		w := newWorld(t, pgtest.Options{Version: "15", Conf: map[string]string{"max_wal_size": "64MB"}})
		w.run("repo", "init")
		agent := w.agent()
		w.server.Exec("", ledgerTable)
		w.run("snapshot", "create", system)
		l := startLedger(t, w.server, fmt.Sprint("round", round))
		pause(2*time.Second + time.Duration(chance.Int64N(int64(1500*time.Millisecond))))
		disaster := time.Now()
		w.server.Kill9()
		agent.kill9()
		l.wg.Wait()
		if err := os.RemoveAll(w.server.DataDir); err != nil {
			t.Fatal(err)
		}
		r := w.restore("back", "--start")
		if m := l.missing(t, r, disaster.Add(-2*time.Second)); len(m) > 0 {
			t.Errorf("round %d: of %d commits, %d that were acknowledged more than 2 s before %s are gone: %.2000q",
				round, len(l.commits), len(m), disaster.Format("15:04:05.000"), m)
		}
		t.Logf("round %d: %d commits, lost at all: %d", round, len(l.commits), len(l.missing(t, r, disaster.Add(time.Hour))))
		r.stop()
	}
}

// synchronous makes commits wait for the agent.
func (w *world) synchronous() {
	w.t.Helper()
	name := w.server.Query("", "SELECT application_name FROM pg_stat_replication")
	w.server.Exec("", fmt.Sprintf("ALTER SYSTEM SET synchronous_standby_names = '%q'", name), "SELECT pg_reload_conf()")
	w.server.Until(w.t, "", "SELECT sync_state FROM pg_stat_replication", "sync")
}

// TestSynchronousModeLosesNothing makes the agent the standby that commits wait for.
func TestSynchronousModeLosesNothing(t *testing.T) {
	t.Parallel()
	chance := random(t)
	w := newWorld(t, pgtest.Options{Version: "15"})
	w.run("repo", "init")
	agent := w.agent()
	w.server.Exec("", ledgerTable)
	w.run("snapshot", "create", system)
	w.synchronous()
	l := startLedger(t, w.server, "sync")
	pause(2*time.Second + time.Duration(chance.Int64N(int64(time.Second))))
	w.server.Kill9()
	agent.kill9()
	l.wg.Wait()
	if len(l.commits) < 20 {
		t.Fatalf("only %d commits were acknowledged", len(l.commits))
	}
	if err := os.RemoveAll(w.server.DataDir); err != nil {
		t.Fatal(err)
	}
	r := w.restore("back", "--start")
	if m := l.missing(t, r, time.Now()); len(m) > 0 {
		t.Errorf("of %d acknowledged commits %d are gone: %.2000q", len(l.commits), len(m), m)
	}
	t.Logf("%d commits were acknowledged, and all came back", len(l.commits))
	r.stop()
}

// TestCleanStop stops the server with the agent running, and loses the cluster: the last commit was in a segment
// that was never finished.
func TestCleanStop(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Options{Version: "15"})
	w.run("repo", "init")
	agent := w.agent()
	w.run("snapshot", "create", system)
	w.server.Exec("", ledgerTable)
	w.server.Exec("", "INSERT INTO book VALUES ('the last', '')")
	w.program("pg_ctl", "-D", w.server.DataDir, "-m", "fast", "-w", "stop")
	w.server.WaitExit()
	agent.stop()
	if err := os.RemoveAll(w.server.DataDir); err != nil {
		t.Fatal(err)
	}
	r := w.restore("back", "--start")
	if got := r.query("SELECT string_agg(entry, ',') FROM book"); got != "the last" {
		t.Errorf("after a clean stop the table has %q", got)
	}
	if d := w.run("recovery-points", system); strings.Contains(d, "LOST") {
		t.Errorf("log is lost:\n%s", d)
	}
	r.stop()
}
