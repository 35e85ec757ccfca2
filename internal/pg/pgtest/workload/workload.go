// Package workload is what tests let a server do where its log is read: statements that change files in all the ways that
// a log tells of, and some of which it does not. It never looks at what came of it.
package workload

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"

	"github.com/holdfast-dr/holdfast/internal/pg/pgtest"
)

// Conf keeps the whole log, so that it can be read afterwards.
func Conf(more map[string]string) map[string]string {
	conf := map[string]string{
		"wal_keep_size": "8GB", "max_prepared_transactions": "10", "autovacuum_naptime": "1s", "checkpoint_timeout": "30s",
		"max_wal_size": "64MB", "min_wal_size": "32MB", "jit": "off",
	}
	maps.Copy(conf, more)
	return conf
}

// Begin makes what the parts change, in two tablespaces too.
func Begin(s *pgtest.Server) {
	s.Tablespace("one")
	s.Tablespace("two")
	s.Exec("", schema...)
}

var schema = []string{
	"CREATE TABLE t (id bigserial PRIMARY KEY, v text, p point, a int[], n int)",
	"INSERT INTO t (v, p, a, n) SELECT md5(i::text), point(i, i), ARRAY[i, i % 7], i FROM generate_series(1, 8000) i",
	"CREATE INDEX t_hash ON t USING hash (v)", "CREATE INDEX t_gin ON t USING gin (a)",
	"CREATE INDEX t_gist ON t USING gist (p)", "CREATE INDEX t_spgist ON t USING spgist (p)",
	"CREATE INDEX t_brin ON t USING brin (id) WITH (pages_per_range = 2)",
	"CREATE UNLOGGED TABLE u (i int PRIMARY KEY, v text)", "INSERT INTO u SELECT i, 'u' FROM generate_series(1, 2000) i",
	"CREATE TABLE moved (i int PRIMARY KEY, v text) TABLESPACE one",
	"INSERT INTO moved SELECT i, repeat('m', 200) FROM generate_series(1, 3000) i",
	"CREATE TABLE shrinks AS SELECT i, repeat('s', 300) AS v FROM generate_series(1, 6000) i",
	"CREATE TABLE emptied AS SELECT i, repeat('e', 300) AS v FROM generate_series(1, 3000) i",
	"CREATE TABLE dropped AS SELECT i, repeat('d', 300) AS v FROM generate_series(1, 3000) i",
	"CREATE TABLE wide (i int, v text)", "ALTER TABLE wide ALTER v SET STORAGE EXTERNAL",
	"INSERT INTO wide SELECT i, repeat(md5(i::text), 300) FROM generate_series(1, 200) i",
	"CREATE TABLE parent (i int, v text) PARTITION BY RANGE (i)",
	"CREATE TABLE child1 PARTITION OF parent FOR VALUES FROM (0) TO (1000)",
	"CREATE TABLE child2 PARTITION OF parent FOR VALUES FROM (1000) TO (2000)",
	"INSERT INTO parent SELECT i, 'p' FROM generate_series(0, 1999) i",
	"CREATE SEQUENCE s", "SELECT nextval('s') FROM generate_series(1, 100)",
	"CREATE DATABASE other", "CREATE DATABASE movedb TABLESPACE one",
	"SELECT lo_from_bytea(100000, decode(repeat('ab', 20000), 'hex'))",
	"VACUUM (FREEZE, ANALYZE)",
}

