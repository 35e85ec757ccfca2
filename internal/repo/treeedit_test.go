package repo

import (
	"context"
	"crypto/sha256"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/holdfast-dr/holdfast/internal/seal"
	"github.com/holdfast-dr/holdfast/internal/store"
	"github.com/holdfast-dr/holdfast/internal/store/storetest"
)

// nodes is a store of tree nodes in memory.
type nodes struct {
	all   map[seal.ChunkID][]byte
	reads int
}

func (n *nodes) save(plain []byte) (seal.ChunkID, error) {
	id := seal.ChunkID(sha256.Sum256(plain))
	n.all[id] = slices.Clone(plain)
	return id, nil
}

func (n *nodes) read(id seal.ChunkID) (*node, error) {
	n.reads++
	b, ok := n.all[id]
	if !ok {
		return nil, fmt.Errorf("node %s was never stored", id)
	}
	return parseNode(b)
}

// build is a tree from the beginning.
func (n *nodes) build(t *testing.T, split splitRule, entries map[string]*Entry) seal.ChunkID {
	t.Helper()
	b := treeBuilder{split: split, save: n.save}
	for _, p := range slices.Sorted(maps.Keys(entries)) {
		if err := b.add(p, entries[p].marshal()); err != nil {
			t.Fatal(err)
		}
	}
	return must(b.finish())
}

func figures(entries map[string]*Entry) (files, bytes int64) {
	for _, e := range entries {
		if e.Type == TypeFile {
			files, bytes = files+1, bytes+e.Size
		}
	}
	return files, bytes
}

// An edited tree is, byte for byte, the one that is built from the same entries.
func TestEditedTreesAreLikeFreshOnes(t *testing.T) {
	t.Parallel()
	for range 60 {
		seed := rand.Uint64()
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			rnd := rand.New(rand.NewPCG(seed, 1))
			// Small nodes make many levels of few entries; a small bound makes nodes end by their size, too.
			split := splitRule{mask: 1<<(1+rnd.IntN(3)) - 1, size: 200 << rnd.IntN(8)}
			if rnd.IntN(6) == 0 {
				split = theSplit
			}
			store := &nodes{all: map[seal.ChunkID][]byte{}}
			entries := map[string]*Entry{}
			for range rnd.IntN(1500) {
				entries[randomPath(rnd)] = randomEntry(rnd)
			}
			root := store.build(t, split, entries)
			for range 12 {
				edits := randomEdits(rnd, entries)
				before := store.reads
				files, bytes := figures(entries)
				apply(entries, edits)
				e, err := newTreeEditor(edits, treeBuilder{split: split, save: store.save}, store.read)
				if err != nil {
					t.Fatal(err)
				}
				e.files, e.bytes = files, bytes
				now, err := e.edit(&root)
				if err != nil {
					t.Fatal(err)
				}
				if want := store.build(t, split, entries); now != want {
					t.Fatalf("%d edits made another tree than its %d entries do (%d nodes were read)", len(edits), len(entries), store.reads-before)
				}
				if files, bytes := figures(entries); e.files != files || e.bytes != bytes {
					t.Fatalf("%d files of %d bytes, want %d of %d", e.files, e.bytes, files, bytes)
				}
				root = now
			}
		})
	}
}

// randomPath is one of few directories, deep ones too, and names that sort around the slash.
func randomPath(rnd *rand.Rand) string {
	p := fmt.Sprintf("%d", rnd.IntN(6))
	for rnd.IntN(3) > 0 {
		p += []string{"/", "-", "0", "/x"}[rnd.IntN(4)] + fmt.Sprint(rnd.IntN(30))
	}
	return p
}

func randomEntry(rnd *rand.Rand) *Entry {
	if rnd.IntN(4) == 0 {
		return &Entry{Type: TypeDir, Mode: rnd.Uint32()}
	}
	return &Entry{Type: TypeFile, Mode: rnd.Uint32(), Size: 5, Chunks: someIDs(1)}
}

func randomEdits(rnd *rand.Rand, entries map[string]*Entry) []TreeEdit {
	edits := map[string]TreeEdit{}
	paths := slices.Sorted(maps.Keys(entries))
	put := func(e TreeEdit) { edits[e.Path] = e }
	for range 1 << rnd.IntN(7) {
		p := randomPath(rnd)
		if len(paths) > 0 && rnd.IntN(2) == 0 {
			p = paths[rnd.IntN(len(paths))]
		}
		switch rnd.IntN(8) {
		case 0, 1, 2:
			put(TreeEdit{Path: p})
		case 3:
			if rnd.IntN(4) == 0 {
				put(TreeEdit{Path: p, Below: true})
			}
		default:
			put(TreeEdit{Path: p, Entry: randomEntry(rnd)})
		}
	}
	switch rnd.IntN(12) {
	case 0: // all goes
		for _, p := range paths {
			put(TreeEdit{Path: p})
		}
	case 1: // all but one
		for _, p := range paths[:max(len(paths)-1, 0)] {
			put(TreeEdit{Path: p})
		}
	case 2: // a beginning, or an end
		from := rnd.IntN(len(paths) + 1)
		for _, p := range paths[from:] {
			put(TreeEdit{Path: p})
		}
	case 3:
		for _, p := range paths[:rnd.IntN(len(paths)+1)] {
			put(TreeEdit{Path: p})
		}
	case 4:
		put(TreeEdit{Path: "\x01first", Entry: randomEntry(rnd)})
	case 5:
		for i := range rnd.IntN(200) {
			put(TreeEdit{Path: fmt.Sprintf("~last/%d", i), Entry: randomEntry(rnd)})
		}
	}
	var out []TreeEdit
	for _, p := range slices.Sorted(maps.Keys(edits)) {
		out = append(out, edits[p])
	}
	return out
}

