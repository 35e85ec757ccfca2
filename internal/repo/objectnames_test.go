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
	for _, pair := range [][2]string{{"orders-db", "orders-da"}, {"", "/"}, {"a/b", "a"}, {"..", "../x"}, {"a\x00", "a"}, {"20261123t204700z-5e1f09ab", "20261123t204700z-5e1f09aB"}} {
		f.Add(pair[0], pair[1])
	}
	r := newRepository(f, storetest.NewMemory())
	f.Fuzz(func(t *testing.T, a, b string) {
		names := func(system string) []string {
			const id = SnapshotID("20261123t204700z-5e1f09ab")
			return []string{r.systemName(system), r.snapshotName(system, id), r.intentName(system, id), r.extentName(system, 1, 0, 16), r.logPrefix(system, 1) + "x"}
		}
		of := map[string]string{}
		for _, system := range []string{a, b} {
			for _, n := range names(system) {
				if err := store.CheckName(n); err != nil || len(n) > 200 {
					t.Errorf("system %q gives the object %q: %v", system, n, err)
				}
				if len(system) > 6 && strings.Contains(n, system) && !strings.Contains(id16, system) {
					t.Errorf("the object %q shows the system %q", n, system)
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

// id16 is what names hold that comes from no system: text of it in a system's name shows nothing.
const id16 = "20261123t204700z-5e1f09ab 0000000000000000-0000000000000010 00000001 snapshots/ systems/ intents/ log/ " + "0123456789abcdef"
