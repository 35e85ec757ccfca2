package storetest

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sync/errgroup"

	"github.com/holdfast-dr/holdfast/internal/store"
)

// The parts of Conformance that are about listings.

// testListOrder has directories beside names that begin like them: the order of whole names is not the order
// in which directories are walked.
func testListOrder(t *testing.T, s store.Store) {
	want := []string{
		"a-b.c/x", "a-b/y", "a.b", "a.b.c", "a/b", "a/c-/z", "a/c/-", "a/c/z", "a0", "a_/x", "aa", "b-/1", "b/0", "b/0.",
	}
	shuffled := slices.Clone(want)
	rand.New(rand.NewPCG(1, 2)).Shuffle(len(shuffled), func(i, j int) { //nolint:gosec // any order will do
		shuffled[i], shuffled[j] = shuffled[j], shuffled[i]
	})
	for _, name := range shuffled {
		put(t, s, name, []byte(name))
	}
	if !slices.IsSorted(want) {
		t.Fatalf("the test's own list is not sorted: %q", want)
	}
	for prefix := range prefixes(want) {
		for _, after := range append([]string{"", "a", "a/", "a/c", "zzz", "\xff"}, want...) {
			if diff := cmp.Diff(selected(want, prefix, after), list(t, s, prefix, after)); diff != "" {
				t.Fatalf("list %q after %q (-want +got):\n%s", prefix, after, diff)
			}
		}
	}
}

// prefixes returns every beginning of every name, each once.
func prefixes(names []string) map[string]bool {
	m := map[string]bool{"": true, "zz": true}
	for _, n := range names {
		for i := range n {
			m[n[:i+1]] = true
		}
	}
	return m
}

// selected is what a listing means, in one line.
func selected(names []string, prefix, after string) []string {
	got := []string{}
	for _, n := range names {
		if strings.HasPrefix(n, prefix) && n > after {
			got = append(got, n)
		}
	}
	return got
}

// testListModel compares random histories with a set of names.
func testListModel(t *testing.T, s store.Store) {
	r := rand.New(rand.NewPCG(3, 4)) //nolint:gosec // repeatable
	model := map[string]bool{}
	for range 150 {
		// Directories have the letter d in each element but the last, which has none: no name is another's.
		var elems []string
		for range r.IntN(3) {
			elems = append(elems, string("-._0z"[r.IntN(5)])+"d"+string("-._0z"[r.IntN(5)]))
		}
		name := strings.Join(append(elems, string("-._0z"[r.IntN(5)])+string("-_0z"[r.IntN(4)])), "/")
		if r.IntN(4) == 0 {
			if err := s.Delete(t.Context(), name); err != nil {
				t.Fatal(err)
			}
			delete(model, name)
			continue
		}
		put(t, s, name, nil)
		model[name] = true
	}
	var want []string
	for name := range model {
		want = append(want, name)
	}
	slices.Sort(want)
	for range 60 {
		a, b := want[r.IntN(len(want))], want[r.IntN(len(want))]
		prefix, after := a[:r.IntN(len(a)+1)], b[:r.IntN(len(b)+1)]
		if diff := cmp.Diff(selected(want, prefix, after), list(t, s, prefix, after)); diff != "" {
			t.Fatalf("list %q after %q (-want +got):\n%s", prefix, after, diff)
		}
	}
}

// testListPages lists more than the 1000 objects that a page of an S3 listing holds.
func testListPages(t *testing.T, s store.Store) {
	const n = 1205
	var g errgroup.Group
	g.SetLimit(16)
	for i := range n {
		g.Go(func() error { return s.Put(t.Context(), fmt.Sprintf("pages/%d/%04d", i%3, i), nil) })
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	all := list(t, s, "pages/", "")
	if len(all) != n || !slices.IsSorted(all) {
		t.Errorf("listed %d objects (sorted: %t), want %d", len(all), slices.IsSorted(all), n)
	}
	if got, want := list(t, s, "pages/", all[100]), all[101:]; !slices.Equal(got, want) {
		t.Errorf("after the first 101: listed %d objects, want %d", len(got), len(want))
	}
}

func testListStops(t *testing.T, s store.Store) {
	for i := range 5 {
		put(t, s, fmt.Sprintf("stop/%d", i), nil)
	}
	// Also an error that looks like one of the store's own comes back as it is, and is not repeated.
	for _, stop := range []error{errors.New("enough"), &store.Error{Op: "get", Kind: store.Busy, Err: errors.New("another store")}} {
		calls := 0
		err := s.List(t.Context(), "stop/", "", func(store.Info) error {
			if calls++; calls == 3 {
				return stop
			}
			return nil
		})
		if err != stop || calls != 3 { //nolint:errorlint // the very same error is promised
			t.Errorf("got %v after %d calls, want %v after 3", err, calls, stop)
		}
	}
}
