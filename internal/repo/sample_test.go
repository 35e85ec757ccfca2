package repo

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"path/filepath"
	"testing"

	"github.com/holdfast-dr/holdfast/internal/seal"
	"github.com/holdfast-dr/holdfast/internal/store/storetest"
)

// sampled is a tree of several levels whose files have very different sizes, and how many pages they have together.
func sampled(t *testing.T) (*Reader, seal.ChunkID, int64) {
	t.Helper()
	r := newRepository(t, storetest.NewMemory())
	w, err := r.Begin(t.Context(), "orders-db", DefaultGroup)
	if err != nil {
		t.Fatal(err)
	}
	pages := int64(0)
	var edits []TreeEdit
	for i := range 700 {
		e := &Entry{Type: TypeFile, Size: int64(i%5) * PageSize, Chunks: someIDs(1)}
		switch {
		case i%50 == 7:
			e = &Entry{Type: TypeDir}
		case i%100 == 3: // as large as a hundred others
			e = &Entry{Type: TypeFile, Size: 300 * PageSize, Lists: someIDs(1)}
		case e.Size == 0:
			e.Chunks = nil
		}
		pages += e.Size / PageSize
		edits = append(edits, TreeEdit{Path: fmt.Sprintf("base/5/%05d", i), Entry: e})
	}
	m := &Manifest{Engine: "test"}
	if err := errors.Join(w.EditTree(t.Context(), nil, edits, m), w.Commit(t.Context(), m)); err != nil {
		t.Fatal(err)
	}
	if m.Bytes != pages*PageSize {
		t.Fatalf("the tree has %d bytes, want %d", m.Bytes, pages*PageSize)
	}
	return r.Reader(), must(m.RootID()), pages
}

// Every number leads to one page, and no two to the same: what is drawn by number is drawn with the same chance.
func TestSampleReachesEveryPageOnce(t *testing.T) {
	t.Parallel()
	rd, root, pages := sampled(t)
	top := must(rd.node(t.Context(), root))
	if top.level == 0 {
		t.Fatal("the tree has one level")
	}
	var all []int64
	for i := range pages {
		all = append(all, i*PageSize+i%PageSize)
	}
	seen, last := map[string]bool{}, ""
	err := rd.bytes(t.Context(), top, all, func(path string, e *Entry, at int64) error {
		page := fmt.Sprintf("%s: page %4d", path, at/PageSize)
		if seen[page] || page < last || at >= e.Size {
			t.Errorf("byte %d of %s, which has %d, comes after %s", at, path, e.Size, last)
		}
		seen[page], last = true, page
		return nil
	})
	if err != nil || int64(len(seen)) != pages {
		t.Fatalf("%d of %d pages are reached, %v", len(seen), pages, err)
	}
}

// The draws themselves: over the pages they are as even as draws are.
func TestSampleIsEven(t *testing.T) {
	t.Parallel()
	rd, root, pages := sampled(t)
	for name, sample := range map[string]func(context.Context, seal.ChunkID, *rand.Rand, int, func(string, *Entry, int64) error) error{
		"by sizes": rd.Sample, "by a walk": rd.sampleAll,
	} {
		t.Run(name, func(t *testing.T) { isEven(t, root, pages, sample) })
	}
}

