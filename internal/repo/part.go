package repo

import (
	"context"
	"fmt"
	"sort"

	"github.com/holdfast-dr/holdfast/internal/seal"
)

// FilePart is one part of a file: up to ListLen chunks, some of which may be patched. It does not change, and may be used
// by several goroutines.
type FilePart struct {
	length  int64
	list    seal.ChunkID   // it was read from; zeros: from the entry
	chunks  []seal.ChunkID // all; of a patched part those that lie under the patches, which may be fewer
	patched *patchedList   // nil: it is a plain part
	older   []PagePatch    // of the older table
	patches []PagePatch    // that count, ascending by page
	inexact bool           // the last chunk is not patched, and longer or shorter than the part has it
}

// Len returns the number of chunks.
func (p *FilePart) Len() int { return int((p.length + Grid - 1) / Grid) }

// Length returns the number of bytes.
func (p *FilePart) Length() int64 { return p.length }

// Whole returns the ID of chunk i where its bytes are those of one stored chunk.
func (p *FilePart) Whole(i int) (seal.ChunkID, bool) {
	if i >= len(p.chunks) || (p.inexact && i == p.Len()-1) || p.Patches(i) > 0 {
		return seal.ChunkID{}, false
	}
	return p.chunks[i], true
}

// Patches returns how many pages of chunk i are patched.
func (p *FilePart) Patches(i int) int { return len(p.of(i)) }

// Units returns how many pages the units that the part refers to have, and how many of these it needs: what fragmentation
// costs whoever reads it.
func (p *FilePart) Units() (pages, live int) {
	seen := map[seal.ChunkID]bool{}
	for _, x := range p.patches {
		if !seen[x.Unit] {
			seen[x.Unit] = true
			pages += int(x.UnitPages)
		}
	}
	return pages, len(p.patches)
}

// size returns the number of bytes of chunk i.
func (p *FilePart) size(i int) int { return int(min(p.length-int64(i)*Grid, Grid)) }

// pages returns the number of pages; the last one may be cut off by the end of the file.
func (p *FilePart) pages() int { return pagesOf(p.length) }

func pagesOf(length int64) int { return int((length + PageSize - 1) / PageSize) }

// of returns the patches of chunk i.
func (p *FilePart) of(i int) []PagePatch {
	from := sort.Search(len(p.patches), func(n int) bool { return int(p.patches[n].Page) >= i*chunkPages })
	to := from
	for to < len(p.patches) && int(p.patches[to].Page) < (i+1)*chunkPages {
		to++
	}
	return p.patches[from:to]
}

// at returns the patch of a page.
func (p *FilePart) at(page uint16) (PagePatch, bool) {
	n := sort.Search(len(p.patches), func(n int) bool { return p.patches[n].Page >= page })
	if n < len(p.patches) && p.patches[n].Page == page {
		return p.patches[n], true
	}
	return PagePatch{}, false
}

// ListCount returns the number of parts of a file of size bytes: the arguments that FilePart takes.
func ListCount(size int64) int { return int((size + Grid*ListLen - 1) / (Grid * ListLen)) }

// FilePart returns part n of a file: chunks n*ListLen to (n+1)*ListLen. An error of what it read is a *ChunkError.
func (rd *Reader) FilePart(ctx context.Context, e *Entry, n int) (*FilePart, error) {
	p := &FilePart{length: e.partLength(n)}
	if len(e.Lists) == 0 {
		from, to := n*ListLen, (n+1)*ListLen
		p.chunks = e.Chunks[min(from, len(e.Chunks)):min(to, len(e.Chunks))]
		return p, nil
	}
	p.list = e.Lists[n]
	ids, patched, err := rd.list(ctx, p.list)
	if err != nil {
		return nil, err
	}
	have := len(ids)
	if patched != nil {
		have = patched.chunks
	}
	if have != p.Len() {
		return nil, &ChunkError{ID: p.list, Pack: "list", Err: fmt.Errorf("it has %d chunks, not %d", have, p.Len())}
	}
	if p.chunks, p.patched = ids, patched; patched == nil {
		return p, nil
	}
	return p, rd.fill(ctx, p)
}

// partLength returns how many bytes part n of a file has.
func (e *Entry) partLength(n int) int64 {
	return max(min(e.Size-int64(n)*ListLen*Grid, ListLen*Grid), 0)
}

// fill reads what a patched list refers to.
func (rd *Reader) fill(ctx context.Context, p *FilePart) (err error) {
	l := p.patched
	damaged := func(format string, args ...any) error {
		return &ChunkError{ID: p.list, Pack: "list", Err: fmt.Errorf(format, args...)}
	}
	if l.base != (seal.ChunkID{}) {
		if p.chunks, err = rd.plainList(ctx, l.base); err != nil {
			return err
		}
		if len(p.chunks) > l.chunks {
			return damaged("its base has %d chunks, and it has %d", len(p.chunks), l.chunks)
		}
	}
	if l.older != (seal.ChunkID{}) {
		if p.older, err = rd.table(ctx, l.older); err != nil {
			return err
		}
	}
	if n := len(l.recent); n > 0 && int(l.recent[n-1].Page) >= p.pages() {
		return damaged("it patches page %d of %d", l.recent[n-1].Page, p.pages())
	}
	p.patches = l.winners(p.older, p.pages())
	if last := p.Len() - 1; last < len(p.chunks) && p.Patches(last) == 0 {
		at, ok, err := rd.r.index.find(p.chunks[last])
		p.inexact = err == nil && ok && int(at.plain) != p.size(last)
	}
	return nil
}

// list returns the IDs of a plain list, or a patched one.
func (rd *Reader) list(ctx context.Context, id seal.ChunkID) (ids []seal.ChunkID, patched *patchedList, err error) {
	b, err := rd.Chunk(ctx, id)
	if err != nil {
		return nil, nil, err
	}
	if len(b) > 0 && b[0] == listPatched {
		patched, err = parsePatched(b)
	} else {
		ids, err = parseList(b)
	}
	if err != nil {
		return nil, nil, &ChunkError{ID: id, Pack: "list", Err: err}
	}
	return ids, patched, nil
}

func (rd *Reader) plainList(ctx context.Context, id seal.ChunkID) ([]seal.ChunkID, error) {
	b, err := rd.Chunk(ctx, id)
	if err != nil {
		return nil, err
	}
	ids, err := parseList(b)
	if err != nil {
		return nil, &ChunkError{ID: id, Pack: "list", Err: err}
	}
	return ids, nil
}

// table reads a table of patches that is a chunk of its own.
func (rd *Reader) table(ctx context.Context, id seal.ChunkID) ([]PagePatch, error) {
	b, err := rd.Chunk(ctx, id)
	if err != nil {
		return nil, err
	}
	patches, err := parseOlder(b)
	if err != nil {
		return nil, &ChunkError{ID: id, Pack: "list", Err: err}
	}
	return patches, nil
}
