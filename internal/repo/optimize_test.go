package repo

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/internal/store/storetest"
)

// tick makes each second of a repository another one: names of snapshots sort by seconds.
func tick(r *Repository) *Repository {
	now := time.Now()
	r.opts.Now = func() time.Time {
		now = now.Add(time.Second)
		return now
	}
	return r
}

// fragmented returns a repository whose newest snapshot has been changed often, with what it has in the file "rel".
func fragmented(t *testing.T, seed uint64, snapshots int) (*patcher, *storetest.Memory, *Repository, *Manifest, []byte) {
	t.Helper()
	p := &patcher{t: t, rnd: rand.New(rand.NewPCG(seed, 1)), most: 8}
	st := storetest.NewMemory()
	r := tick(newRepository(t, st))
	now := p.content(6 * chunkPages)
	m := p.snapshot(r, nil, nil, now)
	for range snapshots {
		next := slices.Clone(now)
		for range 12 {
			copy(next[p.rnd.IntN(len(next)/PageSize)*PageSize:], p.content(1))
		}
		m, now = p.snapshot(r, m, now, next), next
	}
	return p, st, r, m, now
}

func TestOptimizeKeepsContentAndMoment(t *testing.T) {
	t.Parallel()
	_, st, r, m, now := fragmented(t, 1, 20)
	dry, err := r.Optimize(t.Context(), "orders-db", OptimizeOptions{DryRun: true, Bound: 1.05})
	if err != nil || dry.Parts != 1 || dry.Rewritten != "" || dry.Original != m.ID {
		t.Fatalf("dry run: %+v, %v", dry, err)
	}
	if _, err := r.Manifest(t.Context(), "orders-db", m.ID); err != nil {
		t.Fatalf("a dry run changed something: %v", err)
	}
	got, err := r.Optimize(t.Context(), "orders-db", OptimizeOptions{Bound: 1.05})
	if err != nil {
		t.Fatal(err)
	}
	if got.Bytes != dry.Bytes || got.After != dry.After {
		t.Errorf("done: %+v\nforetold: %+v", got, dry)
	}
	after, err := r.LatestSnapshot(t.Context(), "orders-db")
	if err != nil {
		t.Fatal(err)
	}
	switch {
	case after.ID != got.Rewritten || after.Rewrites != m.ID || after.ID <= m.ID:
		t.Errorf("%s rewrites %s, and is now %s of %s", got.Rewritten, m.ID, after.ID, after.Rewrites)
	case !after.Started.Equal(m.Started) || !after.Finished.Equal(m.Finished) || after.Host != m.Host || after.Log != m.Log || after.Bytes != m.Bytes:
		t.Errorf("the facts differ:\n%+v\n%+v", after, m)
	}
	wantFiles(t, reopen(t, st), after, files{"rel": now})
	is, err := r.Reader().Fragmentation(t.Context(), must(after.RootID()))
	if err != nil || is != got.After || is.Ratio() >= got.Before.Ratio() || is.Ratio() > FragmentationBound {
		t.Errorf("fragmentation %+v, foretold %+v, before %+v: %v", is, got.After, got.Before, err)
	}
	if _, err := r.Manifest(t.Context(), "orders-db", m.ID); err == nil {
		t.Error("the original is still there")
	}
	if again, err := r.Optimize(t.Context(), "orders-db", OptimizeOptions{Bound: 1.05}); err != nil || again.Rewritten != "" {
		t.Errorf("once more: %+v, %v", again, err)
	}
	mustCollect(t, r, CollectOptions{MinLive: 0.9})
	wantFiles(t, reopen(t, st), after, files{"rel": now})
	wantClean(t, st)
}

func TestOptimizeStaysWithinItsBudget(t *testing.T) {
	t.Parallel()
	_, _, r, m, _ := fragmented(t, 2, 20)
	for _, o := range []OptimizeOptions{{Bound: 1.05, AtMost: 1}, {Bound: 1.05, Enough: func() bool { return true }}} {
		got, err := r.Optimize(t.Context(), "orders-db", o)
		if err != nil || got.Rewritten != "" || got.Left != 1 || got.Bytes != 0 {
			t.Errorf("%+v, %v", got, err)
		}
		if latest, err := r.LatestSnapshot(t.Context(), "orders-db"); err != nil || latest.ID != m.ID {
			t.Errorf("the newest is %v, %v", latest, err)
		}
	}
}

// A snapshot that is being taken when its base is rewritten and collected still has everything.
func TestOptimizeBesideASnapshotOnTopOfTheOriginal(t *testing.T) {
	t.Parallel()
	p, st, r, m, now := fragmented(t, 3, 20)
	w, err := r.Begin(t.Context(), "orders-db", DefaultGroup)
	if err != nil {
		t.Fatal(err)
	}
	if ok, err := w.MayCarry(t.Context(), m); !ok || err != nil {
		t.Fatal(ok, err)
	}
	other := reopen(t, st)
	if got, err := other.Optimize(t.Context(), "orders-db", OptimizeOptions{Bound: 1.05}); err != nil || got.Rewritten == "" {
		t.Fatalf("%+v, %v", got, err)
	}
	report, err := other.Collect(t.Context(), CollectOptions{MinLive: 0.9})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d packs removed while the snapshot runs", report.RemovedPacks)
	next := slices.Clone(now)
	copy(next[PageSize:], p.content(1))
	e := must(r.Reader().Lookup(t.Context(), must(m.RootID()), "rel"))
	base := must(r.Reader().FilePart(t.Context(), e, 0))
	e.SetContent(int64(len(next)), []FileList{p.list(w, w.Lane(), base, now, next)})
	after := &Manifest{}
	if err := w.EditTree(t.Context(), m, []TreeEdit{{Path: "rel", Entry: e}}, after); err != nil {
		t.Fatal(err)
	}
	if err := w.Commit(t.Context(), after); err != nil {
		t.Fatal(err)
	}
	mustCollect(t, other, CollectOptions{MinLive: 0.9})
	wantFiles(t, reopen(t, st), after, files{"rel": next})
	wantClean(t, st)
}

