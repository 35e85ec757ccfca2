package repo

import (
	"context"
	"strings"
	"testing"

	"github.com/holdfast-dr/holdfast/internal/seal"
	"github.com/holdfast-dr/holdfast/internal/store"
	"github.com/holdfast-dr/holdfast/internal/store/storetest"
)

// underWay is a repository with a collection that is published and waits for a writer which shares what it condemns.
type underWay struct {
	*little
	c    *collector
	p    *published
	late *Writer
	m    *Manifest
}

func newUnderWay(t *testing.T) *underWay {
	t.Helper()
	u := &underWay{little: newLittle(t)}
	r, err := openAgain(t, u.st)
	if err != nil {
		t.Fatal(err)
	}
	fs := littleFiles(7, u.secret)
	gone := mustSave(t, r, fs)
	if u.late, err = r.Begin(t.Context(), "orders-db", DefaultGroup); err != nil {
		t.Fatal(err)
	}
	u.m = saveAll(t, u.late, fs)
	if err := r.Forget(t.Context(), "orders-db", gone.ID); err != nil {
		t.Fatal(err)
	}
	if u.c, err = reopen(t, u.st).collector(t.Context(), CollectOptions{MinLive: 0.9}); err != nil {
		t.Fatal(err)
	}
	if u.p, err = u.c.prepare(t.Context()); err != nil || len(u.p.Condemned) == 0 {
		t.Fatalf("prepare: %+v, %v", u.p, err)
	}
	if err := u.c.publish(t.Context(), u.p); err != nil {
		t.Fatal(err)
	}
	if _, err := u.c.waitsOf(t.Context(), u.p.Number); err != nil {
		t.Fatal(err)
	}
	return u
}

// commit ends the late writer.
func (u *underWay) commit(t *testing.T) {
	t.Helper()
	if err := u.late.Commit(t.Context(), u.m); err != nil {
		t.Fatal(err)
	}
	u.snapshots[u.m.ID] = littleFiles(7, u.secret)
}

// wantWhole shows that st can be written to and collected in, that nothing is damaged, and that nothing was lost.
func (l *little) wantWhole(t *testing.T, st *storetest.Memory) {
	t.Helper()
	if rep, err := reopen(t, st).RebuildIndex(t.Context()); err != nil || len(rep.Dropped) > 0 {
		t.Errorf("RebuildIndex: %+v, %v", rep, err)
	}
	mustSave(t, reopen(t, st), littleFiles(5, l.secret))
	for range 2 {
		mustCollect(t, reopen(t, st), CollectOptions{Patience: NoPatience, MinLive: 0.9})
	}
	wantClean(t, st)
	if good := l.restorable(t, st); len(good) != len(l.snapshots) {
		t.Errorf("restorable: %v of %d", good, len(l.snapshots))
	}
}

// Where the list of condemned packs is lost before anything was decided, all of them stay, for a collector too that
// still knows the list.
func TestRepairKeepsAll(t *testing.T) {
	for how, do := range damage {
		t.Run(how, func(t *testing.T) {
			u := newUnderWay(t)
			if err := do(t.Context(), u.st, collectionName(u.p.Number)); err != nil {
				t.Fatal(err)
			}
			if good := u.restorable(t, u.st); len(good) != len(u.snapshots) {
				t.Errorf("restorable before the repair: %v", good)
			}
			if _, err := save(t.Context(), reopen(t, u.st), "orders-db", littleFiles(4, u.secret)); err == nil {
				t.Error("a snapshot was begun before the repair")
			}
			rep, err := reopen(t, u.st).RepairCollection(t.Context(), CollectOptions{})
			if err != nil || len(rep.Pending) != 1 {
				t.Fatalf("RepairCollection beside an undecided writer: %+v, %v", rep, err)
			}
			u.commit(t)
			packs := count(u.st, prefixPacks)
			if _, err := reopen(t, u.st).RepairCollection(t.Context(), CollectOptions{}); err != nil {
				t.Fatal(err)
			}
			d, err := u.c.conclude(t.Context(), u.p)
			if err != nil || !d.All {
				t.Fatalf("a collector that slept decides %+v, %v", d, err)
			}
			if err := u.c.sweep(t.Context(), u.p, d, nil); err != nil {
				t.Fatal(err)
			}
			if n := count(u.st, prefixPacks); n != packs {
				t.Errorf("%d packs are left of %d", n, packs)
			}
			u.wantWhole(t, u.st)
		})
	}
}

