package restore

import (
	"bytes"
	"encoding/binary"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/internal/pg"
	"github.com/holdfast-dr/holdfast/internal/pg/pgtest"
	"github.com/holdfast-dr/holdfast/internal/pg/wal"
	"github.com/holdfast-dr/holdfast/internal/repo"
	"github.com/holdfast-dr/holdfast/internal/repo/repotest"
	"github.com/holdfast-dr/holdfast/internal/restore/points"
	"github.com/holdfast-dr/holdfast/internal/store/storetest"
)

// checkpointLog is a log with one checkpoint, whose record begins so many bytes behind its start.
func checkpointLog(t *testing.T, at uint64, info uint8, nextXid uint64) (l *pgtest.Log, checkpoint wal.LSN) {
	const segment = 1 << 20
	l = pgtest.NewLog(t, 5*segment, segment, 7)
	l.FillTo(l.Start + at)
	body := bytes.Repeat([]byte{0xAA}, 88)
	binary.LittleEndian.PutUint64(body[24:], nextXid)
	start, _ := l.Record(0, info, body)
	l.Record(0, 0x20, make([]byte, 8)) // XLOG_NOOP
	return l, wal.LSN(start)
}

func runOn(t *testing.T, l *pgtest.Log, checkpoint wal.LSN) *run {
	t.Helper()
	r := repotest.Init(t, storetest.NewMemory(), repo.Options{})
	encoder := r.Log("orders-db").Encoder()
	for b, at := l.Bytes, l.Start; len(b) > 0; { // pieces that have nothing to do with records
		n := min(len(b), 300_001)
		if err := encoder.Add(t.Context(), 1, at, bytes.NewReader(b[:n]), n, repo.ExtentClock{Writer: time.Now()}, repo.Fast); err != nil {
			t.Fatal(err)
		}
		b, at = b[n:], at+uint64(n)
	}
	label := wal.Label{StartLSN: checkpoint, StartFile: "000000010000000000000005", CheckpointLSN: checkpoint, Method: "streamed", From: "primary", StartTime: "now", Timeline: 1}
	facts := &pg.Facts{Timeline: 1, SegmentSize: 1 << 20, SystemID: 7, BackupLabel: string(label.Format())}
	return &run{repo: r, plan: &points.Plan{System: "orders-db", Snapshot: points.Snapshot{Facts: facts}, Way: &wal.Timelines{Timeline: 1}}, result: &Result{}}
}

func TestFilesOfFutureTransactions(t *testing.T) {
	const next = 1<<32 | 5
	const page, segment = 8192, 1 << 20
	for _, behind := range []uint64{page - 512, page - 24, page - 8, 2*page + 512, segment - 40, segment - 8} {
		for _, info := range []uint8{0x00, 0x10} {
			l, at := checkpointLog(t, behind, info, next)
			x := runOn(t, l, at)
			for name, want := range map[string]bool{
				"pg_twophase/0000000100000004": false, "pg_twophase/0000000100000005": true, "pg_twophase/0000000200000000": true,
				"pg_twophase/00000000FFFFFFFF": false, "pg_twophase/0000000000000006": false, // of the epoch before
				"pg_twophase/00000004": false, "pg_twophase/00000005": true, "pg_twophase/00000100": true, "pg_twophase/FFFFFFF0": false,
				"pg_twophase": false, "pg_twophase/x": false, "pg_twophase/000005": false, "base/5/00000005": false, "pg_twophase/below/00000005": false,
			} {
				if got, err := x.isFuture(t.Context(), name); err != nil || got != want {
					t.Errorf("checkpoint at %s: %s: %v, %v", at, name, got, err)
				}
			}
			if len(x.result.Notes) > 0 {
				t.Errorf("noted: %q", x.result.Notes)
			}
		}
	}
}

// Where the checkpoint cannot be had, the files stay, and a person is told.
func TestFutureTransactionsAreNotKnown(t *testing.T) {
	l, at := checkpointLog(t, 8192-512, 0x30, 5) // XLOG_NEXTOID
	for what, x := range map[string]*run{"another record": runOn(t, l, at), "no log": runOn(t, l, at+64<<20)} {
		got, err := x.isFuture(t.Context(), "pg_twophase/00000005")
		if got || err != nil || len(x.result.Notes) != 1 {
			t.Errorf("%s: %v, %v, noted %q", what, got, err, x.result.Notes)
		}
	}
}