// apply does edits to a map.
func apply(entries map[string]*Entry, edits []TreeEdit) {
	for _, e := range edits {
		delete(entries, e.Path)
		if e.Below && e.Entry == nil {
			maps.DeleteFunc(entries, func(p string, _ *Entry) bool { return strings.HasPrefix(p, e.Path+"/") })
		}
	}
	for _, e := range edits {
		if e.Entry != nil {
			entries[e.Path] = e.Entry
		}
	}
}

// countedReads counts what is read of packs: each is a node here.
type countedReads struct {
	store.Store
	ranges, gets atomic.Int64
}

func (c *countedReads) GetRange(ctx context.Context, name string, offset int64, into []byte) error {
	c.ranges.Add(1)
	return c.Store.GetRange(ctx, name, offset, into)
}

func (c *countedReads) Get(ctx context.Context, name string, limit int64) ([]byte, error) {
	c.gets.Add(1)
	return c.Store.Get(ctx, name, limit)
}

// bigTree is a snapshot of many entries without content.
func bigTree(t *testing.T, r *Repository, n int) *Manifest {
	t.Helper()
	w, err := r.Begin(t.Context(), "orders-db", DefaultGroup)
	if err != nil {
		t.Fatal(err)
	}
	tree, m := w.NewTree(t.Context()), &Manifest{}
	for i := range n {
		if err := tree.Add(fmt.Sprintf("base/%02d/%06d", i/10000, i), &Entry{Type: TypeFile}); err != nil {
			t.Fatal(err)
		}
	}
	if err := tree.Finish(m); err != nil {
		t.Fatal(err)
	}
	if err := w.Commit(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	return m
}

func TestAnEditCostsAHandfulOfNodes(t *testing.T) {
	t.Parallel()
	counted := &countedReads{Store: storetest.NewMemory()}
	r := newRepository(t, counted)
	prev := bigTree(t, r, 100_000)
	w, err := r.Begin(t.Context(), "orders-db", DefaultGroup)
	if err != nil {
		t.Fatal(err)
	}
	if ok, err := w.MayCarry(t.Context(), prev); !ok || err != nil {
		t.Fatalf("MayCarry = %v, %v", ok, err)
	}
	counted.ranges.Store(0)
	m := &Manifest{}
	if err := w.EditTree(t.Context(), prev, []TreeEdit{{Path: "base/05/050000", Entry: &Entry{Type: TypeFile, Size: 7, Chunks: someIDs(1)}}}, m); err != nil {
		t.Fatal(err)
	}
	if written := w.Stats().Chunks; counted.ranges.Load() > 10 || written > 10 {
		t.Errorf("one edit of 100000 entries read %d nodes and wrote %d", counted.ranges.Load(), written)
	}
	if err := w.Commit(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	if m.Files != 100_000 || m.Bytes != 7 {
		t.Errorf("%d files of %d bytes", m.Files, m.Bytes)
	}
	rd, root := r.Reader(), must(m.RootID())
	counted.ranges.Store(0)
	for i := range 1000 {
		e, err := rd.Lookup(t.Context(), root, fmt.Sprintf("base/05/%06d", 50_000+i))
		if err != nil || e == nil || (e.Size == 7) != (i == 0) {
			t.Fatalf("Lookup %d: %+v, %v", i, e, err)
		}
	}
	if counted.ranges.Load() > 1000/20 {
		t.Errorf("1000 neighbours were looked up by reading %d nodes", counted.ranges.Load())
	}
	for _, p := range []string{"", "a", "base/05/0500001", "base/05", "zzz"} {
		if e, err := rd.Lookup(t.Context(), root, p); e != nil || err != nil {
			t.Errorf("Lookup %q = %+v, %v; want nothing", p, e, err)
		}
	}
}

func TestEditTreeRefuses(t *testing.T) {
	t.Parallel()
	r := newRepository(t, storetest.NewMemory())
	prev := mustSave(t, r, littleFiles(1, nil))
	w, err := r.Begin(t.Context(), "orders-db", DefaultGroup)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close(t.Context()) //nolint:errcheck // nothing was written
	if err := w.EditTree(t.Context(), prev, nil, &Manifest{}); err == nil {
		t.Error("a tree was carried over although nobody asked whether it may be")
	}
	for _, edits := range [][]TreeEdit{{{Path: "b"}, {Path: "a"}}, {{Path: "a"}, {Path: "a"}}, {{Path: ""}}} {
		if err := w.EditTree(t.Context(), nil, edits, &Manifest{}); err == nil {
			t.Errorf("edits %+v were done", edits)
		}
	}
	m := &Manifest{}
	if err := w.EditTree(t.Context(), nil, []TreeEdit{{Path: "a", Entry: &Entry{Type: TypeDir}}}, m); err != nil || m.Root == "" {
		t.Errorf("a tree of one edit: %+v, %v", m, err)
	}
}
