package capture_test

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/holdfast-dr/holdfast/internal/capture"
	"github.com/holdfast-dr/holdfast/internal/pg"
	"github.com/holdfast-dr/holdfast/internal/pg/cluster"
	"github.com/holdfast-dr/holdfast/internal/pg/page"
	"github.com/holdfast-dr/holdfast/internal/pg/pgtest"
	"github.com/holdfast-dr/holdfast/internal/pg/wal"
	"github.com/holdfast-dr/holdfast/internal/repo"
)

// quietConf is of a server that writes to its files only when it is told to.
func quietConf(more map[string]string) map[string]string {
	conf := map[string]string{
		"autovacuum": "off", "bgwriter_lru_maxpages": "0", "checkpoint_timeout": "1h", "max_wal_size": "4GB", "wal_keep_size": "1GB",
		"max_prepared_transactions": "10",
	}
	for name, value := range more {
		conf[name] = value
	}
	return conf
}

// changing is a server, and a repository that receives its log and its snapshots.
type changing struct {
	s      *pgtest.Server
	r      *repo.Repository
	stream *running // may be nil: the log is read from the server's files
	cfg    capture.SnapshotConfig
	hints  bool     // changes of hint bits are logged
	read   contents // nil: each snapshot is read anew
}

func newChanging(t *testing.T, s *pgtest.Server, local bool) *changing {
	t.Helper()
	r := newRepository(t)
	log := r.Log(logSystem)
	if err := log.Register(t.Context(), repo.DefaultGroup); err != nil {
		t.Fatal(err)
	}
	c := &changing{s: s, r: r, cfg: snapshotConfig(s, local)}
	c.hints = s.Query("", "SELECT current_setting('data_checksums')::bool OR current_setting('wal_log_hints')::bool") == "t"
	c.stream = startStream(t, capture.StreamConfig{Connection: s.ConnString(""), Log: log})
	if local {
		return c // the snapshot brings what the stream has not brought yet
	}
	c.cfg.WaitLog = waitStream(c.stream)
	return c
}

func waitStream(stream *running) func(context.Context, wal.TimelineID, wal.LSN, wal.LSN) error {
	return func(_ context.Context, tl wal.TimelineID, _, end wal.LSN) error {
		stream.untilStored(tl, end)
		return nil
	}
}

// take takes a snapshot.
func (c *changing) take(t *testing.T) *capture.SnapshotReport {
	t.Helper()
	report, err := capture.Snapshot(t.Context(), c.r, c.cfg)
	if err != nil {
		t.Fatal(err)
	}
	if len(report.Missed) > 0 || len(report.Problems) > 0 {
		t.Errorf("the log did not tell of %v; damaged is %v", report.Missed, report.Problems)
	}
	return report
}

// changed takes a snapshot of what changed until now, which must be what the files hold.
func (c *changing) changed(t *testing.T) *capture.SnapshotReport {
	t.Helper()
	c.s.Exec("", "CHECKPOINT")
	report := c.take(t)
	if report.FullScan != "" {
		t.Errorf("everything was read: %s", report.FullScan)
	}
	c.equalsFiles(t, report)
	return report
}

// full takes a snapshot that must read everything, for a reason that contains why.
func (c *changing) full(t *testing.T, why string) *capture.SnapshotReport {
	t.Helper()
	report := c.take(t)
	if report.FullScan == "" || !strings.Contains(report.FullScan, why) {
		t.Errorf("everything was read because of %q, want %q", report.FullScan, why)
	}
	c.equalsFiles(t, report)
	return report
}

// proven takes a snapshot of everything, which must find nothing that the log did not tell.
func (c *changing) proven(t *testing.T) {
	t.Helper()
	c.s.Exec("", "CHECKPOINT")
	cfg := c.cfg
	cfg.Scan = capture.ScanFull
	report, err := capture.Snapshot(t.Context(), c.r, cfg)
	if err != nil {
		t.Fatal(err)
	}
	if report.NotCompared != "" || len(report.Missed) > 0 {
		t.Errorf("the log did not tell of %v; not compared: %s", report.Missed, report.NotCompared)
	}
}

