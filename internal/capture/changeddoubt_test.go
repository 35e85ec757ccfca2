package capture_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/internal/capture"
	"github.com/holdfast-dr/holdfast/internal/pg"
	"github.com/holdfast-dr/holdfast/internal/pg/cluster"
	"github.com/holdfast-dr/holdfast/internal/pg/page"
	"github.com/holdfast-dr/holdfast/internal/pg/pgtest"
	"github.com/holdfast-dr/holdfast/internal/pg/wal"
	"github.com/holdfast-dr/holdfast/internal/repo"
)

// begun returns a server of which one snapshot was taken.
func begun(t *testing.T, o pgtest.Options, local bool) *changing {
	t.Helper()
	o.Conf = quietConf(o.Conf)
	s := pgtest.Start(t, o)
	s.Exec("", "CREATE TABLE t AS SELECT i, repeat('holdfast ', 20) AS s FROM generate_series(1, 20000) i", "VACUUM t", "CHECKPOINT")
	c := newChanging(t, s, local)
	c.take(t)
	return c
}

// withoutStream ends the stream, and what its slot keeps.
func (c *changing) withoutStream(t *testing.T) {
	t.Helper()
	if err := c.stream.stop(); err != nil && !errors.Is(err, context.Canceled) {
		t.Log(err)
	}
	c.s.Until(t, "", "SELECT count(*) FROM pg_replication_slots WHERE active", "0")
	c.s.Exec("", "SELECT pg_drop_replication_slot('holdfast')")
	c.cfg.WaitLog = nil
}

// A log that has a gap reads everything; a checkpoint that was made already must not stand in the way of that.
func TestChangedGap(t *testing.T) {
	t.Parallel()
	for _, local := range []bool{true, false} {
		for _, force := range []bool{false, true} {
			t.Run(fmt.Sprintf("local=%v, checkpoint=%v", local, force), func(t *testing.T) {
				t.Parallel()
				c := begun(t, pgtest.Options{InitArgs: []string{"--wal-segsize=1"}, Conf: map[string]string{
					"wal_keep_size": "0", "max_wal_size": "4MB", "min_wal_size": "2MB",
				}}, local)
				c.withoutStream(t)
				for range 3 {
					c.s.Exec("", "UPDATE t SET s = s || '.'", "CHECKPOINT")
				}
				c.cfg.ForceCheckpoint = force
				c.full(t, "what changed since the snapshot before is not known")
			})
		}
	}
}

func TestChangedMinimal(t *testing.T) {
	t.Parallel()
	c := begun(t, pgtest.Options{}, true)
	c.withoutStream(t)
	c.s.Stop(pgtest.Fast)
	silent := pgtest.Open(t, c.s.DataDir, pgtest.Options{Version: fmt.Sprint(c.s.Version), Conf: quietConf(map[string]string{"wal_level": "minimal", "max_wal_senders": "0"})})
	silent.Start()
	silent.Exec("", "BEGIN; CREATE TABLE silent AS SELECT generate_series(1, 10000) AS i; COMMIT")
	silent.Stop(pgtest.Fast)
	c.s.Start()
	c.full(t, "wal_level")
	c.changed(t)
}

// fullPageWrites switches them, and waits until the log has the record of it.
func fullPageWrites(t *testing.T, s *pgtest.Server, to string) {
	t.Helper()
	s.Exec("", "ALTER SYSTEM SET full_page_writes = "+to)
	at := s.Query("", "SELECT pg_current_wal_insert_lsn()")
	s.Exec("", "SELECT pg_reload_conf()")
	s.Until(t, "", "SELECT pg_current_wal_insert_lsn() > '"+at+"'", "t")
}

func TestChangedWithoutFullPageWrites(t *testing.T) {
	t.Parallel()
	for _, local := range []bool{true, false} {
		t.Run(fmt.Sprintf("local=%v", local), func(t *testing.T) {
			t.Parallel()
			c := begun(t, pgtest.Options{}, local)
			c.changed(t)
			fullPageWrites(t, c.s, "off")
			c.s.Exec("", "UPDATE t SET s = 'torn' WHERE i < 100")
			fullPageWrites(t, c.s, "on")
			c.full(t, "full_page_writes was off")
			fullPageWrites(t, c.s, "off")
			c.s.Exec("", "CHECKPOINT")
			fullPageWrites(t, c.s, "on")
			c.full(t, "full_page_writes was off at the last checkpoint")
			// What lies between two snapshots matters to neither.
			fullPageWrites(t, c.s, "off")
			c.s.Exec("", "UPDATE t SET s = 'whole' WHERE i < 200")
			fullPageWrites(t, c.s, "on")
			c.changed(t)
		})
	}
}

