package changed

import (
	"bytes"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-dr/holdfast/internal/pg/wal"
)

func blocksOf(s *blockSet) []uint32 {
	var out []uint32
	for first, n := range (Change{Limit: NoLimit, blocks: s}).Runs() {
		for b := first; b < first+n; b++ {
			out = append(out, b)
		}
	}
	return out
}

func TestBlockSetAgainstPlainSet(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	for range 150 {
		var sets [2]blockSet
		plain := [2]map[uint32]bool{{}, {}}
		base, spread := r.Uint32N(200_000), 1+r.Uint32N(1<<(1+r.IntN(18)))
		for range r.IntN(5000) {
			i, b := r.IntN(2), base+r.Uint32N(spread)
			switch r.IntN(300) {
			case 0:
				sets[i].cutAt(b)
				maps.DeleteFunc(plain[i], func(k uint32, _ bool) bool { return k >= b })
			case 1:
				sets[i].union(&sets[1-i])
				maps.Copy(plain[i], plain[1-i])
			case 2, 3, 4:
				for range r.Uint32N(100) {
					sets[i].add(b)
					plain[i][b] = true
					b++
				}
			default:
				if sets[i].has(b) != plain[i][b] {
					t.Fatalf("block %d: %v, want %v", b, sets[i].has(b), plain[i][b])
				}
				sets[i].add(b)
				plain[i][b] = true
			}
		}
		for i := range sets {
			if d := cmp.Diff(slices.Sorted(maps.Keys(plain[i])), blocksOf(&sets[i])); d != "" {
				t.Fatalf("the set has other blocks than were added:\n%s", d)
			}
		}
	}
}

func TestBlockSetEdges(t *testing.T) {
	var s blockSet
	for b := uint32(0); b < 1<<17; b += 2 {
		s.add(b)
	}
	if s.has(1) || !s.has(65536) || len(blocksOf(&s)) != 1<<16 {
		t.Fatal("every second block")
	}
	for b := uint32(1); b < 1<<17; b += 2 {
		s.add(b)
	}
	s.add(NoLimit - 1)
	if got := slices.Collect(s.chunks[0].each()); !slices.Equal(got, []run{{0, 65535}}) {
		t.Errorf("a full bitmap has the runs %v", got)
	}
	s.cutAt(65536)
	if got := blocksOf(&s); len(got) != 1<<16 || got[65535] != 65535 {
		t.Errorf("cut at a chunk's border: %d blocks", len(got))
	}
	s.cutAt(100)
	if got := blocksOf(&s); len(got) != 100 {
		t.Errorf("cut within a chunk: %d blocks", len(got))
	}
	s.cutAt(0)
	if len(s.chunks) != 0 {
		t.Errorf("an empty set has chunks")
	}
}

// randomMap does to a map what a log does, and to a plain one.
func randomMap(r *rand.Rand, m *Map, ops int) {
	for range ops {
		f := Fork{1663, 5 + r.Uint32N(3), 16384 + r.Uint32N(6), 0}
		if f.Fork = 0; r.IntN(4) == 0 {
			f.Fork = 2
		}
		switch r.IntN(40) {
		case 0:
			m.limit(f, r.Uint32N(3000))
		case 1:
			m.limit(Fork{Tablespace: f.Tablespace, Database: f.Database}, 0)
		case 2:
			m.doubt(Doubt{Unknown, m.Start + wal.LSN(r.Uint32N(100)), fmt.Sprint(r.IntN(3))})
		case 3:
			m.mark(f, r.Uint32())
		default:
			m.mark(f, r.Uint32N(3000))
		}
	}
}