// Where the list of condemned packs is lost, and packs may be deleted already, a person's word is asked for.
func TestRepairAlone(t *testing.T) {
	for how, do := range damage {
		t.Run("ending "+how, func(t *testing.T) {
			u := newUnderWay(t)
			u.commit(t)
			body, err := u.c.r.sealJSON(seal.KindCollection, endingName(u.p.Number), struct{}{})
			if err == nil {
				err = u.st.Put(t.Context(), endingName(u.p.Number), body)
			}
			if err == nil {
				err = do(t.Context(), u.st, collectionName(u.p.Number))
			}
			if err != nil {
				t.Fatal(err)
			}
			u.wantAlone(t, u.st)
		})
		t.Run("done "+how, func(t *testing.T) {
			l := newLittle(t)
			if err := do(t.Context(), l.st, collectionName(1)); err != nil {
				t.Fatal(err)
			}
			if err := damage["flipped"](t.Context(), l.st, doneName(1)); err != nil {
				t.Fatal(err)
			}
			l.wantAlone(t, l.st)
		})
		t.Run("repair "+how, func(t *testing.T) {
			l := newLittle(t)
			_ = l.st.Delete(t.Context(), doneName(1))
			c, err := reopen(t, l.st).collector(t.Context(), CollectOptions{})
			if err == nil {
				err = c.supersede(t.Context(), 1)
			}
			if err == nil {
				_, err = c.waitsOf(t.Context(), 2)
			}
			if err == nil {
				err = do(t.Context(), l.st, collectionName(2))
			}
			if err != nil {
				t.Fatal(err)
			}
			l.wantAlone(t, l.st)
		})
	}
}

func (l *little) wantAlone(t *testing.T, st *storetest.Memory) {
	t.Helper()
	if good := l.restorable(t, st); len(good) != len(l.snapshots) {
		t.Errorf("restorable before the repair: %v", good)
	}
	before := strings.Join(st.Names(), "\n")
	if _, err := reopen(t, st).RepairCollection(t.Context(), CollectOptions{}); err == nil || !strings.Contains(err.Error(), "--alone") {
		t.Fatalf("RepairCollection without a person's word: %v", err)
	}
	if strings.Join(st.Names(), "\n") != before {
		t.Error("it changed something all the same")
	}
	if _, err := reopen(t, st).RepairCollection(t.Context(), CollectOptions{Alone: true}); err != nil {
		t.Fatal(err)
	}
	l.wantWhole(t, st)
}

// afterCreate calls do once, after an object of the collections was created whose name ends in suffix.
type afterCreate struct {
	store.Store
	suffix string
	do     func()
}

func (a *afterCreate) Create(ctx context.Context, name string, body []byte) error {
	err := a.Store.Create(ctx, name, body)
	if do := a.do; do != nil && strings.HasPrefix(name, prefixCollect) && strings.HasSuffix(name, a.suffix) {
		a.do = nil
		do()
	}
	return err
}

// A collector that published and slept, while others ended its collection and the next, deletes nothing.
func TestCollectorThatSleptDeletesNothing(t *testing.T) {
	l := newLittle(t)
	forget := func(n int) {
		r := reopen(t, l.st)
		m := mustSave(t, r, littleFiles(n, []byte("other")))
		if err := r.Forget(t.Context(), "orders-db", m.ID); err != nil {
			t.Fatal(err)
		}
	}
	part := littleFiles(7, []byte("other"))
	for _, p := range []string{"base/1", "base/2", "base/3"} {
		delete(part, p)
	}
	whole := mustSave(t, reopen(t, l.st), littleFiles(7, []byte("other")))
	l.snapshots[mustSave(t, reopen(t, l.st), part).ID] = part
	if err := reopen(t, l.st).Forget(t.Context(), "orders-db", whole.ID); err != nil {
		t.Fatal(err)
	}
	collecting := reopen(t, l.st)
	slept := false
	collecting.store = &afterCreate{Store: l.st, suffix: "00000002", do: func() {
		slept = true
		for range 2 {
			others := reopen(t, l.st)
			others.limits.mergeEntries = 2 // what the sleeper has prepared stays in the index as it is
			mustCollect(t, others, CollectOptions{MinLive: 0.9})
			forget(8)
		}
		if good := l.restorable(t, l.st); len(good) != len(l.snapshots) {
			t.Errorf("restorable while it sleeps: %v", good)
		}
	}}
	rep := mustCollect(t, collecting, CollectOptions{MinLive: 0.999})
	if !slept || rep.CopiedBytes == 0 {
		t.Fatalf("the scene was not played: %+v", rep)
	}
	l.wantWhole(t, l.st)
}

