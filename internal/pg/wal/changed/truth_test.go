package changed

import (
	"bytes"
	"cmp"
	"flag"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/holdfast-dr/holdfast/internal/pg/cluster"
	"github.com/holdfast-dr/holdfast/internal/pg/pgtest"
	"github.com/holdfast-dr/holdfast/internal/pg/wal"
)

var (
	rounds    = flag.Int("truth.rounds", 1, "how often the statements of each part are run between two images")
	truthSeed = flag.Uint64("truth.seed", 0, "seed of the random statements; 0: another one each time")
)

// The truth: what differs between the files of two clean stops is in the map of the log between them.
func TestMapHoldsEveryPageThatChanged(t *testing.T) {
	versions := pgtest.Versions(t)
	for i, v := range versions {
		for _, hints := range []string{"unlogged", "checksums", "wal_log_hints"} {
			if hints == "wal_log_hints" && i < len(versions)-1 {
				continue // to the log it is the same as checksums
			}
			t.Run(v+"/"+hints, func(t *testing.T) {
				t.Parallel()
				testTruth(t, v, hints)
			})
		}
	}
}

func testTruth(t *testing.T, version, hints string) {
	o := pgtest.Options{Version: version, Checksums: hints == "checksums", InitArgs: []string{"--wal-segsize=1"}, Conf: testConf(nil)}
	if hints == "wal_log_hints" {
		o.Conf["wal_log_hints"] = "on"
	}
	s := pgtest.Start(t, o)
	s.Tablespace("one")
	s.Tablespace("two")
	s.Exec("", before...)
	images := []*image{stopped(t, s)}
	images[0].hintsLogged = hints != "unlogged"
	maps := []*Map{}
	seed := cmp.Or(*truthSeed, rand.Uint64())
	t.Logf("random statements of -truth.seed=%d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	for part, statements := range parts(s.Version) {
		s.Start()
		for range *rounds {
			s.Exec("", statements...)
			churn(s, r, 60)
			if part != 1 {
				s.Kill9()
				s.Start()
			}
		}
		images = append(images, stopped(t, s))
		images[part+1].hintsLogged = hints != "unlogged"
		m := mapBetween(t, s, images[part], images[part+1])
		check(t, m, images[part], images[part+1])
		maps = append(maps, m)
	}

	joined, err := Join(&wal.Timelines{Timeline: 1}, maps...)
	if err != nil {
		t.Fatal(err)
	}
	check(t, joined, images[0], images[3])
	again, err := Decode(joined.Encode())
	if err != nil {
		t.Fatal(err)
	}
	check(t, again, images[0], images[3])
	whole := mapBetween(t, s, images[0], images[3])
	if !bytes.Equal(joined.Encode(), whole.Encode()) {
		t.Errorf("three maps joined differ from one map of the same log:\n%s", gocmp.Diff(text(joined), text(whole)))
	}
}

func check(t *testing.T, m *Map, from, to *image) {
	t.Helper()
	if len(m.Doubts) > 0 {
		t.Errorf("doubts: %v", m.Doubts)
	}
	if lost := missed(m, from, to); len(lost) > 0 {
		t.Errorf("%d changes are missing in the map:\n%s", len(lost), strings.Join(lost[:min(30, len(lost))], "\n"))
	}
	listed, truly, size := 0, 0, len(m.Encode())
	for f := range to.forks {
		c := m.Lookup(f)
		if !to.logged(f) {
			continue
		}
		for block := range min(from.blocks(f), to.blocks(f)) {
			if c.Has(block) {
				listed++
			}
			if !bytes.Equal(from.page(f, block), to.page(f, block)) {
				truly++
			}
		}
	}
	t.Logf("log %s to %s: of the older image's pages %d changed, the map has %d, in %d bytes", m.Start, m.End, truly, listed, size)
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
		s := pgtest.Start(t, pgtest.Options{Version: "15", Checksums: checksums, Conf: testConf(map[string]string{"autovacuum": "off"})})
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
