package repo

import (
	"encoding/binary"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/holdfast-dr/holdfast/internal/seal"
)

var simTable = flag.Bool("fragmentation.table", false, "print how policies of rewriting bound fragmentation")

// simPart is a part of a file, of which snapshots are taken, and which is rewritten, without any bytes.
type simPart struct {
	FilePart
	budget  float64 // pages that may be stored again, for each one that snapshots store; negative: as many as it takes
	bound   float64 // 0: it is never rewritten
	names   uint64  // that were given
	version [partPages]uint32

	stored, again int // pages
}

func newSimPart(bound, budget float64) *simPart {
	s := &simPart{bound: bound, budget: budget}
	s.length, s.patched = partPages*PageSize, &patchedList{}
	for range ListLen {
		s.chunks = append(s.chunks, s.name())
	}
	return s
}

func (s *simPart) name() (id seal.ChunkID) {
	s.names++
	binary.BigEndian.PutUint64(id[:], s.names)
	return id
}

// store puts pages into units of at most so many.
func (s *simPart) store(pages []uint16, most int) {
	moved := map[uint16]bool{}
	for _, p := range pages {
		moved[p] = true
	}
	s.patches = slices.DeleteFunc(s.patches, func(x PagePatch) bool { return moved[x.Page] })
	for unit := range slices.Chunk(pages, most) {
		id := s.name()
		for slot, p := range unit {
			s.patches = append(s.patches, PagePatch{Page: p, Unit: id, UnitPages: uint8(len(unit)), Slot: uint8(slot)})
		}
	}
	sortPatches(s.patches)
}

// snapshot stores the pages that changed, ascending, and rewrites what is to be rewritten.
func (s *simPart) snapshot(changed []uint16) {
	s.stored += len(changed)
	for _, p := range changed {
		s.version[p]++
	}
	s.store(changed, 32)
	if s.bound == 0 || s.Fragmentation().Ratio() <= s.bound {
		return
	}
	plan := s.rewrite(s.bound)
	cost := int(plan.bytes(&s.FilePart) / PageSize)
	if s.budget >= 0 && float64(s.again+cost) > s.budget*float64(s.stored) {
		return
	}
	s.again += cost
	for _, c := range plan.whole {
		s.chunks[c] = s.name()
		s.patches = slices.DeleteFunc(s.patches, func(x PagePatch) bool { return int(x.Page)/chunkPages == c })
	}
	s.store(plan.pages, unitPages)
}

// kept is what the snapshots that are kept refer to.
type kept struct {
	stored   map[seal.ChunkID]int // pages of each
	versions map[uint64]bool
}

func (k *kept) add(s *simPart) {
	for _, x := range s.patches {
		k.stored[x.Unit] = int(x.UnitPages)
	}
	for c, id := range s.chunks {
		if s.provided(c) != 0 {
			k.stored[id] = chunkPages
		}
	}
	for p, v := range s.version {
		k.versions[uint64(p)<<32|uint64(v)] = true
	}
}

// ratio returns how many pages are kept for each that differs.
func (k *kept) ratio() float64 {
	sum := 0
	for _, n := range k.stored {
		sum += n
	}
	return float64(sum) / float64(len(k.versions))
}

// draws returns what n pages of a part change, ascending.
func draws(n int, draw func() uint16) []uint16 {
	seen := map[uint16]bool{}
	for len(seen) < n {
		seen[draw()] = true
	}
	var all []uint16
	for p := range seen {
		all = append(all, p)
	}
	slices.Sort(all)
	return all
}

// To rewrite costs one and a half times what changed at most, where changes are spread evenly and the bound is that of Optimize.
func TestRewritingIsCheap(t *testing.T) {
	t.Parallel()
	rnd := rand.New(rand.NewPCG(3, 4))
	s := newSimPart(FragmentationBound, -1)
	for range 400 {
		s.snapshot(draws(partPages/500, func() uint16 { return uint16(rnd.IntN(partPages)) }))
		if f := s.Fragmentation().Ratio(); f > FragmentationBound {
			t.Fatalf("the fragmentation is %.2f", f)
		}
	}
	if s.again < s.stored/2 || s.again > s.stored*3/2 {
		t.Errorf("%d pages changed, and %d were stored again", s.stored, s.again)
	}
}

// TestFragmentationPolicies prints what policies make of 500 snapshots; see docs/decisions/0014.
func TestFragmentationPolicies(t *testing.T) {
	if !*simTable {
		t.Skip("it only prints a table: -fragmentation.table")
	}
	for _, skew := range []string{"uniform", "zipf"} {
		for _, share := range []float64{.001, .002, .01} {
			for _, policy := range [][2]float64{{0, 0}, {1.5, -1}, {1.35, -1}, {1.35, 1}, {1.25, -1}, {1.25, 1}, {1.25, .3}, {1.2, -1}, {1.15, -1}, {1.15, 1.25}} {
				rnd := rand.New(rand.NewPCG(1, 2))
				draw := func() uint16 { return uint16(rnd.IntN(partPages)) }
				if skew == "zipf" {
					place, z := rnd.Perm(partPages), rand.NewZipf(rnd, 1.1, 1, partPages-1)
					draw = func() uint16 { return uint16(place[z.Uint64()]) }
				}
				s := newSimPart(policy[0], policy[1])
				stay := kept{map[seal.ChunkID]int{}, map[uint64]bool{}} // by 24 hours, 7 days, 2 weeks
				var sum float64
				for n := 1; n <= 500; n++ {
					s.snapshot(draws(int(share*partPages), draw))
					if n > 476 || n > 330 && n%24 == 0 || n%168 == 0 {
						stay.add(s)
					}
					if n > 400 {
						sum += s.Fragmentation().Ratio()
					}
				}
				fmt.Printf("%-8s %4.1f%%  bound %.2f, budget %4.1f:  at the end %.2f, mean of the last 100 %.2f, stored %.2f, retained %.2f\n", skew, share*100,
					policy[0], policy[1], s.Fragmentation().Ratio(), sum/100, float64(s.stored+s.again)/float64(s.stored), stay.ratio())
			}
		}
	}
}
