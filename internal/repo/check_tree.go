package repo

import (
	"context"
	"errors"
	"fmt"

	"github.com/holdfast-dr/holdfast/internal/seal"
	"github.com/holdfast-dr/holdfast/internal/store"
)

// list lists the snapshots. What they need was in the index before them, so that it is read after this.
func (c *checker) list(ctx context.Context) (err error) {
	c.listed, err = c.r.listSnapshots(ctx)
	return err
}

// snapshots proves every manifest, reads every tree, and looks for every chunk.
func (c *checker) snapshots(ctx context.Context) error {
	for _, name := range c.listed {
		m, err := c.r.manifestObject(ctx, name)
		if errors.Is(err, store.ErrNotExist) && isGone(err, name) {
			continue // a tombstone, or forgotten meanwhile
		}
		c.report.Snapshots++
		if err != nil {
			if err := c.judge(name, err); err != nil {
				return err
			}
			c.problem(name, "the snapshot cannot be restored").SnapshotCount = 1
			continue
		}
		c.needs = append(c.needs, m.Log)
		root, err := m.RootID()
		if err != nil {
			c.problem(name, "its root is no chunk")
			continue
		}
		s := &snapshotCheck{checker: c, name: fmt.Sprintf("%s %s", m.System, m.ID), lists: c.private.Reader()}
		if _, err := s.node(ctx, root, maxLevel+1, LostPaths{}); err != nil {
			return err
		}
	}
	return nil
}

// isGone reports whether err is of the object itself, and not of another that it needs.
func isGone(err error, name string) bool {
	var e *store.Error
	return errors.As(err, &e) && e.Name == name
}

// snapshotCheck walks one snapshot's tree, except where an earlier walk found everything good.
type snapshotCheck struct {
	*checker
	name  string
	lists *Reader
}

// node reports whether everything below a node is good. paths is what it holds, for messages.
func (s *snapshotCheck) node(ctx context.Context, id seal.ChunkID, above int, paths LostPaths) (bool, error) {
	rank, ok, err := s.private.index.base.rank(id)
	if err != nil {
		return false, err
	}
	if ok && s.clean.has(rank) {
		return true, nil
	}
	n, err := s.tree.node(ctx, id)
	if err == nil && n.level >= above {
		err = &ChunkError{ID: id, Pack: "tree", Err: errors.New("a tree node is not below its parent")}
	}
	if err != nil {
		return false, s.blame(ctx, id, err, paths.String())
	}
	good, path := true, paths.After
	for i, key := range n.keys {
		var below bool
		if n.level > 0 {
			below, err = s.node(ctx, n.child(i), n.level, LostPaths{After: path, To: key})
		} else {
			below, err = s.entry(ctx, id, key, n.values[i])
		}
		if err != nil {
			return false, err
		}
		good, path = good && below, key
	}
	if good {
		s.clean.set(rank)
	}
	return good, ctx.Err()
}

func (s *snapshotCheck) entry(ctx context.Context, node seal.ChunkID, path string, value []byte) (bool, error) {
	e, err := parseEntry(value)
	if err != nil {
		return false, s.blame(ctx, node, &ChunkError{ID: node, Pack: "tree", Err: err}, path)
	}
	good, err := s.chunks(ctx, e.Chunks, path)
	if err != nil {
		return false, err
	}
	for i, id := range e.Lists {
		below, err := s.list(ctx, id, min((e.Size+Grid-1)/Grid-int64(i)*ListLen, ListLen), path)
		if err != nil {
			return false, err
		}
		good = good && below
	}
	return good, nil
}

// list reports whether everything is good that a list of a part of want chunks refers to.
func (s *snapshotCheck) list(ctx context.Context, id seal.ChunkID, want int64, path string) (bool, error) {
	return s.once(ctx, id, path, func() (bool, error) {
		ids, l, err := s.lists.list(ctx, id)
		if err != nil {
			return false, err
		}
		have := len(ids)
		if l != nil {
			have = l.chunks
		}
		if int64(have) != want {
			return false, &ChunkError{ID: id, Pack: "list", Err: fmt.Errorf("it has %d chunks, not %d", have, want)}
		}
		if l == nil {
			return s.chunks(ctx, ids, path)
		}
		return s.patched(ctx, id, l, path)
	})
}