// Parts returns the statements of three parts (rows, definitions, files that shrink and grow), which can be run any number
// of times.
func Parts(version int) [][]string {
	ways := []string{""}
	if version >= 15 {
		ways = []string{" STRATEGY file_copy", " STRATEGY wal_log"}
	}
	ddl := []string{
		"VACUUM FULL t", "REINDEX TABLE t", "CLUSTER t USING t_pkey", "TRUNCATE emptied",
		"INSERT INTO emptied SELECT i, 'again' FROM generate_series(1, 500) i",
		"DROP TABLE IF EXISTS dropped", "CREATE TABLE dropped AS SELECT i FROM generate_series(1, 2000) i",
		"BEGIN; DROP TABLE dropped; PREPARE TRANSACTION 'one'", "COMMIT PREPARED 'one'",
		"BEGIN; CREATE TABLE dropped AS SELECT i FROM generate_series(1, 2000) i; PREPARE TRANSACTION 'two'", "ROLLBACK PREPARED 'two'",
		"BEGIN; CREATE TABLE gone AS SELECT i FROM generate_series(1, 2000) i; ROLLBACK",
		"BEGIN; SAVEPOINT a; CREATE TABLE gone AS SELECT i FROM generate_series(1, 2000) i; ROLLBACK TO a; COMMIT",
		"ALTER TABLE moved SET TABLESPACE two", "INSERT INTO moved SELECT max(i) + 1, 'x' FROM moved", "ALTER TABLE moved SET TABLESPACE one",
		"ALTER TABLE u SET LOGGED", "INSERT INTO u SELECT coalesce(max(i), 0) + 1, 'x' FROM u", "ALTER TABLE u SET UNLOGGED", "INSERT INTO u SELECT coalesce(max(i), 0) + 1, 'x' FROM u",
		"ALTER DATABASE movedb SET TABLESPACE two", "ALTER DATABASE movedb SET TABLESPACE one",
		"CREATE TABLE frozen (i int, v text)",
		"BEGIN; TRUNCATE frozen; COPY frozen FROM PROGRAM 'seq 5000 | sed s/$/,v/' WITH (FORMAT csv, FREEZE); COMMIT", "DROP TABLE frozen",
		"CREATE INDEX CONCURRENTLY again ON t (n)", "REINDEX INDEX CONCURRENTLY again", "DROP INDEX CONCURRENTLY again",
		"CREATE UNLOGGED TABLE v (i serial)", "INSERT INTO v SELECT FROM generate_series(1, 500)", "DROP TABLE v",
		"CREATE MATERIALIZED VIEW mv AS SELECT n FROM t", "REFRESH MATERIALIZED VIEW mv", "DROP MATERIALIZED VIEW mv",
		"CREATE TEMPORARY TABLE tmp AS SELECT n FROM t",
	}
	for _, way := range ways {
		ddl = append(ddl, "CREATE DATABASE copied TEMPLATE other"+way, "DROP DATABASE copied", "CREATE DATABASE copied TEMPLATE other TABLESPACE two"+way, "DROP DATABASE other",
			"CREATE DATABASE other TEMPLATE copied"+way, "DROP DATABASE copied")
	}
	rows := []string{
		"UPDATE t SET v = md5(v), n = n + 1 WHERE id % 10 = 0", "UPDATE t SET p = point(n, id), a = a || 5 WHERE id % 17 = 0",
		"DELETE FROM t WHERE id % 23 = 0", "SELECT * FROM t WHERE id % 31 = 0 FOR UPDATE", "SELECT * FROM parent WHERE i % 3 = 0 FOR KEY SHARE",
		"UPDATE parent SET i = (i + 1000) % 2000 WHERE i % 5 = 0", "INSERT INTO t (v, p, a, n) SELECT 'new', point(i, 0), ARRAY[i], i FROM generate_series(1, 300) i",
		"SELECT count(*) FROM t", "SELECT nextval('s') FROM generate_series(1, 45)", "SELECT setval('s', 1000)",
		"UPDATE wide SET v = v || 'y' WHERE i % 9 = 0", "SELECT lo_put(100000, 3000, 'changed')", "VACUUM t",
		"INSERT INTO u SELECT coalesce(max(i), 0) + 1, 'x' FROM u",
		"SET enable_seqscan = off; SELECT count(*) FROM t WHERE n > 5; SELECT count(*) FROM t WHERE v = 'new'",
	}
	shrinking := []string{
		"DELETE FROM shrinks WHERE i > 1500", "VACUUM shrinks", "INSERT INTO shrinks SELECT i, 'short' FROM generate_series(1501, 1700) i",
		"COPY shrinks FROM PROGRAM 'seq 1701 7000 | sed s/$/,v/' WITH (FORMAT csv)", "VACUUM (FREEZE) shrinks",
		"DELETE FROM wide WHERE i > 50", "VACUUM wide", "INSERT INTO wide SELECT i, repeat('w', 5000) FROM generate_series(51, 200) i",
		"SELECT nextval('s') FROM generate_series(1, 3)", "VACUUM (FREEZE)", "UPDATE t SET n = 0 WHERE id = 100",
	}
	return [][]string{rows, ddl, shrinking}
}

// Churn runs random statements, some of which fail, from several connections, some in transactions that stay open.
func Churn(s *pgtest.Server, r *rand.Rand, n int) {
	ctx := context.Background()
	statements := slices.Concat(Parts(13)[0], Parts(13)[2], []string{
		"BEGIN", "COMMIT", "ROLLBACK", "CHECKPOINT", "SELECT pg_switch_wal()", "VACUUM (FREEZE) t", "VACUUM FULL wide",
		"TRUNCATE emptied RESTART IDENTITY", "ANALYZE", "REINDEX INDEX t_spgist", "ALTER TABLE wide SET (fillfactor = 50)",
	})
	for range 3 {
		conn := s.Connect("")
		_, _ = conn.Exec(ctx, "SET lock_timeout = '20ms'")
		defer conn.Close(ctx) //nolint:errcheck // an open transaction is part of the test
		for range n / 3 {
			q := statements[r.IntN(len(statements))]
			if r.IntN(3) == 0 {
				q = fmt.Sprintf("DELETE FROM t WHERE id BETWEEN %d AND %[1]d + 30", r.IntN(8000))
			}
			_, _ = conn.Exec(ctx, q) // what fails leaves traces too
		}
	}
}
