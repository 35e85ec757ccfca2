package restore_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/holdfast-dr/holdfast/internal/pg/pgtest"
	"github.com/holdfast-dr/holdfast/internal/pg/wal"
	"github.com/holdfast-dr/holdfast/internal/repo"
	"github.com/holdfast-dr/holdfast/internal/restore"
	"github.com/holdfast-dr/holdfast/internal/restore/boot"
	"github.com/holdfast-dr/holdfast/internal/restore/points"
)

// boot restores a plan as the command line does with --start. The server is stopped when the test ends.
func (w *world) boot(p *points.Plan, name string) (*boot.Server, *boot.Report, error) {
	w.t.Helper()
	o := w.options(name)
	o.Settings.Ending = restore.Follow
	if _, err := restore.Run(w.t.Context(), w.r, p, o); err != nil {
		w.t.Fatal(err)
	}
	pgtest.Chown(w.t, w.dir)
	s, report, err := boot.Start(w.t.Context(), o.To, p, boot.Options{
		BinDir: w.s.BinDir, Owner: o.Owner, Ending: restore.Follow, Config: map[string]string{"shared_buffers": "32MB"},
	})
	if err == nil {
		w.t.Cleanup(func() {
			if err := s.Stop(w.t.Context()); err != nil {
				w.t.Error(err)
			}
		})
	}
	return s, report, err
}

func ask(t *testing.T, conn, q string) string {
	t.Helper()
	c, err := pgx.Connect(t.Context(), conn)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(t.Context())
	var out string
	if err := c.QueryRow(t.Context(), "SELECT ("+q+")::text").Scan(&out); err != nil {
		t.Fatal(err)
	}
	return out
}

func TestStartReplaysToTheEndOfTheLog(t *testing.T) {
	t.Parallel()
	for _, v := range pgtest.Versions(t) {
		t.Run(v, func(t *testing.T) {
			w := newWorld(t, pgtest.Options{Version: v, Checksums: true})
			w.s.Exec("", "CREATE TABLE t AS SELECT generate_series(1, 10) AS i")
			w.snapshot(w.s)
			w.s.Exec("", "INSERT INTO t SELECT generate_series(11, 100000)", "INSERT INTO t VALUES (100001)")
			w.archive(w.s)
			w.s.Kill9()
			s, report, err := w.boot(w.mustPlan("latest"), "latest")
			if err != nil {
				t.Fatal(err)
			}
			if got := ask(t, s.ConnString("postgres"), "SELECT max(i) FROM t"); got != "100001" {
				t.Errorf("max is %s, want 100001", got)
			}
			if report.Timeline != 2 || report.RPO != 0 || report.NewestCommit.IsZero() {
				t.Errorf("report: %+v", report)
			}
			t.Logf("phases: %v", report.Phases)
		})
	}
}

// A log that ends within a record, as a stream that was cut off leaves it, is replayed to its last whole record.
func TestStartWithHalfARecord(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Options{Version: "15"})
	w.s.Exec("", "CREATE TABLE t (i int, s text)")
	w.snapshot(w.s)
	w.s.Exec("", "INSERT INTO t VALUES (1)")
	before := w.lsn("SELECT pg_current_wal_flush_lsn()")
	w.s.Exec("", "INSERT INTO t VALUES (2, repeat('x', 1500))")
	w.archiveTo(w.s, before+300)
	w.s.Kill9()
	s, _, err := w.boot(w.mustPlan("latest"), "latest")
	if err != nil {
		t.Fatal(err)
	}
	if got := ask(t, s.ConnString("postgres"), "SELECT max(i) FROM t"); got != "1" {
		t.Errorf("max is %s, want 1", got)
	}
}

// A damaged record in the log's last segment must not pass for the log's end.
func TestStartRefusesADamagedRecord(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Options{Version: "15"})
	w.s.Exec("", "CREATE TABLE t (i int, s text)")
	w.snapshot(w.s)
	w.s.Exec("", "INSERT INTO t VALUES (1)")
	at := w.lsn("SELECT pg_current_wal_flush_lsn()")
	w.s.Exec("", "INSERT INTO t VALUES (2)", "INSERT INTO t VALUES (3)")
	tl, end := w.archive(w.s)
	w.damageLog(tl, at+20, end) // its checksum
	_, _, err := w.boot(w.mustPlan("latest"), "latest")
	if err == nil || !strings.Contains(err.Error(), "the log is damaged") {
		t.Fatalf("started on a damaged log: %v", err)
	}
}

func TestStartToATimeAfterTheNewestCommit(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Options{Version: "15"})
	w.s.Exec("", "CREATE TABLE t AS SELECT 1 AS i")
	w.snapshot(w.s)
	w.s.Exec("", "INSERT INTO t VALUES (2)")
	at := now(w.s)
	w.archive(w.s)
	s, report, err := w.boot(w.mustPlan(at), "at")
	if err != nil {
		t.Fatal(err)
	}
	if got := ask(t, s.ConnString("postgres"), "SELECT max(i) FROM t"); got != "2" || len(report.Notes) < 2 {
		t.Errorf("max is %s, want 2; notes %q", got, report.Notes)
	}
}

