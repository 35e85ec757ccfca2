package repo

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/holdfast-dr/holdfast/internal/seal"
	"github.com/holdfast-dr/holdfast/internal/store"
)

// index reads every index object that counts, and compares the packs that they name with one listing.
func (c *checker) index(ctx context.Context) error {
	v, err := c.r.readView(ctx)
	if err != nil {
		return err
	}
	c.view = v
	names, err := c.r.indexNames(ctx, v)
	if err != nil {
		return err
	}
	ix, err := newIndex("", c.r.id)
	if err != nil {
		return err
	}
	ix.frozen = true
	ix.doubted(v.doubt)
	if v.damaged != nil || v.repairs {
		ix.demote(v.condemned) // as a reader does: some of them are gone, and what is needed was copied
	}
	c.private = &Repository{store: c.r.store, bare: c.r.bare, earlier: c.r.earlier, keys: c.r.keys, id: c.r.id, opts: c.r.opts, codecs: c.r.codecs, index: ix}
	c.tree = c.private.Reader()
	for _, name := range sorted(names) {
		d, err := c.r.readIndex(ctx, name)
		switch {
		case err != nil && lost(err):
			c.problem(name, reasonOf(err)+"; snapshots stay readable, since packs name their chunks themselves: holdfast repo check --repair-index")
			ix.note(name, err)
		case err != nil:
			return err
		default:
			if err := ix.add(name, d); err != nil {
				return err
			}
		}
	}
	c.report.IndexObjects = len(names)
	// Packs after the index: what it names was there before it.
	if c.packs, err = c.r.listPacks(ctx); err != nil {
		return err
	}
	c.report.Packs = len(c.packs)
	return c.complete(ctx)
}

// complete compares packs with the index, and takes the place of damaged index objects.
func (c *checker) complete(ctx context.Context) error {
	ix := c.private.index
	for _, p := range ix.packs() {
		size, there := c.packs[packKey{p.group, p.id}]
		if there && size == int64(p.size) {
			continue
		}
		// Not in the listing: it may have been written, or collected, since.
		reason := fmt.Sprintf("it has %d bytes, not %d", size, p.size)
		if !there {
			if ok, err := c.r.exists(ctx, p.name()); err != nil {
				return err
			} else if ok {
				continue
			}
			var err error
			if reason, err = c.missing(ctx, p.name()); err != nil {
				return err
			}
		}
		c.bad[p.id] = true
		c.problem(p.name(), reason)
	}
	if _, err := c.private.recoverIndex(ctx); err != nil {
		return err
	}
	if err := ix.settle(); err != nil {
		return err
	}
	n := ix.base.count()
	c.badChunk, c.clean = make(bitmap, n/64+1), make(bitmap, n/64+1)
	return nil
}

// data reads packs.
func (c *checker) data(ctx context.Context) error {
	if !c.opts.ReadData && c.opts.Sample <= 0 {
		return nil
	}
	named := map[PackID]bool{}
	for _, p := range c.private.index.packs() {
		named[p.id] = true
	}
	for k, size := range c.packs {
		if c.bad[k.id] || !named[k.id] || !c.chosen() {
			continue
		}
		if err := c.pack(ctx, k, size); err != nil {
			return err
		}
		c.report.PacksRead++
		c.read(size)
	}
	return nil
}

// pack reads one pack's directory and chunks.
func (c *checker) pack(ctx context.Context, k packKey, size int64) error {
	ref, places, err := c.r.readDirectory(ctx, k, size)
	if err != nil {
		// Its chunks may be good all the same: they are read by those who need them, through the index.
		if errors.Is(err, store.ErrNotExist) {
			return nil // collected meanwhile
		}
		return c.judge(k.name(), err)
	}
	ix := c.private.index
	for from := 0; from < len(places); {
		run := firstRun(ref, len(places)-from, func(i int) chunkPlace { return places[from+i] })
		next, err := c.tree.run(ctx, from, run, func(i int, _ []byte) error {
			return c.indexed(ref, places[i])
		})
		var broken *ChunkError
		if errors.As(err, &broken) {
			c.problem(k.name(), reasonOf(broken.Err))
			if rank, ok, err := ix.base.rank(places[next].id); err != nil {
				return err
			} else if ok && c.lies(places[next].id, ref.id) {
				c.badChunk.set(rank)
			}
			next++
		} else if err != nil {
			return err
		}
		from = next
	}
	return nil
}

