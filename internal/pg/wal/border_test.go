package wal_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-dr/holdfast/internal/pg/pgtest"
	"github.com/holdfast-dr/holdfast/internal/pg/wal"
)

// The record of a tablespace begins at each place before the border of a page and of a segment, so that each of its
// parts lies across the border once: it is found, in pieces of any size.
func TestScanRecordsAcrossBorders(t *testing.T) {
	const start, size, page = 0x5000000, 1 << 20, 8192
	for what, border := range map[string]uint64{"page": start + 7*page, "segment": start + size} {
		for _, location := range []string{"/s", "/srv/a fast disk/postgresql", "/" + strings.Repeat("long/", 200) + "end"} {
			for before := uint64(8); before <= uint64(len(location))+48; before += 8 {
				log := pgtest.NewLog(t, start, size, 7)
				log.FillTo(border - before)
				from, to := log.CreateTablespace(16384, location)
				if from != border-before {
					t.Fatalf("the record begins at %X, not %d bytes before %X", from, before, border)
				}
				log.Record(0, 0x20, make([]byte, 30))
				want := []wal.Event{{Kind: wal.TablespaceCreate, Start: wal.LSN(from), End: wal.LSN(to), Name: location, OID: 16384}}
				for _, piece := range []int{1, 7, page, size, 3 * size} {
					if piece == 1 && before > 48 {
						continue
					}
					for _, only := range [][]wal.EventKind{nil, {wal.TablespaceCreate}} {
						got, end := scan(log.Bytes, start, size, piece, only...)
						if d := cmp.Diff(want, got); d != "" || end != wal.LSN(log.End()) {
							t.Errorf("%d bytes before a %s's border, in pieces of %d: the log ends at %s, want %X\n%s", before, what, piece, end, log.End(), d)
						}
					}
				}
			}
		}
	}
}

// PostgreSQL's own program reads the logs that these tests write.
func TestSyntheticLogIsOne(t *testing.T) {
	dump := "/usr/lib/postgresql/15/bin/pg_waldump"
	if _, err := os.Stat(dump); err != nil {
		t.Skip(err)
	}
	const start, size = 0x5000000, 1 << 20
	log := pgtest.NewLog(t, start, size, 7)
	log.FillTo(start + size - 40)
	log.CreateTablespace(16384, "/srv/a fast disk/postgresql")
	log.Record(0, 0x20, make([]byte, 30))
	end := log.End()
	dir := t.TempDir()
	whole := append(log.Bytes, make([]byte, 2*size-len(log.Bytes))...)
	for i := range 2 {
		name := wal.SegmentName(1, wal.SegmentSize(size).Segment(wal.LSN(start+i*size)), size)
		if err := os.WriteFile(filepath.Join(dir, name), whole[i*size:(i+1)*size], 0o600); err != nil {
			t.Fatal(err)
		}
	}
	out, err := exec.Command(dump, "-p", dir, "-s", "0/5000028", "-e", fmt.Sprintf("0/%X", end), "-r", "Tablespace").CombinedOutput()
	if err != nil || !strings.Contains(string(out), `CREATE 16384 "/srv/a fast disk/postgresql"`) {
		t.Errorf("pg_waldump: %v\n%s", err, out)
	}
}
