package repo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/holdfast-dr/holdfast/internal/seal"
	"github.com/holdfast-dr/holdfast/internal/store"
)

// TestCarryModel is TestCollectionModel with writers that carry over what an earlier snapshot has, and store single pages,
// whole chunks, growth, shrinking and removal over it: they look at nothing that they carry, while others forget the
// snapshot, condemn what only it needs, and delete that. Optimize takes part too.
func TestCarryModel(t *testing.T) {
	runModel(t, 2**modelRuns, func(s *sim) { s.ops, s.someFiles, s.carries = carryOps, pagedFiles, true })
}

const (
	pagedPaths    = 7
	pagedContents = 24 // few, so that units are alike and what is condemned is wanted again
)

func pagedContent(rnd *rand.Rand, pages int) (b []byte) {
	for range pages {
		b = append(b, pageOf(uint64(rnd.IntN(pagedContents)))...)
	}
	return b
}

// pagedFiles are files of some pages, seldom of more than one chunk, and not always of whole pages.
func pagedFiles(rnd *rand.Rand) files {
	fs := files{}
	for range 1 + rnd.IntN(4) {
		fs[pagedPath(rnd)] = pagedFile(rnd)
	}
	return fs
}

func pagedPath(rnd *rand.Rand) string { return fmt.Sprintf("base/%d", rnd.IntN(pagedPaths)) }

func pagedFile(rnd *rand.Rand) []byte {
	pages := 1 + rnd.IntN(6)
	if rnd.IntN(6) == 0 {
		pages += chunkPages - 3
	}
	b := pagedContent(rnd, pages)
	return b[:len(b)-rnd.IntN(2)*rnd.IntN(PageSize)]
}

// pagedChange changes some pages, and now and then the length.
func pagedChange(rnd *rand.Rand, old []byte) []byte {
	now := slices.Clone(old)
	for range rnd.IntN(4) {
		copy(now[rnd.IntN(pagesOf(int64(len(now))))*PageSize:], pagedContent(rnd, 1))
	}
	switch rnd.IntN(5) {
	case 0:
		now = append(now, pagedContent(rnd, 1+rnd.IntN(5))...)
		if rnd.IntN(4) == 0 {
			now = append(now, pagedContent(rnd, chunkPages)...)
		}
		now = now[:min(len(now), 3*Grid)]
	case 1:
		now = now[:1+rnd.IntN(len(now))]
	}
	return now
}

// pick returns the latest snapshot, or any, or nil.
func (p *process) pick(ctx context.Context, r *Repository) (*Manifest, error) {
	if p.rnd.IntN(2) == 0 {
		return r.LatestSnapshot(ctx, "orders-db")
	}
	list, err := r.Snapshots(ctx, "orders-db")
	if err != nil || len(list) == 0 {
		return nil, err
	}
	l := p.rather(list)
	return l.Manifest, l.Err
}

// rather returns one of the snapshots: often one that the collection under way has not considered. What such a one needs
// may be condemned, and is deleted if it is forgotten in time.
func (p *process) rather(list []Listed) Listed {
	if p.rnd.IntN(3) > 0 {
		r := p.s.open(p.s.st, 0)
		defer r.Close()
		v, err := r.tryView(context.Background())
		late := slices.DeleteFunc(slices.Clone(list), func(l Listed) bool {
			return slices.Contains(v.considered, r.snapshotName("orders-db", l.ID))
		})
		if err == nil && v.known != nil && len(late) > 0 {
			return late[p.rnd.IntN(len(late))]
		}
	}
	return list[p.rnd.IntN(len(list))]
}

