package e2e

import (
	"strings"
	"testing"

	"github.com/holdfast-dr/holdfast/internal/pg/pgtest"
)

// A recovery beside the live source replays the creation of a tablespace, whose record names the source's directory:
// it stops instead, and the source's files stay as they are. A moment before it can be recovered.
func TestRestoreBesideALiveSource(t *testing.T) {
	for _, version := range []string{"13", "15"} {
		t.Run(version, func(t *testing.T) {
			w := newWorld(t, pgtest.Options{Version: version})
			w.run("repo", "init")
			agent := w.agent()
			w.run("snapshot", "create", system)
			w.server.Exec("", "CREATE TABLE before AS SELECT generate_series(1, 10) AS i")
			lsn := w.server.Query("", "SELECT pg_current_wal_insert_lsn()")
			dir := w.mkdir("space")
			w.server.Exec("", "CREATE TABLESPACE space LOCATION '"+dir+"'", "CREATE TABLE t TABLESPACE space AS SELECT generate_series(1, 1000) AS i", "CHECKPOINT")
			w.logReaches(1, w.server.Query("", "SELECT pg_current_wal_flush_lsn()"))

			r := w.try("restore", system, "--to", w.dir+"/back", "--start", "-o", "json")
			if r.code != 1 || !strings.Contains(r.stderr, dir) || !strings.Contains(r.stderr, "tablespace") {
				t.Errorf("restore ends with %d: %s", r.code, r.stderr)
			}
			w.server.Stop(pgtest.Immediate) // what is in memory only would hide what is gone from the disk
			w.server.Start()
			if got := w.server.Query("", "SELECT count(*), min(i) FROM t"); got != "1000|1" {
				t.Errorf("the source's table has %s", got)
			}

			early := decode[restored](t, w.run("restore", system, "--to", w.dir+"/early", "--at", lsn, "--start", "-o", "json"))
			conn := "host=" + early.Server.Socket + " port=5432 user=postgres dbname=postgres sslmode=disable"
			if got := ask(t, conn, "SELECT count(*)::text FROM before"); got != "10" {
				t.Errorf("before the tablespace there are %s rows", got)
			}
			agent.kill9()
		})
	}
}
