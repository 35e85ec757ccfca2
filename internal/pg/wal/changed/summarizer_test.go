package changed

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"

	"github.com/holdfast-dr/holdfast/internal/pg/cluster"
	"github.com/holdfast-dr/holdfast/internal/pg/pgtest"
	"github.com/holdfast-dr/holdfast/internal/pg/pgtest/workload"
	"github.com/holdfast-dr/holdfast/internal/pg/wal"
)

// PostgreSQL's own summaries of the same log: ours say all that theirs say, and what ours say beyond is derived for
// the visibility map. They are no measure of correctness (they miss these blocks), but of the reading.
func TestMapAgreesWithSummarizer(t *testing.T) {
	for _, v := range pgtest.Versions(t) {
		if n, _ := strconv.Atoi(v); n < 17 {
			continue
		}
		t.Run(v, func(t *testing.T) {
			t.Parallel()
			s := pgtest.Start(t, pgtest.Options{Version: v, InitArgs: []string{"--wal-segsize=1"}, Conf: workload.Conf(map[string]string{"summarize_wal": "on"})})
			workload.Begin(s)
			seed := cmp.Or(*truthSeed, rand.Uint64())
			t.Logf("random statements of -truth.seed=%d", seed)
			for _, part := range workload.Parts(s.Version) {
				s.Exec("", part...)
				workload.Churn(s, rand.New(rand.NewPCG(seed, 0)), 30)
				s.Kill9()
				s.Start()
			}
			s.Exec("", "CHECKPOINT", "CHECKPOINT")
			target := s.Query("", "SELECT redo_lsn FROM pg_control_checkpoint()")
			s.Until(t, "", "SELECT summarized_lsn >= '"+target+"' FROM pg_get_wal_summarizer_state()", "t")
			compareSummaries(t, s)
		})
	}
}

func compareSummaries(t *testing.T, s *pgtest.Server) {
	rows := strings.Split(s.Query("", "SELECT start_lsn, end_lsn FROM pg_available_wal_summaries() WHERE tli = 1 ORDER BY 1"), "\n")
	contents := map[string][]string{}
	for _, row := range strings.Split(s.Query("", `SELECT s.start_lsn, c.reltablespace, c.reldatabase, c.relfilenode, c.relforknumber, c.relblocknumber, c.is_limit_block
		FROM pg_available_wal_summaries() s, pg_wal_summary_contents(s.tli, s.start_lsn, s.end_lsn) c WHERE s.tli = 1`), "\n") {
		start, rest, _ := strings.Cut(row, "|")
		contents[start] = append(contents[start], rest)
	}
	s.Stop(pgtest.Fast)
	c := takeImage(t, s).control
	var d *Decoder
	derived, same := 0, 0
	for _, row := range rows {
		from, to, _ := strings.Cut(row, "|")
		start, end := parseLSN(t, from), parseLSN(t, to)
		if d == nil {
			d = newTestDecoder(t, c, start)
		}
		feed(t, d, s.DataDir, 1, c.WALSegmentSize, end)
		m := d.Cut()
		if normal(m.Start, c.WALSegmentSize) != normal(start, c.WALSegmentSize) || normal(m.End, c.WALSegmentSize) != normal(end, c.WALSegmentSize) {
			t.Fatalf("our map from %s to %s, the summary from %s to %s", m.Start, m.End, start, end)
		}
		for _, doubt := range m.Doubts {
			t.Errorf("doubt: %v", doubt)
		}
		a, b := compare(t, m, parseSummary(t, contents[from]))
		derived, same = derived+a, same+b
	}
	t.Logf("%d summaries, %d blocks and limits in both, %d blocks of visibility maps only in ours", len(rows), same, derived)
	if same < 1000 || len(rows) < 8 {
		t.Errorf("too little was compared: %d summaries with %d blocks and limits", len(rows), same)
	}
}

func parseLSN(t testing.TB, s string) wal.LSN {
	t.Helper()
	v, err := wal.ParseLSN(s)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// parseSummary makes a map of the rows of pg_wal_summary_contents.
func parseSummary(t testing.TB, rows []string) *Map {
	t.Helper()
	m := newMap(1, 0)
	for pass := range 2 { // limits first: a block behind one was written after it
		for _, row := range rows {
			var f Fork
			var block uint32
			var limit string
			if _, err := fmt.Sscanf(strings.ReplaceAll(row, "|", " "), "%d %d %d %d %d %s", &f.Tablespace, &f.Database, &f.Relation, &f.Fork, &block, &limit); err != nil {
				t.Fatalf("%q: %v", row, err)
			}
			switch {
			case limit == "t" && pass == 0:
				m.limit(f, block)
			case limit == "f" && pass == 1:
				m.mark(f, block)
			}
		}
	}
	return m
}

func compare(t *testing.T, ours, theirs *Map) (derived, same int) {
	t.Helper()
	for f, c := range theirs.Forks() {
		o := Change{Limit: NoLimit}
		if e := ours.forks[f.key()]; e != nil {
			o = Change{e.limit, &e.blocks}
		}
		if c.Limit != o.Limit {
			t.Errorf("%s to %s: limit of %v is %d, the summarizer has %d", ours.Start, ours.End, f, o.Limit, c.Limit)
		}
		for first, n := range c.Runs() {
			for block := first; block < first+n; block++ {
				if !o.Has(block) {
					t.Errorf("%s to %s: block %d of %v is only in the summary", ours.Start, ours.End, block, f)
				}
				same++
			}
		}
		same++
	}
	for f, c := range ours.Forks() {
		their := theirs.forks[f.key()]
		for first, n := range c.Runs() {
			for block := first; block < first+n; block++ {
				switch {
				case their != nil && their.blocks.has(block):
				case f.Fork == cluster.VM:
					derived++
				default:
					t.Errorf("%s to %s: block %d of %v is only in our map", ours.Start, ours.End, block, f)
				}
			}
		}
		if their == nil && c.Limit != NoLimit {
			t.Errorf("%s to %s: the limit %d of %v is only in our map", ours.Start, ours.End, c.Limit, f)
		}
	}
	return derived, same
}
