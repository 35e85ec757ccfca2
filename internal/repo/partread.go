package repo

import (
	"context"
	"fmt"
	"slices"

	"github.com/holdfast-dr/holdfast/internal/seal"
)

// windowPages is how many patched pages are gathered at once, 24 MiB, for the chunks that they lie in: a part may have more.
// What is decoded for one of them is kept for the chunks that come later, so that each group of a unit is decoded once.
const windowPages = partPages * 3 / 16

// GatherIn gives the reader memory for patched pages, which begins a page of memory: for three quarters of it of these, and
// for pages of their groups that nobody wants. It belongs to the reader until it is no longer used.
func (rd *Reader) GatherIn(memory []byte) {
	rd.gathered.memory = memory
	rd.window = max((len(memory)-Grid)/PageSize*3/4, chunkPages)
}

// Part is PartPieces for chunks in one piece.
func (rd *Reader) Part(ctx context.Context, p *FilePart, chunks []int, fn func(chunk int, plain []byte) error, skip func(chunk int, err error) error) error {
	return rd.PartPieces(ctx, p, chunks, func(chunk int, pieces [][]byte) error {
		if len(pieces) == 1 {
			return fn(chunk, pieces[0])
		}
		rd.joined = slices.Grow(rd.joined[:0], Grid)
		for _, b := range pieces {
			rd.joined = append(rd.joined, b...)
		}
		return fn(chunk, rd.joined)
	}, skip)
}

// PartPieces reads chunks of a part, given in ascending order, and calls fn for each, in order; the pieces that it consists of
// die with the call, and must not be changed. All but the last have whole pages, and begin a page of memory. What
// lies together is fetched together, and ahead of its use. A patched chunk is put together; the chunk under its patches is not
// read where all its pages are patched. With skip, which may be nil, a chunk that cannot be had is handed to skip and
// passed over: its own, or one that a page of it lies in, is broken. Each chunk has the length that the file has there.
func (rd *Reader) PartPieces(ctx context.Context, p *FilePart, chunks []int, fn func(chunk int, pieces [][]byte) error, skip func(chunk int, err error) error) error {
	for _, c := range chunks {
		if c < 0 || c >= p.Len() {
			return fmt.Errorf("chunk %d of a part of %d chunks", c, p.Len())
		}
	}
	w := &partWindow{rd: rd, p: p, fn: fn, skip: skip}
	w.begin(chunks)
	for len(chunks) > 0 {
		n, needs := w.next(chunks)
		if err := w.read(ctx, chunks[:n], needs); err != nil {
			return err
		}
		chunks = chunks[n:]
	}
	return nil
}

// partWindow is chunks of a part that are read together.
type partWindow struct {
	rd   *Reader
	p    *FilePart
	fn   func(int, [][]byte) error
	skip func(int, error) error

	mates   map[unitGroup][]PagePatch // patches of chunks that are wanted; nil where all of them fit into one window
	chunks  []int
	patches [][]PagePatch // of each chunk
	lost    map[seal.ChunkID]error
	pieces  [][]byte // of a chunk
}

// unitGroup is a group of a unit.
type unitGroup struct {
	unit  seal.ChunkID
	group uint8
}

func groupOfPatch(x PagePatch) unitGroup { return unitGroup{x.Unit, x.Slot / pagesOfGroup} }

// begin forgets the part that was read before.
func (rd *Reader) begin() {
	rd.gathered.begin()
	if clear(rd.places); rd.places == nil {
		rd.places = map[seal.ChunkID]location{}
	}
}

// begin finds out what is wanted together.
func (w *partWindow) begin(chunks []int) {
	w.rd.begin()
	patched := 0
	for _, c := range chunks {
		patched += w.p.Patches(c)
	}
	if patched <= w.rd.window {
		return
	}
	w.mates = map[unitGroup][]PagePatch{}
	for _, c := range chunks {
		for _, x := range w.p.of(c) {
			w.mates[groupOfPatch(x)] = append(w.mates[groupOfPatch(x)], x)
		}
	}
}

// next chooses the chunks of the next window, of those that are left, and returns how many, and what has to be gathered: the
// pages of these chunks, and those of later ones that are decoded with them.
func (w *partWindow) next(chunks []int) (n int, needs []pageNeed) {
	g := &w.rd.gathered
	room := w.rd.window
	if w.mates != nil {
		room -= g.keep(chunks[0] * chunkPages)
	}
	for ; n < len(chunks); n++ {
		before := len(needs)
		for _, x := range w.p.of(chunks[n]) {
			needs = g.ask(needs, x)
			for _, mate := range w.mates[groupOfPatch(x)] {
				if mate.Page > x.Page { // those before it were here already
					needs = g.ask(needs, mate)
				}
			}
		}
		if n > 0 && len(needs) > room {
			for _, x := range needs[before:] {
				g.at[x.page] = notGathered
			}
			return n, needs[:before]
		}
	}
	return n, needs
}

