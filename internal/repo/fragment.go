package repo

import (
	"context"

	"github.com/holdfast-dr/holdfast/internal/seal"
)

// Fragmentation says how much has to be decoded to read files once. Files that are stored in whole chunks decode to what
// they have; patched ones to more: the chunk under the patches is read for the pages that it still provides, and a unit for
// the pages of it that still count.
type Fragmentation struct {
	Pages   int64 `json:"pages"`   // that the files have
	Decoded int64 `json:"decoded"` // that are decoded, in chunks and in units
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
	seen := map[seal.ChunkID]bool{}
	for _, x := range p.patches {
		if !seen[x.Unit] {
			seen[x.Unit] = true
			f.Decoded += int64(x.UnitPages)
		}
	}
	f.Units = int64(len(seen))
	for c := range min(len(p.chunks), p.Len()) {
		if size := pagesOf(int64(p.size(c))); p.Patches(c) < size {
			f.Decoded += int64(size)
		}
	}
	return f
}

// Fragmentation returns what reading all files of the tree at root costs. It reads the tree and the lists of parts, and no
// page: about 10 KiB for each 128 MiB of a large file.
func (rd *Reader) Fragmentation(ctx context.Context, root seal.ChunkID) (Fragmentation, error) {
	return rd.fragmentation(ctx, root, func(string, *Entry, int, *FilePart) {})
}

// fragmentationOf is Reader.Fragmentation of a snapshot.
func (r *Repository) fragmentationOf(ctx context.Context, m *Manifest) (f Fragmentation, err error) {
	root, err := m.RootID()
	if err != nil {
		return f, err
	}
	return r.Reader().Fragmentation(ctx, root)
}

// fragmentation is Fragmentation that calls fn for each part of a file which has lists.
func (rd *Reader) fragmentation(ctx context.Context, root seal.ChunkID, fn func(path string, e *Entry, n int, p *FilePart)) (f Fragmentation, err error) {
	err = rd.Walk(ctx, root, "", func(path string, e *Entry) error {
		if e.Type != TypeFile {
			return nil
		}
		if len(e.Lists) == 0 {
			pages := int64(pagesOf(e.Size))
			f.add(Fragmentation{Pages: pages, Decoded: pages})
			return nil
		}
		for n := range ListCount(e.Size) {
			p, err := rd.FilePart(ctx, e, n)
			if err != nil {
				return err
			}
			f.add(p.Fragmentation())
			fn(path, e, n, p)
		}
		return nil
	})
	return f, err
}