func TestChangedChecksumsSwitched(t *testing.T) {
	t.Parallel()
	c := begun(t, pgtest.Options{Checksums: true}, true)
	c.s.Stop(pgtest.Fast)
	out, err := exec.Command(c.s.Bin("pg_checksums"), "--disable", "-D", c.s.DataDir).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	pgtest.Chown(t, c.s.DataDir)
	c.s.Start()
	c.full(t, "data checksums were switched")
}

func TestChangedAnotherCluster(t *testing.T) {
	t.Parallel()
	c := begun(t, pgtest.Options{}, true)
	s := pgtest.Start(t, pgtest.Options{Conf: quietConf(nil)})
	c.s = s
	c.cfg.Connection, c.cfg.DataDir = s.ConnString(""), s.DataDir
	c.full(t, "another cluster")
}

func TestChangedAfterDamage(t *testing.T) {
	t.Parallel()
	c := begun(t, pgtest.Options{Checksums: true}, true)
	overwrite(t, c.s, c.s.Query("", "SELECT pg_relation_filepath('t')"), func(p []byte, block uint32) bool { p[4000] ^= 1; return block == 17 })
	c.cfg.Scan = capture.ScanFull
	report, err := capture.Snapshot(t.Context(), c.r, c.cfg)
	if err != nil || len(report.Problems) != 1 {
		t.Fatalf("a damaged page is told as %v, %v", report, err)
	}
	c.cfg.Scan = capture.ScanChanged
	if report, err = capture.Snapshot(t.Context(), c.r, c.cfg); err != nil || !strings.Contains(report.FullScan, "damaged pages") {
		t.Fatalf("%q, %v", report.FullScan, err)
	}
}

// A collection that does not know the snapshot before may remove what it needs.
func TestChangedBesideACollection(t *testing.T) {
	t.Parallel()
	c := begun(t, pgtest.Options{}, true)
	first, err := c.r.LatestSnapshot(t.Context(), "orders-db")
	if err != nil {
		t.Fatal(err)
	}
	c.s.Exec("", "UPDATE t SET s = md5(s)")
	c.changed(t)
	if err := c.r.Forget(t.Context(), "orders-db", first.ID); err != nil {
		t.Fatal(err)
	}
	c.cfg.WaitLog = func(ctx context.Context, _ wal.TimelineID, _, _ wal.LSN) error {
		// It is published now, and waits for this snapshot.
		report, err := c.r.Collect(ctx, repo.CollectOptions{Patience: time.Hour})
		t.Logf("%+v", report)
		return err
	}
	c.take(t)
	c.cfg.WaitLog = nil
	c.full(t, "a collection that is under way")
}

