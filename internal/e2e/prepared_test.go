package e2e

import (
	"slices"
	"testing"

	"github.com/holdfast-dr/holdfast/internal/pg/pgtest"
)

// TestPreparedBeforeASwitch recovers to a point before the end of a timeline, in the segment in which that was left, where a
// transaction was prepared: PostgreSQL reads it out of the segment by its older name.
func TestPreparedBeforeASwitch(t *testing.T) {
	t.Parallel()
	versions := pgtest.Versions(t)
	for _, v := range slices.Compact([]string{versions[0], versions[len(versions)-1]}) {
		t.Run(v, func(t *testing.T) {
			w := newWorld(t, pgtest.Options{Version: v, Conf: map[string]string{"max_prepared_transactions": "5"}})
			w.run("repo", "init")
			agent := w.agent()
			w.server.Exec("", ledgerTable)
			w.run("snapshot", "create", system)
			w.server.Exec("", "BEGIN; INSERT INTO book VALUES ('prepared', ''); PREPARE TRANSACTION 'wanted'")
			point := w.server.Query("", "SELECT pg_current_wal_insert_lsn()")
			w.server.Exec("", "INSERT INTO book VALUES ('behind', '')")
			w.promoteInPlace()
			w.server.Exec("", "COMMIT PREPARED 'wanted'")
			if w.server.Query("", "SELECT pg_walfile_name('"+point+"') = pg_walfile_name(pg_current_wal_insert_lsn())") != "t" {
				t.Fatal("the server has left the segment")
			}
			w.logReaches(2, w.server.Query("", "SELECT pg_current_wal_flush_lsn()"))
			w.server.Stop(pgtest.Fast)
			agent.stop()

			const state = "SELECT (SELECT count(*) FROM book) || ' ' || (SELECT string_agg(gid, ',') FROM pg_prepared_xacts)"
			r := w.restore("before", "--at", point, "--start")
			if got := r.query(state); got != "0 wanted" {
				t.Errorf("before the switch it has %q", got)
			}
			r.exec("COMMIT PREPARED 'wanted'")
			if got := r.query("SELECT string_agg(entry, ',') FROM book"); got != "prepared" {
				t.Errorf("when that is committed it has %q", got)
			}
			r.stop()
			r.remove()
			r = w.restore("latest", "--start")
			if got := r.query("SELECT string_agg(entry, ',' ORDER BY entry) FROM book"); got != "behind,prepared" {
				t.Errorf("at its end it has %q", got)
			}
			r.stop()
		})
	}
}