// patchOp takes a snapshot of what an earlier one has with some differences. The earlier one is chosen before the intent is
// made, or after it; where it may not be carried over from, everything is stored.
func patchOp(ctx context.Context, p *process, t *testing.T, r *Repository) (err error) {
	prev, err := p.pick(ctx, r)
	if err != nil || prev == nil {
		return err
	}
	if p.rnd.IntN(6) == 0 {
		p.pause(p.rnd.IntN(400)) // long enough for it to be forgotten, and collected
	}
	w, err := r.Begin(ctx, "orders-db", DefaultGroup)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.Close(ctx)) }()
	if p.rnd.IntN(3) == 0 {
		if prev, err = p.pick(ctx, r); err != nil || prev == nil {
			return err
		}
	}
	old := p.s.wants(prev)
	there := p.s.has(ctx, prev)
	ok, err := w.MayCarry(ctx, prev)
	if err != nil {
		return err
	}
	if ok && !there && !p.s.aborted(ctx, w) {
		t.Errorf("process %d may carry over of %s, which is forgotten", p.number, prev.ID)
		p.s.stop()
	}
	c := &carrier{p: p, w: w, rd: r.Reader(), lane: w.Lane(), old: old, now: maps.Clone(old)}
	if ok {
		c.prev = prev
		if err := p.s.stays(ctx, w, prev); err != nil && !p.s.aborted(ctx, w) {
			t.Errorf("process %d may carry over of %s: %v", p.number, prev.ID, err)
			p.s.stop()
		}
		p.s.count("carried", 1)
		if w.known != nil {
			p.s.count("carried beside a collection", 1)
		}
	} else {
		c.old = nil
		p.s.count("not carried", 1)
	}
	if p.rnd.IntN(4) == 0 {
		p.pause(p.rnd.IntN(400)) // long enough for a collection to end
	}
	m := &Manifest{Engine: "test"}
	err = c.edit(ctx, m)
	if err != nil && unreadable(err) && p.s.aborted(ctx, w) {
		return ErrAborted // nobody waits for it any more
	}
	if err != nil && ok && !p.dead.Load() && unreadable(err) {
		t.Errorf("what process %d may carry over of %s cannot be read: %v", p.number, prev.ID, err)
		p.s.stop()
	}
	if err != nil {
		return err
	}
	p.s.expect(w.ID(), c.now)
	return w.Commit(ctx, m)
}

// optimizeOp rewrites the latest snapshot, also where nobody else would.
func optimizeOp(ctx context.Context, p *process, t *testing.T, r *Repository) error {
	opts := OptimizeOptions{Bound: 0.5 + p.rnd.Float64()}
	if p.rnd.IntN(3) == 0 {
		opts.AtMost = int64(1+p.rnd.IntN(2*chunkPages)) * PageSize
	}
	rep, err := r.Optimize(ctx, "orders-db", opts)
	gone := rep.Original != "" && !p.s.has(ctx, &Manifest{ID: rep.Original})
	switch {
	case errors.Is(err, ErrCollecting):
		p.s.count("not optimized beside a collection", 1)
		return nil
	case err != nil && gone && !p.dead.Load():
		p.s.count("forgotten while it was optimized", 1)
		return nil
	case err != nil || rep.Rewritten == "":
		return err
	}
	for _, x := range rep.Problems {
		if !strings.Contains(x, errCut.Error()) {
			t.Errorf("process %d rewrites %s, and cannot read of it: %s", p.number, rep.Original, x)
			p.s.stop()
		}
	}
	p.s.count("rewritten parts", rep.Parts)
	return nil
}

// aborted reports whether a collection has lost its patience with the writer: it keeps nothing for it then.
func (s *sim) aborted(ctx context.Context, w *Writer) bool {
	_, err := s.st.Stat(ctx, w.r.snapshotName(w.system, w.ID()))
	return err == nil
}

// has reports whether the snapshot exists at this moment.
func (s *sim) has(ctx context.Context, m *Manifest) bool {
	r := s.open(s.st, 0)
	defer r.Close()
	_, err := r.manifestObject(ctx, r.snapshotName("orders-db", m.ID))
	return err == nil
}

