package repo

import (
	"context"
	"errors"
	"maps"
	"slices"
	"testing"

	"github.com/holdfast-dr/holdfast/internal/store"
)

// TestCopyModel is TestCarryModel with copiers that bring snapshots of another replica, in which others write, forget and
// collect. That one changes between two calls to this one. What is copied, forgotten and collected here may be copied again,
// while a collector that was late goes on with its deletions.
func TestCopyModel(t *testing.T) {
	runModel(t, *modelRuns, func(s *sim) {
		s.ops, s.someFiles, s.carries = slices.Concat(carryOps, copyOps), pagedFiles, true
		s.far = s.st.Clone()
	})
}

// Copiers do much between two collections, and what they copy is wanted again only after it was collected here.
var copyOps = []modelOp{
	{"copy", 12, copyOp, true},
	{"far", 6, farOp, false},
	{"forget", 12, forgetOp, false},
	{"collect", 18, collectOp, true},
}

// farOp changes the other replica, at once.
func farOp(ctx context.Context, p *process, _ *testing.T, _ *Repository) (err error) {
	r := p.s.open(p.s.far, 0)
	defer r.Close()
	list, err := r.Snapshots(ctx, "orders-db")
	if err != nil {
		return err
	}
	switch n := p.rnd.IntN(10); {
	case n < 3 && len(list) > 3:
		return r.Forget(ctx, "orders-db", list[p.rnd.IntN(len(list))].ID)
	case n == 3:
		_, err := r.Collect(ctx, CollectOptions{Patience: NoPatience, MinLive: 0.9})
		return err
	}
	w, err := r.Begin(ctx, "orders-db", DefaultGroup)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.Close(ctx)) }()
	c := &carrier{p: p, w: w, rd: r.Reader(), lane: w.Lane(), old: files{}, now: files{}}
	if len(list) > 0 {
		c.prev = list[len(list)-1].Manifest
		c.old = p.s.wants(c.prev)
		c.now = maps.Clone(c.old)
		if _, err := w.MayCarry(ctx, c.prev); err != nil {
			return err
		}
	} else {
		c.now = p.s.someFiles(p.rnd)
	}
	m := &Manifest{Engine: "test"}
	if err := c.edit(ctx, m); err != nil {
		return err
	}
	p.s.expect(w.ID(), c.now)
	return w.Commit(ctx, m)
}

// copyOp brings one of the other replica's snapshots, often the newest.
func copyOp(ctx context.Context, p *process, _ *testing.T, r *Repository) error {
	far := p.s.open(p.s.far, 0)
	defer far.Close()
	list, err := far.Snapshots(ctx, "orders-db")
	if err != nil || len(list) == 0 {
		return err
	}
	l := list[len(list)-1]
	if p.rnd.IntN(2) == 0 {
		l = list[p.rnd.IntN(len(list))]
	}
	rep, err := r.CopySnapshot(ctx, far, "orders-db", l.ID, noLog)
	var chunk *ChunkError
	switch {
	case err == nil:
		p.s.count("packs copied", rep.Packs)
		p.s.count("chunks copied", rep.Chunks)
		if rep.There {
			p.s.count("there already", 1)
		}
	case errors.Is(err, ErrRefused):
		p.s.count("refused copies", 1)
		return nil
	}
	if err != nil && !p.dead.Load() && (errors.Is(err, store.ErrNotExist) || errors.As(err, &chunk)) {
		if _, gone := p.s.far.Stat(ctx, far.snapshotName("orders-db", l.ID)); gone != nil {
			p.s.count("forgotten while it was copied", 1)
			return nil
		}
	}
	return err
}
