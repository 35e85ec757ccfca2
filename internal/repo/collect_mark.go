package repo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/seal"
	"github.com/holdfast-dr/holdfast/internal/store"
)

// marking finds what snapshots reach. Its index is its own, read from the store alone: neither a cache on this
// machine nor a writer beside it can change what it says.
type marking struct {
	r    *Repository // with the private index
	tree *Reader
	list *Reader
	live bitmap   // by rank of the chunk in the index
	seen bitmap   // tree nodes and lists that were gone through
	gone []string // snapshot objects that were listed, and were not there any more
}

// everything marks all chunks, where nobody knows what is needed.
func (r *Repository) everything() *marking {
	n := r.index.base.count()
	m := &marking{r: r, live: make(bitmap, n/64+1), seen: make(bitmap, n/64+1)}
	for i := range n {
		m.live.set(i)
	}
	return m
}

// bitmap is a set of small numbers.
type bitmap []uint64

func (b bitmap) has(n int64) bool { return b[n/64]&(1<<(n%64)) != 0 }
func (b bitmap) set(n int64)      { b[n/64] |= 1 << (n % 64) }

// privateIndex reads the index objects called names, strictly: one that cannot be read is an error. Where a chunk
// lies in several packs, the later of two objects wins, and a pack in last loses against every other, one in an earlier
// set against one in a later.
func (r *Repository) privateIndex(ctx context.Context, names []string, last ...map[PackID]bool) (*Repository, error) {
	ix, err := newIndex("", r.id)
	if err != nil {
		return nil, err
	}
	private := &Repository{store: r.store, bare: r.bare, earlier: r.earlier, keys: r.keys, id: r.id, opts: r.opts, codecs: r.codecs, index: ix}
	ix.frozen = true
	err = private.fillIndex(ctx, names, last)
	if err != nil {
		return nil, errors.Join(err, ix.close())
	}
	return private, nil
}

func (r *Repository) fillIndex(ctx context.Context, names []string, last []map[PackID]bool) error {
	slices.Sort(names)
	last = slices.DeleteFunc(slices.Clone(last), func(set map[PackID]bool) bool { return len(set) == 0 })
	for pass := range len(last) + 1 {
		want := func(p *packRef) bool {
			first := slices.IndexFunc(last, func(set map[PackID]bool) bool { return set[p.id] })
			return first == pass || first < 0 && pass == len(last)
		}
		for _, name := range names {
			d, err := r.readIndex(ctx, name)
			if err != nil {
				if lost(err) {
					err = dr.Advise(fmt.Errorf("read the index: %w", err), "repair it first: holdfast repo check --repair-index")
				}
				return err
			}
			if err := r.index.add(name, d.only(want)); err != nil {
				return err
			}
		}
	}
	return r.index.settle()
}

// mark goes through the snapshots. One that is gone meanwhile was forgotten, and nothing of it is marked: a copier may bring it
// back, so nobody may take it for one that was considered. One that cannot be read is an error.
func (r *Repository) mark(ctx context.Context, snapshots []string) (m *marking, manifests int, err error) {
	m = &marking{r: r, tree: r.Reader(), list: r.Reader()}
	n := r.index.base.count()
	m.live, m.seen = make(bitmap, n/64+1), make(bitmap, n/64+1)
	for names := range slices.Chunk(snapshots, manifestReads) {
		for i, read := range m.read(ctx, names) {
			was, err := m.snapshot(ctx, names[i], read)
			if err != nil {
				return nil, 0, err
			}
			if was {
				manifests++
			}
		}
	}
	return m, manifests, nil
}

// read reads snapshots at once. Their objects alone count: rolls and what this process remembers may tell of one that was forgotten.
func (m *marking) read(ctx context.Context, names []string) []Listed {
	out := make([]Listed, len(names))
	var wg sync.WaitGroup
	for i, name := range names {
		wg.Go(func() { out[i].Manifest, out[i].Err = m.r.manifestObject(ctx, name) })
	}
	wg.Wait()
	return out
}

