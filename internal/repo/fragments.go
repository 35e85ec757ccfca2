package repo

import (
	"context"
	"sync"

	"github.com/holdfast-dr/holdfast/internal/seal"
)

// fragments remembers, of the snapshot of each system that was ranked last, what its leaves and lists cost to read. What an ID
// names does not change, so the next snapshot is ranked by what it does not share with that one. A system takes about 100
// bytes for each list, of which a terabyte has 8192.
type fragments struct {
	mu      sync.Mutex // guards systems
	systems map[string]*rankedTree
}

// rankedTree is what was found out of one tree.
type rankedTree struct {
	bound  float64 // of the parts that leaves name
	leaves map[seal.ChunkID]rankedLeaf
	lists  map[seal.ChunkID]Fragmentation
}

// rankedLeaf is the sum over the files of a leaf, those of their parts that are above the bound, and all their lists.
type rankedLeaf struct {
	sum   Fragmentation
	above []rankedPart
	lists []seal.ChunkID
}

// rankedPart is a part of a file above the bound.
type rankedPart struct {
	path string
	n    int
	f    Fragmentation
}

// last returns what is known of the system's trees with this bound, which may be nothing.
func (f *fragments) last(system string, bound float64) *rankedTree {
	f.mu.Lock()
	defer f.mu.Unlock()
	if t := f.systems[system]; t != nil && t.bound == bound {
		return t
	}
	return &rankedTree{}
}

func (f *fragments) remember(system string, t *rankedTree) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.systems == nil {
		f.systems = map[string]*rankedTree{}
	}
	f.systems[system] = t
}

// rankParts measures a snapshot, and returns its parts above the bound, in the order of paths. It reads the inner nodes of the
// tree, and of leaves and lists those that the snapshot which was ranked before has not.
func (rd *Reader) rankParts(ctx context.Context, m *Manifest, bound float64) (sum Fragmentation, above []rankedPart, err error) {
	root, err := m.RootID()
	if err != nil {
		return sum, nil, err
	}
	now, sum, above, err := rd.rankTree(ctx, root, bound, rd.r.fragments.last(m.System, bound))
	if err == nil {
		rd.r.fragments.remember(m.System, now)
	}
	return sum, above, err
}

func (rd *Reader) rankTree(ctx context.Context, root seal.ChunkID, bound float64, before *rankedTree) (now *rankedTree, sum Fragmentation, above []rankedPart, err error) {
	leaves, err := rd.leaves(ctx, root, nil)
	if err != nil {
		return nil, sum, nil, err
	}
	now = &rankedTree{bound, make(map[seal.ChunkID]rankedLeaf, len(leaves)), make(map[seal.ChunkID]Fragmentation, len(before.lists))}
	for _, id := range leaves {
		leaf, known := before.leaves[id]
		if !known {
			if leaf, err = rd.rankLeaf(ctx, id, before, now); err != nil {
				return nil, sum, nil, err
			}
		}
		for _, list := range leaf.lists {
			if _, ranked := now.lists[list]; !ranked {
				now.lists[list] = before.lists[list]
			}
		}
		now.leaves[id] = leaf
		sum.add(leaf.sum)
		above = append(above, leaf.above...)
	}
	return now, sum, above, nil
}

func (rd *Reader) rankLeaf(ctx context.Context, id seal.ChunkID, before, now *rankedTree) (leaf rankedLeaf, err error) {
	n, err := rd.node(ctx, id)
	if err != nil {
		return leaf, err
	}
	for i, path := range n.keys {
		e, err := parseEntry(n.values[i])
		if err != nil {
			return leaf, &ChunkError{ID: id, Pack: "tree", Err: err}
		}
		if e.Type != TypeFile {
			continue
		}
		if len(e.Lists) == 0 {
			pages := int64(pagesOf(e.Size))
			leaf.sum.add(Fragmentation{Pages: pages, Decoded: pages})
		}
		leaf.lists = append(leaf.lists, e.Lists...)
		for part, list := range e.Lists {
			f, known := before.lists[list]
			// A list alone does not say where the last part of its file ends.
			if !known || f.Pages != int64(pagesOf(e.partLength(part))) {
				p, err := rd.FilePart(ctx, e, part)
				if err != nil {
					return leaf, err
				}
				f = p.Fragmentation()
			}
			now.lists[list] = f
			if leaf.sum.add(f); f.Ratio() > now.bound {
				leaf.above = append(leaf.above, rankedPart{path, part, f})
			}
		}
	}
	return leaf, nil
}
