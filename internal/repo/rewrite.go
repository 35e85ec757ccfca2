package repo

import (
	"cmp"
	"encoding/binary"
	"slices"

	"github.com/holdfast-dr/holdfast/internal/seal"
)

// rewritePlan says how a part is rewritten.
type rewritePlan struct {
	whole []int    // chunks
	pages []uint16 // that are gathered anew
}

// liveGroup is a group that is decoded for some of its pages, or for all.
type liveGroup struct {
	live    []uint16 // the pages of the part for which it is decoded
	decoded int      // how many it has
}

// rewrite returns the plan that brings the part's fragmentation from above bound to well below it: then it lasts for a while,
// and each rewriting costs lists. The groups go of which the fewest pages still count, whether they are of a chunk or of a
// unit: for each page that need not be decoded any more the fewest are stored again.
func (p *FilePart) rewrite(bound float64) *rewritePlan {
	groups := p.groups()
	decoded, target := 0, int((1+(bound-1)*2/3)*float64(p.pages()))
	for _, g := range groups {
		decoded += g.decoded
	}
	slices.SortStableFunc(groups, func(a, b *liveGroup) int { return cmp.Compare(len(a.live)*b.decoded, len(b.live)*a.decoded) })
	var pages []uint16
	for _, g := range groups {
		if decoded <= target || len(g.live) >= g.decoded {
			break
		}
		pages, decoded = append(pages, g.live...), decoded-(g.decoded-len(g.live))
	}
	slices.Sort(pages)
	return p.plan(pages)
}

// plan has pages written: chunks of which three quarters are among them become whole.
func (p *FilePart) plan(pages []uint16) *rewritePlan {
	plan := &rewritePlan{}
	for len(pages) > 0 {
		c, n := int(pages[0])/chunkPages, 1
		for n < len(pages) && int(pages[n])/chunkPages == c {
			n++
		}
		if 4*n >= 3*pagesOf(int64(p.size(c))) {
			plan.whole = append(plan.whole, c)
		} else {
			plan.pages = append(plan.pages, pages[:n]...)
		}
		pages = pages[n:]
	}
	return plan
}

// groups returns what is decoded to read the part: Fragmentation counts the same, and does not name the pages.
func (p *FilePart) groups() (all []*liveGroup) {
	units := map[unitGroup]*liveGroup{}
	for _, x := range p.patches {
		g := units[groupOfPatch(x)]
		if g == nil {
			g = &liveGroup{decoded: pagesIn(groupOf(int(x.Slot)), int(x.UnitPages))}
			units[groupOfPatch(x)] = g
			all = append(all, g)
		}
		g.live = append(g.live, x.Page)
	}
	for c := range min(p.Len(), len(p.chunks)) {
		all = append(all, p.under(c)...)
	}
	return all
}

// under returns the groups of the chunk under the patches of chunk c that provide a page.
func (p *FilePart) under(c int) (groups []*liveGroup) {
	pages := pagesOf(int64(p.size(c)))
	patches := p.of(c)
	for from := 0; from < pages; from += pagesOfGroup {
		g := &liveGroup{decoded: min(pagesOfGroup, pages-from)}
		for i := range g.decoded {
			page := uint16(c*chunkPages + from + i)
			if len(patches) > 0 && patches[0].Page == page {
				patches = patches[1:]
			} else {
				g.live = append(g.live, page)
			}
		}
		if len(g.live) > 0 {
			groups = append(groups, g)
		}
	}
	return groups
}

func (plan *rewritePlan) bytes(p *FilePart) int64 {
	sum := int64(len(plan.pages)) * PageSize
	for _, c := range plan.whole {
		sum += int64(p.size(c))
	}
	return sum
}

// after returns what reading the part costs when it is rewritten.
func (plan *rewritePlan) after(p *FilePart) Fragmentation {
	now := FilePart{length: p.length, patched: p.patched, chunks: slices.Clone(p.chunks)}
	for _, c := range plan.whole {
		for c >= len(now.chunks) {
			now.chunks = append(now.chunks, seal.ChunkID{})
		}
	}
	for _, x := range p.patches {
		_, whole := slices.BinarySearch(plan.whole, int(x.Page)/chunkPages)
		if _, moved := slices.BinarySearch(plan.pages, x.Page); !whole && !moved {
			now.patches = append(now.patches, x)
		}
	}
	for i, page := range plan.pages {
		x := PagePatch{Page: page, UnitPages: uint8(min(unitPages, len(plan.pages)-i/unitPages*unitPages)), Slot: uint8(i % unitPages)}
		binary.LittleEndian.PutUint64(x.Unit[:], uint64(i/unitPages)) // no unit has such a name
		now.patches = append(now.patches, x)
	}
	sortPatches(now.patches)
	return now.Fragmentation()
}
