package repo

import (
	"strings"
	"testing"

	"github.com/holdfast-dr/holdfast/internal/store"
	"github.com/holdfast-dr/holdfast/internal/store/storetest"
)

// Any texts as names of systems and snapshots: an object's name stays in its folder, is one that stores take or refuse
// as a whole, shows nothing of the system's name, and two names never give one object.
func FuzzObjectNames(f *testing.F) {
	for _, pair := range [][2]string{
		{"orders-db", "orders-da"},
		{"", "/"},
		{"a/b", "a"},
		{"..", "../x"},
		{"a\x00", "a"},
		{"20261123t204700z-5e1f09ab", "20261123t204700z-5e1f09aB"},
		{"/000000", "0"}, // a text that is in the object names of every system
	} {
		f.Add(pair[0], pair[1])
	}
	r := newRepository(f, storetest.NewMemory())
	names := func(system string) []string {
		const id = SnapshotID("20261123t204700z-5e1f09ab")
		return []string{r.systemName(system), r.snapshotName(system, id), r.intentName(system, id), r.extentName(system, 1, 0, 16), r.logPrefix(system, 1) + "x", r.Log(system).summaryName(Summary{1, 0, 16})}
	}
	// Without its hash, an object's name is that of every system's.
	nameless := func(name, system string) string { return strings.Replace(name, r.keys.NameHash(system), "hash", 1) }
	const anyone = "a system of its own"
	anyones := names(anyone)
	f.Fuzz(func(t *testing.T, a, b string) {
		of := map[string]string{}
		for _, system := range []string{a, b} {
			if len(system) > 6 && strings.Contains(r.keys.NameHash(system), system) {
				t.Errorf("the hash %q shows the system %q", r.keys.NameHash(system), system)
			}
			for i, n := range names(system) {
				if err := store.CheckName(n); err != nil || len(n) > 200 {
					t.Errorf("system %q gives the object %q: %v", system, n, err)
				}
				if nameless(n, system) != nameless(anyones[i], anyone) {
					t.Errorf("the object %q of the system %q has more of it than its hash: another one has %q", n, system, anyones[i])
				}
				if other, ok := of[n]; ok && other != system {
					t.Errorf("systems %q and %q share the object %q", other, system, n)
				}
				of[n] = system
			}
		}
		one, two := r.snapshotName("orders-db", SnapshotID(a)), r.snapshotName("orders-db", SnapshotID(b))
		if a != b && one == two {
			t.Errorf("snapshots %q and %q share the object %q", a, b, one)
		}
		folder := prefixSnapshots + r.keys.NameHash("orders-db") + "/"
		if rest, ok := strings.CutPrefix(one, folder); !ok || (store.CheckName(one) == nil && rest == "") {
			t.Errorf("snapshot %q has the object %q", a, one)
		}
		if _, ok := SnapshotID(a).Time(); ok && store.CheckName(one) != nil {
			t.Errorf("snapshot %q is one, and its object's name %q is none", a, one)
		}
	})
}
