package changed

import (
	"bytes"
	"cmp"
	"flag"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/holdfast-dr/holdfast/internal/pg/cluster"
	"github.com/holdfast-dr/holdfast/internal/pg/pgtest"
	"github.com/holdfast-dr/holdfast/internal/pg/pgtest/workload"
	"github.com/holdfast-dr/holdfast/internal/pg/wal"
)

var (
	rounds    = flag.Int("truth.rounds", 1, "how often the statements of each part are run between two images; more than once also in every setting")
	truthSeed = flag.Uint64("truth.seed", 0, "seed of the random statements; 0: another one each time")
)

// The truth: what differs between the files of two clean stops is in the map of the log between them.
func TestMapHoldsEveryPageThatChanged(t *testing.T) {
	versions := pgtest.Versions(t)
	var all tally
	var mu sync.Mutex // guards all
	t.Cleanup(func() { t.Log("all together:", all) })
	for i, v := range versions {
		for _, hints := range []string{"unlogged", "checksums", "wal_log_hints"} {
			if hints == "wal_log_hints" && i < len(versions)-1 && *rounds == 1 {
				continue // to the log it is the same as checksums
			}
			t.Run(v+"/"+hints, func(t *testing.T) {
				t.Parallel()
				one := testTruth(t, v, hints)
				t.Logf("%s/%s: %s", v, hints, one)
				mu.Lock()
				defer mu.Unlock()
				all.add(one)
			})
		}
	}
}

func testTruth(t *testing.T, version, hints string) tally {
	o := pgtest.Options{Version: version, Checksums: hints == "checksums", InitArgs: []string{"--wal-segsize=1"}, Conf: workload.Conf(nil)}
	if hints == "wal_log_hints" {
		o.Conf["wal_log_hints"] = "on"
	}
	s := pgtest.Start(t, o)
	workload.Begin(s)
	seed := cmp.Or(*truthSeed, rand.Uint64())
	t.Logf("random statements of -truth.seed=%d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	var sum tally
	at := stopped(t, s)
	at.hintsLogged = hints != "unlogged"
	for range *rounds {
		at = truthRound(t, s, r, at, &sum)
	}
	return sum
}

// truthRound looks at the files after each part of the workload, which ends in a crash. It returns how it left them.
func truthRound(t *testing.T, s *pgtest.Server, r *rand.Rand, first *image, sum *tally) *image {
	at, maps := first, []*Map{}
	for _, statements := range workload.Parts(s.Version) {
		s.Start()
		s.Exec("", statements...)
		workload.Churn(s, r, 60)
		s.Crash()
		now := stopped(t, s)
		now.hintsLogged = first.hintsLogged
		m := mapBetween(t, s, at, now)
		sum.add(check(t, m, at, now))
		at, maps = now, append(maps, m)
	}
	joined, err := Join(&wal.Timelines{Timeline: 1}, maps...)
	if err != nil {
		t.Fatal(err)
	}
	sum.add(check(t, joined, first, at))
	again, err := Decode(joined.Encode())
	if err != nil {
		t.Fatal(err)
	}
	check(t, again, first, at)
	whole := mapBetween(t, s, first, at)
	if !bytes.Equal(joined.Encode(), whole.Encode()) {
		t.Errorf("three maps joined differ from one map of the same log:\n%s", gocmp.Diff(text(joined), text(whole)))
	}
	return at
}

// tally is what was compared. A page counts as often as it was looked at.
type tally struct{ maps, compared, changed, listed, missed int }

func (a *tally) add(b tally) {
	a.maps, a.compared, a.changed = a.maps+b.maps, a.compared+b.compared, a.changed+b.changed
	a.listed, a.missed = a.listed+b.listed, a.missed+b.missed
}

// String tells of it on one line. Of the changed pages those that the map has not are of hints that nobody logs.
func (a tally) String() string {
	return fmt.Sprintf("%d maps: of %d pages that were compared %d had changed, the maps have %d; missed: %d", a.maps, a.compared, a.changed, a.listed, a.missed)
}

// check holds a map against what two images show.
func check(t *testing.T, m *Map, from, to *image) tally {
	t.Helper()
	if len(m.Doubts) > 0 {
		t.Errorf("doubts: %v", m.Doubts)
	}
	lost := missed(m, from, to)
	if len(lost) > 0 {
		t.Errorf("log %s to %s: %d changes are missing in the map:\n%s", m.Start, m.End, len(lost), strings.Join(lost[:min(30, len(lost))], "\n"))
	}
	sum := tally{maps: 1, missed: len(lost)}
	for f := range to.forks {
		c := m.Lookup(f)
		if !to.logged(f) {
			continue
		}
		for block := range min(from.blocks(f), to.blocks(f)) {
			sum.compared++
			if c.Has(block) {
				sum.listed++
			}
			if !bytes.Equal(from.page(f, block), to.page(f, block)) {
				sum.changed++
			}
		}
	}
	return sum
}

func stopped(t *testing.T, s *pgtest.Server) *image {
	t.Helper()
	s.Stop(pgtest.Fast)
	return takeImage(t, s)
}

func text(m *Map) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s %v\n", m.Start, m.End, m.Doubts)
	for f, c := range m.Forks() {
		fmt.Fprintf(&b, "%v limit %d:", f, c.Limit)
		for first, n := range c.Runs() {
			fmt.Fprintf(&b, " %d+%d", first, n)
		}
		b.WriteByte('\n')
	}
	return b.String()
}

// A heap whose visibility map has several blocks loses its tail: the map's own truncation is derived.
func TestVisibilityMapOfTruncatedHeap(t *testing.T) {
	for _, checksums := range []bool{false, true} {
		s := pgtest.Start(t, pgtest.Options{Version: "15", Checksums: checksums, Conf: workload.Conf(map[string]string{"autovacuum": "off"})})
		s.Exec("", "CREATE TABLE big (i int, v text) WITH (fillfactor = 10)",
			"INSERT INTO big SELECT i, repeat('x', 850) FROM generate_series(0, 33999) i", "VACUUM (FREEZE) big")
		// The deletion refers to these blocks too, so it has to lie before the log that is read.
		s.Exec("", "DELETE FROM big WHERE i >= 33000", "VACUUM (TRUNCATE false) big")
		a := stopped(t, s)
		s.Start()
		s.Exec("", "VACUUM big")
		b := stopped(t, s)
		s.Start()
		s.Exec("", "DELETE FROM big WHERE i >= 1000", "VACUUM (TRUNCATE false) big")
		beforeC := stopped(t, s)
		s.Start()
		s.Exec("", "VACUUM big")
		c := stopped(t, s)
		m := mapBetween(t, s, a, b)
		check(t, m, a, b)
		checkVM(t, m, 2, []uint32{1})
		m = mapBetween(t, s, beforeC, c)
		check(t, m, beforeC, c)
		checkVM(t, m, 1, []uint32{0})
	}
}

func checkVM(t *testing.T, m *Map, limit uint32, blocks []uint32) {
	t.Helper()
	for f, c := range m.Forks() {
		if f.Fork != cluster.VM || c.Limit == NoLimit {
			continue
		}
		if c.Limit != limit {
			t.Errorf("the visibility map's limit is %d, want %d", c.Limit, limit)
		}
		for _, b := range blocks {
			if !c.Has(b) {
				t.Errorf("block %d of the visibility map is not listed", b)
			}
		}
		return
	}
	t.Error("no visibility map was truncated")
}
