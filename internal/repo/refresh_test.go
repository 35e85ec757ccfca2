package repo

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/cryptotest"

	"github.com/holdfast-dr/holdfast/internal/store"
	"github.com/holdfast-dr/holdfast/internal/store/storetest"
)

// cutIndex fails one reading of an index object, the nth.
type cutIndex struct {
	store.Store
	n int
}

func (c *cutIndex) Get(ctx context.Context, name string, limit int64) ([]byte, error) {
	if strings.HasPrefix(name, prefixIndex) || strings.HasPrefix(name, prefixBase) {
		if c.n--; c.n == 0 {
			return nil, &store.Error{Op: "get", Name: name, Store: "test", Kind: store.Busy, Err: errors.New("the connection was cut")}
		}
	}
	return c.Store.Get(ctx, name, limit)
}

// lateSweep is a repository with a repair under way, whose index names packs that a collector which slept has deleted
// since. What snapshots need of them was copied.
func lateSweep(t *testing.T) *little {
	t.Helper()
	l := newLittle(t)
	part := littleFiles(7, l.secret)
	for _, p := range []string{"base/1", "base/2", "base/3"} {
		delete(part, p)
	}
	r := must(openAgain(t, l.st))
	r.opts.PackBytes = 1200
	whole := mustSave(t, r, littleFiles(7, l.secret))
	l.snapshots[mustSave(t, r, part).ID] = part
	if err := r.Forget(t.Context(), "orders-db", whole.ID); err != nil {
		t.Fatal(err)
	}
	slow := must(must(openAgain(t, l.st)).collector(t.Context(), CollectOptions{MinLive: 0.999}))
	p := must(slow.prepare(t.Context()))
	if err := slow.publish(t.Context(), p); err != nil || len(p.Prepared) == 0 {
		t.Fatalf("the scene was not played: %+v, %v", p, err)
	}
	d := must(slow.conclude(t.Context(), p)) // and sleeps
	err := slow.sweepIndex(t.Context(), p.Number)
	if err == nil {
		err = l.st.Delete(t.Context(), doneName(p.Number))
	}
	if err != nil {
		t.Fatal(err)
	}
	c := must(must(openAgain(t, l.st)).collector(t.Context(), CollectOptions{}))
	c.r.limits.mergeEntries = 4
	if err := c.supersede(t.Context(), p.Number); err != nil {
		t.Fatal(err)
	}
	for _, k := range d.doomed(p) {
		if err := l.st.Delete(t.Context(), k.name()); err != nil {
			t.Fatal(err)
		}
	}
	return l
}

// eachLateSweep plays lateSweep under names that sort in several orders: a chunk's copy is read before the pack that is
// gone, or after.
func eachLateSweep(t *testing.T, fn func(t *testing.T, l *little)) {
	t.Helper()
	for seed := range uint64(6) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			cryptotest.SetGlobalRandom(t, seed)
			fn(t, lateSweep(t))
		})
	}
}

// A repair is under way, whose index also names packs that are gone. A reader is cut off while it reads this index, and
// goes on where it was: it finds the copies all the same.
func TestReaderThatWasCutOffBesideARepair(t *testing.T) {
	eachLateSweep(t, func(t *testing.T, l *little) {
		for n := 1; ; n++ {
			cut := &cutIndex{Store: l.st, n: n}
			r := must(openAgain(t, cut))
			for id, want := range l.snapshots {
				m := must(r.Manifest(t.Context(), "orders-db", id))
				if _, err := load(t.Context(), r, m); err != nil && store.KindOf(err) != store.Busy {
					t.Errorf("cut at reading %d: %v", n, err)
				}
				wantFiles(t, r, m, want)
			}
			if cut.n > 0 {
				return // there are not so many
			}
		}
	})
}

// A check beside such a repair blames no snapshot for packs whose chunks were copied.
func TestCheckBesideARepair(t *testing.T) {
	eachLateSweep(t, func(t *testing.T, l *little) {
		rep := check(t, must(openAgain(t, l.st)), CheckOptions{ReadData: true})
		for _, p := range rep.Problems {
			if p.SnapshotCount > 0 {
				t.Errorf("%+v", p)
			}
		}
	})
}

