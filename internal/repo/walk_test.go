package repo

import (
	"fmt"
	"slices"
	"testing"

	"github.com/holdfast-dr/holdfast/internal/seal"
	"github.com/holdfast-dr/holdfast/internal/store/storetest"
)

// Each node of a tree is lost once: the walk around it delivers all paths but those that it says are lost.
func TestWalkAroundEveryLostNode(t *testing.T) {
	t.Parallel()
	st := storetest.NewMemory()
	r := newRepository(t, st)
	r.opts.PackBytes = 500
	all := files{}
	for i := range 3000 {
		all[fmt.Sprintf("base/%d/%d", i/100, i)] = []byte("the same")
	}
	m := mustSave(t, r, all)
	root, err := m.RootID()
	if err != nil {
		t.Fatal(err)
	}
	var paths []string
	nodes := map[seal.ChunkID]string{} // with the object that holds it
	w := treeWalk{rd: r.Reader(), fn: func(p string, _ *Entry) error {
		paths = append(paths, p)
		return nil
	}, visit: func(id seal.ChunkID) (bool, error) {
		l, err := r.find(t.Context(), id)
		nodes[id] = l.pack.name()
		return true, err
	}}
	if err := w.below(t.Context(), root, maxLevel+1, "", ""); err != nil {
		t.Fatal(err)
	}
	objects := map[string]bool{}
	for _, o := range nodes {
		objects[o] = true
	}
	if len(objects) < 20 || len(nodes) < 30 {
		t.Fatalf("%d nodes in %d packs are too few to lose one after the other", len(nodes), len(objects))
	}
	parts := 0
	for object := range objects {
		for _, how := range []func(b []byte) []byte{func([]byte) []byte { return nil }, func(b []byte) []byte { b[len(b)/3] ^= 1; return b }, func(b []byte) []byte { return b[:len(b)/2] }} {
			broken, err := openAgain(t, change(t, st, object, how))
			if err != nil {
				t.Fatal(err)
			}
			if n := wantAround(t, broken.Reader(), root, paths); n > 0 && n < len(paths) {
				parts++
			}
		}
	}
	if parts < 10 {
		t.Errorf("only %d walks lost a part of the tree: the test tests little", parts)
	}
}

// wantAround walks around what is lost and wants every path to be there, or in one of the lost parts, and tells how
// many are in these.
func wantAround(t *testing.T, rd *Reader, root seal.ChunkID, paths []string) (missing int) {
	t.Helper()
	var got, gone []string
	err := rd.WalkAround(t.Context(), root, func(p string, _ *Entry) error {
		got = append(got, p)
		return nil
	}, func(l LostPaths) error {
		before := len(gone)
		for _, p := range paths {
			if p > l.After && (p <= l.To || l.To == "") {
				gone = append(gone, p)
			}
		}
		if len(gone) == before {
			t.Errorf("nothing is lost in %s", l)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	missing = len(gone)
	gone = append(gone, got...)
	slices.Sort(gone)
	if !slices.Equal(gone, paths) {
		t.Errorf("%d paths are there and %d lost, of %d", len(got), missing, len(paths))
	}
	return missing
}