// The index is repaired beside a collection that has condemned packs which no index object names: they must not be
// named by one that counts when they are deleted.
func TestRebuildIndexBesideACollection(t *testing.T) {
	st := storetest.NewMemory()
	r := newRepository(t, st)
	want := littleFiles(1, nil)
	w, err := r.Begin(t.Context(), "orders-db", DefaultGroup)
	if err != nil {
		t.Fatal(err)
	}
	flushed(t, w, want)
	if rep := mustCollect(t, reopen(t, st), CollectOptions{}); len(rep.Pending) != 1 {
		t.Fatalf("Collect beside a running writer: %+v", rep)
	}
	if _, err := reopen(t, st).RebuildIndex(t.Context()); err != nil {
		t.Fatal(err)
	}
	mustCollect(t, reopen(t, st), CollectOptions{Patience: NoPatience})
	wantFiles(t, reopen(t, st), mustSave(t, reopen(t, st), want), want)
}

// flushed lets w put its packs, and not the index object that names them.
func flushed(t *testing.T, w *Writer, fs files) {
	t.Helper()
	saveAll(t, w, fs)
	for _, l := range w.lanes {
		if err := l.flush(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.drain(); err != nil {
		t.Fatal(err)
	}
}

// The end of a collection is lost when the next is published. What an aborted writer names late counts no more for
// that: its packs are gone.
func TestLateIndexBesideALostEnd(t *testing.T) {
	st := storetest.NewMemory()
	r := newRepository(t, st)
	want := littleFiles(1, nil)
	w, err := r.Begin(t.Context(), "orders-db", DefaultGroup)
	if err != nil {
		t.Fatal(err)
	}
	flushed(t, w, want)
	mustCollect(t, reopen(t, st), CollectOptions{Patience: NoPatience})
	r = reopen(t, st)
	if err := r.Forget(t.Context(), "orders-db", mustSave(t, r, littleFiles(2, nil)).ID); err != nil {
		t.Fatal(err)
	}
	collecting := reopen(t, st)
	collecting.store = &beforeCreate{Store: st, do: map[string]func(){"00000002": func() {
		if err := st.Delete(t.Context(), doneName(1)); err != nil {
			t.Fatal(err)
		}
		if err := w.writeIndex(t.Context(), &w.pending); err != nil {
			t.Fatal(err)
		}
	}}}
	if rep := mustCollect(t, collecting, CollectOptions{}); rep.Number != 2 {
		t.Fatalf("the scene was not played: %+v", rep)
	}
	wantFiles(t, reopen(t, st), mustSave(t, reopen(t, st), want), want)
}

// losing is a store that loses an object when it is asked for it for the n-th time.
type losing struct {
	*storetest.Memory
	name string
	n    int
}

func (l *losing) Get(ctx context.Context, name string, max int64) ([]byte, error) {
	if name == l.name {
		if l.n--; l.n == 0 {
			if err := l.Delete(ctx, name); err != nil {
				return nil, err
			}
		}
	}
	return l.Memory.Get(ctx, name, max)
}

// The end of the last collection is lost at every moment at which the next one reads it: that one takes its place.
func TestEndLostWhileItIsRead(t *testing.T) {
	for n := 1; ; n++ {
		st := storetest.NewMemory()
		r := newRepository(t, st)
		old := mustSave(t, r, littleFiles(1, []byte("x")))
		want := littleFiles(2, []byte("y"))
		m := mustSave(t, r, want)
		if err := r.Forget(t.Context(), "orders-db", old.ID); err != nil {
			t.Fatal(err)
		}
		mustCollect(t, r, CollectOptions{})
		l := &losing{st, doneName(1), n}
		q := reopen(t, l)
		if _, err := q.Collect(t.Context(), CollectOptions{}); err != nil {
			t.Fatalf("lost when it was read for the %dth time: %v", n, err)
		}
		wantFiles(t, reopen(t, st), m, want)
		wantClean(t, st)
		if l.n > 0 {
			if n < 3 {
				t.Errorf("it was read %d times", n-1)
			}
			return // it is not read so often
		}
	}
}
