package pgtest_test

import (
	"context"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/holdfast-dr/holdfast/internal/pg/pgtest"
)

func TestServer(t *testing.T) {
	for _, v := range pgtest.Versions(t) {
		t.Run(v, func(t *testing.T) {
			s := pgtest.Start(t, pgtest.Options{Version: v, Checksums: true, Conf: map[string]string{"work_mem": "5MB"}})
			s.Exec("", "CREATE TABLE t AS SELECT generate_series(1, 1000) AS i")
			if got := s.Query("", "SELECT current_setting('work_mem'), current_setting('data_checksums'), count(*) FROM t"); got != "5MB|on|1000" {
				t.Fatalf("the server says %q", got)
			}
			if got := s.Query("", "SHOW server_version_num"); !strings.HasPrefix(got, v) {
				t.Fatalf("asked for version %s, got %s", v, got)
			}
			s.Kill9()
			s.Start() // crash recovery
			s.Restart()
			if got := s.Query("", "SELECT count(*) FROM t"); got != "1000" {
				t.Fatalf("after a crash and a restart the table has %s rows", got)
			}
		})
	}
}

func TestStandbyAndSwitchover(t *testing.T) {
	for _, v := range pgtest.Versions(t) {
		t.Run(v, func(t *testing.T) {
			a := pgtest.Start(t, pgtest.Options{Version: v, TCP: true})
			b := a.Standby(pgtest.Options{})
			a.Exec("", "CREATE TABLE t AS SELECT 1 AS i")
			b.Until(t, "", "SELECT count(*) FROM pg_class WHERE relname = 't'", "1")
			a.Stop(pgtest.Fast)
			b.Promote()
			b.Exec("", "INSERT INTO t VALUES (2)", "CHECKPOINT")
			a.Follow(b)
			a.Until(t, "", "SELECT string_agg(i::text, ',' ORDER BY i) FROM t", "1,2")
			if got := b.Query("", "SELECT timeline_id FROM pg_control_checkpoint()"); got != "2" {
				t.Fatalf("after the switchover the timeline is %s", got)
			}
		})
	}
}

// The primary writes more than it keeps while it is copied, and removes it.
func TestStandbyOfABusyPrimary(t *testing.T) {
	t.Parallel()
	a := pgtest.Start(t, pgtest.Options{InitArgs: []string{"--wal-segsize=1"}, Conf: map[string]string{
		"wal_keep_size": "0", "max_wal_size": "2MB", "min_wal_size": "2MB",
	}})
	a.Exec("", "CREATE TABLE t AS SELECT generate_series(1, 1000) AS i")
	ctx, stop := context.WithCancel(t.Context())
	conn, err := pgx.Connect(ctx, a.ConnString(""))
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			_, _ = conn.Exec(ctx, "SELECT pg_logical_emit_message(false, '', repeat('x', 3000000)); CHECKPOINT")
		}
	}()
	b := a.Standby(pgtest.Options{})
	stop()
	<-done
	if got := b.Query("", "SELECT count(*) FROM t"); got != "1000" {
		t.Errorf("the standby has %s rows", got)
	}
}

func TestServerThatRefusesSaysWhy(t *testing.T) {
	s := pgtest.Start(t, pgtest.Options{})
	s.Stop(pgtest.Fast)
	broken := pgtest.Open(t, s.DataDir, pgtest.Options{Conf: map[string]string{"wal_level": "nonsense"}})
	if err := broken.TryStart(); err == nil || !strings.Contains(err.Error(), "nonsense") {
		t.Fatalf("got %v, want the server's reason", err)
	}
}

// Clusters of one kind are copies of one, and still not one: nobody may take the log of one for the other's.
func TestServersHaveIdentifiersOfTheirOwn(t *testing.T) {
	t.Parallel()
	for _, v := range pgtest.Versions(t) {
		seen := map[string]bool{}
		for range 2 { // at the latest the second is a copy
			s := pgtest.Start(t, pgtest.Options{Version: v, InitArgs: []string{"--wal-segsize=1"}})
			id := s.Query("", "SELECT system_identifier FROM pg_control_system()")
			if seen[id] {
				t.Errorf("two servers of version %s have the identifier %s", v, id)
			}
			seen[id] = true
			s.Exec("", "CREATE TABLE t ()", "SELECT pg_switch_wal()")
			s.Kill9()
			s.Start() // it reads its log from before its first start on
		}
	}
}
