package restore_test

import (
	"testing"

	"github.com/holdfast-dr/holdfast/internal/pg/pgtest"
)

// Every kind of target on one version; on the others the end of the log, and a target before it: a recovery is told of all kinds
// in the same way.
func TestRestoreToEveryKindOfTarget(t *testing.T) {
	for i, v := range pgtest.Versions(t) {
		t.Run(v, func(t *testing.T) {
			w := newWorld(t, pgtest.Options{Version: v, Checksums: true})
			w.s.Tablespace("far")
			w.s.Exec("", "CREATE TABLE t (i int)", "CREATE TABLE f (i int) TABLESPACE far", "INSERT INTO f SELECT generate_series(1, 1000)",
				"INSERT INTO t VALUES (1)", "CREATE DATABASE other")
			w.snapshot(w.s)
			w.s.Exec("", "INSERT INTO t VALUES (2)", "INSERT INTO f VALUES (0)")
			w.s.Exec("other", "CREATE TABLE o AS SELECT generate_series(1, 10000) AS i")
			at := now(w.s)
			w.s.Exec("", "INSERT INTO t VALUES (3)")
			lsn := w.s.Query("", "SELECT pg_current_wal_insert_lsn()")
			w.s.Exec("", "INSERT INTO t VALUES (4)", "SELECT pg_create_restore_point('before-upgrade')", "SELECT pg_switch_wal()", "INSERT INTO t VALUES (5)")
			w.archive(w.s)
			for n, c := range []struct{ target, max string }{
				{at, "2"}, {"latest", "5"}, {"immediate", "1"}, {lsn, "3"}, {"before-upgrade", "4"},
			} {
				if i > 0 && n > 1 {
					break
				}
				s := w.recovered(c.target, "to-"+c.max)
				if got := s.Query("", "SELECT max(i) FROM t"); got != c.max {
					t.Errorf("restored to %s: max is %s, want %s", c.target, got, c.max)
				}
				if got := s.Query("", "SELECT count(*) > 999 FROM f"); got != "t" {
					t.Errorf("restored to %s: the tablespace's table has %s", c.target, got)
				}
				s.Stop(pgtest.Fast)
			}
		})
	}
}
