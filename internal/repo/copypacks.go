package repo

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sync/errgroup"

	"github.com/holdfast-dr/holdfast/internal/seal"
)

const (
	copyPacks = 4       // on their way at once, each in memory
	smallPack = 1 << 20 // is copied whole whatever is wanted of it
)

// lacks reports whether the snapshot may not refer to a chunk as it is, and nobody is storing it; who calls does it then.
func (w *Writer) lacks(id seal.ChunkID) (bool, error) {
	l, ok, err := w.r.index.find(id)
	if err != nil || ok && w.shares(l.pack) {
		return false, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.claimed[id] {
		return false, nil
	}
	w.claimed[id] = true
	return true, nil
}

// flush copies what is wanted.
func (c *copier) flush(ctx context.Context) error {
	refs, places, err := c.locate(ctx)
	if err != nil {
		return err
	}
	clear(c.wanted)
	var single []packKey
	var eg errgroup.Group
	eg.SetLimit(copyPacks)
	packs := sortedPacks(refs)
	broken := make([]error, len(packs))
	for i, k := range packs {
		if !c.whole(refs[k], places[k]) {
			single = append(single, k)
			continue
		}
		eg.Go(func() error {
			err := c.copyPack(ctx, k, refs[k].size)
			if lost(err) {
				broken[i], err = err, nil // moved by a collection, or damaged in a part that nobody wants
			}
			return err
		})
	}
	if err := eg.Wait(); err != nil {
		return err
	}
	for i, k := range packs {
		if broken[i] != nil {
			single = append(single, k)
		}
	}
	for _, k := range single {
		if err := c.copyChunks(ctx, refs[k], places[k]); err != nil {
			return errors.Join(err, errors.Join(broken...))
		}
	}
	return c.w.flushIndex(ctx)
}

// locate looks where the wanted chunks are in the other replica.
func (c *copier) locate(ctx context.Context) (map[packKey]*packRef, map[packKey][]metaPlace, error) {
	refs, places := map[packKey]*packRef{}, map[packKey][]metaPlace{}
	for id, meta := range c.wanted {
		l, err := c.from.find(ctx, id)
		if err != nil {
			return nil, nil, err
		}
		k := packKey{l.pack.group, l.pack.id}
		refs[k], places[k] = l.pack, append(places[k], metaPlace{l.chunkPlace, meta})
	}
	return refs, places, nil
}

// whole tells whether a pack is copied as it is: at least half of it is wanted, or it is small, and its name is free.
func (c *copier) whole(ref *packRef, places []metaPlace) bool {
	if _, spent := c.spent.packs[ref.id]; spent || c.spent.damaged || c.w.condemned[ref.id] || ref.group != c.w.group {
		return false
	}
	wanted := int64(0)
	for _, p := range places {
		wanted += int64(p.stored)
	}
	return ref.size <= smallPack || 2*wanted >= int64(ref.size)
}

// copyPack copies a pack, after every frame of it has proven to be what was sealed under its name.
func (c *copier) copyPack(ctx context.Context, k packKey, size uint32) error {
	body, err := c.from.store.Get(ctx, k.name(), maxPack)
	if err != nil {
		return err
	}
	ref, places, err := c.from.openPack(k, body)
	if err == nil && ref.size != size {
		err = &seal.DamagedError{Name: k.name(), Reason: fmt.Sprintf("it has %d bytes, not %d", ref.size, size)}
	}
	if err != nil {
		return err
	}
	if err := c.w.r.store.Put(ctx, k.name(), body); err != nil {
		return fmt.Errorf("write pack: %w", err)
	}
	c.w.mu.Lock()
	c.report.Packs, c.report.Bytes = c.report.Packs+1, c.report.Bytes+int64(len(body))
	c.w.mu.Unlock()
	return c.w.packDone(ref, places)
}

// openPack opens every frame of a pack.
func (r *Repository) openPack(k packKey, body []byte) (ref *packRef, places []chunkPlace, err error) {
	rd := &Reader{r: r}
	err = r.eachFrame(k, body, func(object *seal.Object, l location) error {
		ref, places = l.pack, append(places, l.chunkPlace)
		return rd.open(object, l, body[l.offset:][:l.stored], everyGroup)
	})
	if err == nil && ref == nil {
		ref, _, err = r.bodyDirectory(k, body) // it has no chunks
	}
	return ref, places, err
}

// eachFrame calls fn for each chunk that the directory of a pack names.
func (r *Repository) eachFrame(k packKey, body []byte, fn func(*seal.Object, location) error) error {
	ref, places, err := r.bodyDirectory(k, body)
	if err != nil {
		return err
	}
	object, err := r.keys.Object(ref.header, k.name())
	if err != nil {
		return err
	}
	for _, p := range places {
		if err := fn(object, location{ref, p}); err != nil {
			return err
		}
	}
	return nil
}

func (r *Repository) bodyDirectory(k packKey, body []byte) (*packRef, []chunkPlace, error) {
	return r.directory(k, int64(len(body)), func(at int64, dst []byte) error { copy(dst, body[at:]); return nil })
}

// copyChunks seals chunks again, into packs of this replica's own.
func (c *copier) copyChunks(ctx context.Context, ref *packRef, places []metaPlace) error {
	slices.SortFunc(places, func(a, b metaPlace) int { return cmp.Compare(a.offset, b.offset) })
	if c.lane == nil {
		c.lane = c.w.Lane()
	}
	for from := 0; from < len(places); {
		run := firstRun(ref, len(places)-from, func(i int) chunkPlace { return places[from+i].chunkPlace })
		next, err := c.src.run(ctx, from, run, func(i int, plain []byte) error {
			p := places[i]
			c.report.Chunks, c.report.Bytes = c.report.Chunks+1, c.report.Bytes+int64(p.stored)
			e := &encodedChunk{c.src.opened, c.src.frames, p.encoding}
			if !p.meta {
				return c.lane.append(ctx, p.id, e, len(plain))
			}
			c.w.metaM.Lock()
			defer c.w.metaM.Unlock()
			return c.w.meta.append(ctx, p.id, e, len(plain))
		})
		if err != nil {
			return err
		}
		from = next
	}
	return nil
}

// firstRun returns the first of n places of a pack, with those that adjoin, as far as one request fetches them.
func firstRun(ref *packRef, n int, at func(int) chunkPlace) (run []location) {
	bytes := int64(0)
	for i := range n {
		p := at(i)
		if bytes += int64(p.stored); i > 0 && (bytes > maxRead || p.offset != run[i-1].offset+run[i-1].stored) {
			break
		}
		run = append(run, location{ref, p})
	}
	return run
}

// flushIndex writes an index object of the packs that were put since the last one.
func (w *Writer) flushIndex(ctx context.Context) error {
	w.mu.Lock()
	full := w.pending
	w.pending = indexData{}
	w.mu.Unlock()
	return w.writeIndex(ctx, &full)
}