// stays shows, at the moment at which a writer may carry over from a snapshot, that nothing of it is in condemned packs
// alone: who forgets it in time would have them deleted, and waits for no writer that began after they were condemned.
func (s *sim) stays(ctx context.Context, w *Writer, prev *Manifest) error {
	r := s.open(s.st, 0)
	defer r.Close()
	v, err := r.readView(ctx)
	s.mu.Lock()
	hurt := s.hurt
	s.mu.Unlock()
	if err != nil || v.damaged != nil || hurt > 0 && hurt >= v.highest {
		return err // the end of a collection is damaged or lost: what is not named now is found in the packs themselves
	}
	names, err := r.indexNames(ctx, v)
	if err != nil {
		return err
	}
	private, err := r.privateIndex(ctx, sorted(names), w.condemned)
	if err != nil {
		return err
	}
	defer private.Close()
	m, _, err := private.mark(ctx, []string{r.snapshotName("orders-db", prev.ID)}) // nothing, where it was just forgotten
	if err != nil {
		return err
	}
	return m.each(func(l location, _ bool) error {
		if w.condemned[l.pack.id] {
			return fmt.Errorf("chunk %s lies in %s alone, which is condemned", l.id, l.pack.name())
		}
		return nil
	})
}

// carrier makes one such snapshot.
type carrier struct {
	p    *process
	w    *Writer
	rd   *Reader
	lane *Lane
	prev *Manifest // nil: nothing may be carried over
	old  files
	now  files
}

// edit decides what the snapshot is to have, in c.now, and stores it.
func (c *carrier) edit(ctx context.Context, m *Manifest) error {
	rnd := c.p.rnd
	edits := map[string]TreeEdit{}
	if rnd.IntN(30) == 0 {
		edits["base"] = TreeEdit{Path: "base", Below: true}
		clear(c.now)
	}
	for range 1 + rnd.IntN(4) {
		path := pagedPath(rnd)
		content, there := c.now[path]
		edit := TreeEdit{Path: path}
		switch n := rnd.IntN(8); {
		case n == 0:
			delete(c.now, path)
			edits[path] = edit
			continue
		case n == 1:
			content = pagedFile(rnd)
		case n == 2 && c.prev != nil && len(c.old) > 0:
			// The entry of another file as it is.
			from := sortedKeys(c.old)[rnd.IntN(len(c.old))]
			e, err := c.lookup(ctx, from)
			if err != nil {
				return err
			}
			edit.Entry, content = e, c.old[from]
		case there:
			content = pagedChange(rnd, content)
		default:
			content = pagedFile(rnd)
		}
		c.now[path] = content
		edits[path] = edit
	}
	var sorted []TreeEdit
	if c.prev == nil {
		for path := range c.now {
			if edits[path].Entry == nil {
				edits[path] = TreeEdit{Path: path}
			}
		}
	}
	for _, path := range slices.Sorted(maps.Keys(edits)) {
		edit := edits[path]
		if content, there := c.now[path]; there && edit.Entry == nil {
			var err error
			if edit.Entry, err = c.file(ctx, path, content); err != nil {
				return err
			}
		}
		sorted = append(sorted, edit)
	}
	return c.w.EditTree(ctx, c.prev, sorted, m)
}

func (c *carrier) lookup(ctx context.Context, path string) (*Entry, error) {
	root, err := c.prev.RootID()
	if err != nil {
		return nil, err
	}
	e, err := c.rd.Lookup(ctx, root, path)
	if err == nil && e == nil {
		err = fmt.Errorf("snapshot %s has no %s", c.prev.ID, path)
	}
	return e, err
}

// file stores a file over what c.prev has there.
func (c *carrier) file(ctx context.Context, path string, now []byte) (*Entry, error) {
	var base *FilePart
	old, there := c.old[path]
	if there {
		before, err := c.lookup(ctx, path)
		if err == nil {
			base, err = c.rd.FilePart(ctx, before, 0)
		}
		if err != nil {
			return nil, err
		}
	}
	l, err := c.part(ctx, base, old, now)
	e := &Entry{Type: TypeFile}
	e.SetContent(int64(len(now)), []FileList{l})
	return e, err
}

