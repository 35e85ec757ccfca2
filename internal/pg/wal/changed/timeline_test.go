package changed

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/holdfast-dr/holdfast/internal/pg/pgtest"
	"github.com/holdfast-dr/holdfast/internal/pg/pgtest/workload"
	"github.com/holdfast-dr/holdfast/internal/pg/wal"
	"github.com/holdfast-dr/holdfast/internal/pg/wal/record"
)

// A standby is promoted in the middle of work: the map of the old timeline up to the switch, joined with that of
// the new one, holds what changed; the old timeline's log behind the switch does not join.
func TestMapOverPromotion(t *testing.T) {
	for _, v := range pgtest.Versions(t) {
		t.Run(v, func(t *testing.T) {
			t.Parallel()
			p := pgtest.Start(t, pgtest.Options{Version: v, Checksums: true, Conf: workload.Conf(map[string]string{"autovacuum": "off"})})
			p.Exec("", "CREATE TABLE t AS SELECT i, repeat('a', 100) AS v FROM generate_series(1, 5000) i", "VACUUM (FREEZE) t", "CREATE SEQUENCE s")
			standby := p.Standby(pgtest.Options{Conf: workload.Conf(map[string]string{"wal_retrieve_retry_interval": "50ms"})})
			from := stopped(t, p)
			p.Start()
			p.Exec("", "DELETE FROM t WHERE i < 300", "SELECT nextval('s') FROM generate_series(1, 40)")
			standby.Until(t, "", "SELECT pg_last_wal_replay_lsn() >= '"+p.Query("", "SELECT pg_current_wal_flush_lsn()")+"'", "t")
			standby.Promote()
			p.Exec("", "UPDATE t SET v = 'dead branch'")
			dead := stopped(t, p)
			standby.Exec("", "DELETE FROM t WHERE i > 4900", "VACUUM t", "CREATE TABLE after AS SELECT 1 AS i")
			to := stopped(t, standby)

			history, err := os.ReadFile(filepath.Join(standby.DataDir, "pg_wal", wal.HistoryName(2)))
			if err != nil {
				t.Fatal(err)
			}
			way, err := wal.ParseHistory(2, history)
			if err != nil {
				t.Fatal(err)
			}
			size := from.control.WALSegmentSize
			left, _ := way.SwitchPoint(1)
			old := newTestDecoder(t, from.control, from.control.Redo)
			feed(t, old, p.DataDir, 1, size, left)
			before := old.Cut()

			next, err := NewDecoder(record.Config{Start: before.End, Timeline: 2, SegmentSize: size})
			if err != nil {
				t.Fatal(err)
			}
			feed(t, next, standby.DataDir, 2, size, to.control.Redo)
			joined, err := Join(way, before, next.Cut())
			if err != nil {
				t.Fatal(err)
			}
			check(t, joined, from, to)

			feed(t, old, p.DataDir, 1, size, dead.control.Redo)
			if m, err := Join(way, before, old.Cut()); err == nil {
				t.Errorf("the old primary's log behind the switch at %s was joined up to %s", left, m.End)
			}
		})
	}
}

// A map that begins on a page which continues a record begins behind that record, and until then nowhere.
func TestMapBeginsBehindAContinuedRecord(t *testing.T) {
	log := pgtest.NewLog(t, 5<<20, 1<<20, 7)
	log.Record(record.LogicalMessage, 0, make([]byte, 30_000))
	start, end := log.Record(record.LogicalMessage, 0, make([]byte, 100))
	d, err := NewDecoder(record.Config{Start: 5<<20 + wal.PageSize, Timeline: 1, SegmentSize: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ upTo, start, end wal.LSN }{
		{5<<20 + 2*wal.PageSize, 0, 0},
		{5<<20 + 3*wal.PageSize, 0, 0},
		{wal.LSN(start) + 3, wal.LSN(start), wal.LSN(start)},
		{wal.LSN(end), wal.LSN(start), (wal.LSN(end) + 7) &^ 7},
	} {
		if _, err := d.Write(log.Bytes[d.Next()-5<<20 : c.upTo-5<<20]); err != nil {
			t.Fatal(err)
		}
		if m := d.Cut(); m.Start != c.start || m.End != c.end {
			t.Errorf("up to %s: from %s to %s, want %s to %s", c.upTo, m.Start, m.End, c.start, c.end)
		}
	}
}