func isEven(t *testing.T, root seal.ChunkID, pages int64, sample func(context.Context, seal.ChunkID, *rand.Rand, int, func(string, *Entry, int64) error) error) {
	const rounds, each = 60, 1000
	chance := rand.New(rand.NewPCG(20261126, 4))
	hits := map[string]float64{}
	for range rounds {
		err := sample(t.Context(), root, chance, each, func(path string, _ *Entry, at int64) error {
			hits[fmt.Sprint(path, at/PageSize)]++
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	want := float64(rounds*each) / float64(pages)
	chi := float64(int(pages)-len(hits)) * want // of the pages that were never drawn
	for _, n := range hits {
		chi += (n - want) * (n - want) / want
	}
	// With so many degrees of freedom chi-square is nearly normal: k, with a variance of 2k.
	k := float64(pages - 1)
	if z := (chi - k) / math.Sqrt(2*k); math.Abs(z) > 4 {
		t.Errorf("chi-square of %.0f draws of %d pages is %.0f, %.1f standard deviations from %.0f", rounds*each*1.0, pages, chi, z, k)
	}
}

// An older holdfast wrote nodes without sizes. They are read; the first edit writes the sizes of everything.
func TestSizesComeWithTheFirstEdit(t *testing.T) {
	t.Parallel()
	old := &nodes{all: map[seal.ChunkID][]byte{}}
	entries := map[string]*Entry{}
	for i := range 3000 {
		entries[fmt.Sprintf("%04d", i)] = &Entry{Type: TypeFile, Size: int64(i % 7), Chunks: someIDs(min(i%7, 1))}
	}
	split := splitRule{mask: 7, size: 1 << 10}
	root := old.withoutSizes(t, old.build(t, split, entries))
	if n := must(old.read(root)); n.sized || n.level < 2 {
		t.Fatalf("the old tree has %d levels, sizes: %v", n.level, n.sized)
	}
	edits := []TreeEdit{{Path: "1234x", Entry: &Entry{Type: TypeFile, Size: 5, Chunks: someIDs(1)}}, {Path: "2000"}}
	e := must(newTreeEditor(edits, treeBuilder{split: split, save: old.save}, old.read))
	now := must(e.edit(&root))
	apply(entries, edits)
	if want := old.build(t, split, entries); now != want {
		t.Error("the edited tree is not the one of the same entries")
	}
}

// A tree without sizes is sampled too, and one that was made of it.
func TestSampleOfKeptTrees(t *testing.T) {
	t.Parallel()
	for name, sized := range map[string]bool{"2-nodes": false, "3-sized-nodes": true} {
		st, sums := readKept(t, filepath.Join("testdata", "kept", name))
		r := reopen(t, st)
		for id := range sums {
			m := must(r.Manifest(t.Context(), "orders-db", id))
			if _, known, err := must(r.Reader().node(t.Context(), must(m.RootID()))).total(); known != sized || err != nil {
				t.Errorf("%s: the tree tells sizes: %v, %v", name, known, err)
			}
			if n, err := drawn(t, r, m); n != 50 || err != nil {
				t.Errorf("%s: %d of 50 bytes are drawn, %v", name, n, err)
			}
			w := must(r.Begin(t.Context(), "orders-db", DefaultGroup))
			now := &Manifest{Engine: "test"}
			if ok, err := w.MayCarry(t.Context(), m); !ok || err != nil {
				t.Fatal(ok, err)
			}
			if err := errors.Join(w.EditTree(t.Context(), m, []TreeEdit{{Path: "base/5/00007"}}, now), w.Commit(t.Context(), now)); err != nil {
				t.Fatal(err)
			}
			if n, err := drawn(t, r, now); n != 50 || err != nil {
				t.Errorf("%s, edited: %d of 50 bytes are drawn, %v", name, n, err)
			}
		}
	}
}

func drawn(t *testing.T, r *Repository, m *Manifest) (n int, err error) {
	t.Helper()
	err = r.Reader().Sample(t.Context(), must(m.RootID()), rand.New(rand.NewPCG(1, 2)), 50, func(string, *Entry, int64) error { n++; return nil })
	return n, err
}

// withoutSizes writes a tree as older holdfasts did.
func (n *nodes) withoutSizes(t *testing.T, id seal.ChunkID) seal.ChunkID {
	t.Helper()
	was := must(n.read(id))
	if was.level == 0 {
		return id
	}
	var b nodeBuilder
	tb := treeBuilder{split: splitRule{mask: math.MaxUint32, size: math.MaxInt}, levels: []*nodeBuilder{&b}}
	for i, key := range was.keys {
		below := n.withoutSizes(t, was.child(i))
		if err := tb.put(0, key, below[:], 0); err != nil {
			t.Fatal(err)
		}
	}
	plain := b.marshal(was.level)
	plain[0] = nodePlain
	return must(n.save(plain))
}
