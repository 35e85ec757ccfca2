package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/holdfast-dr/holdfast/internal/pg/pgtest"
)

// warm is a standby that is kept.
type warm struct {
	w    *world
	dir  string
	port string
	p    *process
	args []string
}

type warmStatus struct {
	Phase, Problem, Replayed, LogEnd string
	LogFrom, PrimaryProblem          string
	Timeline                         int
	LagNs, LagBytes                  int64
}

func (w *world) warm(args ...string) *warm {
	w.t.Helper()
	s := &warm{w: w, dir: filepath.Join(w.dir, "standby"), port: "5499"}
	s.args = append([]string{"standby", "run", system, "--to", s.dir, "--port", s.port, "--every", "100ms"}, args...)
	s.run()
	return s
}

func (s *warm) run() { s.p = s.w.start(s.args...) }

func (s *warm) connString(db string) string {
	return fmt.Sprintf("host=%s/state/systems/%s/standby port=%s user=postgres dbname=%s sslmode=disable", s.w.dir, system, s.port, db)
}

// query returns a query's value; empty where the server does not answer.
func (s *warm) query(sql string) string {
	ctx := s.w.t.Context()
	conn, err := pgx.Connect(ctx, s.connString("postgres"))
	if err != nil {
		return ""
	}
	defer conn.Close(ctx)
	var v string
	if err := conn.QueryRow(ctx, "SELECT ("+sql+")::text").Scan(&v); err != nil {
		return ""
	}
	return v
}

func (s *warm) sees(what, sql, want string) {
	s.w.t.Helper()
	s.w.until(what, func() bool {
		select {
		case <-s.p.ended:
			s.w.t.Fatalf("the standby's process ended:\n%s", s.p.said())
		default:
		}
		return s.query(sql) == want
	})
}

func (s *warm) status() warmStatus {
	s.w.t.Helper()
	r := s.w.try("standby", "status", system, "-o", "json")
	return decode[[]warmStatus](s.w.t, r.out)[0]
}

// postmaster returns the server's process.
func (s *warm) postmaster() int {
	first, _, _ := strings.Cut(read(filepath.Join(s.dir, "postmaster.pid")), "\n")
	pid, err := strconv.Atoi(first)
	if err != nil {
		s.w.t.Fatal(err)
	}
	return pid
}