// part stores what differs in whole chunks where the dice say so, and in pages.
func (c *carrier) part(ctx context.Context, base *FilePart, old, now []byte) (FileList, error) {
	whole, patches := map[int]seal.ChunkID{}, []PagePatch(nil)
	var changed []int
	for n := 0; n*Grid < len(now); n++ {
		chunk := now[n*Grid : min((n+1)*Grid, len(now))]
		asWhole := c.p.rnd.IntN(4) == 0
		for at := n * Grid; at < n*Grid+len(chunk); at += PageSize {
			end := min(at+PageSize, len(now))
			if end <= len(old) && bytes.Equal(old[at:end], now[at:end]) {
				continue
			}
			if !asWhole {
				changed = append(changed, at/PageSize)
				continue
			}
			id, err := c.lane.Save(ctx, chunk, nil)
			if err != nil {
				return FileList{}, err
			}
			whole[n] = id
			break
		}
	}
	for len(changed) > 0 {
		n := min(1+c.p.rnd.IntN(4), len(changed))
		unit := make([]byte, n*PageSize)
		for slot, page := range changed[:n] {
			copy(unit[slot*PageSize:(slot+1)*PageSize], now[page*PageSize:])
		}
		id, err := c.lane.Save(ctx, unit, nil)
		if err != nil {
			return FileList{}, err
		}
		for slot, page := range changed[:n] {
			patches = append(patches, PagePatch{uint16(page), id, uint8(n), uint8(slot)})
		}
		changed = changed[n:]
	}
	return c.w.PatchPart(ctx, base, whole, patches, int64(len(now)))
}

// reaches shows that everything that the snapshot refers to is in a pack that is there. Trees and lists are read.
func reaches(ctx context.Context, r *Repository, m *Manifest) error {
	root, err := m.RootID()
	if err != nil {
		return err
	}
	tree, lists := r.Reader(), r.Reader()
	return tree.Walk(ctx, root, "", func(path string, e *Entry) error {
		for n := range ListCount(e.Size) {
			p, err := lists.FilePart(ctx, e, n)
			if err != nil {
				return err
			}
			for _, id := range append(unitsOf(p.patches), p.chunks...) {
				l, err := r.find(ctx, id)
				if err == nil {
					_, err = r.store.Stat(ctx, l.pack.name())
				}
				if errors.Is(err, store.ErrNotExist) {
					_, err = r.Reader().Chunk(ctx, id) // perhaps elsewhere
				}
				if err != nil {
					return fmt.Errorf("%s: %w", path, err)
				}
			}
		}
		return nil
	})
}

// audit lets a check read all data, in the middle of everything: it may blame nothing that a snapshot needs.
func (s *sim) audit(t *testing.T, step int) bool {
	rep := check(t, s.open(s.st, 0), CheckOptions{ReadData: true})
	for _, x := range rep.Problems {
		if x.SnapshotCount > 0 {
			t.Errorf("check --read-data at step %d: %+v", step, x)
			return false
		}
	}
	s.count("checks", 1)
	return true
}

// damagePacks damages a few packs at the end, each by itself: the check names the pack, with every snapshot that cannot be
// read, and whatever can be read is right.
func (s *sim) damagePacks(t *testing.T) {
	var packs []string
	for _, name := range s.st.Names() {
		if kindOf(name) == "packs" {
			packs = append(packs, name)
		}
	}
	for range min(3, len(packs)) {
		name := packs[s.rnd.IntN(len(packs))]
		st := change(t, s.st, name, func(b []byte) []byte { b[seal.HeaderSize+s.rnd.IntN(seal.Overhead)] ^= 1; return b })
		r := s.open(st, 0)
		defer r.Close()
		list, err := r.Snapshots(t.Context(), "orders-db")
		if err != nil {
			t.Fatal(err)
		}
		rep := check(t, s.open(st, 0), CheckOptions{ReadData: true})
		for _, l := range list {
			err := s.same(t.Context(), r, l.Manifest)
			if err == nil {
				continue
			}
			var broken *ChunkError
			named := slices.ContainsFunc(rep.Problems, func(x Problem) bool {
				return x.Object == name && slices.Contains(x.Snapshots, "orders-db "+string(l.ID))
			})
			if !errors.As(err, &broken) || !named {
				t.Errorf("snapshot %s is not whole without %s: %v; the check finds %+v", l.ID, name, err, rep.Problems)
			}
			s.count("named", 1)
		}
	}
}