// A log read at once and the same log cut anywhere and joined say the same, and so do their bytes.
func TestJoinIsTheWhole(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	way := &wal.Timelines{Timeline: 3, Ancestors: []wal.Switch{{Timeline: 1, End: 150}, {Timeline: 2, End: 300}}}
	for i := range uint64(100) {
		whole := newMap(3, 100)
		whole.End = 400
		var pieces []*Map
		for part := range uint64(3) {
			m := newMap(wal.TimelineID(part+1), wal.LSN(100*(part+1)))
			m.End = m.Start + 100
			if part == 0 {
				m.End, pieces = 150, append(pieces, m)
				m = newMap(2, 150)
				m.End = 200
			}
			pieces = append(pieces, m)
		}
		for k, m := range pieces {
			ops := rand.New(rand.NewPCG(seed, i*10+uint64(k))).IntN(3000)
			randomMap(rand.New(rand.NewPCG(seed, i*10+uint64(k))), m, ops)
			start := whole.Start
			whole.Start = m.Start
			randomMap(rand.New(rand.NewPCG(seed, i*10+uint64(k))), whole, ops)
			whole.Start = start
		}
		joined, err := Join(way, pieces...)
		if err != nil {
			t.Fatal(err)
		}
		b := joined.Encode()
		if !bytes.Equal(b, whole.Encode()) {
			t.Fatalf("round %d: joined maps differ from the whole:\n%s", i, cmp.Diff(text(joined), text(whole)))
		}
		again, err := Decode(b)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(text(joined), text(again)); d != "" || !bytes.Equal(again.Encode(), b) {
			t.Fatalf("round %d: decoded differently: %s", i, d)
		}
	}
}

func TestJoinRefuses(t *testing.T) {
	span := func(tl wal.TimelineID, start, end wal.LSN) *Map {
		m := newMap(tl, start)
		m.End = end
		return m
	}
	way := &wal.Timelines{Timeline: 2, Ancestors: []wal.Switch{{Timeline: 1, End: 200}}}
	for name, maps := range map[string][]*Map{
		"nothing":                         {},
		"a gap":                           {span(1, 100, 150), span(1, 151, 200)},
		"a dead branch's log":             {span(1, 100, 201), span(2, 200, 300)},
		"a timeline that is not on it":    {span(3, 100, 200)},
		"a gap at the switch":             {span(1, 100, 192), span(2, 200, 300)},
		"out of order, so that one lacks": {span(2, 200, 300), span(1, 350, 360)},
	} {
		if _, err := Join(way, maps...); err == nil {
			t.Errorf("%s: joined", name)
		}
	}
	all, err := Join(way, span(1, 100, 160), span(1, 150, 200), span(2, 200, 300), span(2, 210, 220))
	if err != nil || all.Start != 100 || all.End != 300 || all.Timeline != 2 {
		t.Errorf("join with overlaps: %v, %v", all, err)
	}
}

// The encoding is small: next to nothing for what is written in a row, and some bytes for what is not.
func TestEncodingIsSmall(t *testing.T) {
	m := newMap(1, 1<<30)
	for b := range uint32(1_000_000) {
		m.mark(Fork{1663, 5, 16384, 0}, b)
		m.mark(Fork{1663, 5, 16390, 0}, b*7)
	}
	if n := len(m.Encode()); n > 1_000_000 {
		t.Errorf("two million blocks in %d bytes", n)
	}
	if c := m.Lookup(Fork{1663, 5, 16384, 0}); c.Count() != 1_000_000 || c.Has(1_000_000) {
		t.Errorf("%d blocks", c.Count())
	}
}

func FuzzDecode(f *testing.F) {
	m := newMap(1, 100)
	m.End = 1000
	randomMap(rand.New(rand.NewPCG(1, 1)), m, 300)
	f.Add(m.Encode())
	f.Add(newMap(1, 0).Encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := Decode(b)
		if err != nil {
			return
		}
		again, err := Decode(m.Encode())
		if err != nil {
			t.Fatalf("what was decoded and encoded is not read: %v", err)
		}
		if !bytes.Equal(m.Encode(), again.Encode()) {
			t.Error("encoding is not stable")
		}
		for f, c := range again.Forks() {
			for first := range c.Runs() {
				if !c.Has(first) {
					t.Errorf("%v: block %d", f, first)
				}
				break
			}
		}
	})
}