// equalsFiles compares a snapshot with the files of its server, which must be still.
func (c *changing) equalsFiles(t *testing.T, report *capture.SnapshotReport) {
	t.Helper()
	read := c.read
	if read == nil {
		read = contents{}
	}
	got := read.tree(t, c.r, report.Snapshot)
	seen := map[string]bool{cluster.ControlFile: true}
	err := cluster.Walk(t.Context(), c.s.DataDir, cluster.WalkOptions{}, func(e cluster.Entry) error {
		if e.Type != cluster.File {
			seen[e.Path+"/"] = true
			if _, ok := got[e.Path+"/"]; !ok {
				t.Errorf("the folder %s is not in the snapshot", e.Path)
			}
			return nil
		}
		seen[e.Path] = true
		want, err := os.ReadFile(e.Source)
		if err != nil {
			return err
		}
		content, ok := got[e.Path]
		switch {
		case !ok && e.IsRelation && zeros(want): // an extension that nothing used
		case !ok:
			t.Errorf("%s is not in the snapshot", e.Path)
		case e.IsRelation:
			c.equalPages(t, e.Path, content, want)
		case !bytes.Equal(content, want):
			t.Errorf("%s has %d bytes that differ from the %d of the server", e.Path, len(content), len(want))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for path := range got {
		if !seen[path] {
			t.Errorf("%s is in the snapshot, and not on disk", path)
		}
	}
}

func zeros(b []byte) bool { return len(bytes.Trim(b, "\x00")) == 0 }

// equalPages compares all but hint bits that were not logged, and zeros at the end.
func (c *changing) equalPages(t *testing.T, path string, got, want []byte) {
	t.Helper()
	for at := 0; at < max(len(got), len(want)); at += page.Size {
		switch {
		case at >= len(want):
			t.Errorf("%s has %d bytes, want %d", path, len(got), len(want))
			return
		case at >= len(got):
			if !zeros(want[at:]) {
				t.Errorf("%s has %d bytes, want %d, and they are not zeros", path, len(got), len(want))
			}
			return
		}
		a, b := got[at:at+page.Size], want[at:at+page.Size]
		if !bytes.Equal(a, b) && (c.hints || page.LSN(a) != page.LSN(b)) {
			t.Errorf("%s: page %d has LSN %X, want %X", path, at/page.Size, page.LSN(a), page.LSN(b))
		}
	}
}

// A step is what is done between two snapshots.
type step struct {
	name string
	do   func(s *pgtest.Server)
}

func statements(db string, list ...string) func(*pgtest.Server) {
	return func(s *pgtest.Server) { s.Exec(db, list...) }
}

// steps is what a log tells in ways of its own, or not at all.
func steps(t *testing.T) []step {
	space := func(s *pgtest.Server, name string) string {
		return fmt.Sprintf("CREATE TABLESPACE %s LOCATION '%s'", name, pgtest.TempDir(t))
	}
	file := func(s *pgtest.Server, name, content string) {
		path := filepath.Join(s.DataDir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		pgtest.Chown(t, path)
	}
	return []step{
		{"nothing", func(*pgtest.Server) {}},
		{"pages", statements("", "UPDATE t SET s = s || '!' WHERE i % 5000 = 0")},
		{"hint bits", statements("", "INSERT INTO hints SELECT generate_series(1, 20000)", "CHECKPOINT", "SELECT count(*) FROM hints")},
		{"killed index entries", statements("",
			"UPDATE t SET i = i + 100000 WHERE i BETWEEN 100 AND 400", "CHECKPOINT",
			"SET enable_seqscan = off; SELECT count(*) FROM t WHERE i BETWEEN 100 AND 400")},
		{"free space", statements("",
			"CREATE TABLE free AS SELECT i, repeat('x', 500) AS s FROM generate_series(1, 20000) i", "DELETE FROM free WHERE i % 3 = 0", "VACUUM free")},
		{"free space again", statements("", "INSERT INTO free SELECT i, repeat('y', 400) FROM generate_series(1, 3000) i", "DELETE FROM free WHERE i % 7 = 0", "VACUUM free")},
		{"truncation", statements("", "DELETE FROM free WHERE i > 5000", "VACUUM free")},
		{"truncation of all", statements("", "VACUUM hints", "DELETE FROM hints", "VACUUM hints")},
		{"growth after truncation", func(s *pgtest.Server) {
			// COPY extends by many pages at once, of which the last ones stay zeros without a word in the log.
			s.Exec("", "INSERT INTO free SELECT i, repeat('z', 3000) FROM generate_series(1, 3000) i")
		}},
		{"shrinking and growing between two snapshots", statements("",
			"DELETE FROM free WHERE i > 100", "VACUUM free", "CHECKPOINT", "INSERT INTO free SELECT i, repeat('a', 500) FROM generate_series(1, 9000) i")},
		{"truncate", statements("", "TRUNCATE free", "INSERT INTO free VALUES (1, 'one')")},
		{"unlogged", statements("", "CREATE TABLE switch AS SELECT generate_series(1, 5000) AS i", "CREATE INDEX ON switch (i)")},
		{"to unlogged", statements("", "ALTER TABLE switch SET UNLOGGED", "INSERT INTO switch VALUES (1)")},
		{"of unlogged", statements("", "INSERT INTO switch SELECT generate_series(1, 5000)", "TRUNCATE u", "INSERT INTO u VALUES (1)")},
		{"to logged", statements("", "ALTER TABLE switch SET LOGGED")},
		{"dropped", statements("", "DROP TABLE switch", "CREATE TABLE other (i int PRIMARY KEY)", "INSERT INTO other SELECT generate_series(1, 3000)", "DROP TABLE u")},
		{"index", statements("", "CREATE INDEX other_i ON other (i)", "DROP INDEX other_i", "REINDEX TABLE t")},
		{"rewritten", statements("", "VACUUM FULL t", "CLUSTER other USING other_pkey", "VACUUM FULL pg_class")},
		{"sequence", statements("", "CREATE SEQUENCE q", "SELECT nextval('q') FROM generate_series(1, 10)")},
		{"sequence on", statements("", "SELECT nextval('q') FROM generate_series(1, 5)")},
		{"large objects", statements("", "SELECT lo_from_bytea(4711, convert_to(repeat('big', 50000), 'UTF8'))")},
		{"large object removed", statements("", "SELECT lo_unlink(4711)")},
		{"prepared", statements("", "BEGIN; INSERT INTO other VALUES (-1); PREPARE TRANSACTION 'one'")},
		{"prepared ended", statements("", "COMMIT PREPARED 'one'", "BEGIN; DROP TABLE other; PREPARE TRANSACTION 'two'")},
		{"prepared drop", statements("", "COMMIT PREPARED 'two'")},
		{"indexes of all kinds", statements("",
			"CREATE TABLE kinds AS SELECT i, point(i % 100, i / 100) AS p, ARRAY[i % 7, i % 11] AS a, md5(i::text) AS m FROM generate_series(1, 5000) i",
			"CREATE INDEX ON kinds USING gist (p)", "CREATE INDEX ON kinds USING gin (a)", "CREATE INDEX ON kinds USING hash (i)",
			"CREATE INDEX ON kinds USING brin (i)", "CREATE INDEX ON kinds USING spgist (m)")},
		{"indexes changed", statements("", "INSERT INTO kinds SELECT i, point(i % 50, i / 50), ARRAY[i % 5], md5(i::text) FROM generate_series(1, 3000) i",
			"DELETE FROM kinds WHERE i % 3 = 0", "VACUUM kinds")},
		{"database", statements("", "CREATE DATABASE d")},
		{"in the database", statements("d", "CREATE TABLE within_d AS SELECT generate_series(1, 3000) AS i")},
		{"database by files", func(s *pgtest.Server) {
			if s.Version < 15 {
				s.Exec("", "CREATE DATABASE f TEMPLATE d")
				return
			}
			s.Exec("", "CREATE DATABASE f TEMPLATE d STRATEGY file_copy")
		}},
		{"database renewed", func(s *pgtest.Server) { s.Exec("", "DROP DATABASE f"); s.Exec("", "CREATE DATABASE f TEMPLATE d") }},
		{"tablespace", func(s *pgtest.Server) {
			s.Exec("", space(s, "near"), "CREATE TABLE near TABLESPACE near AS SELECT generate_series(1, 2000) AS i")
		}},
		{"moved to a tablespace", statements("", "ALTER TABLE t SET TABLESPACE near", "UPDATE near SET i = -i")},
		{"database moved", statements("", "ALTER DATABASE d SET TABLESPACE near")},
		{"database in a tablespace", statements("d", "INSERT INTO within_d SELECT generate_series(1, 3000)")},
		{"tablespace dropped", statements("", "DROP TABLE far", "DROP TABLESPACE far", "ALTER DATABASE d SET TABLESPACE pg_default")},
		{"databases dropped", statements("", "DROP DATABASE d", "DROP DATABASE f")},
		{"transaction status", statements("", "DO $$ BEGIN FOR i IN 1..40000 LOOP BEGIN INSERT INTO free VALUES (i, ''); EXCEPTION WHEN OTHERS THEN NULL; END; END LOOP; END $$")},
		{"settings", func(s *pgtest.Server) {
			s.Exec("", "ALTER SYSTEM SET work_mem = '5MB'")
			f, err := os.OpenFile(filepath.Join(s.DataDir, "pg_hba.conf"), os.O_APPEND|os.O_WRONLY, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if _, err := f.WriteString("# changed\n"); err != nil {
				t.Fatal(err)
			}
		}},
		{"a new file", func(s *pgtest.Server) { file(s, "notes.txt", strings.Repeat("note ", 1000)) }},
		{"a file changed, one emptied", func(s *pgtest.Server) { file(s, "notes.txt", "short"); file(s, "empty.txt", "") }},
		{"a file emptied, one filled", func(s *pgtest.Server) { file(s, "notes.txt", ""); file(s, "empty.txt", "full") }},
		{"files removed", func(s *pgtest.Server) {
			for _, name := range []string{"notes.txt", "empty.txt"} {
				if err := os.Remove(filepath.Join(s.DataDir, name)); err != nil {
					t.Fatal(err)
				}
			}
		}},
		{"a file of an extension changed", func(s *pgtest.Server) { file(s, "base/1/extension.map", "changed") }},
		{"a file of an extension removed", func(s *pgtest.Server) {
			if err := os.Remove(filepath.Join(s.DataDir, "base/1/extension.map")); err != nil {
				t.Fatal(err)
			}
		}},
		{"a crash", func(s *pgtest.Server) {
			s.Exec("", "INSERT INTO free SELECT i, 'lost?' FROM generate_series(1, 5000) i", "CREATE INDEX ON free (i)")
			s.Kill9()
			s.Start()
		}},
	}
}

var changedAll = flag.Bool("changed.all", false, "each version with and without checksums, beside the server and from afar")

// TestChanged takes a snapshot after each step, and compares it with the files.
func TestChanged(t *testing.T) {
	t.Parallel()
	versions := pgtest.Versions(t)
	for i, version := range versions {
		for _, checksums := range []bool{true, false} {
			for _, local := range []bool{true, false} {
				// Each setting once: the oldest without checksums, the newest from afar.
				if !*changedAll && (checksums != (i > 0) || local == (i == len(versions)-1)) {
					continue
				}
				t.Run(fmt.Sprintf("%s/checksums=%v/local=%v", version, checksums, local), func(t *testing.T) {
					t.Parallel()
					testChanged(t, version, checksums, local)
				})
			}
		}
	}
}

func testChanged(t *testing.T, version string, checksums, local bool) {
	o := pgtest.Options{Version: version, Checksums: checksums, Conf: quietConf(nil)}
	if !checksums {
		o.InitArgs = []string{"--wal-segsize=1"}
		if version == "18" {
			o.InitArgs = append(o.InitArgs, "--no-data-checksums")
		}
	}
	s := pgtest.Start(t, o)
	fill(t, s)
	s.Exec("", "CREATE TABLE hints (i int)")
	if err := os.WriteFile(filepath.Join(s.DataDir, "base/1/extension.map"), []byte("extension"), 0o600); err != nil {
		t.Fatal(err)
	}
	pgtest.Chown(t, filepath.Join(s.DataDir, "base/1/extension.map"))
	c := newChanging(t, s, local)
	c.read = contents{}
	c.full(t, "it is the first snapshot")
	for _, step := range steps(t) {
		ok := t.Run(step.name, func(t *testing.T) {
			step.do(s)
			began := s.Query("", "SELECT redo_lsn FROM pg_control_checkpoint()")
			report := c.changed(t)
			facts, err := pg.ParseFacts(report.Snapshot.Engine, report.Snapshot.Facts)
			if err != nil {
				t.Fatal(err)
			}
			if forced := s.Query("", "SELECT redo_lsn FROM pg_control_checkpoint()"); step.name == "tablespace" && forced == facts.StartLSN.String() && forced == began {
				t.Error("a new tablespace made no checkpoint")
			}
		})
		if !ok {
			break // what follows is wrong for the same reason
		}
	}
	c.read = nil // all that the last one has is read back once more
	c.changed(t)
	c.proven(t)
}
