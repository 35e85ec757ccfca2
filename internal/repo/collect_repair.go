package repo

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/seal"
	"github.com/holdfast-dr/holdfast/internal/store"
)

// The repair of collections whose end is damaged, lost or in doubt (docs/format/repository-v1.md, section 9, Repair).
//
// Nobody knows which of the packs that collection n has condemned were rescued, and a collector that is late may
// delete the others at any time: only packs that no collection has condemned are safe. Collection n+1 takes the place
// of n. It condemns what n condemned, copies all that snapshots need of it, and brings an index of its own. From its
// publication on everything is as with any collection.

// RepairCollection makes the newest object of the collections whole where it is damaged or lost, so that the
// repository can be written to again. It may run beside writers, readers and collections, may be interrupted anywhere,
// and goes on where the last run ended. The report is nil where there was nothing to do.
func (r *Repository) RepairCollection(ctx context.Context, opts CollectOptions) (*CollectReport, error) {
	c, err := r.collector(ctx, opts)
	if err != nil {
		return nil, err
	}
	for range viewTries {
		v, err := r.readView(ctx)
		if err != nil {
			return &c.report, err
		}
		var again bool
		switch {
		case v.damaged != nil:
			again, err = c.mend(ctx, v)
		case v.repairs || v.doubt:
			again, err = c.goOn(ctx, v.highest)
		case c.report.Number == 0:
			return nil, c.removeDamaged(ctx, v)
		default:
			return &c.report, c.removeDamaged(ctx, v)
		}
		if errors.Is(err, errDoubt) || err != nil && unreadable(err) && c.changed(ctx, v) {
			continue // somebody went on meanwhile, or something else was damaged
		}
		if err != nil {
			return &c.report, err
		}
		if !again {
			return &c.report, c.removeDamaged(ctx, v)
		}
	}
	return &c.report, dr.Fail(fmt.Sprintf("repair the collections in %s", r.store), errOutrun, "run it again")
}

// changed reports whether v is no longer what the collections' objects say.
func (c *collector) changed(ctx context.Context, v *view) bool {
	now, err := c.r.readView(ctx)
	return err == nil && (!now.same(v) || (now.damaged == nil) != (v.damaged == nil))
}

// CollectionDamaged reports whether RepairCollection has something to do.
func (r *Repository) CollectionDamaged(ctx context.Context) bool {
	v, err := r.readView(ctx)
	if err != nil {
		return false // whatever is done next fails the same way, and says so
	}
	if v.damaged == nil && v.done == v.highest {
		old, err := r.damagedBefore(ctx, v.done)
		return err == nil && len(old) > 0
	}
	return v.damaged != nil || v.repairs || v.doubt
}

// removeDamaged removes what cannot be read of collections before the last one, where that has ended: nobody needs it.
func (c *collector) removeDamaged(ctx context.Context, v *view) error {
	highest, finished, _, err := c.r.numbers(ctx)
	if err != nil || highest != finished || finished < v.done {
		return err
	}
	old, err := c.r.damagedBefore(ctx, finished)
	if err != nil {
		return err
	}
	return c.discard(ctx, old)
}

// damagedBefore returns the objects of collections before n that cannot be read, and the list of condemned packs of n
// where none of them is deleted: nobody needs them.
func (r *Repository) damagedBefore(ctx context.Context, n uint32) (damaged []string, err error) {
	_, _, all, err := r.numbers(ctx)
	if err != nil {
		return nil, err
	}
	var end done
	if err := r.readJSON(ctx, seal.KindCollection, doneName(n), &end); err != nil && !lost(err) {
		return nil, err
	}
	for _, name := range all {
		if name >= collectionName(n) && (name != collectionName(n) || !end.All) {
			continue
		}
		var any struct{}
		err := r.readJSON(ctx, seal.KindCollection, name, &any)
		switch {
		case errors.Is(err, store.ErrNotExist):
		case err != nil && lost(err):
			damaged = append(damaged, name)
		case err != nil:
			return nil, err
		}
	}
	return damaged, nil
}