// overwrite changes pages of a file behind the server's back, and of the main forks of all relations where none is named.
func overwrite(t *testing.T, s *pgtest.Server, table string, change func(p []byte, block uint32) bool) {
	t.Helper()
	s.Stop(pgtest.Fast)
	paths, err := filepath.Glob(filepath.Join(s.DataDir, "base/*/[1-9]*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range paths {
		rel, err := filepath.Rel(s.DataDir, path)
		if err != nil {
			t.Fatal(err)
		}
		if r, ok := cluster.ParsePath(rel); !ok || table == "" && r.Fork != cluster.Main || table != "" && rel != table {
			continue
		}
		content, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for at := 0; at < len(content); at += page.Size {
			if p := content[at : at+page.Size]; !page.IsNew(p) {
				before := bytes.Clone(p)
				if !change(p, uint32(at/page.Size)) {
					copy(p, before)
				}
			}
		}
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s.Start()
}

// aSecondLater returns a second later: which of two snapshots of one second is the newest is anybody's guess.
func aSecondLater(t *testing.T, s *pgtest.Server) {
	s.Until(t, "", "SELECT clock_timestamp() > '"+s.Query("", "SELECT clock_timestamp()")+"'::timestamptz + interval '1 second'", "t")
}

// TestChangedStandby takes snapshots of a standby and of its primary in turns, and then of what the standby was
// promoted to.
func TestChangedStandby(t *testing.T) {
	t.Parallel()
	for _, local := range []bool{true, false} {
		t.Run(fmt.Sprintf("local=%v", local), func(t *testing.T) {
			t.Parallel()
			o := pgtest.Options{Checksums: true, Conf: quietConf(map[string]string{"shared_buffers": "1MB"})}
			s := pgtest.Start(t, o)
			s.Exec("", "CREATE TABLE t AS SELECT i, repeat('holdfast ', 20) AS s FROM generate_series(1, 20000) i", "CREATE INDEX ON t (i)", "CHECKPOINT")
			sb := s.Standby(o)
			c := newChanging(t, s, local)
			c.hints = false // a standby sets its own
			at := func(server *pgtest.Server) {
				c.s, c.cfg.Connection = server, server.ConnString("")
				if local {
					c.cfg.DataDir = server.DataDir
				}
			}
			caughtUp := func() {
				s.Exec("", "CHECKPOINT")
				sb.Until(t, "", "SELECT pg_last_wal_replay_lsn() >= '"+s.Query("", "SELECT pg_current_wal_flush_lsn()")+"'", "t")
			}
			c.full(t, "it is the first snapshot")
			for i := range 2 {
				s.Exec("", fmt.Sprintf("UPDATE t SET s = 'standby %d' WHERE i %% 50 = 0", i))
				caughtUp()
				at(sb)
				c.changed(t)
				s.Exec("", fmt.Sprintf("UPDATE t SET s = 'primary %d' WHERE i %% 70 = 0", i))
				at(s)
				c.changed(t)
			}
			// The standby stays behind while a snapshot of its primary takes newer pages.
			s.Exec("", "UPDATE t SET s = 'a' WHERE i % 2 = 0")
			caughtUp()
			sb.Exec("", "CHECKPOINT", "SELECT pg_wal_replay_pause()")
			s.Exec("", "UPDATE t SET s = 'b' WHERE i % 2 = 0")
			ahead := c.take(t)
			at(sb)
			behind := c.take(t)
			if behind.FullScan != "" {
				t.Errorf("everything was read: %s", behind.FullScan)
			}
			if a, b := stopOf(t, ahead), stopOf(t, behind); b < a {
				t.Errorf("a snapshot with pages of %s calls itself consistent at %s", a, b)
			}
			if err := c.stream.stop(); err != nil && !errors.Is(err, context.Canceled) {
				t.Log(err)
			}
			sb.Exec("", "SELECT pg_wal_replay_resume()")
			caughtUp()
			at(s)
			if local {
				// The primary writes what its standby never gets, and a snapshot takes it.
				sb.Stop(pgtest.Fast)
				aSecondLater(t, s)
				s.Exec("", "UPDATE t SET s = 'lost'", "CHECKPOINT")
				c.take(t)
				s.Stop(pgtest.Immediate)
				sb.Start()
			}
			sb.Promote()
			at(sb)
			sb.Exec("", "CHECKPOINT")
			c.stream = startStream(t, capture.StreamConfig{Connection: sb.ConnString(""), Log: c.r.Log(logSystem), Interval: 50 * time.Millisecond, Slot: "promoted"})
			if !local {
				c.cfg.WaitLog = waitStream(c.stream)
			}
			c.stream.untilStored(2, flushed(t, sb))
			if local {
				c.full(t, "was left before")
				aSecondLater(t, sb)
			}
			c.changed(t)
			sb.Exec("", "UPDATE t SET s = 'on' WHERE i % 9 = 0")
			c.changed(t)
			c.proven(t)
		})
	}
}

func stopOf(t *testing.T, r *capture.SnapshotReport) wal.LSN {
	t.Helper()
	f, err := pg.ParseFacts(r.Snapshot.Engine, r.Snapshot.Facts)
	if err != nil {
		t.Fatal(err)
	}
	return f.StopLSN
}

// A role that may not read files over SQL gets everything over BASE_BACKUP, and is told what to grant; the statement
// is enough.
func TestChangedWithoutTheRight(t *testing.T) {
	t.Parallel()
	for _, version := range pgtest.Versions(t) {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			c := begun(t, pgtest.Options{Version: version}, false)
			c.s.Exec("", "CREATE ROLE modest LOGIN REPLICATION", "GRANT pg_read_all_settings TO modest")
			c.cfg.Connection = strings.Replace(c.s.ConnString(""), "user=postgres", "user=modest", 1)
			c.s.Exec("", "UPDATE t SET s = '' WHERE i = 1", "CHECKPOINT")
			report := c.full(t, "to read single pages of its files")
			_, grant, _ := strings.Cut(report.FullScan, "GRANT ")
			grant, _, _ = strings.Cut(grant, ";")
			c.s.Exec("", "GRANT "+grant)
			c.s.Exec("", "UPDATE t SET s = '' WHERE i = 2")
			c.changed(t)
			// Without a checkpoint since the last snapshot one has to be made, for which this role has no right.
			c.cfg.ForceCheckpoint = true
			c.full(t, "to begin and end a backup")
		})
	}
}
