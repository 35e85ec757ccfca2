package incremental

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/holdfast-dr/holdfast/internal/pg/pgtest"
)

// two takes a full and an incremental backup around statements.
func two(t *testing.T, s *pgtest.Server, before, between []string) chain {
	t.Helper()
	top := t.TempDir()
	c := chain{dirs: []string{filepath.Join(top, "full"), filepath.Join(top, "incr")}, wal: filepath.Join(s.DataDir, "pg_wal")}
	s.Exec("", before...)
	s.BaseBackup(c.dirs[0], "")
	s.Exec("", between...)
	s.BaseBackup(c.dirs[1], c.dirs[0])
	return c
}

// affected skips on a server that has the fixes: the release after which existing backups are not to be trusted.
func affected(t *testing.T, s *pgtest.Server) {
	t.Helper()
	if s.Version == 18 && s.Query("", "SELECT current_setting('server_version_num')::int >= 180007") == "t" {
		t.Skip("this server has the fixes")
	}
}

// The real defect: rows are deleted, the bits in the visibility map are cleared, no record refers to the map's block.
// The restored cluster returns the deleted rows from an index-only scan.
func TestStaleVisibilityMapOfRealServer(t *testing.T) {
	t.Parallel()
	for _, v := range versions(t) {
		t.Run(v, func(t *testing.T) {
			s := startServer(t, v, true)
			affected(t, s)
			c := two(t, s, []string{"CREATE TABLE t AS SELECT i, repeat('x', 500) AS v FROM generate_series(1, 5000) i", "VACUUM (FREEZE) t"},
				[]string{"DELETE FROM t WHERE i BETWEEN 100 AND 150"})
			table := relation(t, s, "t")
			for _, withLog := range []bool{true, false} {
				r := c.audit(t, withLog)
				expect(t, r, StaleVisibility, true, table+"_vm")
				c.truth(t, s, r)
				for _, f := range r.Findings {
					if f.Path == table+"_vm" && (f.Problem != vmClear || withLog != (f.LSN != 0) || !strings.Contains(f.Reason, "visible")) {
						t.Errorf("log %v: %s", withLog, text([]Finding{f}))
					}
					if f.Proof && !strings.HasSuffix(f.Path, "_vm") {
						t.Errorf("nothing but visibility maps is wrong: %s", text([]Finding{f}))
					}
				}
			}
		})
	}
}

// A truncation clears the bits of the heap's old tail in the map's last block, and no record says so where hint bits
// are not logged.
func TestStaleVisibilityMapBehindTruncation(t *testing.T) {
	t.Parallel()
	for _, v := range versions(t) {
		t.Run(v, func(t *testing.T) {
			s := startServer(t, v, false)
			affected(t, s)
			// The rows are gone before the full backup, so that between the two there is only the truncation.
			c := two(t, s, []string{
				"CREATE TABLE t AS SELECT i, repeat('x', 500) AS v FROM generate_series(1, 5000) i", "VACUUM (FREEZE) t",
				"DELETE FROM t WHERE i > 1000", "VACUUM (FREEZE, TRUNCATE false) t",
			}, []string{"VACUUM (TRUNCATE true) t"})
			table := relation(t, s, "t")
			for _, withLog := range []bool{true, false} {
				r := c.audit(t, withLog)
				expect(t, r, StaleVisibility, true, table+"_vm")
				c.truth(t, s, r)
				for _, f := range r.Findings {
					if f.Path == table+"_vm" && f.Problem != vmTruncation {
						t.Errorf("log %v: %s", withLog, text([]Finding{f}))
					}
				}
			}
		})
	}
}

