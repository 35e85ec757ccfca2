package repo

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/holdfast-dr/holdfast/internal/seal"
)

// pageNeed is a page of a part that lies in a chunk.
type pageNeed struct {
	page uint16
	id   seal.ChunkID // zeros: a page of zeros
	size int          // that the chunk has to have; negative: any, and zeros are behind it
	slot int
}

// gathered is pages of a part that were read together. A chunk's groups are decoded where they then stay, with the pages that
// nobody wants between the others, where these are few and there is room; else the wanted ones move together.
type gathered struct {
	memory []byte
	at     []int32 // where each page of the part lies in memory, in pages; or one of the following
	end    int     // of what is used
	left   int     // pages that may have to be put behind it
}

const (
	notGathered = -1 - iota
	asZeros
	asked
)

// begin forgets everything.
func (g *gathered) begin() {
	if g.at == nil {
		g.at = make([]int32, partPages)
	}
	for i := range g.at {
		g.at[i] = notGathered
	}
	g.end = 0
}

// reserve makes room for n pages behind those that are there.
func (g *gathered) reserve(n int) {
	if size := g.end + n*PageSize; cap(g.memory) < size+size/3+Grid {
		g.memory = append(make([]byte, 0, size+size/3+Grid), g.memory[:g.end]...)
	}
	g.memory, g.left = g.memory[:cap(g.memory)], n
}

// keep forgets the pages before first, and moves the others to the beginning. It returns how many there are.
func (g *gathered) keep(first int) (n int) {
	var kept []int
	for p := range g.at {
		switch {
		case p < first || g.at[p] == asked: // the chunk that it was to come from is lost
			g.at[p] = notGathered
		case g.at[p] >= 0:
			kept = append(kept, p)
		}
	}
	slices.SortFunc(kept, func(a, b int) int { return cmp.Compare(g.at[a], g.at[b]) })
	g.end = 0
	for i, p := range kept {
		if i > 0 && g.at[p] == g.at[kept[i-1]] {
			continue // see below
		}
		g.end += copy(g.memory[g.end:], g.memory[int(g.at[p])*PageSize:][:PageSize])
	}
	// Two pages that lie in one slot have one place. Only damaged lists say so.
	place, was := int32(-1), int32(-1)
	for _, p := range kept {
		if g.at[p] != was {
			was, place = g.at[p], place+1
		}
		g.at[p] = place
	}
	return len(kept)
}

// ask adds what a patch needs, if it is not there.
func (g *gathered) ask(needs []pageNeed, x PagePatch) []pageNeed {
	if g.at[x.Page] == notGathered {
		g.at[x.Page] = asked
		needs = append(needs, x.need())
	}
	return needs
}

// page returns a page that was gathered.
func (g *gathered) page(page uint16) []byte {
	at := g.at[page]
	if at == asZeros {
		return zeroPage
	}
	return g.memory[int(at)*PageSize:][:PageSize]
}

var zeroPage = make([]byte, PageSize)

// free returns the memory behind what is used.
func (g *gathered) free() []byte { return g.memory[g.end:g.end] }

// take takes pages out of a chunk, which may have been decoded into free.
func (g *gathered) take(needs []pageNeed, d decoded) {
	slices.SortFunc(needs, func(a, b pageNeed) int { return cmp.Compare(a.slot, b.slot) })
	g.left -= len(needs)
	length := (len(d.plain) + PageSize - 1) / PageSize * PageSize
	stays := len(d.plain) > 0 && 2*len(needs)*PageSize >= length && &d.plain[0] == &g.memory[:g.end+1][g.end] && g.end+length+g.left*PageSize <= len(g.memory)
	begin, slot := g.end, -1
	for _, n := range needs {
		page := d.page(n.slot)
		switch {
		case len(page) == 0:
			g.at[n.page] = asZeros
			continue
		case stays:
			g.at[n.page] = int32((begin + d.offset(n.slot)) / PageSize)
			continue
		case n.slot != slot: // pages only move towards the beginning, in their order, so none is lost
			clear(g.memory[g.end+copy(g.memory[g.end:], page) : g.end+PageSize])
			slot, g.end = n.slot, g.end+PageSize
		}
		g.at[n.page] = int32(g.end/PageSize - 1)
	}
	if stays {
		g.end = begin + length
		clear(g.memory[begin+len(d.plain) : g.end])
	}
}

// gather reads pages into rd.gathered, and each chunk once. Chunks that cannot be had are returned with the reason.
func (rd *Reader) gather(ctx context.Context, needs []pageNeed) (lost map[seal.ChunkID]error, err error) {
	if len(needs) == 0 {
		return nil, nil
	}
	g := &rd.gathered
	g.reserve(len(needs))
	pages := map[seal.ChunkID][]pageNeed{}
	for _, n := range needs {
		if n.id == (seal.ChunkID{}) {
			g.at[n.page] = asZeros
			continue
		}
		pages[n.id] = append(pages[n.id], n)
	}
	lost = map[seal.ChunkID]error{}
	ids := rd.inPlace(pages)
	wants := make([]uint64, len(ids))
	for i, id := range ids {
		for _, n := range pages[id] {
			wants[i] |= groupOf(n.slot)
		}
	}
	own := rd.plain
	defer func() { rd.plain = own }()
	rd.plain = g.free()
	err = rd.scattered(ctx, ids, wants, func(i int, d decoded) error {
		for _, n := range pages[ids[i]] {
			if n.size >= 0 && d.size != n.size {
				lost[ids[i]] = &ChunkError{ID: ids[i], Pack: "list", Err: fmt.Errorf("it has %d bytes, not %d", d.size, n.size)}
				return nil
			}
		}
		g.take(pages[ids[i]], d)
		rd.plain = g.free()
		return nil
	}, func(i int, err error) error {
		lost[ids[i]] = err
		return nil
	})
	return lost, err
}

// inPlace returns chunks in the order in which they lie in packs, so that neighbours are read together.
func (rd *Reader) inPlace(pages map[seal.ChunkID][]pageNeed) []seal.ChunkID {
	type placed struct {
		id     seal.ChunkID
		pack   PackID
		offset uint32
	}
	all := make([]placed, 0, len(pages))
	for id := range pages {
		at := placed{id: id}
		if l, ok, err := rd.place(id); err == nil && ok {
			at.pack, at.offset = l.pack.id, l.offset
		}
		all = append(all, at)
	}
	slices.SortFunc(all, func(a, b placed) int {
		return cmp.Or(bytes.Compare(a.pack[:], b.pack[:]), cmp.Compare(a.offset, b.offset), bytes.Compare(a.id[:], b.id[:]))
	})
	ids := make([]seal.ChunkID, len(all))
	for i, p := range all {
		ids[i] = p.id
	}
	return ids
}
