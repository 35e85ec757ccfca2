package wal_test

import (
	"io"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/holdfast-dr/holdfast/internal/pg/pgtest"
	"github.com/holdfast-dr/holdfast/internal/pg/wal"
)

func TestSegmentsOfRealServers(t *testing.T) {
	for _, v := range pgtest.Versions(t) {
		t.Run(v, func(t *testing.T) {
			s := pgtest.Start(t, pgtest.Options{Version: v, InitArgs: []string{"--wal-segsize=4"}})
			s.Exec("", "SELECT pg_switch_wal()", "CREATE TABLE t (i int)", "CHECKPOINT")
			fileName := s.Query("", "SELECT pg_walfile_name(pg_current_wal_insert_lsn())")
			system, err := strconv.ParseUint(s.Query("", "SELECT system_identifier FROM pg_control_system()"), 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			const size = wal.SegmentSize(4 << 20)
			name, err := wal.ParseName(fileName, size)
			if err != nil {
				t.Fatal(err)
			}
			first := head(t, filepath.Join(s.DataDir, "pg_wal", wal.SegmentName(1, name.Segment, size)))
			h, err := wal.CheckSegment(first, name, size, system)
			if err != nil || strconv.Itoa(h.Version) != v || h.Timeline != 1 {
				t.Fatalf("CheckSegment gives %+v, %v", h, err)
			}
			other := name
			other.Segment++
			if _, err := wal.CheckSegment(first, other, size, system); err == nil {
				t.Error("a segment at another position was accepted")
			}
			if _, err := wal.CheckSegment(first, name, size, system+1); err == nil {
				t.Error("a segment of another cluster was accepted")
			}
			if _, err := wal.CheckSegment(first, name, 16<<20, 0); err == nil {
				t.Error("a segment of another size was accepted")
			}
			for n := range first {
				if _, err := wal.ParseHeader(first[:n]); err == nil {
					t.Errorf("%d bytes of a header were accepted", n)
				}
			}
		})
	}
}

func head(t *testing.T, path string) []byte {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close() //nolint:errcheck // only read
	b := make([]byte, wal.LongHeaderSize)
	if _, err := io.ReadFull(f, b); err != nil {
		t.Fatal(err)
	}
	return b
}

func TestPlaceBehindAHeader(t *testing.T) {
	const size = wal.SegmentSize(1 << 20)
	for _, c := range []struct{ at, want wal.LSN }{
		{5 << 20, 5 << 20},
		{5<<20 + wal.LongHeaderSize, 5 << 20},
		{5<<20 + wal.ShortHeaderSize, 5<<20 + wal.ShortHeaderSize}, // within the longer header of a segment's first page
		{5<<20 + wal.PageSize + wal.ShortHeaderSize, 5<<20 + wal.PageSize},
		{5<<20 + wal.PageSize + wal.LongHeaderSize, 5<<20 + wal.PageSize + wal.LongHeaderSize}, // a record of 16 bytes further on
	} {
		if got := size.BeforeHeader(c.at); got != c.want {
			t.Errorf("BeforeHeader(%s) = %s, want %s", c.at, got, c.want)
		}
	}
}