// The end of a collection is lost, and with it what names the packs: a check finds them as a reader does.
func TestCheckWhereTheEndIsLost(t *testing.T) {
	st := storetest.NewMemory()
	r := newRepository(t, st)
	gone := mustSave(t, r, littleFiles(1, nil))
	mustSave(t, r, littleFiles(2, nil))
	err := r.Forget(t.Context(), "orders-db", gone.ID)
	if err == nil {
		mustCollect(t, r, CollectOptions{MinLive: 0.01}) // nothing is rewritten, so the end alone names what stays
		err = st.Delete(t.Context(), doneName(1))
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range check(t, must(openAgain(t, st)), CheckOptions{ReadData: true}).Problems {
		if p.SnapshotCount > 0 {
			t.Errorf("%+v", p)
		}
	}
}

// What the repair has condemned cannot be read any more either: nothing but their absence says which packs are gone.
func TestReaderBesideARepairThatIsDamaged(t *testing.T) {
	eachLateSweep(t, func(t *testing.T, l *little) {
		for how, do := range damage {
			st := l.st.Clone()
			highest, _, _, err := reopen(t, st).numbers(t.Context())
			if err == nil {
				err = do(t.Context(), st, collectionName(highest))
			}
			if err != nil {
				t.Fatal(err)
			}
			if good := l.restorable(t, st); len(good) != len(l.snapshots) {
				t.Errorf("%s: restorable: %v of %d", how, good, len(l.snapshots))
			}
		}
	})
}

// onceRead calls do before the first reading of an index object of collections.
type onceRead struct {
	store.Store
	do func()
}

func (o *onceRead) Get(ctx context.Context, name string, limit int64) ([]byte, error) {
	if do := o.do; do != nil && strings.HasPrefix(name, prefixBase) {
		o.do = nil
		do()
	}
	return o.Store.Get(ctx, name, limit)
}

// Somebody else repairs and sweeps what a repair is just reading. It says nothing of what it has missed for that: nothing
// is lost.
func TestRepairThatWasOutrunReportsNoLoss(t *testing.T) {
	l := newUnderWay(t)
	l.commit(t) // needs what was condemned: it is rescued
	d := must(l.c.conclude(t.Context(), l.p))
	if err := damage["flipped"](t.Context(), l.st, doneName(l.p.Number)); err != nil || len(d.Rescued) == 0 {
		t.Fatalf("the scene was not played: %+v, %v", d, err)
	}
	r := must(openAgain(t, l.st))
	c := must(r.collector(t.Context(), CollectOptions{}))
	outrun := false
	r.store = &onceRead{Store: l.st, do: func() {
		outrun = true
		if rep, err := must(openAgain(t, l.st)).RepairCollection(t.Context(), CollectOptions{}); err != nil || len(rep.Problems) > 0 {
			t.Fatalf("the other repair: %+v, %v", rep, err)
		}
	}}
	if err := c.supersede(t.Context(), l.p.Number); err != nil || !outrun {
		t.Fatalf("supersede: %v, outrun %v", err, outrun)
	}
	if len(c.report.Problems) > 0 {
		t.Errorf("it says %q", c.report.Problems)
	}
	l.wantWhole(t, l.st)
}

// beforeEnding calls do before somebody says that he is about to end a collection.
type beforeEnding struct {
	store.Store
	do func()
}

func (b *beforeEnding) announce(name string) {
	if do := b.do; do != nil && strings.HasSuffix(name, ".ending") {
		b.do = nil
		do()
	}
}

func (b *beforeEnding) Put(ctx context.Context, name string, body []byte) error {
	b.announce(name)
	return b.Store.Put(ctx, name, body)
}

func (b *beforeEnding) Create(ctx context.Context, name string, body []byte) error {
	b.announce(name)
	return b.Store.Create(ctx, name, body)
}

// Two collectors are about to end one collection. The faster one ends it, and sweeps; the object that says so is lost. The
// slower one must not end it once more: what it would list of the index is what the sweep has left.
func TestOneCollectorEndsACollection(t *testing.T) {
	st := storetest.NewMemory()
	r := newRepository(t, st)
	want := littleFiles(2, nil)
	gone := mustSave(t, r, littleFiles(1, nil))
	m := mustSave(t, r, want)
	if err := r.Forget(t.Context(), "orders-db", gone.ID); err != nil {
		t.Fatal(err)
	}
	fast := must(must(openAgain(t, st)).collector(t.Context(), CollectOptions{}))
	p := must(fast.prepare(t.Context()))
	if err := fast.publish(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	played := false
	late := must(openAgain(t, st))
	late.store = &beforeEnding{Store: st, do: func() {
		played = true
		if decided, err := fast.finish(t.Context(), p.Number); err != nil || !decided {
			t.Fatalf("finish: %v, %v", decided, err)
		}
		if err := st.Delete(t.Context(), doneName(p.Number)); err != nil {
			t.Fatal(err)
		}
	}}
	mustCollect(t, late, CollectOptions{})
	if !played {
		t.Fatal("the scene was not played")
	}
	wantFiles(t, must(openAgain(t, st)), m, want)
	wantClean(t, st)
}
