package changed

import (
	"context"
	"fmt"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/holdfast-dr/holdfast/internal/pg/pgtest"
	"github.com/holdfast-dr/holdfast/internal/pg/pgtest/workload"
	"github.com/holdfast-dr/holdfast/internal/pg/wal"
	"github.com/holdfast-dr/holdfast/internal/pg/wal/record"
)

// Servers are killed in the middle of writing, so that records stay incomplete, pages are on disk whose commits are
// not, and relations are left over: the map still holds every page that changed.
func TestMapOverCrashesWhileWriting(t *testing.T) {
	for i, v := range pgtest.Versions(t) {
		t.Run(v, func(t *testing.T) {
			t.Parallel()
			s := pgtest.Start(t, pgtest.Options{Version: v, Checksums: i%2 == 0, InitArgs: []string{"--wal-segsize=1"}, Conf: workload.Conf(map[string]string{
				"shared_buffers": "1MB", "bgwriter_delay": "10ms", "bgwriter_lru_maxpages": "1000", "wal_writer_delay": "1ms", "checkpoint_timeout": "30s",
			})})
			s.Exec("", "CREATE TABLE t (id serial PRIMARY KEY, n int, v text)", "CREATE INDEX ON t USING gist (point(n, id))", "CREATE INDEX ON t USING gin (string_to_array(v, ','))",
				"INSERT INTO t (n, v) SELECT i, repeat('x,', 50) FROM generate_series(1, 5000) i", "VACUUM t")
			from := stopped(t, s)
			s.Start()
			for range 6 {
				crashWhileWriting(t, s)
				s.Start()
				s.Exec("", "VACUUM t", "SELECT count(*) FROM t WHERE n >= 0")
			}
			to := stopped(t, s)
			m := mapBetween(t, s, from, to)
			check(t, m, from, to)
			t.Logf("records that were given up: %d", abandoned(t, s, from, to))
		})
	}
}

// crashWhileWriting kills the server when its writers have written a few megabytes of log.
func crashWhileWriting(t *testing.T, s *pgtest.Server) {
	t.Helper()
	var writers sync.WaitGroup
	for w := range 3 {
		conn, err := pgx.Connect(context.Background(), s.ConnString(""))
		if err != nil {
			t.Fatal(err)
		}
		writers.Go(func() {
			defer conn.Close(context.Background()) //nolint:errcheck // the server is gone
			for n := 0; ; n++ {
				for _, q := range []string{
					fmt.Sprintf("UPDATE t SET n = n + 1, v = v || ',%d' WHERE id %% 50 = %d", n, n%50),
					"SET synchronous_commit = off; INSERT INTO t (n, v) SELECT i, repeat('y,', 2000) FROM generate_series(1, 20) i",
					fmt.Sprintf("CREATE TABLE c%d_%d AS SELECT * FROM t LIMIT 500", w, n), fmt.Sprintf("DROP TABLE c%d_%d", w, n),
					"DELETE FROM t WHERE id % 97 = 5 AND length(v) > 500", "SELECT pg_logical_emit_message(false, 'x', repeat('z', 20000))",
				} {
					if _, err := conn.Exec(context.Background(), q); err != nil && conn.IsClosed() {
						return
					}
				}
			}
		})
	}
	begin := s.Query("", "SELECT pg_current_wal_insert_lsn()")
	s.Until(t, "", "SELECT pg_current_wal_insert_lsn() - '"+begin+"' > 3000000", "t")
	s.Kill9()
	writers.Wait()
}

// abandoned counts the records XLOG_OVERWRITE_CONTRECORD.
func abandoned(t *testing.T, s *pgtest.Server, from, to *image) int {
	n := 0
	r, err := record.NewReader(record.Config{Start: from.control.Redo, Timeline: 1, SegmentSize: from.control.WALSegmentSize}, func(r *record.Record) {
		if r.Rmgr == record.XLOG && r.Info&0xF0 == 0xD0 {
			n++
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Write(logBetween(t, s.DataDir, from.control.WALSegmentSize, from.control.Redo-from.control.Redo%wal.PageSize, to.control.Redo)); err != nil {
		t.Fatal(err)
	}
	return n
}
