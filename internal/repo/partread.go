package repo

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/holdfast-dr/holdfast/internal/seal"
)

// windowPages is how many patched pages are gathered at once, 48 MiB, for the chunks that they lie in. Each unit that these
// chunks share is read once: of a part whose fragmentation is within what Optimize allows nearly always each unit that there
// is. (Where whole groups are patched, more may be.)
const windowPages = partPages * 3 / 8

// GatherAtMost bounds the memory for patched pages, which is 48 MiB without it. With less, units that many chunks share are
// read more than once.
func (rd *Reader) GatherAtMost(bytes int) {
	rd.window = min(max(bytes/PageSize, chunkPages), windowPages)
}

// Part reads chunks of a part, given in ascending order, and calls fn for each, in order; plain dies with the call. What
// lies together is fetched together, and ahead of its use. A patched chunk is put together; the chunk under its patches is not
// read where all its pages are patched. With skip, which may be nil, a chunk that cannot be had is handed to skip and
// passed over: its own, or one that a page of it lies in, is broken. Each chunk has the length that the file has there.
func (rd *Reader) Part(ctx context.Context, p *FilePart, chunks []int, fn func(chunk int, plain []byte) error, skip func(chunk int, err error) error) error {
	for _, c := range chunks {
		if c < 0 || c >= p.Len() {
			return fmt.Errorf("chunk %d of a part of %d chunks", c, p.Len())
		}
	}
	w := &partWindow{rd: rd, p: p, fn: fn, skip: skip}
	for len(chunks) > 0 {
		n, patched := 1, p.Patches(chunks[0])
		for n < len(chunks) && patched+p.Patches(chunks[n]) <= rd.window {
			patched += p.Patches(chunks[n])
			n++
		}
		if err := w.read(ctx, chunks[:n]); err != nil {
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
	fn   func(int, []byte) error
	skip func(int, error) error

	chunks   []int
	patches  [][]PagePatch // of each chunk
	gathered []int         // for each chunk, the number of its first page among those that were gathered
	lost     map[seal.ChunkID]error
}

func (w *partWindow) read(ctx context.Context, chunks []int) error {
	var needs []pageNeed
	w.chunks, w.patches, w.gathered = chunks, w.patches[:0], w.gathered[:0]
	for _, c := range chunks {
		patches := w.p.of(c)
		w.patches, w.gathered = append(w.patches, patches), append(w.gathered, len(needs))
		for _, x := range patches {
			needs = append(needs, pageNeed{x.Unit, int(x.UnitPages) * PageSize, int(x.Slot)})
		}
	}
	var err error
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
			err = w.rd.scattered(ctx, ids, wants, func(n int, plain []byte) error { return w.give(from+n, plain) }, w.skipFrom(from))
		} else {
			err = w.give(i, w.rd.plain[:0])
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
func (w *partWindow) give(i int, under []byte) error {
	c := w.chunks[i]
	size := w.p.size(c)
	err := w.lacks(i)
	if err == nil && w.p.patched == nil && len(under) != size {
		err = &ChunkError{ID: w.p.chunks[c], Pack: "list", Err: fmt.Errorf("it has %d bytes, and the file has %d there", len(under), size)}
	}
	if err != nil {
		if w.skip == nil {
			return err
		}
		return w.skip(c, err)
	}
	b := stretch(under, size)
	for n, x := range w.patches[i] {
		at := int(x.Page) % chunkPages * PageSize
		copy(b[at:], w.rd.gathered[(w.gathered[i]+n)*PageSize:][:PageSize])
	}
	w.rd.plain = b // where it had to grow, the next chunk has the room too
	return w.fn(c, b)
}

// stretch returns b with n bytes: cut off, or with zeros behind. It stays where it is if it can.
func stretch(b []byte, n int) []byte {
	have := min(len(b), n)
	if cap(b) < n {
		b = append(make([]byte, 0, max(n, Grid)), b...)
	}
	b = b[:n]
	clear(b[have:])
	return b
}

// Pages reads single pages of a part, in the order in which they are given, and calls fn for each; plain dies with the
// call. It has PageSize bytes, the last one of a file perhaps fewer. Each chunk that pages lie in is read once for every
// 6144 of them, and as far as it can decoded for these pages alone. An error of what it reads is a *ChunkError.
func (rd *Reader) Pages(ctx context.Context, p *FilePart, pages []uint16, fn func(page uint16, plain []byte) error) error {
	for some := range slices.Chunk(pages, rd.window) {
		var needs []pageNeed
		for _, page := range some {
			need, err := p.need(page)
			if err != nil {
				return err
			}
			needs = append(needs, need)
		}
		lost, err := rd.gather(ctx, needs)
		if err != nil {
			return err
		}
		for i, page := range some {
			if err := lost[needs[i].id]; err != nil {
				return err
			}
			if err := fn(page, rd.gathered[i*PageSize:][:min(PageSize, p.length-int64(page)*PageSize)]); err != nil {
				return err
			}
		}
	}
	return ctx.Err()
}

// pageNeed is a page of a chunk.
type pageNeed struct {
	id   seal.ChunkID // zeros: a page of zeros
	size int          // that the chunk has to have; negative: any, and zeros are behind it
	slot int
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
		return pageNeed{x.Unit, int(x.UnitPages) * PageSize, int(x.Slot)}, nil
	case c >= len(p.chunks):
		return pageNeed{}, nil
	case p.patched == nil:
		return pageNeed{p.chunks[c], p.size(c), int(page) % chunkPages}, nil
	}
	return pageNeed{p.chunks[c], -1, int(page) % chunkPages}, nil
}

// gather reads pages into rd.gathered, in the order of needs, and each chunk once. Chunks that cannot be had are returned
// with the reason.
func (rd *Reader) gather(ctx context.Context, needs []pageNeed) (lost map[seal.ChunkID]error, err error) {
	if len(needs) == 0 {
		return nil, nil
	}
	rd.gathered = grow(rd.gathered, len(needs)*PageSize)
	pages := map[seal.ChunkID][]int{}
	for i, n := range needs {
		if n.id == (seal.ChunkID{}) {
			clear(rd.gathered[i*PageSize:][:PageSize])
			continue
		}
		pages[n.id] = append(pages[n.id], i)
	}
	lost = map[seal.ChunkID]error{}
	ids := rd.r.inPlace(pages)
	wants := make([]uint64, len(ids))
	for i, id := range ids {
		for _, n := range pages[id] {
			wants[i] |= groupOf(needs[n].slot)
		}
	}
	err = rd.scattered(ctx, ids, wants, func(i int, plain []byte) error {
		for _, n := range pages[ids[i]] {
			if want := needs[n].size; want >= 0 && len(plain) != want {
				lost[ids[i]] = &ChunkError{ID: ids[i], Pack: "list", Err: fmt.Errorf("it has %d bytes, not %d", len(plain), want)}
				return nil
			}
			to := rd.gathered[n*PageSize:][:PageSize]
			clear(to[copy(to, plain[min(needs[n].slot*PageSize, len(plain)):]):])
		}
		return nil
	}, func(i int, err error) error {
		lost[ids[i]] = err
		return nil
	})
	return lost, err
}

// inPlace returns chunks in the order in which they lie in packs, so that neighbours are read together.
func (r *Repository) inPlace(pages map[seal.ChunkID][]int) []seal.ChunkID {
	type placed struct {
		id     seal.ChunkID
		pack   PackID
		offset uint32
	}
	all := make([]placed, 0, len(pages))
	for id := range pages {
		at := placed{id: id}
		if l, ok, err := r.index.find(id); err == nil && ok {
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
