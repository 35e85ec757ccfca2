package wal_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-dr/holdfast/internal/pg/pgtest"
	"github.com/holdfast-dr/holdfast/internal/pg/wal"
)

func TestScanRealLogs(t *testing.T) {
	for _, v := range pgtest.Versions(t) {
		t.Run(v, func(t *testing.T) {
			s := pgtest.Start(t, pgtest.Options{
				Version: v, InitArgs: []string{"--wal-segsize=1"},
				Conf: map[string]string{"wal_keep_size": "1GB", "track_commit_timestamp": "on", "max_prepared_transactions": "5"},
			})
			const size = wal.SegmentSize(1 << 20)
			var want []string // times of commits, as the server knows them
			s.Exec("", "CREATE TABLE t (x xid, note text)", "CREATE TABLE filler AS SELECT md5(i::text) FROM generate_series(1, 30000) i")
			for i := range 30 {
				s.Exec("", "INSERT INTO t SELECT pg_current_xact_id()::xid, repeat('x', 5000)")
				if i == 10 {
					s.Exec("", "SELECT pg_switch_wal()")
				}
			}
			// A commit after it brings it to the disk.
			s.Exec("", "SELECT pg_create_restore_point('before the upgrade')", "INSERT INTO filler VALUES ('x')")
			s.Kill9() // a crash leaves its marks in the log
			s.Start()
			s.Exec("", "INSERT INTO t SELECT pg_current_xact_id()::xid, 'last'")
			rows := s.Query("", "SELECT (extract(epoch FROM pg_xact_commit_timestamp(x)) * 1000000)::bigint FROM t ORDER BY ctid")
			want = strings.Split(rows, "\n")
			s.Stop(pgtest.Fast)

			data, start := readLog(t, s, size)
			whole, end := scan(data, start, size, len(data))
			got := map[string]bool{}
			points := 0
			for _, e := range whole {
				switch e.Kind {
				case wal.Commit:
					got[strconv.FormatInt(e.Time.UnixMicro(), 10)] = true
				case wal.RestorePoint:
					points++
					if e.Name != "before the upgrade" || time.Since(e.Time).Abs() > time.Hour {
						t.Errorf("restore point: %+v", e)
					}
				}
				if e.End <= e.Start || e.End > end {
					t.Errorf("event: %+v, the log ends at %s", e, end)
				}
			}
			for _, w := range want {
				if !got[w] {
					t.Errorf("the commit of %s is missing", w)
				}
			}
			if points != 1 || len(want) != 31 {
				t.Errorf("%d restore points, %d rows", points, len(want))
			}
			// pg_control knows where the last record begins: the shutdown checkpoint.
			checkpoint, err := wal.ParseLSN(lastCheckpoint(t, s))
			if err != nil || end <= checkpoint || end > checkpoint+300 {
				t.Errorf("the log ends at %s, its last record begins at %s (%v)", end, checkpoint, err)
			}
			pieces(t, data, start, size, whole, end)
		})
	}
}

// pieces scans the same log in pieces, from its middle, and with a flipped bit.
func pieces(t *testing.T, data []byte, start wal.LSN, size wal.SegmentSize, whole []wal.Event, end wal.LSN) {
	t.Helper()
	rnd := rand.New(rand.NewPCG(1, 2)) //nolint:gosec // a test
	for _, n := range []int{1, 7, 8192, 1 + rnd.IntN(100_000)} {
		if got, e := scan(data, start, size, n); e != end || !cmp.Equal(got, whole) {
			t.Errorf("in pieces of %d: %d events up to %s, want %d up to %s", n, len(got), e, len(whole), end)
		}
	}
	for _, kind := range []wal.EventKind{wal.Commit, wal.RestorePoint, wal.TablespaceCreate} {
		var want []wal.Event
		for _, e := range whole {
			if e.Kind == kind || kind == wal.Commit && e.Kind == wal.Abort {
				want = append(want, e)
			}
		}
		if got, e := scan(data, start, size, 10_000, kind); e != end || !cmp.Equal(got, want) {
			t.Errorf("of kind %d: %d events up to %s, want %d up to %s", kind, len(got), e, len(want), end)
		}
	}
	for range 5 {
		from := rnd.IntN(len(data) * 3 / 4)
		got, e := scan(data[from:], start+wal.LSN(from), size, 5000)
		if e != end || len(got) == 0 || !cmp.Equal(got, whole[len(whole)-len(got):]) {
			t.Errorf("from %d of %d bytes: %d events up to %s, not the last ones of %d up to %s", from, len(data), len(got), e, len(whole), end)
		}
	}
	last := whole[len(whole)-1]
	broken := append([]byte(nil), data...)
	broken[last.Start-start+20] ^= 4 // its CRC
	got, _ := scan(broken, start, size, 1<<16)
	for _, e := range got {
		if e == last {
			t.Error("a record with a wrong CRC was taken")
		}
	}
}

func scan(data []byte, start wal.LSN, size wal.SegmentSize, piece int, only ...wal.EventKind) (events []wal.Event, end wal.LSN) {
	s := wal.NewScanner(start, size, func(e wal.Event) { events = append(events, e) }, only...)
	for len(data) > 0 {
		n := min(piece, len(data))
		_, _ = s.Write(data[:n])
		data = data[n:]
	}
	return events, s.End()
}

// readLog returns all segments that were written, one after the other. Files made ahead hold older ones.
func readLog(t *testing.T, s *pgtest.Server, size wal.SegmentSize) ([]byte, wal.LSN) {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(s.DataDir, "pg_wal", "0000000*"))
	if err != nil {
		t.Fatal(err)
	}
	var data []byte
	var start wal.LSN
	for _, path := range names {
		name, err := wal.ParseName(filepath.Base(path), size)
		if err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := wal.CheckSegment(b, name, size, 0); err != nil {
			break
		}
		if data == nil {
			start = name.Start
		}
		data = append(data, b...)
	}
	return data, start
}

func lastCheckpoint(t *testing.T, s *pgtest.Server) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(s.DataDir, "global", "pg_control"))
	if err != nil {
		t.Fatal(err)
	}
	high, low := uint32(b[36])|uint32(b[37])<<8|uint32(b[38])<<16|uint32(b[39])<<24, uint32(b[32])|uint32(b[33])<<8|uint32(b[34])<<16|uint32(b[35])<<24
	return fmt.Sprintf("%X/%X", high, low)
}

func FuzzScanner(f *testing.F) {
	page := make([]byte, 8192)
	copy(page, []byte{0x10, 0xD1, 2, 0, 1, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0})
	page[40] = 34 // a record
	f.Add(page, uint64(0x1000000), uint16(100))
	f.Fuzz(func(t *testing.T, b []byte, at uint64, piece uint16) {
		start := wal.LSN(at % (1 << 50))
		whole, end := scan(b, start, 1<<20, len(b)+1)
		got, e := scan(b, start, 1<<20, int(piece)+1)
		if e != end || !cmp.Equal(got, whole) || end > start+wal.LSN(len(b)) {
			t.Fatalf("in pieces of %d: %v to %s, whole: %v to %s", piece+1, got, e, whole, end)
		}
		// No record is whole in pieces that are smaller than its header, so none is passed over at once.
		for _, kind := range []wal.EventKind{wal.Commit, wal.RestorePoint, wal.TablespaceCreate} {
			whole, end := scan(b, start, 1<<20, len(b)+1, kind)
			if got, e := scan(b, start, 1<<20, 5, kind); e != end || !cmp.Equal(got, whole) {
				t.Fatalf("of kind %d: %v to %s, whole: %v to %s", kind, got, e, whole, end)
			}
		}
	})
}
