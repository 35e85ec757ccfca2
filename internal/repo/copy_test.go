package repo

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/holdfast-dr/holdfast/internal/store"
	"github.com/holdfast-dr/holdfast/internal/store/meter"
	"github.com/holdfast-dr/holdfast/internal/store/storetest"
)

// farAway is a replica with snapshots of one file that changes.
type farAway struct {
	p    *patcher
	st   *storetest.Memory
	r    *Repository
	last *Manifest
	now  []byte
	want map[SnapshotID][]byte
}

func newFarAway(t *testing.T, seed uint64, snapshots int) *farAway {
	t.Helper()
	f := &farAway{p: &patcher{t: t, rnd: rand.New(rand.NewPCG(seed, 1)), most: 8}, st: storetest.NewMemory(), want: map[SnapshotID][]byte{}}
	f.r = tick(newRepository(t, f.st))
	f.now = f.p.content(3 * chunkPages)
	f.last = f.p.snapshot(f.r, nil, nil, f.now)
	f.want[f.last.ID] = f.now
	for range snapshots - 1 {
		f.next()
	}
	return f
}

func (f *farAway) next() {
	next := f.p.change(f.now)
	f.last, f.now = f.p.snapshot(f.r, f.last, f.now, next), next
	f.want[f.last.ID] = next
}

