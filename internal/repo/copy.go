package repo

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/seal"
	"github.com/holdfast-dr/holdfast/internal/store"
)

// A snapshot is copied into another replica by a writer of that one, which announces itself there, looks what is there, puts
// what is missing, and creates the snapshot, with the same name and bytes. Packs keep name and bytes too, unless little of one is
// wanted, or its name is spent there: then chunks are sealed again, into packs of the replica's own. What collections do
// in one replica stays there.

// CopyReport says what a copy has put.
type CopyReport struct {
	There  bool  `json:"there"`  // the snapshot was there already
	Packs  int   `json:"packs"`  // that were copied as they are
	Chunks int   `json:"chunks"` // that were sealed again
	Bytes  int64 `json:"bytes"`  // of packs and chunks, stored
}

// ErrRefused is the error of a copy whose name holds a tombstone: the snapshot was forgotten there, or its copier was given up.
var ErrRefused = errors.New("the replica has forgotten this snapshot, or given its copier up")

// CopySnapshot copies a snapshot of another replica of this repository into this one. It may run beside anything, may be
// interrupted anywhere, and then goes on with what it had put. log brings the part of the log that the snapshot needs. It is
// called while the copier is announced, so that nobody begins to remove that; and once more when the snapshot is there, for who
// had begun before. Keys must be here: see CopyKeys.
func (r *Repository) CopySnapshot(ctx context.Context, from *Repository, system string, id SnapshotID, log func(context.Context) error) (*CopyReport, error) {
	report := &CopyReport{}
	if r.id != from.id {
		return report, fmt.Errorf("copy to %s: it is another repository", r.store)
	}
	name := r.snapshotName(system, id)
	m, object, err := from.manifestBytes(ctx, name)
	if err != nil {
		return report, err
	}
	if report.There, err = r.hasCopy(ctx, name, object); err != nil || report.There {
		return report, err
	}
	if _, err := r.copyObject(ctx, from, prefixSigners+m.Signer, maxSmall); err != nil {
		return report, err
	}
	base, err := r.LatestSnapshot(ctx, system)
	if err != nil {
		return report, err
	}
	w, err := r.begin(ctx, &Writer{r: r, system: system, group: m.Group, id: id, started: r.opts.Now().UTC(), copies: true})
	if err != nil {
		return report, err
	}
	defer func() { _ = w.Close(context.WithoutCancel(ctx)) }()
	c := &copier{w: w, from: from, report: report, src: from.Reader(), dst: r.Reader(), wanted: map[seal.ChunkID]bool{}}
	if c.spent, err = r.spent(ctx); err != nil {
		return report, err
	}
	if base != nil {
		if ok, err := w.MayCarry(ctx, base); err != nil {
			return report, err
		} else if !ok {
			base = nil
		}
	}
	err = c.content(ctx, base, m)
	if base != nil && err != nil && unreadable(err) {
		err = c.content(ctx, nil, m) // what is damaged may be what the replica has of the other snapshot
	}
	if err == nil {
		err = log(ctx)
	}
	if err != nil {
		return report, err
	}
	w.closed = true
	if err := w.finish(ctx); err != nil {
		return report, errors.Join(err, w.deleteIntent(context.WithoutCancel(ctx)))
	}
	if err = w.create(ctx, name, object); err == nil {
		return report, log(ctx)
	}
	if !errors.Is(err, ErrAborted) {
		return report, err
	}
	if report.There, err = r.hasCopy(ctx, name, object); err == nil && !report.There {
		err = fmt.Errorf("copy snapshot %s of %s to %s: %w", id, system, r.store, ErrRefused)
	}
	return report, err
}

// hasCopy tells whether the replica has this snapshot; ErrRefused is in the error where it has a tombstone.
func (r *Repository) hasCopy(ctx context.Context, name string, object []byte) (bool, error) {
	have, err := r.store.Get(ctx, name, maxSmall)
	switch {
	case errors.Is(err, store.ErrNotExist):
		return false, nil
	case err != nil:
		return false, err
	case bytes.Equal(have, object):
		return true, nil
	}
	m, err := r.openManifest(ctx, name, have)
	if err == nil && m == nil {
		return false, fmt.Errorf("object %s in %s: %w", name, r.store, ErrRefused)
	}
	if err == nil {
		err = errors.New("it differs from the one that is to be copied")
	}
	return false, dr.Fail(fmt.Sprintf("copy object %s to %s", name, r.store), err, "compare the two replicas: holdfast repo check")
}

// copyObject copies an object, which says the same in every replica, where it is missing, and tells whether it was.
func (r *Repository) copyObject(ctx context.Context, from *Repository, name string, max int64) (bool, error) {
	if there, err := r.exists(ctx, name); err != nil || there {
		return false, err
	}
	b, err := from.store.Get(ctx, name, max)
	if err != nil {
		return false, err
	}
	return true, r.store.Put(ctx, name, b)
}