// A standby is kept from the repository alone. Whatever is killed, it goes on where it was; it is promoted with everything that
// the repository holds, on a timeline that the repository does not know, and is not made a standby again by a service that
// restarts.
func TestWarmStandby(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Options{Version: pgtest.Versions(t)[0]}) // the oldest
	w.server.Exec("", ledgerTable, "CREATE TABLE big AS SELECT i, md5(i::text) AS v FROM generate_series(1, 20000) AS i")
	w.run("repo", "init")
	agent := w.agent()
	w.run("snapshot", "create", system)
	n := 0
	commit := func() string {
		n++
		w.server.Exec("", fmt.Sprintf("INSERT INTO book VALUES ('%d', '')", n), "UPDATE big SET v = md5(v) WHERE i % 7 = 0")
		return strconv.Itoa(n)
	}
	s := w.warm()
	s.sees("the standby has what was committed", "SELECT count(*) FROM book", commit())
	w.until("the status says so", func() bool {
		st := s.status()
		return st.Phase == "following" && st.Problem == "" && st.LagBytes == 0
	})
	t.Log("the keeper is killed")
	before := s.postmaster()
	s.p.kill9()
	want := commit()
	if st := s.status(); st.Phase != "not running" {
		t.Errorf("after the kill the status is %+v", st)
	}
	s.run()
	s.sees("the standby goes on", "SELECT count(*) FROM book", want)
	if now := s.postmaster(); now != before {
		t.Errorf("the server was started anew: %d, %d", before, now)
	}
	t.Log("the server is killed")
	if err := syscall.Kill(before, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	s.sees("the server is started again", "SELECT count(*) FROM book", commit())
	t.Log("both are killed, and the source has a crash")
	s.p.kill9()
	if err := syscall.Kill(s.postmaster(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	w.server.Crash()
	want = commit()
	s.run()
	s.sees("both come back", "SELECT count(*) FROM book", want)
	t.Log("the store is away")
	if err := os.Rename(w.dir+"/repository", w.dir+"/away"); err != nil {
		t.Fatal(err)
	}
	w.until("the status tells it", func() bool { return s.status().Problem != "" })
	if err := os.Rename(w.dir+"/away", w.dir+"/repository"); err != nil {
		t.Fatal(err)
	}
	s.sees("it goes on", "SELECT count(*) FROM book", commit())

	if r := w.try("standby", "promote", system); r.code == 0 || !strings.Contains(r.stderr, "the source accepts writes") {
		t.Fatalf("promoted beside a primary: %d\n%s", r.code, r.stderr)
	}
	s.sees("it still follows", "SELECT count(*) FROM book", commit())
	source := digest(t, w.server.ConnString, true)
	w.server.Stop(pgtest.Fast)
	agent.stop()
	// A timeline that the standby does not follow must not be chosen again.
	out := w.run("standby", "promote", system)
	t.Logf("%s", out)
	if r := s.p.wait(); r.code != 0 {
		t.Errorf("the keeper ends with %d:\n%s", r.code, r.stderr)
	}
	if d := cmp.Diff(source, digest(t, s.connString, false)); d != "" {
		t.Errorf("-source +standby:\n%s", d)
	}
	if got := s.query("pg_is_in_recovery() || ' ' || left(pg_walfile_name(pg_current_wal_lsn()), 8)"); got != "false 00000002" {
		t.Errorf("the primary is %s", got)
	}
	if !strings.Contains(out, "nothing that the repository is known to have held is missing") {
		t.Errorf("it says\n%s", out)
	}
	if w.has("pg_amcheck") {
		w.program("pg_amcheck", "--install-missing", "-h", w.dir+"/state/systems/"+system+"/standby", "-p", s.port, "-U", "postgres", "--all")
	}
	if r := w.try("standby", "promote", system); r.code != 1 || !strings.Contains(r.stderr, "promoted") {
		t.Errorf("promoted twice: %d\n%s", r.code, r.stderr)
	}
	if st := s.status(); st.Phase != "promoted" || st.Timeline != 2 {
		t.Errorf("the status is %+v", st)
	}
	s.isKeptByNobody()
	if err := syscall.Kill(s.postmaster(), syscall.SIGKILL); err != nil { // with its host, which boots again
		t.Fatal(err)
	}
	s.isKeptByNobody()
	if err := os.Remove(w.dir + "/state/systems/" + system + "/standby/standby.json"); err != nil { // a new host with the old disk
		t.Fatal(err)
	}
	s.isKeptByNobody()
	if _, err := os.Stat(s.dir + "/standby.signal"); err == nil {
		t.Error("it was made a standby again")
	}
}

// isKeptByNobody wants standby run to refuse a promoted standby, in the way in which its service does not start it again.
func (s *warm) isKeptByNobody() {
	s.w.t.Helper()
	if r := s.w.try(s.args...); r.code != 4 || !strings.Contains(r.stderr, "promoted") && !strings.Contains(r.stderr, "accepts writes") {
		s.w.t.Errorf("a promoted standby: %d\n%s", r.code, r.stderr)
	}
	if unit := read("../../packaging/systemd/holdfast-standby@.service"); !strings.Contains(unit, "\nRestartPreventExitStatus=4\n") {
		s.w.t.Errorf("its service starts it again and again:\n%s", unit)
	}
}

// A source fails over, in order and with a loss; it raises a setting that a standby must not undercut; and its log gets a gap. The
// standby follows, or is brought back to a newer snapshot by what differs, and says which.
func TestWarmStandbyOfAnUnsteadySource(t *testing.T) {
	versions := pgtest.Versions(t)
	if !*standbyAll {
		versions = versions[len(versions)-1:]
	}
	for _, v := range versions {
		t.Run(v, func(t *testing.T) {
			t.Parallel()
			unsteady(t, v)
		})
	}
}

func unsteady(t *testing.T, version string) {
	o := pgtest.Options{Version: version, InitArgs: []string{"--wal-segsize=1"}}
	w := newWorld(t, o)
	w.server.Exec("", ledgerTable, "CREATE TABLE big AS SELECT i, md5(i::text) AS v FROM generate_series(1, 20000) AS i")
	w.run("repo", "init")
	agent := w.agent()
	w.run("snapshot", "create", system)
	s := w.warm()
	follows := func(what string) {
		t.Helper()
		w.server.Exec("", fmt.Sprintf("INSERT INTO book VALUES ('%s', '')", what))
		s.sees(what, fmt.Sprintf("SELECT count(*) FROM book WHERE entry = '%s'", what), "1")
	}
	rebuilt := func() int { return strings.Count(s.p.said(), "brought back to a newer snapshot") }
	failOver := func(meanwhile func(old *pgtest.Server)) {
		next := w.server.Standby(pgtest.Options{Conf: map[string]string{"max_locks_per_transaction": "99", "wal_keep_size": "8MB"}})
		next.Until(t, "", "SELECT pg_last_wal_replay_lsn() >= '"+w.server.Query("", "SELECT pg_current_wal_flush_lsn()")+"'", "t")
		next.Stop(pgtest.Fast)
		meanwhile(w.server)
		w.server.Kill9()
		agent.kill9()
		next.Start()
		next.Promote()
		w.server = next
		w.configure(setup{})
		agent = w.agent()
	}
	follows("at the beginning")
	w.server.Exec("", "ALTER SYSTEM SET max_locks_per_transaction = 99")
	w.server.Stop(pgtest.Fast)
	w.server.Start()
	follows("with more locks")
	if got := s.query("current_setting('max_locks_per_transaction')"); got != "99" {
		t.Errorf("the standby has %s locks", got)
	}

	failOver(func(*pgtest.Server) {})
	follows("on timeline 2")
	if n := rebuilt(); n != 0 {
		t.Errorf("it was brought back %d times, where it could follow", n)
	}
	failOver(func(*pgtest.Server) { follows("lost with the old primary") })
	follows("on timeline 3")
	if got := s.query("SELECT count(*) FROM book WHERE entry LIKE 'lost %'"); got != "0" || rebuilt() != 1 {
		t.Errorf("of the lost end it has %s rows; it was brought back %d times", got, rebuilt())
	}

	agent.kill9()
	w.server.Until(t, "", "SELECT count(*) FROM pg_replication_slots WHERE active", "0")
	w.server.Exec("", "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots")
	for i := range 20 {
		w.server.Exec("", fmt.Sprintf("INSERT INTO book VALUES ('in the gap %d', '')", i), "UPDATE big SET v = md5(v) WHERE i % 10 = 0", "SELECT pg_switch_wal()", "CHECKPOINT")
	}
	agent = w.agent()
	w.run("snapshot", "create", system) // the agent would take one within a minute
	follows("behind the gap")
	if rebuilt() != 2 || !strings.Contains(s.p.said(), "has a gap from") {
		t.Errorf("it was brought back %d times:\n%s", rebuilt(), s.p.said())
	}
	agent.stop()
	source := digest(t, w.server.ConnString, true)
	s.p.stop()
	if _, err := os.Stat(filepath.Join(s.dir, "postmaster.pid")); err == nil {
		t.Error("the server was not stopped with its keeper")
	}
	agent = w.agent() // what froze the sequences has to come too
	s.run()
	end := w.server.Query("", "SELECT pg_current_wal_flush_lsn()")
	s.sees("all of it", "SELECT pg_last_wal_replay_lsn() >= '"+end+"'", "true")
	if d := cmp.Diff(source, digest(t, s.connString, false)); d != "" {
		t.Errorf("-source +standby:\n%s", d)
	}
	w.server.Stop(pgtest.Fast)
	agent.stop()
	if out := w.run("standby", "promote", system); !strings.Contains(out, "on timeline 4\n") {
		t.Errorf("the promotion says\n%s", out)
	}
}
