package walserve

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/holdfast-dr/holdfast/internal/pg/pgtest"
	"github.com/holdfast-dr/holdfast/internal/pg/wal"
	"github.com/holdfast-dr/holdfast/internal/repo"
)

// A record that creates a tablespace where another cluster has its files is seen wherever it lies: within a segment, or
// across its border, whose other side is another extent, or a piece, or was not stored yet.
func TestGuardAcrossBorders(t *testing.T) {
	taken, free, dataDir := t.TempDir(), t.TempDir(), t.TempDir()
	for _, dir := range []string{filepath.Join(taken, "PG_15_202209061"), filepath.Join(dataDir, "pg_tblspc")} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	const start = 0x5000000
	border := uint64(start + size)
	for _, before := range []uint64{8, 16, 24, 32, 40, 504} {
		for how, cuts := range map[string][]uint64{
			"segments": {border}, "one extent": {}, "pieces": {start + 8192, border - 4, border + 24, border + 52}, "in the header": {border - 8, border + 8},
		} {
			t.Run(fmt.Sprintf("%d bytes before the border, %s", before, how), func(t *testing.T) {
				for location, want := range map[string]Outcome{taken: WouldTouch, free: Served} {
					l := pgtest.NewLog(t, start, uint64(size), id)
					l.FillTo(border - before)
					record, _ := l.CreateTablespace(16384, location)
					l.Record(0, 0x20, make([]byte, 500))
					a := newArchive(t)
					at := uint64(start)
					for _, cut := range append(cuts, l.End()) {
						if err := a.log.Encoder().Put(t.Context(), 1, at, l.Bytes[at-start:cut-start], repo.ExtentClock{}, repo.Fast); err != nil {
							t.Fatal(err)
						}
						at = cut
					}
					policy := Policy{System: system, SystemID: id, SegmentSize: uint32(size)}
					name := wal.SegmentName(1, size.Segment(start), size)
					got, _ := fetchInto(t, a, policy, dataDir, name)
					if got.Outcome != want || (want == WouldTouch && uint64(got.From) != record) {
						t.Errorf("to %s: the segment is %+v; want %s from %X", location, got, want, record)
					}
					// What lies before the record can be had by a recovery to a target.
					policy.Bounded = true
					got, b := fetchInto(t, a, policy, dataDir, name)
					kept := record - start
					if want == Served {
						kept = uint64(size)
					}
					if got.Outcome != Served || len(b) != int(size) || !bytes.Equal(b[:kept], l.Bytes[:kept]) || len(bytes.Trim(b[kept:], "\x00")) > 0 {
						t.Errorf("to %s, with a target: %+v, %d bytes", location, got, len(b))
					}
				}
			})
		}
	}
}

func fetchInto(t *testing.T, a *archive, p Policy, dataDir, name string) (Result, []byte) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "RECOVERYXLOG")
	r := Fetch(t.Context(), name, path, FetchOptions{Open: func(context.Context) (*Source, error) {
		s := NewSource(a.r, p)
		s.DataDir = dataDir
		return s, nil
	}})
	b, err := os.ReadFile(path)
	if (err == nil) != (r.Outcome == Served) {
		t.Errorf("%s is %s, and the file: %v", name, r.Outcome, err)
	}
	return r, b
}
