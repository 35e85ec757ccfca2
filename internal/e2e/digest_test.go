package e2e

import (
	"context"
	"testing"

	"github.com/jackc/pgx/v5"
)

// freezeSequences writes every sequence's value as it is into the log. PostgreSQL logs a sequence 32 values ahead,
// so that a recovered one may skip some; after this a digest may compare them.
const freezeSequences = `DO $$ DECLARE s record; v record; BEGIN
	FOR s IN SELECT c.oid::regclass AS name FROM pg_class c WHERE relkind = 'S' LOOP
		EXECUTE format('SELECT last_value, is_called FROM %s', s.name) INTO v;
		PERFORM setval(s.name, v.last_value, v.is_called);
	END LOOP; END $$`

// The parts of a database's digest that one query gives, as rows of name and value. File numbers are in it: they
// are part of what the log replays.
var digestQueries = []string{
	`SELECT concat('relation ', c.oid::regclass, ' ', c.relkind, c.relpersistence),
		concat(t.spcname, ' ', pg_relation_filenode(c.oid))
		FROM pg_class c LEFT JOIN pg_tablespace t ON t.oid = c.reltablespace
		WHERE c.oid >= 16384 AND c.relkind IN ('r', 'i', 'S', 't', 'm')`,
	`SELECT concat('index ', indexrelid::regclass), concat(indisvalid, indisready) FROM pg_index WHERE indexrelid >= 16384`,
	`SELECT 'large object ' || loid, count(*) || ' ' || md5(string_agg(data, '' ORDER BY pageno)) FROM pg_largeobject GROUP BY loid`,
	`SELECT 'prepared ' || gid, database::text FROM pg_prepared_xacts WHERE database = current_database()`,
	`SELECT 'tablespace ' || spcname, '' FROM pg_tablespace`,
}

// digest returns everything logical of a server: a value for each table, sequence, large object and name.
func digest(t *testing.T, connString func(db string) string, freeze bool) map[string]string {
	t.Helper()
	ctx := context.Background()
	d := map[string]string{}
	for _, db := range rows(t, connString("postgres"), "SELECT datname, '' FROM pg_database WHERE datallowconn AND datconnlimit <> -2") { // -2: a crash interrupted its drop
		conn, err := pgx.Connect(ctx, connString(db[0]))
		if err != nil {
			t.Fatal(err)
		}
		if freeze {
			if _, err := conn.Exec(ctx, freezeSequences); err != nil {
				t.Fatal(err)
			}
		}
		if err := conn.Close(ctx); err != nil {
			t.Fatal(err)
		}
		queries := digestQueries
		for _, table := range rows(t, connString(db[0]), `SELECT oid::regclass::text, relkind::text FROM pg_class
			WHERE oid >= 16384 AND relkind IN ('r', 'S') AND relpersistence = 'p' AND relnamespace <> 'pg_toast'::regnamespace`) {
			q := "SELECT 'rows of " + table[0] + "', count(*) || ' ' || coalesce(md5(string_agg(md5(x::text), '' ORDER BY md5(x::text))), '') FROM " + table[0] + " AS x"
			if table[1] == "S" {
				q = "SELECT 'sequence " + table[0] + "', concat(last_value, ' ', is_called) FROM " + table[0]
			}
			queries = append(queries, q)
		}
		for _, q := range queries {
			for _, r := range rows(t, connString(db[0]), q) {
				d[db[0]+": "+r[0]] = r[1]
			}
		}
	}
	return d
}

// rows returns the rows of a query with two columns.
func rows(t *testing.T, connString, query string) [][2]string {
	t.Helper()
	ctx := context.Background()
	conn, err := pgx.Connect(ctx, connString)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx)
	var out [][2]string
	result, err := conn.Query(ctx, query)
	if err == nil {
		var name string
		var value *string
		_, err = pgx.ForEachRow(result, []any{&name, &value}, func() error {
			r := [2]string{name, "NULL"}
			if value != nil {
				r[1] = *value
			}
			out = append(out, r)
			return nil
		})
	}
	if err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	return out
}