// replica makes a place another replica.
func (f *farAway) replica(t *testing.T, st store.Store) *Repository {
	t.Helper()
	if err := f.r.CopyKeys(t.Context(), st); err != nil {
		t.Fatal(err)
	}
	r, err := f.r.Beside(t.Context(), st, testOptions(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r
}

func noLog(context.Context) error { return nil }

func (f *farAway) copyTo(t *testing.T, r *Repository, id SnapshotID) *CopyReport {
	t.Helper()
	report, err := r.CopySnapshot(t.Context(), f.r, "orders-db", id, noLog)
	if err != nil {
		t.Fatal(err)
	}
	return report
}

// wantCopy reads a snapshot of a replica with nothing but that and the credentials.
func (f *farAway) wantCopy(t *testing.T, st store.Store, id SnapshotID) {
	t.Helper()
	r := reopen(t, st)
	m, err := r.Manifest(t.Context(), "orders-db", id)
	if err != nil {
		t.Fatal(err)
	}
	wantFiles(t, r, m, files{"rel": f.want[id]})
}

// The newest first, as a place is filled that is empty: each copy is whole, has what the other replica has, and no more
// than it.
func TestCopies(t *testing.T) {
	t.Parallel()
	f := newFarAway(t, 3, 8)
	here := storetest.NewMemory()
	r := f.replica(t, here)
	list := must(f.r.Snapshots(t.Context(), "orders-db"))
	for _, l := range slices.Backward(list) {
		if report := f.copyTo(t, r, l.ID); report.There {
			t.Errorf("%s is said to have been there", l.ID)
		}
		f.wantCopy(t, here, l.ID)
	}
	for _, l := range list {
		if report := f.copyTo(t, r, l.ID); !report.There || report.Bytes != 0 {
			t.Errorf("copied again: %+v", report)
		}
	}
	wantClean(t, here)
	for _, name := range here.Names() {
		if strings.HasPrefix(name, prefixSnapshots) || strings.HasPrefix(name, prefixPacks) {
			a, err := f.st.Get(t.Context(), name, maxPack)
			if b := must(here.Get(t.Context(), name, maxPack)); err == nil && !bytes.Equal(a, b) {
				t.Errorf("object %s is not the same in both replicas", name)
			}
		}
	}
	if n := count(here, prefixIntents); n != 0 {
		t.Errorf("%d intents are left", n)
	}
	// Each goes its own way from here on.
	must(r.Optimize(t.Context(), "orders-db", OptimizeOptions{Bound: 1.01}))
	for _, l := range list[:4] {
		if err := r.Forget(t.Context(), "orders-db", l.ID); err != nil {
			t.Fatal(err)
		}
	}
	mustCollect(t, r, CollectOptions{MinLive: 0.9})
	f.next()
	f.copyTo(t, r, f.last.ID)
	f.wantCopy(t, here, f.last.ID)
	wantClean(t, here)
	wantClean(t, f.st)
}

// What two snapshots share is neither read nor sent again.
func TestACopyCostsWhatChanged(t *testing.T) {
	t.Parallel()
	f := newFarAway(t, 4, 1)
	var m meter.Meter
	r := f.replica(t, m.Store(storetest.NewMemory()))
	f.copyTo(t, r, f.last.ID)
	before := total(&m)
	next := slices.Clone(f.now)
	copy(next[5*PageSize:], pageOf(1<<40))
	f.last, f.now = f.p.snapshot(f.r, f.last, f.now, next), next
	f.copyTo(t, r, f.last.ID)
	if after := total(&m); after.bytes-before.bytes > 40<<10 || after.requests-before.requests > 40 {
		t.Errorf("a changed page took %d requests and %d bytes", after.requests-before.requests, after.bytes-before.bytes)
	}
}

// A pack that was deleted here and is needed again does not get its name back: whoever was late to delete it would delete it
// again.
func TestSpentNamesDoNotComeBack(t *testing.T) {
	t.Parallel()
	for _, how := range []string{"swept", "in the middle", "swept, and the list of it is damaged"} {
		f := newFarAway(t, 5, 2)
		here := storetest.NewMemory()
		r := f.replica(t, here)
		f.copyTo(t, r, f.last.ID)
		var packs []string
		for _, name := range here.Names() {
			if strings.HasPrefix(name, prefixPacks) {
				packs = append(packs, name)
			}
		}
		if err := r.Forget(t.Context(), "orders-db", f.last.ID); err != nil {
			t.Fatal(err)
		}
		if how != "in the middle" {
			if rep := mustCollect(t, r, CollectOptions{}); rep.RemovedPacks != len(packs) {
				t.Fatalf("removed %d packs of %d", rep.RemovedPacks, len(packs))
			}
			for range 4 { // the lists of what was condemned go, what says that it is deleted stays
				mustSave(t, r, littleFiles(1, nil))
				for _, l := range must(r.Snapshots(t.Context(), "orders-db")) {
					if err := r.Forget(t.Context(), "orders-db", l.ID); err != nil {
						t.Fatal(err)
					}
				}
				mustCollect(t, r, CollectOptions{})
			}
		} else {
			f := storetest.NewFaulty(here)
			f.SetFaults(storetest.Fault{Op: "delete", Match: func(name string) bool { return strings.HasPrefix(name, prefixPacks) }, Kind: store.Denied})
			if _, err := reopen(t, f).Collect(t.Context(), CollectOptions{}); err == nil {
				t.Fatal("nothing was to be deleted")
			}
		}
		damaged := false
		for _, name := range here.Names() {
			if how == "swept, and the list of it is damaged" && strings.HasPrefix(name, prefixGraves) {
				damaged = true
				if err := damage["flipped"](t.Context(), here, name); err != nil {
					t.Fatal(err)
				}
			}
		}
		if report := f.copyTo(t, r, f.last.ID); damaged && report.Packs > 0 {
			t.Errorf("%s: nobody knows which names may come back, and packs were copied: %+v", how, report)
		}
		for _, name := range packs {
			if err := here.Delete(t.Context(), name); err != nil { // somebody is late
				t.Fatal(err)
			}
		}
		f.wantCopy(t, here, f.last.ID)
		mustCollect(t, r, CollectOptions{MinLive: 0.9})
		f.wantCopy(t, here, f.last.ID)
		if !damaged {
			wantClean(t, here)
		}
	}
}

// A pack that is damaged there is not copied, and a snapshot that needs it is not listed here; the others come.
func TestACopyOfDamage(t *testing.T) {
	t.Parallel()
	f := newFarAway(t, 6, 3)
	good := f.last.ID
	before := f.st.Names()
	f.next()
	for _, name := range f.st.Names() {
		if strings.HasPrefix(name, prefixPacks) && !slices.Contains(before, name) {
			if err := damage["flipped"](t.Context(), f.st, name); err != nil {
				t.Fatal(err)
			}
		}
	}
	here := storetest.NewMemory()
	r := f.replica(t, here)
	var broken *ChunkError
	if _, err := r.CopySnapshot(t.Context(), f.r, "orders-db", f.last.ID, noLog); !errors.As(err, &broken) {
		t.Errorf("a damaged pack: %v", err)
	}
	f.copyTo(t, r, good)
	f.wantCopy(t, here, good)
	wantClean(t, here)
}

// Whichever call fails, what is listed is whole, and the same call brings the rest.
func TestCopyEveryFault(t *testing.T) {
	t.Parallel()
	f := newFarAway(t, 7, 3)
	storetest.EachFault(t, storetest.Sweep{
		Prepare: func(t *testing.T, s store.Store) { f.replica(t, s) },
		Kind:    store.Denied,
		Run: func(t *testing.T, s store.Store) error {
			r, err := f.r.Beside(t.Context(), s, testOptions(t))
			if err != nil {
				return err
			}
			defer r.Close()
			_, err = r.CopySnapshot(t.Context(), f.r, "orders-db", f.last.ID, noLog)
			return err
		},
		Check: func(t *testing.T, s store.Store, err error) {
			if err != nil {
				wantClean(t, s)
			}
			f.copyTo(t, f.replica(t, s), f.last.ID)
			f.wantCopy(t, s, f.last.ID)
			wantClean(t, s)
		},
	})
}

// Keys that were rotated in one replica are copied; in both, nobody knows which are right.
func TestCopyKeys(t *testing.T) {
	t.Parallel()
	f := newFarAway(t, 8, 1)
	here := storetest.NewMemory()
	f.replica(t, here)
	must(f.r.Rotate(t.Context(), nil))
	f.next()
	r := f.replica(t, here)
	f.copyTo(t, r, f.last.ID)
	f.wantCopy(t, here, f.last.ID)

	must(reopen(t, here).Rotate(t.Context(), nil))
	if err := f.r.CopyKeys(t.Context(), here); err == nil || !strings.Contains(err.Error(), "rotated there") {
		t.Errorf("a rotation in the other: %v", err)
	}
	must(f.r.Rotate(t.Context(), nil))
	if err := f.r.CopyKeys(t.Context(), here); err == nil || !strings.Contains(err.Error(), "rotated in both") {
		t.Errorf("two rotations: %v", err)
	}
	f.wantCopy(t, here, f.last.ID)
	other := newRepository(t, storetest.NewMemory())
	if _, err := f.r.Beside(t.Context(), other.Store(), Options{}); err == nil || !strings.Contains(err.Error(), other.ID()) {
		t.Errorf("another repository: %v", err)
	}
	if _, err := other.CopySnapshot(t.Context(), f.r, "orders-db", f.last.ID, noLog); err == nil {
		t.Error("a snapshot was copied into another repository")
	}
}

// overtaken calls functions before calls of a store.
type overtaken struct {
	store.Store
	get, create func(name string)
}

func (h *overtaken) Get(ctx context.Context, name string, max int64) ([]byte, error) {
	h.get(name)
	return h.Store.Get(ctx, name, max)
}

func (h *overtaken) Create(ctx context.Context, name string, body []byte) error {
	h.create(name)
	return h.Store.Create(ctx, name, body)
}

// A snapshot that a collection has listed is forgotten before it is marked, and copied again before the collection is
// published: it was not considered, and what it needs is rescued.
func TestCopiedBetweenListingAndPublication(t *testing.T) {
	t.Parallel()
	f := newFarAway(t, 9, 1)
	here := storetest.NewMemory()
	r := f.replica(t, here)
	f.copyTo(t, r, f.last.ID)
	name := r.snapshotName("orders-db", f.last.ID)
	back := false
	h := &overtaken{Store: here, get: func(n string) {
		if n == name && !back {
			if err := r.Forget(t.Context(), "orders-db", f.last.ID); err != nil {
				t.Error(err)
			}
		}
	}, create: func(n string) {
		if n == collectionName(1) {
			back = true
			f.copyTo(t, r, f.last.ID)
		}
	}}
	mustCollect(t, reopen(t, h), CollectOptions{})
	if !back {
		t.Fatal("nothing was published")
	}
	f.wantCopy(t, here, f.last.ID)
	wantClean(t, here)
}

// The log is brought while nobody may begin to remove what the snapshot needs of it, and once more when the snapshot is there.
func TestTheLogComesBehindTheIntent(t *testing.T) {
	t.Parallel()
	f := newFarAway(t, 10, 1)
	r := f.replica(t, storetest.NewMemory())
	var undecided []int
	_, err := r.CopySnapshot(t.Context(), f.r, "orders-db", f.last.ID, func(ctx context.Context) error {
		rep, err := r.CollectLog(ctx, "orders-db", nil)
		undecided = append(undecided, rep.Undecided)
		return err
	})
	if err != nil || !slices.Equal(undecided, []int{1, 0}) {
		t.Errorf("writers that the log's removal waits for, at each call: %v, want [1 0]; %v", undecided, err)
	}
}