func (s *snapshotCheck) patched(ctx context.Context, id seal.ChunkID, l *patchedList, path string) (bool, error) {
	base, older := true, true
	var err error
	if l.base != (seal.ChunkID{}) {
		base, err = s.once(ctx, l.base, path, func() (bool, error) {
			ids, err := s.lists.plainList(ctx, l.base)
			if err != nil {
				return false, err
			}
			if len(ids) > l.chunks {
				return false, &ChunkError{ID: id, Pack: "list", Err: fmt.Errorf("its base has %d chunks, and it has %d", len(ids), l.chunks)}
			}
			return s.chunks(ctx, ids, path)
		})
	}
	if err == nil && l.older != (seal.ChunkID{}) {
		older, err = s.once(ctx, l.older, path, func() (bool, error) {
			patches, err := s.lists.table(ctx, l.older)
			if err != nil {
				return false, err
			}
			return s.units(ctx, patches, path)
		})
	}
	if err != nil {
		return false, err
	}
	recent, err := s.units(ctx, l.recent, path)
	return base && older && recent, err
}

// once asks whether everything below a list or a table is good, unless that is known. An error of a chunk is a problem.
func (s *snapshotCheck) once(ctx context.Context, id seal.ChunkID, path string, look func() (bool, error)) (bool, error) {
	rank, ok, err := s.private.index.base.rank(id)
	if err != nil || (ok && s.clean.has(rank)) {
		return err == nil, err
	}
	good, err := look()
	if err != nil {
		return false, s.blame(ctx, id, err, path)
	}
	if good && ok {
		s.clean.set(rank)
	}
	return good, nil
}

// units looks for the units of a table, and whether they have the pages that it says.
func (s *snapshotCheck) units(ctx context.Context, patches []PagePatch, path string) (bool, error) {
	good, err := s.chunks(ctx, unitsOf(patches), path)
	if err != nil {
		return false, err
	}
	for _, x := range patches {
		l, ok, err := s.private.index.find(x.Unit)
		if err != nil {
			return false, err
		}
		if ok && int(l.plain) != int(x.UnitPages)*PageSize {
			good = false
			s.touch(s.problem(l.pack.name(), fmt.Sprintf("chunk %s has %d bytes, and a table of patches says %d pages", x.Unit, l.plain, x.UnitPages)), path)
		}
	}
	return good, nil
}

func (s *snapshotCheck) chunks(ctx context.Context, ids []seal.ChunkID, path string) (bool, error) {
	good := true
	for _, id := range ids {
		rank, ok, err := s.private.index.base.rank(id)
		if err != nil {
			return false, err
		}
		if !ok {
			good = false
			if err := s.blame(ctx, id, &ChunkError{ID: id}, path); err != nil {
				return false, err
			}
			continue
		}
		l, _, err := s.private.index.find(id)
		if err != nil {
			return false, err
		}
		if s.bad[l.pack.id] || s.badChunk.has(rank) {
			good = false
			s.touch(s.problem(l.pack.name(), "damaged"), path)
		}
	}
	return good, nil
}

// blame notes that a chunk cannot be had. Errors that are not of the chunk are returned.
func (s *snapshotCheck) blame(ctx context.Context, id seal.ChunkID, err error, path string) error {
	var broken *ChunkError
	if !errors.As(err, &broken) || ctx.Err() != nil {
		return err
	}
	l, ok, findErr := s.private.index.find(id)
	switch {
	case findErr != nil:
		return findErr
	case !ok:
		s.touch(s.problem("chunk "+id.String(), "it is in no pack that the index knows"), path)
	case broken.Err != nil && !lost(broken.Err) && store.KindOf(broken.Err) != store.Other:
		return err // the store did not answer
	default:
		s.touch(s.problem(l.pack.name(), reasonOf(broken.Err)), path)
	}
	return nil
}

// touch notes that a problem concerns a path of this snapshot.
func (s *snapshotCheck) touch(p *Problem, path string) {
	if n := len(p.Snapshots); n == 0 || p.last != s.name {
		p.SnapshotCount++
		if n < maxListed {
			p.Snapshots = append(p.Snapshots, s.name)
		}
		p.last = s.name
	}
	for _, have := range p.Paths {
		if have == path {
			return
		}
	}
	p.PathCount++
	if len(p.Paths) < maxListed {
		p.Paths = append(p.Paths, path)
	}
}
