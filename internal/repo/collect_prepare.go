package repo

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/holdfast-dr/holdfast/internal/store"
)

// maxRewriteChunks bounds the memory of one collection's rewriting.
const maxRewriteChunks = 1 << 18

// prepare finds out what collection n+1 condemns, and copies what is to be kept of packs that are mostly garbage.
// It returns nil where there is nothing to do. Nothing that it does is seen by anybody before the publication.
func (c *collector) prepare(ctx context.Context) (*published, error) {
	c.progress("listing packs and snapshots")
	// The collection before ours has ended when we list: what it left to delete is condemned once more, so that the
	// newest collection names every pack that anybody may still delete.
	before, _, _, err := c.r.numbers(ctx)
	if err != nil {
		return nil, err
	}
	// Packs first: whatever is listed was written by a writer whose intent precedes our publication. Snapshots
	// next, the index last: what a listed snapshot refers to is in it.
	packs, err := c.r.listPacks(ctx)
	if err != nil {
		return nil, err
	}
	snapshots, err := c.r.listSnapshots(ctx)
	if err != nil {
		return nil, err
	}
	v, err := c.r.readSoundView(ctx)
	if err != nil {
		return nil, err
	}
	if (v.highest > v.done || v.highest != before) && !c.opts.DryRun {
		return nil, errOutrun // its conclusion may take index objects away while we list them
	}
	p, err := c.propose(ctx, v, packs, snapshots)
	if err != nil {
		// Somebody may have finished a collection meanwhile, and taken away what we were reading.
		highest, _, _, listErr := c.r.numbers(ctx)
		if listErr == nil && highest != v.highest {
			return nil, errOutrun
		}
		return nil, errors.Join(err, listErr)
	}
	return p, nil
}

func (c *collector) propose(ctx context.Context, v *view, packs map[packKey]int64, snapshots []string) (*published, error) {
	names, err := c.r.indexNames(ctx, v)
	if err != nil {
		return nil, err
	}
	if !c.opts.DryRun {
		if err := c.sweepIndex(ctx, v.done); err != nil {
			return nil, err
		}
	}
	private, err := c.r.privateIndex(ctx, sorted(names))
	if err != nil {
		return nil, err
	}
	p := &published{Number: v.highest + 1, Host: c.r.opts.Host, At: c.r.opts.Now().UTC(), Known: sorted(names), Considered: snapshots}
	err = c.decide(ctx, private, packs, p)
	err = errors.Join(err, private.Close())
	if err != nil || (len(p.Condemned) == 0 && c.fewIndexObjects(names)) {
		return nil, err
	}
	c.report.Number = p.Number
	return p, nil
}

// decide fills p with what marking and judging say.
func (c *collector) decide(ctx context.Context, private *Repository, packs map[packKey]int64, p *published) error {
	c.progress("marking what snapshots need")
	m, n, err := private.mark(ctx, p.Considered)
	if err != nil {
		return err
	}
	c.report.Snapshots, c.report.Packs = n, len(packs)
	p.Considered = without(p.Considered, m.gone)
	v := judge(uses(m, packs), policy{
		minLive: c.opts.MinLive, small: int64(c.r.opts.PackBytes) / 8, gatherFrom: c.r.limits.gatherFrom,
		maxBytes: c.opts.MaxRewrite, maxChunks: maxRewriteChunks,
	})
	var kept map[packKey]bool
	if !c.opts.DryRun && len(v.rewritten) > 0 {
		c.progress("rewriting packs that are mostly garbage")
		if p.Prepared, kept, err = c.rewrite(ctx, m, v.rewritten, p.Number); err != nil {
			return err
		}
	}
	for _, k := range append(v.condemned, v.rewritten...) {
		if kept[k] {
			continue
		}
		p.Condemned = append(p.Condemned, k.String())
		if c.opts.DryRun {
			c.report.RemovedPacks, c.report.RemovedBytes = c.report.RemovedPacks+1, c.report.RemovedBytes+packs[k]
		}
	}
	return nil
}

// uses adds up what marking found in each listed pack.
func uses(m *marking, packs map[packKey]int64) []packUse {
	all := make([]packUse, 0, len(packs))
	at := make(map[packKey]int, len(packs))
	for k, size := range packs {
		at[k] = len(all)
		all = append(all, packUse{packKey: k, size: max(size-packFrame, 0)})
	}
	for _, p := range m.r.index.base.refs() {
		if i, ok := at[packKey{p.group, p.id}]; ok {
			all[i].indexed = true
		}
	}
	_ = m.each(func(l location, _ bool) error {
		if i, ok := at[packKey{l.pack.group, l.pack.id}]; ok {
			all[i].live, all[i].liveChunks = all[i].live+int64(l.stored)+directoryEntry, all[i].liveChunks+1
		}
		return nil
	})
	return all
}

// listSnapshots returns the objects of all snapshots and tombstones of all systems.
func (r *Repository) listSnapshots(ctx context.Context) ([]string, error) {
	var names []string
	err := r.store.List(ctx, prefixSnapshots, "", func(i store.Info) error {
		names = append(names, i.Name)
		return nil
	})
	return names, err
}

// fewIndexObjects reports whether merging the index would win nothing worth a collection.
func (c *collector) fewIndexObjects(names map[string]bool) bool {
	written := 0
	for n := range names {
		if strings.HasPrefix(n, prefixIndex) {
			written++
		}
	}
	return written < c.r.limits.mergeFrom
}

func sorted(set map[string]bool) []string {
	names := make([]string, 0, len(set))
	for n := range set {
		names = append(names, n)
	}
	slices.Sort(names)
	return names
}
