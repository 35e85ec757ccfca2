package repo

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
)

// rewriter copies live chunks out of packs that will be condemned. It holds one pack of each kind and group in
// memory, and the places of the chunks to be copied (at most maxRewriteChunks).
type rewriter struct {
	c      *collector
	rd     *Reader
	number uint32
	open   map[rewriteKind]*packBuilder
	wrote  map[ResidencyGroup]*indexData
}

// rewriteKind keeps tree nodes and lists apart from data, as writers do.
type rewriteKind struct {
	group ResidencyGroup
	meta  bool
}

type metaPlace struct {
	chunkPlace
	meta bool
}

// rewrite copies the live chunks of victims and returns the index objects of the copies. A victim that cannot be
// read whole is returned in kept: it is reported, and stays.
func (c *collector) rewrite(ctx context.Context, m *marking, victims []packKey, number uint32) (names []string, kept map[packKey]bool, err error) {
	places := map[packKey][]metaPlace{}
	refs := map[packKey]*packRef{}
	for _, v := range victims {
		places[v] = nil
	}
	err = m.each(func(l location, meta bool) error {
		k := packKey{l.pack.group, l.pack.id}
		if _, ok := places[k]; ok {
			places[k], refs[k] = append(places[k], metaPlace{l.chunkPlace, meta}), l.pack
		}
		return nil
	})
	if err != nil {
		return nil, nil, err
	}
	w := c.newRewriter(m, number)
	kept = map[packKey]bool{}
	for _, v := range victims {
		err := w.pack(ctx, refs[v], places[v], func(_ metaPlace, err error) error { return err })
		var broken *ChunkError
		switch {
		case errors.As(err, &broken):
			kept[v] = true
			c.report.Problems = append(c.report.Problems, err.Error())
		case err != nil:
			return nil, nil, err
		}
	}
	names, err = w.finish(ctx)
	return names, kept, err
}

func (c *collector) newRewriter(m *marking, number uint32) *rewriter {
	return &rewriter{c: c, rd: m.r.Reader(), number: number, open: map[rewriteKind]*packBuilder{}, wrote: map[ResidencyGroup]*indexData{}}
}

// pack copies the chunks at places, neighbours with one request. A chunk that cannot be read is handed to broken, and
// passed over where that returns nil.
func (w *rewriter) pack(ctx context.Context, ref *packRef, places []metaPlace, broken func(metaPlace, error) error) error {
	slices.SortFunc(places, func(a, b metaPlace) int { return cmp.Compare(a.offset, b.offset) })
	for len(places) > 0 {
		run := firstRun(ref, len(places), func(i int) chunkPlace { return places[i].chunkPlace })
		next, err := w.rd.run(ctx, 0, run, func(i int, plain []byte) error {
			// The chunk was just proven; what is copied is its encoded form, sealed again.
			return w.add(ctx, ref.group, places[i], len(plain))
		})
		var ce *ChunkError
		if errors.As(err, &ce) {
			err = broken(places[next], err)
			next++
		}
		if err != nil {
			return err
		}
		places = places[next:]
	}
	return nil
}

func (w *rewriter) add(ctx context.Context, g ResidencyGroup, p metaPlace, plain int) error {
	kind := rewriteKind{g, p.meta}
	b := w.open[kind]
	if b != nil && len(b.buf)+int(p.stored) > w.c.r.opts.PackBytes {
		if err := w.put(ctx, kind); err != nil {
			return err
		}
		b = nil
	}
	if b == nil {
		b = &packBuilder{}
		b.begin(w.c.r.keys, g, nil)
		w.open[kind] = b
	}
	b.add(p.id, &encodedChunk{w.rd.opened, w.rd.frames, p.encoding}, plain)
	w.c.report.CopiedBytes += int64(p.stored)
	return nil
}

func (w *rewriter) put(ctx context.Context, kind rewriteKind) error {
	b := w.open[kind]
	delete(w.open, kind)
	b.finish()
	if err := w.c.r.store.Put(ctx, packName(b.group, b.id), b.buf); err != nil {
		return fmt.Errorf("write pack: %w", err)
	}
	d := w.wrote[kind.group]
	if d == nil {
		d = &indexData{}
		w.wrote[kind.group] = d
	}
	d.add(&packRef{group: b.group, id: b.id, header: b.object.Header(), size: uint32(len(b.buf))}, b.entries)
	return nil
}

func (w *rewriter) finish(ctx context.Context) (names []string, err error) {
	kinds := slices.SortedFunc(maps.Keys(w.open), func(a, b rewriteKind) int {
		return cmp.Or(cmp.Compare(a.group, b.group), cmp.Compare(len(w.open[a].buf), len(w.open[b].buf)))
	})
	for _, kind := range kinds {
		if err := w.put(ctx, kind); err != nil {
			return nil, err
		}
	}
	for _, g := range slices.Sorted(maps.Keys(w.wrote)) {
		name := newIndexName(prefixBase, g, w.number)
		if err := w.c.r.writeIndexObject(ctx, name, w.wrote[g]); err != nil {
			return nil, err
		}
		names = append(names, name)
	}
	return names, nil
}