func (w *partWindow) read(ctx context.Context, chunks []int, needs []pageNeed) (err error) {
	w.chunks, w.patches = chunks, w.patches[:0]
	for _, c := range chunks {
		w.patches = append(w.patches, w.p.of(c))
	}
	if w.lost, err = w.rd.gather(ctx, needs); err != nil {
		return err
	}
	for i := 0; i < len(chunks); {
		var ids []seal.ChunkID
		var wants []uint64
		from := i
		for ; i < len(chunks) && w.needsBase(i); i++ {
			ids, wants = append(ids, w.p.chunks[chunks[i]]), append(wants, w.p.provided(chunks[i]))
		}
		if len(ids) > 0 {
			err = w.rd.scattered(ctx, ids, wants, func(n int, under decoded) error { return w.give(from+n, under) }, w.skipFrom(from))
		} else {
			err = w.give(i, decoded{})
			i++
		}
		if err != nil {
			return err
		}
	}
	return ctx.Err()
}

// needsBase reports whether the chunk under the patches of chunk number i of the window has to be read.
func (w *partWindow) needsBase(i int) bool {
	c := w.chunks[i]
	return c < len(w.p.chunks) && len(w.patches[i]) < pagesOf(int64(w.p.size(c))) && w.lacks(i) == nil
}

// lacks returns why a page of the chunk cannot be had.
func (w *partWindow) lacks(i int) error {
	if len(w.lost) > 0 {
		for _, x := range w.patches[i] {
			if err := w.lost[x.Unit]; err != nil {
				return err
			}
		}
	}
	return nil
}

func (w *partWindow) skipFrom(from int) func(int, error) error {
	return func(n int, err error) error {
		if w.skip == nil {
			return err
		}
		return w.skip(w.chunks[from+n], err)
	}
}

// give puts a chunk together over what lies under it, and hands it over.
func (w *partWindow) give(i int, under decoded) error {
	c := w.chunks[i]
	size := w.p.size(c)
	err := w.lacks(i)
	if err == nil && w.p.patched == nil && under.size != size {
		err = &ChunkError{ID: w.p.chunks[c], Pack: "list", Err: fmt.Errorf("it has %d bytes, and the file has %d there", under.size, size)}
	}
	if err != nil {
		if w.skip == nil {
			return err
		}
		return w.skip(c, err)
	}
	w.pieces = w.pieces[:0]
	patches := w.patches[i]
	for at := 0; at < size; at += PageSize {
		var page []byte
		if len(patches) > 0 && int(patches[0].Page)%chunkPages == at/PageSize {
			page = w.rd.gathered.page(patches[0].Page)
			patches = patches[1:]
		} else {
			page = under.page(at / PageSize)
		}
		length := min(PageSize, size-at)
		switch n := len(page); {
		case n >= length:
			w.append(page[:length])
		case n == 0:
			w.append(zeroPage[:length])
		default: // the chunk under the patches ends within it
			w.append(append(append(make([]byte, 0, PageSize), page...), zeroPage[n:length]...))
		}
	}
	return w.fn(c, w.pieces)
}

// append adds bytes to the pieces of a chunk, and to the last one where they lie behind it.
func (w *partWindow) append(b []byte) {
	if len(b) == 0 {
		return
	}
	if last := len(w.pieces) - 1; last >= 0 {
		p := w.pieces[last]
		if n := len(p); cap(p)-n >= len(b) && &p[:n+1][n] == &b[0] {
			w.pieces[last] = p[:n+len(b)]
			return
		}
	}
	w.pieces = append(w.pieces, b)
}

// Pages reads single pages of a part, in the order in which they are given, and calls fn for each; plain dies with the
// call. It has PageSize bytes, the last one of a file perhaps fewer. Each chunk that pages lie in is read once for every
// 6144 of them, and as far as it can decoded for these pages alone. An error of what it reads is a *ChunkError.
func (rd *Reader) Pages(ctx context.Context, p *FilePart, pages []uint16, fn func(page uint16, plain []byte) error) error {
	for some := range slices.Chunk(pages, rd.window) {
		rd.begin()
		var needs []pageNeed
		for _, page := range some {
			need, err := p.need(page)
			if err != nil {
				return err
			}
			if rd.gathered.at[page] == notGathered {
				needs, rd.gathered.at[page] = append(needs, need), asked
			}
		}
		lost, err := rd.gather(ctx, needs)
		if err != nil {
			return err
		}
		for _, page := range some {
			if rd.gathered.at[page] == asked {
				need, _ := p.need(page)
				return lost[need.id]
			}
			if err := fn(page, rd.gathered.page(page)[:min(PageSize, p.length-int64(page)*PageSize)]); err != nil {
				return err
			}
		}
	}
	return ctx.Err()
}

// need says where a page lies.
func (p *FilePart) need(page uint16) (pageNeed, error) {
	if int(page) >= p.pages() {
		return pageNeed{}, fmt.Errorf("page %d of a part of %d pages", page, p.pages())
	}
	c := int(page) / chunkPages
	x, ok := p.at(page)
	switch {
	case ok:
		return x.need(), nil
	case c >= len(p.chunks):
		return pageNeed{page: page}, nil
	case p.patched == nil:
		return pageNeed{page, p.chunks[c], p.size(c), int(page) % chunkPages}, nil
	}
	return pageNeed{page, p.chunks[c], -1, int(page) % chunkPages}, nil
}

func (x PagePatch) need() pageNeed {
	return pageNeed{x.Page, x.Unit, int(x.UnitPages) * PageSize, int(x.Slot)}
}
