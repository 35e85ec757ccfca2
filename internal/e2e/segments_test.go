package e2e

import (
	"context"
	"fmt"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/holdfast-dr/holdfast/internal/pg/pgtest"
)

// TestSegmentSizesAndUnloggedTables recovers clusters whose WAL segments are smaller and larger than the default, to a
// point and to the end of the log. Their unlogged tables come back empty, and can be used.
func TestSegmentSizesAndUnloggedTables(t *testing.T) {
	all := pgtest.Versions(t)
	for _, c := range []struct{ version, mib string }{{all[0], "1"}, {"15", "64"}, {all[len(all)-1], "1"}} {
		t.Run(c.version+" with "+c.mib+" MiB", func(t *testing.T) { recoverSegmentsOf(t, c.version, c.mib) })
	}
}

func recoverSegmentsOf(t *testing.T, version, mib string) {
	w := newWorld(t, pgtest.Options{Version: version, InitArgs: []string{"--wal-segsize=" + mib}})
	w.run("repo", "init")
	agent := w.agent()
	fill := func(n int) { // more than a segment of the small size, never one of the large
		w.server.Exec("", fmt.Sprintf("INSERT INTO book SELECT '%d ' || i, repeat(md5(i::text), 20) FROM generate_series(1, 4000) AS i", n))
	}
	w.server.Exec("", ledgerTable, unloggedTable("before", "GENERATED ALWAYS AS IDENTITY"), "CREATE TABLE turned (id int PRIMARY KEY)", "INSERT INTO turned VALUES (1)",
		unloggedTable("kept", "GENERATED ALWAYS AS IDENTITY"), "ALTER TABLE kept SET LOGGED")
	w.run("snapshot", "create", system)
	fill(1)
	// Without a sequence: no PostgreSQL replays the creation of an unlogged one so that it can be used (seq_redo leaves
	// its init fork in the buffers, where the reset of unlogged relations does not look). A promoted standby has the
	// same error, "bad magic number in sequence".
	w.server.Exec("", unloggedTable("after", "DEFAULT (random() * 1e9)::bigint"), "ALTER TABLE turned SET UNLOGGED", "SELECT pg_switch_wal()")
	fill(2)
	atPoint := digest(t, w.server.ConnString, true)
	point := w.server.Query("", "SELECT pg_current_wal_insert_lsn()")
	fill(3)
	w.server.Exec("", "SELECT pg_switch_wal()")
	fill(4)
	atEnd := digest(t, w.server.ConnString, true)
	w.server.Stop(pgtest.Fast)
	agent.stop()
	if err := os.RemoveAll(w.server.DataDir); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		at   string
		want map[string]string
	}{{point, atPoint}, {"latest", atEnd}} {
		r := w.restore("at "+c.at[:1], "--at", c.at, "--start")
		if d := cmp.Diff(c.want, digest(t, r.connString, false)); d != "" {
			t.Errorf("at %s (-source +restored):\n%s", c.at, d)
		}
		if got := r.query("SELECT pg_size_bytes(current_setting('wal_segment_size')) / 1048576"); got != mib {
			t.Errorf("at %s its segments have %s MiB, want %s", c.at, got, mib)
		}
		for _, table := range []string{"before", "after"} {
			r.wantUsable(table)
		}
		if got := r.query("SELECT count(*) || ' ' || (SELECT count(*) FROM kept) FROM turned"); got != "0 500" {
			t.Errorf("at %s the tables that were turned unlogged and logged have %q rows, want 0 and 500", c.at, got)
		}
		r.stop()
		r.remove()
	}
}

// unloggedTable makes one that has all that a table can have: indexes, long values, and a sequence (which is unlogged
// with it since PostgreSQL 15).
func unloggedTable(name, id string) string {
	return fmt.Sprintf(`CREATE UNLOGGED TABLE %[1]s (id bigint %[2]s PRIMARY KEY, v text, big text);
		ALTER TABLE %[1]s ALTER big SET STORAGE external;
		CREATE INDEX ON %[1]s (v); CREATE INDEX ON %[1]s USING hash (v); CREATE INDEX ON %[1]s USING gin (string_to_array(v, 'a'));
		INSERT INTO %[1]s (v, big) SELECT md5(i::text), repeat(md5(i::text), 200) FROM generate_series(1, 500) AS i`, name, id)
}

// wantUsable wants an unlogged table to be empty, and to take rows and find them by each of its indexes.
func (r *restored) wantUsable(table string) {
	r.w.t.Helper()
	if got := r.query("SELECT count(*) FROM " + table); got != "0" {
		r.w.t.Errorf("the unlogged table %s has %s rows, want none", table, got)
	}
	r.exec(fmt.Sprintf("INSERT INTO %s (v, big) SELECT md5(i::text), repeat(md5(i::text), 200) FROM generate_series(1, 300) AS i", table))
	byIndex := r.connString("postgres") + " options='-c enable_seqscan=off'"
	for _, where := range []string{
		"id = (SELECT max(id) FROM " + table + ")", "v BETWEEN md5('300') AND md5('300')", "v = md5('300')",
		"string_to_array(v, 'a') @> string_to_array(md5('300'), 'a')",
	} {
		if got := ask(r.w.t, byIndex, fmt.Sprintf("SELECT count(*) || ' ' || min(length(big)) FROM %s WHERE %s", table, where)); got != "1 6400" {
			r.w.t.Errorf("of the unlogged table %s the rows with %s are %q, want one of 6400 bytes", table, where, got)
		}
	}
}

func (r *restored) exec(statements ...string) {
	r.w.t.Helper()
	ctx := context.Background()
	conn, err := pgx.Connect(ctx, r.connString("postgres"))
	if err != nil {
		r.w.t.Fatal(err)
	}
	defer conn.Close(ctx)
	for _, q := range statements {
		if _, err := conn.Exec(ctx, q); err != nil {
			r.w.t.Fatalf("%s: %v", q, err)
		}
	}
}