func (m *marking) snapshot(ctx context.Context, name string, read Listed) (bool, error) {
	man, err := read.Manifest, read.Err
	if errors.Is(err, store.ErrNotExist) {
		if !errors.Is(err, errTombstone) {
			m.gone = append(m.gone, name)
		}
		return false, nil
	}
	if err == nil {
		err = m.content(ctx, man)
	}
	if err != nil && ctx.Err() == nil {
		what := "snapshot object " + name
		if man != nil {
			what = fmt.Sprintf("snapshot %s of %s", man.ID, man.System)
		}
		return false, dr.Fail("collect: "+what+" cannot be read, so nobody knows what it needs", err,
			"repair it (holdfast repo check), or forget it; until then nothing is removed")
	}
	return true, err
}

func (m *marking) content(ctx context.Context, man *Manifest) error {
	root, err := man.RootID()
	if err != nil {
		return err
	}
	w := treeWalk{rd: m.tree, visit: m.enter}
	w.fn = func(_ string, e *Entry) error {
		if err := m.chunks(e.Chunks); err != nil {
			return err
		}
		for _, id := range e.Lists {
			if err := m.part(ctx, id); err != nil {
				return err
			}
		}
		return nil
	}
	return w.below(ctx, root, maxLevel+1, "", "")
}

// part marks what a list refers to, also what its tables name and no longer counts: another list, or another length of the
// same part, may need it.
func (m *marking) part(ctx context.Context, id seal.ChunkID) error {
	if in, err := m.enter(id); err != nil || !in {
		return err
	}
	ids, l, err := m.list.list(ctx, id)
	if err != nil || l == nil {
		return errors.Join(err, m.chunks(ids))
	}
	if l.base != (seal.ChunkID{}) {
		if in, err := m.enter(l.base); err != nil {
			return err
		} else if in {
			if ids, err = m.list.plainList(ctx, l.base); err != nil {
				return err
			}
		}
	}
	if l.older != (seal.ChunkID{}) {
		if in, err := m.enter(l.older); err != nil {
			return err
		} else if in {
			older, err := m.list.table(ctx, l.older)
			if err != nil {
				return err
			}
			ids = append(ids, unitsOf(older)...)
		}
	}
	return m.chunks(append(ids, unitsOf(l.recent)...))
}

// enter marks a node or a list, and reports whether it is new: what is below it is marked already otherwise.
func (m *marking) enter(id seal.ChunkID) (bool, error) {
	n, err := m.rank(id)
	if err != nil || m.seen.has(n) {
		return false, err
	}
	m.seen.set(n)
	m.live.set(n)
	return true, nil
}

func (m *marking) chunks(ids []seal.ChunkID) error {
	for _, id := range ids {
		n, err := m.rank(id)
		if err != nil {
			return err
		}
		m.live.set(n)
	}
	return nil
}

func (m *marking) rank(id seal.ChunkID) (int64, error) {
	n, ok, err := m.r.index.base.rank(id)
	if err == nil && !ok {
		err = &ChunkError{ID: id}
	}
	return n, err
}

// each calls fn for every live chunk, in the order of IDs.
func (m *marking) each(fn func(l location, meta bool) error) error {
	return m.r.index.base.each(func(n int64, l location) error {
		if !m.live.has(n) {
			return nil
		}
		return fn(l, m.seen.has(n))
	})
}

// errTombstone says that a snapshot does not exist, and never will.
var errTombstone = fmt.Errorf("%w: its name holds a tombstone", store.ErrNotExist)

// manifestObject reads a snapshot by its object's name.
func (r *Repository) manifestObject(ctx context.Context, name string) (*Manifest, error) {
	m, _, err := r.manifestBytes(ctx, name)
	return m, err
}

// manifestBytes is manifestObject that also returns the object as it is stored.
func (r *Repository) manifestBytes(ctx context.Context, name string) (*Manifest, []byte, error) {
	object, err := r.store.Get(ctx, name, maxSmall)
	if err != nil {
		return nil, nil, err
	}
	m, err := r.openManifest(ctx, name, bytes.Clone(object)) // it opens in place
	switch {
	case err != nil:
		return nil, nil, err
	case m == nil:
		return nil, nil, &store.Error{Op: "get", Name: name, Store: r.store.String(), Kind: store.Gone, Err: errTombstone}
	case r.snapshotName(m.System, m.ID) != name:
		return nil, nil, &seal.DamagedError{Name: name, Reason: fmt.Sprintf("it is snapshot %s of %s", m.ID, m.System)}
	}
	return m, object, nil
}
