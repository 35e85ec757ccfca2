package record

import (
	"bytes"
	gocmp "cmp"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-dr/holdfast/internal/pg/pgtest"
	"github.com/holdfast-dr/holdfast/internal/pg/pgtest/workload"
	"github.com/holdfast-dr/holdfast/internal/pg/wal"
)

const oneMiB = wal.SegmentSize(1 << 20)

// special is what the workload lacks: records larger than is kept, and over many pages and segments.
var special = []string{
	"CREATE TABLE large AS SELECT repeat(md5(i::text), 20) AS v FROM generate_series(1, 3000) i", "UPDATE large SET v = v || 'x'",
	"SELECT lo_from_bytea(0, decode(repeat('ab', 50000), 'hex'))", "SELECT pg_logical_emit_message(false, 'x', repeat('z', 3000000))",
	"SELECT pg_switch_wal()",
}

var oracleSeed = flag.Uint64("oracle.seed", 0, "seed of the random statements; 0: another one each time")

// newLog lets a server do all that changes files, and crash, and returns where the log of it begins and ends.
func newLog(t *testing.T, s *pgtest.Server) (start, end wal.LSN) {
	t.Helper()
	seed := gocmp.Or(*oracleSeed, rand.Uint64())
	t.Logf("random statements of -oracle.seed=%d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	start = lsn(t, s.Query("", "SELECT pg_current_wal_lsn()"))
	workload.Begin(s)
	s.Exec("", special...)
	for _, part := range workload.Parts(s.Version) {
		s.Exec("", part...)
		workload.Churn(s, r, 30)
		s.Crash()
	}
	return start, lsn(t, s.Query("", "SELECT pg_current_wal_flush_lsn()"))
}

func startOracle(t *testing.T, version, compression string) *pgtest.Server {
	t.Helper()
	return pgtest.Start(t, pgtest.Options{Version: version, InitArgs: []string{"--wal-segsize=1"}, Conf: workload.Conf(map[string]string{
		"autovacuum": "off", "wal_compression": compression,
	})})
}

// pg_waldump of the server's own version sees the same records with the same block references.
func TestRecordsAreThoseOfPgWaldump(t *testing.T) {
	for _, v := range pgtest.Versions(t) {
		t.Run(v, func(t *testing.T) {
			t.Parallel()
			s := startOracle(t, v, "on")
			program := s.Bin("pg_waldump")
			start, end := newLog(t, s)
			s.Stop(pgtest.Fast)
			out, err := exec.Command(program, "-p", filepath.Join(s.DataDir, "pg_wal"), "-s", start.String(), "-e", end.String()).Output()
			if err != nil {
				t.Fatal(err)
			}
			want := waldumpLines(t, string(out))
			if len(want) < 20000 {
				t.Fatalf("pg_waldump has only %d records", len(want))
			}
			t.Logf("%d records from %s to %s", len(want), start, end)
			for _, piece := range []int{1 << 30, 8192, 1000, 7} {
				compareRecords(t, s, start, end, piece, want)
			}
		})
	}
}

// compareRecords reads the log in pieces of so many bytes.
func compareRecords(t *testing.T, s *pgtest.Server, start, end wal.LSN, piece int, want []string) {
	t.Helper()
	var got []string
	r, err := NewReader(Config{Start: start, Timeline: 1, SegmentSize: oneMiB}, func(r *Record) {
		if r.Start < end {
			got = append(got, line(r))
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	err = write(r, s.DataDir, piece)
	if stop, ok := err.(*StopError); !ok || !stop.Ended || stop.At < end {
		t.Errorf("pieces of %d bytes: reading ended with %v", piece, err)
	}
	if !slices.Equal(want, got) {
		t.Fatalf("pieces of %d bytes: records differ (-pg_waldump +ours):\n%s", piece, cmp.Diff(want, got))
	}
}

// The servers' own extension sees the same block references, in versions that have no pg_waldump here.
func TestBlocksAreThoseOfWalinspect(t *testing.T) {
	for _, v := range pgtest.Versions(t) {
		if v < "16" {
			continue
		}
		t.Run(v, func(t *testing.T) {
			t.Parallel()
			s := startOracle(t, v, "pglz")
			s.Exec("", "CREATE EXTENSION pg_walinspect")
			start, end := newLog(t, s)
			want := strings.Split(s.Query("", `SELECT start_lsn, reltablespace, reldatabase, relfilenode, relforknumber, relblocknumber, block_fpi_length IS NOT NULL AND block_fpi_length > 0
				FROM pg_get_wal_block_info('`+start.String()+"', '"+end.String()+"', false) ORDER BY start_lsn, block_id"), "\n")
			s.Stop(pgtest.Fast)
			var got []string
			r, err := NewReader(Config{Start: start, Timeline: 1, SegmentSize: oneMiB}, func(r *Record) {
				for _, k := range r.Blocks {
					if r.Start < end {
						got = append(got, fmt.Sprintf("%s|%d|%d|%d|%d|%d|%s", r.Start, k.Tablespace, k.Database, k.Relation, k.Fork, k.Number, strconv.FormatBool(k.Image)[:1]))
					}
				}
			})
			if err != nil {
				t.Fatal(err)
			}
			_ = write(r, s.DataDir, 8192) // it ends behind end
			if len(want) < 20000 {
				t.Fatalf("pg_walinspect has only %d block references", len(want))
			}
			t.Logf("%d block references from %s to %s", len(want), start, end)
			if !slices.Equal(want, got) {
				t.Fatalf("block references differ (-pg_walinspect +ours):\n%s", cmp.Diff(want, got))
			}
		})
	}
}

// write hands the log of a stopped server over.
func write(r *Reader, dataDir string, piece int) error {
	for {
		at := r.Next()
		b, err := os.ReadFile(filepath.Join(dataDir, "pg_wal", wal.SegmentName(1, oneMiB.Segment(at), oneMiB)))
		if err != nil {
			return err
		}
		for part := range slices.Chunk(b[at-oneMiB.Floor(at):], piece) {
			if _, err := r.Write(part); err != nil {
				return err
			}
		}
	}
}

func lsn(t testing.TB, s string) wal.LSN {
	t.Helper()
	v, err := wal.ParseLSN(s)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func line(r *Record) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%08X", uint64(r.Start))
	for _, k := range r.Blocks {
		fmt.Fprintf(&b, " %d/%d/%d %d %d %v", k.Tablespace, k.Database, k.Relation, k.Fork, k.Number, k.Image)
	}
	return b.String()
}

var (
	waldumpLSN   = regexp.MustCompile(`lsn: ([0-9A-F]+/[0-9A-F]+)`)
	waldumpBlock = regexp.MustCompile(`blkref #\d+: rel (\d+/\d+/\d+)(?: (?:fork|forknum) (\w+))? blk (\d+)( FPW)?`)
	forks        = []string{"", "fsm", "vm", "init"}
)

func waldumpLines(t testing.TB, out string) []string {
	t.Helper()
	var lines []string
	for l := range strings.Lines(out) {
		m := waldumpLSN.FindStringSubmatch(l)
		if m == nil {
			t.Fatalf("pg_waldump: %s", l)
		}
		var b bytes.Buffer
		fmt.Fprintf(&b, "%08X", uint64(lsn(t, m[1])))
		for _, k := range waldumpBlock.FindAllStringSubmatch(l, -1) {
			fmt.Fprintf(&b, " %s %d %s %v", k[1], slices.Index(forks, k[2]), k[3], k[4] != "")
		}
		lines = append(lines, b.String())
	}
	return lines
}