// copier copies what one snapshot needs.
type copier struct {
	w        *Writer
	from     *Repository
	report   *CopyReport
	src, dst *Reader
	lane     *Lane // of data that is sealed again; nil: there was none yet
	spent    *graveyard
	wanted   map[seal.ChunkID]bool // that have to be copied next; true for those of trees and lists
}

// copyBatch bounds the memory of a copy: so many chunks are gathered before their packs are copied.
const copyBatch = 1 << 17

// content goes through what the snapshot refers to and base, which may be nil, does not, and copies what is missing.
func (c *copier) content(ctx context.Context, base, m *Manifest) error {
	now, err := m.RootID()
	if err != nil {
		return err
	}
	have := map[seal.ChunkID]bool{}
	var before, leaves *leafCursor
	if base == nil {
		all, err := c.src.leaves(ctx, now, nil)
		if err != nil {
			return err
		}
		before, leaves = c.dst.cursor(nil), c.src.cursor(all)
	} else {
		root, err := base.RootID()
		if err != nil {
			return err
		}
		inner, err := c.dst.innerNodes(ctx, root, nil)
		if err != nil {
			return err
		}
		for _, id := range inner {
			have[id] = true
		}
		if before, leaves, err = c.src.sides(ctx, c.dst, base, m); err != nil {
			return err
		}
	}
	inner, err := c.src.innerNodes(ctx, now, nil)
	if err != nil {
		return err
	}
	for _, id := range append(inner, leaves.leaves...) {
		if have[id] {
			continue
		}
		if err := c.want(ctx, id, true); err != nil {
			return err
		}
	}
	err = diffLeaves(ctx, before, leaves, func(_ string, old, now *Entry) error { return c.entry(ctx, old, now) })
	if err != nil {
		return err
	}
	return c.flush(ctx)
}

func (c *copier) entry(ctx context.Context, old, now *Entry) error {
	if now == nil {
		return nil
	}
	if err := c.all(ctx, now.Chunks); err != nil {
		return err
	}
	for n, id := range now.Lists {
		var before seal.ChunkID
		if old != nil && n < len(old.Lists) {
			before = old.Lists[n]
		}
		if id == before {
			continue
		}
		if err := c.part(ctx, before, id); err != nil {
			return err
		}
	}
	return nil
}

// part wants what a list refers to, but for what the list before, which is here and zeros where there is none, has in common
// with it as a whole.
func (c *copier) part(ctx context.Context, before, id seal.ChunkID) error {
	if err := c.want(ctx, id, true); err != nil {
		return err
	}
	ids, l, err := c.src.list(ctx, id)
	if err != nil || l == nil {
		return errors.Join(err, c.all(ctx, ids))
	}
	none := seal.ChunkID{}
	base, older := before, none // what a plain list is to the first one that is laid over it
	if before != none {
		_, was, err := c.dst.list(ctx, before)
		if err != nil {
			return err
		}
		if was != nil {
			base, older = was.base, was.older
		}
	}
	if l.base != none && l.base != base {
		if err := c.want(ctx, l.base, true); err != nil {
			return err
		}
		ids, err := c.src.plainList(ctx, l.base)
		if err != nil {
			return err
		}
		if err := c.all(ctx, ids); err != nil {
			return err
		}
	}
	if l.older != none && l.older != older {
		if err := c.want(ctx, l.older, true); err != nil {
			return err
		}
		patches, err := c.src.table(ctx, l.older)
		if err != nil {
			return err
		}
		if err := c.all(ctx, unitsOf(patches)); err != nil {
			return err
		}
	}
	return c.all(ctx, unitsOf(l.recent))
}

func (c *copier) all(ctx context.Context, ids []seal.ChunkID) error {
	for _, id := range ids {
		if err := c.want(ctx, id, false); err != nil {
			return err
		}
	}
	return nil
}

// want has a chunk copied that is not here, or not for good.
func (c *copier) want(ctx context.Context, id seal.ChunkID, meta bool) error {
	missing, err := c.w.lacks(id)
	if err != nil || !missing {
		return err
	}
	if c.wanted[id] = meta; len(c.wanted) < copyBatch {
		return nil
	}
	return c.flush(ctx)
}

// innerNodes appends the IDs of the nodes above the leaves of the tree below id.
func (rd *Reader) innerNodes(ctx context.Context, id seal.ChunkID, out []seal.ChunkID) ([]seal.ChunkID, error) {
	n, err := rd.node(ctx, id)
	if err != nil || n.level == 0 {
		return out, err
	}
	out = append(out, id)
	for i := range n.keys {
		if n.level == 1 {
			break
		}
		if out, err = rd.innerNodes(ctx, n.child(i), out); err != nil {
			return nil, err
		}
	}
	return out, nil
}
