package repo

import (
	"context"
	"fmt"
	"slices"

	"github.com/holdfast-dr/holdfast/internal/seal"
)

// PatchPart stores the list of a part that differs from base, which may be nil, in single pages and in whole chunks, and
// has length bytes now. The chunks and the units are saved already, or were found in a snapshot that MayCarry allows.
// Where nothing is patched afterwards the list is a plain one. What base has behind length is dropped; a page that base
// has not must be patched or lie in a whole chunk. It may be called from several goroutines.
func (w *Writer) PatchPart(ctx context.Context, base *FilePart, whole map[int]seal.ChunkID, patches []PagePatch, length int64) (FileList, error) {
	if base == nil {
		base = &FilePart{}
	}
	plan, err := planPatch(base, whole, patches, length, w.r.limits.smallTable)
	if err != nil {
		return FileList{}, fmt.Errorf("patch a part of a file: %w", err)
	}
	if len(plan.list.recent)+len(plan.older) == 0 && plan.list.older == (seal.ChunkID{}) {
		exact, err := w.exact(ctx, plan, whole)
		if err != nil {
			return FileList{}, err
		}
		if exact {
			return w.savePlain(ctx, plan.chunks)
		}
	}
	return w.savePatched(ctx, base, plan)
}

// patchPlan is what a part will be.
type patchPlan struct {
	list     patchedList
	length   int64
	chunks   []seal.ChunkID // of the base; zeros: nothing lies under the patches
	sameBase bool           // they are those that were there before
	older    []PagePatch    // of a new older table; nil: the one that list names stays
}

// planPatch decides what is written. It reads and writes nothing. Up to small bytes of recent patches are not merged into
// the older table in any case.
func planPatch(base *FilePart, whole map[int]seal.ChunkID, patches []PagePatch, length int64, small int) (*patchPlan, error) {
	if length <= 0 || length > ListLen*Grid {
		return nil, fmt.Errorf("%d bytes are not the length of a part", length)
	}
	plan := &patchPlan{length: length}
	k, pages := int((length+Grid-1)/Grid), pagesOf(length)
	plan.list.chunks = k
	patches = slices.Clone(patches)
	sortPatches(patches)
	if err := checkPatches(patches, whole, pages); err != nil {
		return nil, err
	}
	if err := covered(base.length, length, whole, patches); err != nil {
		return nil, err
	}
	plan.under(base, whole, k)

	old := patchedList{}
	if base.patched != nil {
		old = *base.patched
	}
	kept := slices.DeleteFunc(slices.Clone(old.recent), func(x PagePatch) bool {
		_, replaced := whole[int(x.Page)/chunkPages]
		return replaced || int(x.Page) >= pages
	})
	l := &plan.list
	l.recent = (&patchedList{recent: patches}).winners(kept, pages)
	if old.older == (seal.ChunkID{}) {
		plan.mergeLarge(nil, pages, small)
		return plan, nil
	}
	l.older, l.mask = old.older, old.mask
	for c := range whole {
		l.mask.set(c)
	}
	for c := k; c < base.Len(); c++ {
		l.mask.set(c)
	}
	plan.mergeLarge(base.older, pages, small)
	return plan, nil
}

// mergeLarge makes one table of both where the recent one has become large, or where most of the older one is dead.
func (plan *patchPlan) mergeLarge(older []PagePatch, pages, small int) {
	l := &plan.list
	all := l.winners(older, pages)
	live := len(all) - len(l.recent)
	recentSize, olderSize := len(appendTable(nil, l.recent)), len(appendTable(nil, older))
	if recentSize <= max(small, olderSize/8) && 2*live >= len(older) {
		return
	}
	l.older, l.mask = seal.ChunkID{}, chunkMask{}
	if len(appendTable(nil, all)) <= small {
		l.recent = all
		return
	}
	l.recent, plan.older = nil, all
}

// under sets the chunks of the base.
func (plan *patchPlan) under(base *FilePart, whole map[int]seal.ChunkID, k int) {
	plan.chunks = slices.Clone(base.chunks[:min(k, len(base.chunks))])
	for c, id := range whole {
		if c >= len(plan.chunks) {
			plan.chunks = append(plan.chunks, make([]seal.ChunkID, c+1-len(plan.chunks))...)
		}
		plan.chunks[c] = id
	}
	plan.sameBase = slices.Equal(plan.chunks, base.chunks)
}