// While a collection is under way that has not seen the snapshot, nothing may be carried over, and nothing is lost.
func TestOptimizeWaitsForACollection(t *testing.T) {
	t.Parallel()
	p, st, r, m, now := fragmented(t, 4, 20)
	w, err := r.Begin(t.Context(), "orders-db", DefaultGroup) // the collection waits for it
	if err != nil {
		t.Fatal(err)
	}
	if _, err := reopen(t, st).Collect(t.Context(), CollectOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	m = p.snapshot(r, m, now, now) // begun behind the publication: its own generation allows it
	got, err := r.Optimize(t.Context(), "orders-db", OptimizeOptions{Bound: 1.05})
	if err != nil || got.Rewritten == "" {
		t.Errorf("of a snapshot that knows the collection: %+v, %v", got, err)
	}
	if got.Original != m.ID {
		t.Errorf("rewrote %s, not %s", got.Original, m.ID)
	}
	wantClean(t, st)
}

func TestSuperseded(t *testing.T) {
	t.Parallel()
	m := func(id, of SnapshotID) *Manifest { return &Manifest{ID: id, Rewrites: of} }
	for _, c := range []struct {
		all  []*Manifest
		want map[SnapshotID]SnapshotID
	}{
		{[]*Manifest{m("a", ""), m("b", "")}, nil},
		{[]*Manifest{m("a", ""), m("b", "a")}, map[SnapshotID]SnapshotID{"a": "b"}},
		{[]*Manifest{m("a", ""), m("b", "a"), m("c", "a")}, map[SnapshotID]SnapshotID{"a": "c", "b": "c"}},
		{[]*Manifest{m("a", "z"), m("z", "")}, map[SnapshotID]SnapshotID{"z": "a"}},
		{[]*Manifest{m("b", "a"), m("c", "")}, nil},
	} {
		if got := Superseded(c.all); fmt.Sprint(got) != fmt.Sprint(c.want) && len(got)+len(c.want) > 0 {
			t.Errorf("of %v: %v, not %v", c.all, got, c.want)
		}
	}
}

func TestRewrittenIDsSort(t *testing.T) {
	t.Parallel()
	id := NewSnapshotID(time.Now())
	for range 1000 {
		next := id.rewritten()
		if _, ok := next.Time(); !ok || next == id || next[:16] != id[:16] {
			t.Fatalf("%s follows %s", next, id)
		}
		if id[17:] != "ffffffff" && next < id {
			t.Fatalf("%s is before %s", next, id)
		}
		id = next
	}
}

// Whatever happens to a file, and whenever it is rewritten, what is read is what was written.
func TestOptimizeInRandomHistories(t *testing.T) {
	t.Parallel()
	for range 6 {
		seed := rand.Uint64()
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			p := &patcher{t: t, rnd: rand.New(rand.NewPCG(seed, 1))}
			p.most = 1 << p.rnd.IntN(7)
			st := storetest.NewMemory()
			r := tick(newRepository(t, st))
			now := p.content(1 + p.rnd.IntN(5*chunkPages))
			want := map[SnapshotID][]byte{}
			m := p.snapshot(r, nil, nil, now)
			want[m.ID] = now
			rewritten := 0
			for range 25 {
				next := p.change(now)
				m, now = p.snapshot(r, m, now, next), next
				want[m.ID] = now
				if p.rnd.IntN(2) == 0 {
					opts := OptimizeOptions{Bound: 1.05 + 0.3*float64(p.rnd.IntN(2))} // often the last one's, of which something is known
					if p.rnd.IntN(3) == 0 {
						opts.AtMost = int64(p.rnd.IntN(4 << 20))
					}
					is, err := r.Reader().Fragmentation(t.Context(), must(m.RootID()))
					if err != nil {
						t.Fatal(err)
					}
					got, err := r.Optimize(t.Context(), "orders-db", opts)
					if err != nil {
						t.Fatal(err)
					}
					if is != got.Before {
						t.Fatalf("fragmentation %+v, ranked %+v", is, got.Before)
					}
					if got.Rewritten != "" {
						rewritten++
						if opts.AtMost > 0 && got.Bytes > opts.AtMost {
							t.Fatalf("%d bytes of at most %d", got.Bytes, opts.AtMost)
						}
						delete(want, m.ID)
						if m, err = r.Manifest(t.Context(), "orders-db", got.Rewritten); err != nil {
							t.Fatal(err)
						}
						want[m.ID] = now
						is, err := r.Reader().Fragmentation(t.Context(), must(m.RootID()))
						if err != nil || is != got.After {
							t.Fatalf("fragmentation %+v, foretold %+v: %v", is, got.After, err)
						}
					}
				}
				for id := range want {
					if id != m.ID && p.rnd.IntN(4) == 0 {
						if err := r.Forget(t.Context(), "orders-db", id); err != nil {
							t.Fatal(err)
						}
						delete(want, id)
					}
				}
				if p.rnd.IntN(5) == 0 {
					mustCollect(t, r, CollectOptions{MinLive: 0.9})
				}
				p.wantPart(r, m, now)
			}
			for id, content := range want {
				m, err := r.Manifest(t.Context(), "orders-db", id)
				if err != nil {
					t.Fatal(err)
				}
				wantFiles(t, reopen(t, st), m, files{"rel": content})
			}
			wantClean(t, st)
			t.Logf("%d rewritten", rewritten)
		})
	}
}