// goOn finishes the repair of an earlier run, or of another process.
func (c *collector) goOn(ctx context.Context, n uint32) (again bool, err error) {
	_, err = c.finish(ctx, n)
	if errors.Is(err, errDoubt) {
		return true, c.supersede(ctx, n)
	}
	return false, err
}

// mend begins the repair of what v says is damaged.
func (c *collector) mend(ctx context.Context, v *view) (again bool, err error) {
	var p published
	err = c.r.readJSON(ctx, seal.KindCollection, collectionName(v.highest), &p)
	switch {
	case err == nil:
		return true, c.supersede(ctx, v.highest)
	case !lost(err):
		return false, err
	}
	_, _, all, err := c.r.numbers(ctx)
	if err != nil {
		return false, err
	}
	if c.changed(ctx, v) {
		return true, nil // the objects were removed after a newer collection had ended
	}
	ended := slices.Contains(all, endingName(v.highest)) || slices.Contains(all, doneName(v.highest))
	// It may have been a repair itself, whose packs others may delete, where the one before it has no end.
	if ended || v.done+1 != v.highest {
		if !c.opts.Alone {
			return false, c.listLost(v)
		}
		return true, c.supersede(ctx, v.highest)
	}
	return c.keepAll(ctx, v)
}

// listLost says that the two objects are damaged of which one is needed.
func (c *collector) listLost(v *view) error {
	return &dr.Failure{
		What:   fmt.Sprintf("repair the collections in %s", c.r.store),
		Reason: fmt.Sprintf("%s and %s are damaged or lost: nobody knows which packs a collection that sleeps somewhere may still delete", collectionName(v.highest), doneName(v.highest)),
		Next:   "copy one of them from another replica; or stop every holdfast that uses this repository, and say so: holdfast repo check --repair-index --alone",
		Err:    v.damaged,
	}
}

// keepAll ends the collection under way whose list of condemned packs is damaged, so that all of them stay. Nothing
// was deleted yet, and nobody deletes once this end is there; whoever ends the collection first has decided.
func (c *collector) keepAll(ctx context.Context, v *view) (again bool, err error) {
	c.report.Number = v.highest
	intents, err := c.waitsOf(ctx, v.highest)
	if err != nil {
		return false, err
	}
	if decided, err := c.await(ctx, intents); err != nil || !decided {
		return false, err
	}
	counting := &view{highest: v.highest, done: v.done}
	if v.done > 0 {
		var before done
		if err := c.r.readJSON(ctx, seal.KindCollection, doneName(v.done), &before); err != nil {
			return false, err
		}
		counting.named = before.Index
	}
	names, err := c.r.indexNames(ctx, counting)
	if err != nil {
		return false, err
	}
	d := done{All: true}
	if d.Index, err = c.merge(ctx, v.highest, names, nil); err != nil {
		return false, err
	}
	if err := c.create(ctx, doneName(v.highest), d); err != nil && !errors.Is(err, store.ErrExists) {
		return false, err
	}
	return true, c.sweepIndex(ctx, v.highest)
}

// supersede publishes the collection that takes the place of n. It does nothing where somebody else published one, or
// n turned out to have ended after all.
func (c *collector) supersede(ctx context.Context, n uint32) error {
	before := len(c.report.Problems)
	next, err := c.replacement(ctx, n)
	if err != nil {
		// Somebody may have published meanwhile, ended that, and taken away what we were reading.
		highest, _, _, listErr := c.r.numbers(ctx)
		if listErr == nil && highest != n || errors.Is(err, errOutrun) {
			c.report.Problems = c.report.Problems[:before]
			return nil
		}
		return errors.Join(err, listErr)
	}
	won, err := c.publishOrDiscard(ctx, next)
	if !won {
		c.report.Problems = c.report.Problems[:before] // of what was replaced while we read it
	}
	return err
}

