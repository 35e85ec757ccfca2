package line

import (
	"slices"
	"testing"

	"github.com/holdfast-dr/holdfast/internal/store"
)

// A text stands among names where its place stands, and is one that servers take.
func TestStartAt(t *testing.T) {
	names := []string{"-", "a", "a-b", "a.b", "a/b", "a/b/c", "a0", "a9", "a_", "aa", "az", "b", "z", "zz"}
	for after, want := range map[string]string{
		"": "", "a/b": "a/b", "a\xff": "a~", "\xff": "~", "a\nb": "a!", "A": "A", "a:b": "a:", "a`b": "a`", "ab ": "ab!", "a/é": "a/~", "z{": "z~", "a,": "a!",
	} {
		got := StartAt(after)
		if got != want {
			t.Errorf("StartAt(%q) is %q, want %q", after, got, want)
		}
		for _, n := range names {
			if store.CheckName(n) == nil && (n > after) != (n > got) {
				t.Errorf("%q: %q is not in its place: %q", after, got, n)
			}
		}
	}
	if !slices.IsSorted(names) {
		t.Error("the names are not sorted")
	}
}
