package e2e

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/holdfast-dr/holdfast/internal/pg/pgtest"
)

var (
	standbyKills = flag.Int("standby.kills", 3, "how often the standby under load is killed, in one way or another")
	standbyAll   = flag.Bool("standby.all", false, "the standby of an unsteady source in all versions, not the newest alone")
	standbyLag   = flag.Duration("standby.lag", 0, "measure the lag of a standby under pgbench for so long, and the promotion after that; 0: not")
	standbyPace  = flag.String("standby.intervals", "1s,1s", "of the log and of the looks at it, for -standby.lag")
)

// Everything that moves in a cluster moves, and whatever keeps the standby is killed at any moment: in the end it has what the
// source has, with not one page wrong.
func TestWarmStandbyIsKilledUnderLoad(t *testing.T) {
	t.Parallel()
	chance := random(t)
	w := newWorld(t, pgtest.Options{Version: "15", Conf: map[string]string{"max_prepared_transactions": "300"}})
	w.run("repo", "init")
	agent := w.agent()
	w.run("snapshot", "create", system)
	m := startPacedMover(t, w.server, "", 20*time.Millisecond)
	s := w.warm()
	s.sees("it has the tables", "SELECT count(*) FROM pg_tables WHERE tablename = 'promises'", "1")
	for range *standbyKills {
		pause(time.Duration(chance.IntN(2000)) * time.Millisecond)
		s.killed(chance)
	}
	s.sees("it answers", "pg_is_in_recovery()", "true")
	m.stop()
	source := digest(t, w.server.ConnString, true)
	w.server.Stop(pgtest.Fast)
	agent.stop()
	w.run("standby", "promote", system)
	if d := cmp.Diff(source, digest(t, s.connString, false)); d != "" {
		t.Errorf("-source +standby:\n%s", d)
	}
	if w.has("pg_amcheck") {
		w.program("pg_amcheck", "--install-missing", "-h", w.dir+"/state/systems/"+system+"/standby", "-p", s.port, "-U", "postgres", "--all")
	}
}

// killed kills the keeper, the server, or both.
func (s *warm) killed(chance *rand.Rand) {
	s.w.t.Helper()
	how := chance.IntN(3)
	s.w.t.Logf("%s", []string{"the keeper is killed", "the server is killed", "both are killed"}[how])
	if how != 1 {
		s.p.kill9()
	}
	if how != 0 {
		if first, _, _ := strings.Cut(read(s.dir+"/postmaster.pid"), "\n"); first != "" {
			if pid, err := strconv.Atoi(first); err == nil {
				_ = syscall.Kill(pid, syscall.SIGKILL)
			}
		}
	}
	if how != 1 {
		s.run()
	}
}

// TestWarmStandbyLag prints how long a commit takes from the source to the standby, through a repository, and how long a
// promotion takes after the source was killed under that load.
func TestWarmStandbyLag(t *testing.T) {
	if *standbyLag == 0 {
		t.Skip("measured on demand: -standby.lag 60s")
	}
	intervals := strings.Split(*standbyPace, ",")
	w := newWorld(t, pgtest.Options{Version: "15", Conf: map[string]string{"fsync": "on"}})
	if !w.has("pgbench") {
		t.Skip("there is no pgbench")
	}
	w.configure(setup{log: "{interval: " + intervals[0] + "}"})
	w.program("pgbench", "-i", "-q", "-s", "10", "-h", w.server.Socket, "-U", "postgres", "postgres")
	w.server.Exec("", "CREATE TABLE probe (n int, at timestamptz)")
	w.run("repo", "init")
	agent := w.agent()
	w.run("snapshot", "create", system)
	s := w.warm("--every", intervals[1])
	s.sees("it follows", "SELECT count(*) FROM probe", "0")
	bench := w.launch(w.server.Bin("pgbench"), "-n", "-c", "4", "-R", "300", "-T", "36000", "-h", w.server.Socket, "-U", "postgres", "postgres")
	lags := s.probe(*standbyLag)
	st := s.status()
	t.Logf("lag from the commit to where it can be read, %d commits under pgbench (300/s): 50 %% %s, 99 %% %s, most %s; as the status has it: %s",
		len(lags), at(lags, 0.5), at(lags, 0.99), lags[len(lags)-1], time.Duration(st.LagNs))
	w.server.Kill9()
	bench.kill9()
	agent.stop()
	began := time.Now()
	out := w.run("standby", "promote", system)
	t.Logf("promoted in %s:\n%s", time.Since(began), out)
}

func at(sorted []time.Duration, share float64) time.Duration {
	return sorted[int(share*float64(len(sorted)-1))].Round(time.Millisecond)
}

// probe commits at the source and looks at the standby, and returns how long it took to be there, sorted.
func (s *warm) probe(d time.Duration) []time.Duration {
	t, ctx := s.w.t, s.w.t.Context()
	var mu sync.Mutex // guards committed
	var committed []time.Time
	source, err := pgx.Connect(ctx, s.w.server.ConnString(""))
	if err != nil {
		t.Fatal(err)
	}
	defer source.Close(ctx)
	there, err := pgx.Connect(ctx, s.connString("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	defer there.Close(ctx)
	deadline := time.Now().Add(d)
	var writer sync.WaitGroup
	writer.Go(func() {
		tick := time.NewTicker(37 * time.Millisecond)
		defer tick.Stop()
		for n := 0; time.Now().Before(deadline); n++ {
			<-tick.C
			if _, err := source.Exec(ctx, fmt.Sprintf("INSERT INTO probe VALUES (%d, now())", n)); err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			committed = append(committed, time.Now())
			mu.Unlock()
		}
	})
	var lags []time.Duration
	for seen := 0; time.Now().Before(deadline); {
		<-time.After(5 * time.Millisecond)
		var n int
		if err := there.QueryRow(ctx, "SELECT count(*) FROM probe").Scan(&n); err != nil {
			t.Fatal(err)
		}
		now := time.Now()
		mu.Lock()
		for n = min(n, len(committed)); seen < n; seen++ {
			lags = append(lags, now.Sub(committed[seen]))
		}
		mu.Unlock()
	}
	writer.Wait()
	slices.Sort(lags)
	return lags
}