// lies reports whether the index finds the chunk in this pack.
func (c *checker) lies(id seal.ChunkID, pack PackID) bool {
	l, ok, err := c.private.index.find(id)
	return err == nil && ok && l.pack.id == pack
}

// indexed compares a place in a pack's directory with the index.
func (c *checker) indexed(ref *packRef, p chunkPlace) error {
	l, ok, err := c.private.index.find(p.id)
	if err == nil && ok && l.pack.id == ref.id && l.chunkPlace != p {
		c.problem(ref.name(), fmt.Sprintf("its directory and the index disagree about chunk %s", p.id))
	}
	return err
}

// log looks at the names of all extents, and reads those that are chosen.
func (c *checker) log(ctx context.Context) error {
	lr := &LogReader{log: &Log{r: c.r}, coder: newDecoder()}
	var names []store.Info
	flush := func() error {
		for _, i := range names {
			s, start, end, _ := parseExtentName(i.Name)
			_, err := lr.each(ctx, i.Name, Extent{s, start, end, i.Size}, start, end, func([]byte) error { return nil })
			if errors.Is(err, store.ErrNotExist) {
				continue
			}
			if err := c.judge(i.Name, err); err != nil {
				return err
			}
			c.report.ExtentsRead++
			c.read(i.Size)
		}
		names = names[:0]
		return ctx.Err()
	}
	after, more := "", true
	for more {
		more = false
		err := c.r.store.List(ctx, prefixLog, after, func(i store.Info) error {
			after = i.Name
			c.report.LogExtents++
			if _, _, _, ok := parseExtentName(i.Name); !ok {
				c.problem(i.Name, "its name is not that of a part of a log")
			} else if c.chosen() {
				names = append(names, i)
			}
			if len(names) == 1000 {
				more = true
				return errEnough
			}
			return nil
		})
		if err != nil && !errors.Is(err, errEnough) {
			return err
		}
		if err := flush(); err != nil {
			return err
		}
	}
	return nil
}

var errEnough = errors.New("enough for now")

// leftovers tells what dead writers and interrupted commands have left. The next collection removes it.
func (c *checker) leftovers(ctx context.Context) error {
	named := map[PackID]bool{}
	for _, p := range c.private.index.packs() {
		named[p.id] = true
	}
	orphans, bytes := 0, int64(0)
	for k, size := range c.packs {
		if !named[k.id] {
			orphans, bytes = orphans+1, bytes+size
		}
	}
	if orphans > 0 {
		c.note("%d packs (%d bytes) are in no index: of writers that are at work, or died; a collection removes them", orphans, bytes)
	}
	if highest, finished, _, err := c.r.numbers(ctx); err != nil {
		return err
	} else if highest > finished {
		c.note("collection %d is not finished: holdfast repo prune goes on with it", highest)
	}
	known := []string{
		markerName, prefixKeys, prefixEpochs, prefixPacks, prefixIndex, prefixBase, prefixSystems, prefixSnapshots, prefixIntents, prefixCollect,
		prefixLog, prefixLogFiles, prefixMarks, prefixSummaries, prefixSigners, prefixGraves, prefixPlaces, prefixRolls, prefixEvidence, replicaName, lockedName, scrubName, "parity/", "probe/",
	}
	strange, undecided := 0, 0
	err := c.r.store.List(ctx, "", "", func(i store.Info) error {
		for _, p := range known {
			if strings.HasPrefix(i.Name, p) {
				return nil
			}
		}
		strange++
		return nil
	})
	if err == nil {
		err = c.r.store.List(ctx, prefixIntents, "", func(store.Info) error { undecided++; return nil })
	}
	if strange > 0 {
		c.note("%d objects are not of this format's", strange)
	}
	if undecided > 0 {
		c.note("%d writers have begun and are not done, or died", undecided)
	}
	return err
}