func TestTimelineAfterAPromotion(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Options{Version: "15", Conf: map[string]string{"wal_keep_size": "1GB"}})
	w.s.Exec("", "CREATE TABLE t AS SELECT 1 AS i")
	w.snapshot(w.s)
	standby := w.s.Standby(pgtest.Options{})
	w.s.Exec("", "INSERT INTO t VALUES (2)")
	standby.Until(t, "", "SELECT max(i) FROM t", "2")
	standby.Promote()
	standby.Exec("", "INSERT INTO t VALUES (102)")
	w.s.Exec("", "INSERT INTO t VALUES (3)") // the old primary goes on by itself
	w.archive(w.s)
	w.archive(standby)
	for _, c := range []struct {
		tl   points.Timeline
		want string
	}{{points.Timeline{}, "102"}, {points.Timeline{Number: 1}, "3"}, {points.Timeline{Current: true}, "3"}} {
		p, err := w.plan("latest", c.tl)
		if err != nil {
			t.Fatal(err)
		}
		s, report, err := w.boot(p, fmt.Sprintf("tl-%d-%v", c.tl.Number, c.tl.Current))
		if err != nil {
			t.Fatal(err)
		}
		if got := ask(t, s.ConnString("postgres"), "SELECT max(i) FROM t"); got != c.want {
			t.Errorf("timeline %+v: max is %s, want %s", c.tl, got, c.want)
		}
		if report.Timeline != 3 {
			t.Errorf("timeline %+v: the server writes on %d, want 3", c.tl, report.Timeline)
		}
	}
}

// The mark says that there was more log than there is: nobody promotes by accident, at none of the doors.
func TestTruncatedLogIsNeverPromoted(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Options{Version: "15"})
	w.s.Exec("", "CREATE TABLE t AS SELECT 1 AS i")
	w.snapshot(w.s)
	w.s.Exec("", "SELECT pg_switch_wal()", "INSERT INTO t VALUES (2)")
	tl, end := w.archive(w.s)
	full := w.mustPlan("latest")
	w.putMark(tl, end+5<<20)
	_, err := w.plan("latest", points.Timeline{})
	golden(t, w, "below-mark", err)

	// A plan from before the loss was noticed, recovered without us: the server stops.
	o := w.options("plain")
	if _, err := restore.Run(t.Context(), w.r, full, o); err != nil {
		t.Fatal(err)
	}
	s := w.open(o.To)
	if err := s.TryStart(); err == nil {
		s.Until(t, "", "SELECT pg_is_in_recovery()", "t")
		s.WaitExit()
	}
	if log := s.Log(); !strings.Contains(log, "its high-water mark says") || strings.Contains(log, "selected new timeline") {
		t.Errorf("the server did not stop for the mark:\n%s", log)
	}
	// And with us.
	_, _, err = w.boot(full, "guarded")
	golden(t, w, "below-mark-start", err)
}

func TestGapStopsTheRecovery(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Options{Version: "15"})
	w.s.Exec("", "CREATE TABLE t AS SELECT 1 AS i")
	w.snapshot(w.s)
	for i := range 4 {
		w.s.Exec("", fmt.Sprintf("INSERT INTO t VALUES (%d)", i+2), "SELECT pg_switch_wal()")
	}
	tl, _ := w.archive(w.s)
	full := w.mustPlan("latest")
	start := full.Snapshot.Facts.StartLSN + 2*wal.LSN(wal.DefaultSegmentSize)
	w.dropLog(tl, wal.DefaultSegmentSize.Floor(start))
	_, err := w.plan("latest", points.Timeline{})
	golden(t, w, "gap", err)
	_, _, err = w.boot(full, "guarded")
	golden(t, w, "gap-start", err)
}

func (w *world) lsn(q string) wal.LSN {
	w.t.Helper()
	l, err := wal.ParseLSN(w.s.Query("", q))
	if err != nil {
		w.t.Fatal(err)
	}
	return l
}

// putMark raises the mark.
func (w *world) putMark(tl wal.TimelineID, at wal.LSN) {
	w.t.Helper()
	if err := w.r.Log(system).PutMark(w.t.Context(), repo.Mark{Stream: repo.StreamID(tl), LSN: uint64(at)}); err != nil {
		w.t.Fatal(err)
	}
}

// dropLog removes the extent that begins at a position.
func (w *world) dropLog(tl wal.TimelineID, at wal.LSN) {
	w.t.Helper()
	found, err := filepath.Glob(filepath.Join(w.dir, "log", "*", fmt.Sprintf("%08x", uint32(tl)), fmt.Sprintf("%016x-*", uint64(at))))
	if err != nil || len(found) != 1 {
		w.t.Fatalf("extents at %s: %v, %v", at, found, err)
	}
	if err := os.Remove(found[0]); err != nil {
		w.t.Fatal(err)
	}
}

// damageLog stores the log from the segment that holds at up to end once more, with one bit turned.
func (w *world) damageLog(tl wal.TimelineID, at, end wal.LSN) {
	w.t.Helper()
	log := w.r.Log(system)
	start := wal.DefaultSegmentSize.Floor(at)
	extents, err := log.Extents(w.t.Context(), repo.StreamID(tl), uint64(start))
	if err != nil {
		w.t.Fatal(err)
	}
	for _, e := range extents {
		if wal.LSN(e.Start) != start || wal.LSN(e.End) != end {
			continue
		}
		b, clock, err := log.Reader().Read(w.t.Context(), e)
		if err != nil {
			w.t.Fatal(err)
		}
		b[at-start] ^= 1
		if err := log.Encoder().Put(w.t.Context(), e.Stream, e.Start, b, clock, repo.Fast); err != nil {
			w.t.Fatal(err)
		}
		return
	}
	w.t.Fatalf("no extent from %s to %s", start, end)
}