func checkPatches(patches []PagePatch, whole map[int]seal.ChunkID, pages int) error {
	units := map[seal.ChunkID]uint8{}
	for i, x := range patches {
		if err := x.check(); err != nil {
			return err
		}
		_, both := whole[int(x.Page)/chunkPages]
		switch {
		case int(x.Page) >= pages:
			return fmt.Errorf("page %d of %d is patched", x.Page, pages)
		case i > 0 && patches[i-1].Page == x.Page:
			return fmt.Errorf("page %d is patched twice", x.Page)
		case both:
			return fmt.Errorf("page %d is patched, and its chunk is replaced", x.Page)
		case x.Unit == seal.ChunkID{}:
			return fmt.Errorf("page %d has no unit", x.Page)
		case units[x.Unit] != 0 && units[x.Unit] != x.UnitPages:
			return fmt.Errorf("unit %s has %d and %d pages", x.Unit, units[x.Unit], x.UnitPages)
		}
		units[x.Unit] = x.UnitPages
	}
	for c, id := range whole {
		if c < 0 || c*chunkPages >= pages || id == (seal.ChunkID{}) {
			return fmt.Errorf("chunk %d of a part of %d pages is replaced", c, pages)
		}
	}
	return nil
}

// covered wants every page to be given that lies between the old length and the new one.
func covered(before, now int64, whole map[int]seal.ChunkID, patches []PagePatch) error {
	page := int(before / PageSize)
	for _, x := range patches {
		if int(x.Page) < page || before >= now {
			continue
		}
		if err := between(page, int(x.Page), whole); err != nil {
			return err
		}
		page = int(x.Page) + 1
	}
	if before >= now {
		return nil
	}
	return between(page, pagesOf(now), whole)
}

// between wants pages from one to before another to lie in whole chunks.
func between(from, to int, whole map[int]seal.ChunkID) error {
	for page := from; page < to; page = (page/chunkPages + 1) * chunkPages {
		if _, ok := whole[page/chunkPages]; !ok {
			return fmt.Errorf("page %d is new, and neither patched nor in a whole chunk", page)
		}
	}
	return nil
}

// exact reports whether each chunk of the base has the length that the part has there, so that a plain list will do.
// Those that the caller has just given have it.
func (w *Writer) exact(ctx context.Context, plan *patchPlan, whole map[int]seal.ChunkID) (bool, error) {
	p := FilePart{length: plan.length}
	if len(plan.chunks) != p.Len() {
		return false, nil
	}
	for c, id := range plan.chunks {
		if _, given := whole[c]; given {
			continue
		}
		if id == (seal.ChunkID{}) {
			return false, nil
		}
		l, err := w.r.find(ctx, id)
		if err != nil || int(l.plain) != p.size(c) {
			return false, err
		}
	}
	return true, nil
}

// savePlain stores a plain list. Of a small file the entry may hold the IDs itself.
func (w *Writer) savePlain(ctx context.Context, ids []seal.ChunkID) (FileList, error) {
	id, err := w.saveMeta(ctx, marshalList(ids))
	l := FileList{List: id}
	if len(ids) <= inlineChunks {
		l.Chunks = ids
	}
	return l, err
}

func (w *Writer) savePatched(ctx context.Context, base *FilePart, plan *patchPlan) (FileList, error) {
	l := plan.list
	var err error
	if l.base, err = w.saveBase(ctx, base, plan); err != nil {
		return FileList{}, err
	}
	if plan.older != nil {
		if l.older, err = w.saveMeta(ctx, marshalOlder(plan.older)); err != nil {
			return FileList{}, err
		}
	}
	id, err := w.saveMeta(ctx, l.marshal())
	return FileList{List: id}, err
}

// saveBase returns the list of what lies under the patches, and stores it where it is a new one.
func (w *Writer) saveBase(ctx context.Context, base *FilePart, plan *patchPlan) (seal.ChunkID, error) {
	switch {
	case len(plan.chunks) == 0:
		return seal.ChunkID{}, nil
	case plan.sameBase && base.patched != nil:
		return base.patched.base, nil
	case plan.sameBase && base.list != (seal.ChunkID{}):
		return base.list, nil
	}
	if slices.Contains(plan.chunks, seal.ChunkID{}) {
		// A list has no holes: an empty chunk is zeros, and every page of these is patched.
		empty, err := w.saveMeta(ctx, nil)
		if err != nil {
			return empty, err
		}
		for i, id := range plan.chunks {
			if id == (seal.ChunkID{}) {
				plan.chunks[i] = empty
			}
		}
	}
	return w.saveMeta(ctx, marshalList(plan.chunks))
}