// A truncated relation grows again by bulk extension: the pages that were made and not written come back with the
// rows that they had in the full backup.
func TestRegrownRelationOfRealServer(t *testing.T) {
	t.Parallel()
	for _, v := range versions(t) {
		t.Run(v, func(t *testing.T) {
			s := startServer(t, v, true)
			affected(t, s)
			c := two(t, s, []string{"CREATE TABLE t (i int, v text)", "INSERT INTO t SELECT i, repeat('x', 500) FROM generate_series(1, 20000) i", "VACUUM (FREEZE) t"},
				[]string{"DELETE FROM t WHERE i > 8000", "VACUUM t", "COPY t FROM PROGRAM 'seq 8001 10000 | sed s/$/,yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy/' WITH (FORMAT csv)"})
			table := relation(t, s, "t")
			t.Log(s.Query("", "SELECT pg_relation_size('t') / 8192"))
			r := c.audit(t, true)
			c.truth(t, s, r)
			for _, f := range r.Findings {
				if f.Path == table && (f.Kind != MissingBlock || !f.Proof || f.Problem != regrown) {
					t.Errorf("%s", text([]Finding{f}))
				}
			}
			expect(t, r, MissingBlock, true, table)
		})
	}
}

// The same over two incrementals: one is taken while the relation is short, and pg_combinebackup does not look at the
// length that it names. The pages alone tell.
func TestPageFromBeforeTheLastTruncation(t *testing.T) {
	t.Parallel()
	for _, v := range versions(t) {
		t.Run(v, func(t *testing.T) {
			s := startServer(t, v, true)
			affected(t, s)
			c := two(t, s, []string{"CREATE TABLE t (i int, v text)", "INSERT INTO t SELECT i, repeat('x', 500) FROM generate_series(1, 20000) i", "VACUUM (FREEZE) t"},
				[]string{"DELETE FROM t WHERE i > 8000", "VACUUM t"})
			s.Exec("", "COPY t FROM PROGRAM 'seq 8001 10000 | sed s/$/,"+strings.Repeat("y", 120)+"/' WITH (FORMAT csv)")
			c.dirs = append(c.dirs, filepath.Join(filepath.Dir(c.dirs[0]), "second"))
			s.BaseBackup(c.dirs[2], c.dirs[1])
			table := relation(t, s, "t")
			for _, withLog := range []bool{true, false} {
				r := c.audit(t, withLog)
				expect(t, r, Resurrected, true, table)
				differ, proven, _ := c.compare(t, s, r)
				if differ[table] == 0 || differ[table] != proven[table] {
					t.Errorf("log %v: %d blocks differ, %d are proven to:\n%s", withLog, differ[table], proven[table], text(r.Findings))
				}
			}
		})
	}
}

// The full backup is of the primary, the incremental one of the standby after its promotion: the log of both
// timelines is read.
func TestChainOverPromotion(t *testing.T) {
	t.Parallel()
	for _, v := range versions(t) {
		t.Run(v, func(t *testing.T) {
			p := startServer(t, v, true)
			p.Exec("", "CREATE TABLE t AS SELECT i, repeat('x', 500) AS v FROM generate_series(1, 5000) i", "VACUUM (FREEZE)")
			standby := p.Standby(pgtest.Options{Conf: serverConf})
			top := t.TempDir()
			full, incr := filepath.Join(top, "full"), filepath.Join(top, "incr")
			p.BaseBackup(full, "")
			p.Exec("", "UPDATE t SET v = 'before' WHERE i < 30")
			standby.Until(t, "", "SELECT pg_last_wal_replay_lsn() >= '"+p.Query("", "SELECT pg_current_wal_flush_lsn()")+"'", "t")
			standby.Promote()
			standby.Exec("", "UPDATE t SET v = 'after' WHERE i > 4980", "VACUUM (FREEZE)", "VACUUM (FREEZE)")
			standby.BaseBackup(incr, full)
			c := chain{dirs: []string{full, incr}, wal: filepath.Join(standby.DataDir, "pg_wal")}
			r := c.audit(t, true)
			for _, l := range r.Ranges {
				if !l.Read {
					t.Errorf("%+v", l)
				}
			}
			if len(r.Findings) > 0 || r.Backups[1].Timeline != 2 || r.Backups[1].Carried == 0 {
				t.Errorf("%+v\n%s", r.Backups[1], text(r.Findings))
			}
			c.truth(t, standby, r)
			broken := c.clone(t)
			dropBlock(t, broken.dirs[1], partial(relation(t, standby, "t")))
			r = broken.audit(t, true)
			expect(t, r, MissingBlock, true, relation(t, standby, "t"))
			if !strings.Contains(text(r.Findings), "["+summaryReach+"]") {
				t.Errorf("the promotion is not named:\n%s", text(r.Findings))
			}
		})
	}
}
