package pgtest_test

import (
	"strings"
	"testing"

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

func TestServerThatRefusesSaysWhy(t *testing.T) {
	s := pgtest.Start(t, pgtest.Options{})
	s.Stop(pgtest.Fast)
	broken := pgtest.Open(t, s.DataDir, pgtest.Options{Conf: map[string]string{"wal_level": "nonsense"}})
	if err := broken.TryStart(); err == nil || !strings.Contains(err.Error(), "nonsense") {
		t.Fatalf("got %v, want the server's reason", err)
	}
}
