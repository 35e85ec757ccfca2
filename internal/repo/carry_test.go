package repo

import (
	"maps"
	"testing"

	"github.com/holdfast-dr/holdfast/internal/store/storetest"
)

func (w *Writer) wantCarry(t *testing.T, what string, m *Manifest, want bool) {
	t.Helper()
	if got, err := w.MayCarry(t.Context(), m); err != nil || got != want {
		t.Errorf("MayCarry from %s = %v, %v; want %v", what, got, err, want)
	}
}

func TestNothingIsCarriedFromWhatIsGone(t *testing.T) {
	t.Parallel()
	r := newRepository(t, storetest.NewMemory())
	kept, gone := mustSave(t, r, littleFiles(1, nil)), mustSave(t, r, littleFiles(2, nil))
	w := must(r.Begin(t.Context(), "orders-db", DefaultGroup))
	defer w.Close(t.Context()) //nolint:errcheck // nothing was written
	if err := r.Forget(t.Context(), "orders-db", gone.ID); err != nil {
		t.Fatal(err)
	}
	w.wantCarry(t, "a snapshot", kept, true)
	w.wantCarry(t, "a forgotten one", gone, false)
	other := must(r.Begin(t.Context(), "other-db", "elsewhere"))
	defer other.Close(t.Context()) //nolint:errcheck // nothing was written
	other.wantCarry(t, "another group", kept, false)
}

// A collection is under way when a writer begins, and does not wait for it. What it carries over from is forgotten before
// the collection ends: its snapshot is whole all the same.
func TestCarryBesideACollection(t *testing.T) {
	t.Parallel()
	st := storetest.NewMemory()
	r := newRepository(t, st)
	gone, considered := mustSave(t, r, littleFiles(1, nil)), mustSave(t, r, littleFiles(2, nil))
	early := must(r.Begin(t.Context(), "orders-db", DefaultGroup))
	if err := r.Forget(t.Context(), "orders-db", gone.ID); err != nil {
		t.Fatal(err)
	}
	c := must(reopen(t, st).collector(t.Context(), CollectOptions{}))
	p := must(c.prepare(t.Context()))
	if err := c.publish(t.Context(), p); err != nil || len(p.Condemned) == 0 {
		t.Fatalf("published %+v, %v", p, err)
	}
	risky := commit(t, early, littleFiles(1, nil)) // shares what is condemned
	later := mustSave(t, reopen(t, st), littleFiles(3, nil))
	all := map[string]*Manifest{"considered": considered, "later": later}
	want := map[string]files{"considered": littleFiles(2, nil), "later": littleFiles(3, nil)}
	carried := map[string]*Manifest{}
	for name, from := range all {
		r := reopen(t, st)
		w := must(r.Begin(t.Context(), "orders-db", DefaultGroup))
		w.wantCarry(t, "a snapshot that is not considered", risky, false)
		w.wantCarry(t, name, from, true)
		m := &Manifest{}
		if err := w.EditTree(t.Context(), from, []TreeEdit{{Path: "empty", Entry: &Entry{Type: TypeFile}}}, m); err != nil {
			t.Fatal(err)
		}
		if err := w.Commit(t.Context(), m); err != nil {
			t.Fatal(err)
		}
		carried[name] = m
		want[name] = maps.Clone(want[name])
		want[name]["empty"] = nil
	}
	for _, m := range []*Manifest{considered, later, risky} {
		if err := r.Forget(t.Context(), "orders-db", m.ID); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		mustCollect(t, reopen(t, st), CollectOptions{Patience: NoPatience, MinLive: 0.9})
	}
	for name, m := range carried {
		wantFiles(t, reopen(t, st), m, want[name])
	}
	wantClean(t, st)
}

func TestLatestSnapshotReadsOne(t *testing.T) {
	t.Parallel()
	st := storetest.NewMemory()
	counted := &countedReads{Store: st}
	r := newRepository(t, counted)
	if m, err := r.LatestSnapshot(t.Context(), "orders-db"); m != nil || err != nil {
		t.Fatalf("LatestSnapshot of none = %+v, %v", m, err)
	}
	var all []*Manifest
	for n := range 5 {
		all = append(all, mustSave(t, r, littleFiles(n, nil)))
	}
	for i, l := range must(r.Snapshots(t.Context(), "orders-db")) {
		if l.ID != all[i].ID {
			t.Errorf("number %d of those listed is %s, want %s: their names' order is none", i, l.ID, all[i].ID)
		}
	}
	newest := func(want *Manifest, gets int64) {
		t.Helper()
		counted.gets.Store(0)
		m, err := r.LatestSnapshot(t.Context(), "orders-db")
		if err != nil || m == nil || m.ID != want.ID {
			t.Fatalf("LatestSnapshot = %+v, %v; want %s", m, err, want.ID)
		}
		if counted.gets.Load() > gets {
			t.Errorf("it read %d objects, want %d", counted.gets.Load(), gets)
		}
	}
	// Those of one second are read, a manifest and its signer each.
	newest(all[4], 10)
	name := r.snapshotName("orders-db", all[4].ID)
	b := must(st.Get(t.Context(), name, 1<<20))
	b[len(b)-1] ^= 1
	if err := st.Put(t.Context(), name, b); err != nil {
		t.Fatal(err)
	}
	name = r.snapshotName("orders-db", all[3].ID)
	if err := st.Put(t.Context(), name, must(r.tombstone(name, "forgotten"))); err != nil {
		t.Fatal(err)
	}
	newest(all[2], 10)
}
