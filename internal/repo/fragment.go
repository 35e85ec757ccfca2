package repo

import (
	"context"
	"math"

	"github.com/holdfast-dr/holdfast/internal/seal"
)

// Fragmentation says how much has to be decoded to read files once. Files that are stored in whole chunks decode to what
// they have; patched ones to more: of the chunk under the patches the groups are decoded that still provide a page, and of
// a unit those with a page that still counts.
type Fragmentation struct {
	Pages   int64 `json:"pages"`   // that the files have
	Decoded int64 `json:"decoded"` // that are decoded, in groups of chunks and of units
	Patched int64 `json:"patched"` // of Pages, those that come from units
	Units   int64 `json:"units"`   // reads beside those of whole chunks; one that two parts need counts twice
}

// Ratio is how many pages are decoded for each one that is wanted: 1 is the least.
func (f Fragmentation) Ratio() float64 {
	if f.Pages == 0 {
		return 1
	}
	return float64(f.Decoded) / float64(f.Pages)
}

func (f *Fragmentation) add(o Fragmentation) {
	f.Pages, f.Decoded = f.Pages+o.Pages, f.Decoded+o.Decoded
	f.Patched, f.Units = f.Patched+o.Patched, f.Units+o.Units
}

// Fragmentation returns what reading the whole part costs.
func (p *FilePart) Fragmentation() Fragmentation {
	f := Fragmentation{Pages: int64(p.pages()), Patched: int64(len(p.patches))}
	if p.patched == nil {
		f.Decoded = f.Pages
		return f
	}
	units := map[seal.ChunkID]uint64{} // the groups that have been counted
	for _, x := range p.patches {
		if g := groupOf(int(x.Slot)); units[x.Unit]&g == 0 {
			units[x.Unit] |= g
			f.Decoded += int64(pagesIn(g, int(x.UnitPages)))
		}
	}
	f.Units = int64(len(units))
	for c := range p.Len() {
		f.Decoded += int64(pagesIn(p.provided(c), pagesOf(int64(p.size(c)))))
	}
	return f
}

// provided returns which groups of the chunk under the patches of chunk c provide a page: none where there is no such chunk.
func (p *FilePart) provided(c int) (groups uint64) {
	if c >= len(p.chunks) {
		return 0
	}
	pages := pagesOf(int64(p.size(c)))
	var patched [chunkPages / pagesOfGroup]int
	for _, x := range p.of(c) {
		patched[x.Page%chunkPages/pagesOfGroup]++
	}
	for g, n := range patched {
		if n < min(pagesOfGroup, pages-g*pagesOfGroup) {
			groups |= 1 << g
		}
	}
	return groups
}

// Fragmentation returns what reading all files of the tree at root costs. It reads the tree and the lists of parts, and no
// page: about 10 KiB for each 128 MiB of a large file.
func (rd *Reader) Fragmentation(ctx context.Context, root seal.ChunkID) (Fragmentation, error) {
	_, sum, _, err := rd.rankTree(ctx, root, math.Inf(1), &rankedTree{})
	return sum, err
}

// fragmentationOf is Reader.Fragmentation of a snapshot.
func (r *Repository) fragmentationOf(ctx context.Context, m *Manifest) (f Fragmentation, err error) {
	root, err := m.RootID()
	if err != nil {
		return f, err
	}
	return r.Reader().Fragmentation(ctx, root)
}