// replacement prepares the collection that takes the place of n: with the whole index, so that nothing which a late
// collector of n deletes is missed, and with copies of what snapshots need of the condemned packs.
func (c *collector) replacement(ctx context.Context, n uint32) (*published, error) {
	c.progress("listing packs and snapshots")
	packs, err := c.r.listPacks(ctx) // in the order of a preparation
	if err != nil {
		return nil, err
	}
	snapshots, err := c.r.listSnapshots(ctx)
	if err != nil {
		return nil, err
	}
	highest, finished, _, err := c.r.numbers(ctx)
	if err != nil {
		return nil, err
	}
	if v, err := c.r.readView(ctx); err != nil {
		return nil, err
	} else if highest != n || v.highest != n || v.damaged == nil && !v.doubt {
		return nil, errOutrun
	}
	var old published
	err = c.r.readJSON(ctx, seal.KindCollection, collectionName(n), &old)
	if err != nil && (!lost(err) || !c.opts.Alone) {
		return nil, err
	}
	c.progress("collecting what the index said")
	g := &gathering{c: c, n: n, old: &old, alone: err != nil, packs: packs, merger: newIndexMerger(c.r, n+1), named: map[PackID]bool{}}
	if err := g.run(ctx, finished); err != nil {
		return nil, err
	}
	p := &published{
		Number: n + 1, Host: c.r.opts.Host, At: c.r.opts.Now().UTC(), Repairs: true,
		Condemned: old.Condemned, Known: g.writers, Prepared: g.merger.names, Considered: snapshots,
	}
	copies, gone, err := c.evacuate(ctx, p, append(g.merger.names, g.writers...), snapshots)
	p.Prepared, p.Considered = append(p.Prepared, copies...), without(snapshots, gone)
	return p, err
}

// gathering brings together everything that may count after the end of collection n.
type gathering struct {
	c       *collector
	n       uint32
	old     *published
	alone   bool // old could not be read, and nobody else is at work: whatever is there may be used
	packs   map[packKey]int64
	merger  *indexMerger
	named   map[PackID]bool
	writers []string // index objects of writers that know of n: they go on counting
}

// run reads the index objects that count if n has ended, and those that do if it has not, since finished was the last
// that had: a superset names no pack that a collection up to n deletes, but those that n has condemned.
func (g *gathering) run(ctx context.Context, finished uint32) error {
	r := g.c.r
	known := map[string]bool{}
	for _, name := range append(g.old.Known, g.old.Prepared...) {
		known[name] = true
	}
	all := &view{highest: g.n, done: min(finished, g.n), damaged: errDoubt}
	names, err := r.indexNames(ctx, all)
	if err != nil {
		return err
	}
	for _, name := range sorted(names) {
		_, generation, _ := parseIndexName(name)
		written := strings.HasPrefix(name, prefixIndex)
		if !written && generation < g.n && !known[name] && !g.alone {
			continue // of a collector that came too late
		}
		d, err := r.readIndex(ctx, name)
		switch {
		case err != nil && lost(err):
			continue // swept meanwhile, or damaged: the packs name their chunks themselves
		case err != nil:
			return err
		}
		if err := g.take(ctx, name, d, written && generation >= g.n); err != nil {
			return err
		}
	}
	if err := g.unnamed(ctx); err != nil {
		return err
	}
	_, err = g.merger.finish(ctx)
	return err
}

func (g *gathering) take(ctx context.Context, name string, d *indexData, goesOn bool) error {
	if goesOn {
		g.writers = append(g.writers, name)
		for _, p := range d.packs {
			g.named[p.id] = true
		}
		return nil
	}
	there := d.only(func(p *packRef) bool {
		_, listed := g.packs[packKey{p.group, p.id}]
		return listed && !g.named[p.id]
	})
	for _, p := range there.packs {
		g.named[p.id] = true
	}
	if len(there.packs) == 0 {
		return nil
	}
	return g.merger.take(ctx, there)
}

// unnamed takes what no index object names from the packs themselves: an object that did may be lost. Most are of
// writers that are at work or died; they are named twice, or for one collection too long.
func (g *gathering) unnamed(ctx context.Context) error {
	for _, k := range sortedPacks(g.packs) {
		if g.named[k.id] {
			continue
		}
		ref, places, err := g.c.r.readDirectory(ctx, k, g.packs[k])
		switch {
		case err != nil && lost(err):
			continue
		case err != nil:
			return err
		}
		var d indexData
		d.add(ref, places)
		if err := g.merger.take(ctx, &d); err != nil {
			return err
		}
	}
	return nil
}
