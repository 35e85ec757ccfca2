package geo_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/internal/geo"
	"github.com/holdfast-dr/holdfast/internal/store"
	"github.com/holdfast-dr/holdfast/internal/store/storetest"
)

// fanWorld is a Fan over stores in memory that fail when they are told to.
type fanWorld struct {
	t     *testing.T
	fan   *geo.Fan
	names []string
	sites map[string]*flaky
}

// flaky is a site's store: while it is down it fails, or hangs.
type flaky struct {
	*storetest.Memory
	mu    sync.Mutex
	down  error
	hangs chan struct{}
	calls atomic.Int32
}

func (f *flaky) fault(ctx context.Context) error {
	f.mu.Lock()
	down, hangs := f.down, f.hangs
	f.mu.Unlock()
	f.calls.Add(1)
	if hangs != nil {
		select {
		case <-hangs:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return down
}

func (f *flaky) set(down error, hangs chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.down, f.hangs = down, hangs
}

func (f *flaky) Put(ctx context.Context, name string, body []byte) error {
	if err := f.fault(ctx); err != nil {
		return err
	}
	return f.Memory.Put(ctx, name, body)
}

func (f *flaky) Delete(ctx context.Context, name string) error {
	if err := f.fault(ctx); err != nil {
		return err
	}
	return f.Memory.Delete(ctx, name)
}

func (f *flaky) List(ctx context.Context, prefix, after string, fn func(store.Info) error) error {
	if err := f.fault(ctx); err != nil {
		return err
	}
	return f.Memory.List(ctx, prefix, after, fn)
}

var errDown = errors.New("the site is down")

func newFan(t *testing.T, n int, o geo.FanOptions) *fanWorld {
	w := &fanWorld{t: t, sites: map[string]*flaky{}}
	for i := range n {
		name := string(rune('a' + i))
		w.names = append(w.names, name)
		w.sites[name] = &flaky{Memory: storetest.NewMemory()}
	}
	w.fan = geo.NewFan(t.Context(), w.names, "a", w.sites["a"], o)
	t.Cleanup(w.end)
	return w
}

func (w *fanWorld) end() {
	ctx, stop := context.WithTimeout(context.Background(), time.Second)
	defer stop()
	w.fan.End(ctx)
}

// join brings a site up to date as a mirror does: what the source lists, and it lacks, is copied.
func (w *fanWorld) join(site string) error {
	from := w.fan.Source()
	if from == site {
		return nil
	}
	src, dst := w.sites[from], w.sites[site]
	return w.fan.Join(w.t.Context(), geo.Joining{Site: site, Store: dst, Close: func() {}}, from, func(ctx context.Context) error {
		return src.List(ctx, "", "", func(i store.Info) error {
			b, err := src.Get(ctx, i.Name, 1<<20)
			if errors.Is(err, store.ErrNotExist) {
				return nil
			}
			if err == nil {
				err = dst.Put(ctx, i.Name, b)
			}
			return err
		})
	})
}

// holders returns the members that hold an object.
func (w *fanWorld) holders(name string) (n int) {
	for _, s := range w.sites {
		if _, err := s.Stat(context.Background(), name); err == nil {
			n++
		}
	}
	return n
}

// TestFanKeepsItsPromise writes from two goroutines while sites fail, hang and join again: what is acknowledged is at as many
// sites as was asked for, and every member has all of it.
func TestFanKeepsItsPromise(t *testing.T) {
	for seed := range uint64(40) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			rnd := rand.New(rand.NewPCG(seed, 1)) //nolint:gosec // a test
			sync2 := 1 + rnd.IntN(2)
			w := newFan(t, 3, geo.FanOptions{Sync: sync2})
			acked, n := map[string]bool{}, 0
			write := func(patience time.Duration) {
				var mu sync.Mutex
				var writers sync.WaitGroup
				for g := range 2 {
					writers.Go(func() {
						for i := range 4 {
							name := fmt.Sprintf("log/%d-%06d", g, n+i)
							ctx, stop := context.WithTimeout(t.Context(), patience)
							err := w.fan.Put(ctx, name, []byte(name))
							stop()
							if err != nil {
								continue // who writes a log repeats it; here it is left
							}
							if n := w.holders(name); n < sync2 {
								t.Errorf("%s was acknowledged, and %d sites hold it, want %d", name, n, sync2)
							}
							mu.Lock()
							acked[name] = true
							mu.Unlock()
						}
					})
				}
				writers.Wait()
				n += 4
			}
			for range 60 {
				name := w.names[rnd.IntN(3)]
				s := w.sites[name]
				switch rnd.IntN(4) {
				case 0:
					s.set(errDown, nil)
				case 1:
					hangs := make(chan struct{})
					s.set(nil, hangs)
					time.AfterFunc(time.Duration(rnd.IntN(3000))*time.Microsecond, func() { s.set(nil, nil); close(hangs) })
				default:
					s.set(nil, nil)
					_ = w.join(name) // the source may be down
				}
				write(2 * time.Millisecond)
				w.hold(acked)
			}
			for _, s := range w.sites {
				s.set(nil, nil)
			}
			for _, name := range w.names {
				if err := w.join(name); err != nil {
					t.Error(name, err)
				}
			}
			before := len(acked)
			write(time.Minute)
			for _, name := range w.names {
				if !w.fan.Has(t.Context(), name) {
					t.Errorf("site %s is no member: %+v", name, w.fan.Status())
				}
			}
			if len(acked) != before+8 {
				t.Errorf("%d of 8 objects were written when all sites were there", len(acked)-before)
			}
			w.hold(acked)
			t.Logf("%d of %d objects were acknowledged", len(acked), 2*n)
		})
	}
}

// hold checks that members have what was acknowledged before now.
func (w *fanWorld) hold(acked map[string]bool) {
	for _, s := range w.fan.Status().Sites {
		ctx, stop := context.WithTimeout(w.t.Context(), 20*time.Millisecond)
		has := s.Member && w.fan.Has(ctx, s.Site)
		stop()
		if !has {
			continue
		}
		for name := range acked {
			if _, err := w.sites[s.Site].Stat(context.Background(), name); err != nil {
				w.t.Errorf("site %s has everything, it says, and not %s: %v", s.Site, name, err)
				return
			}
		}
	}
}

// A site that hangs is given up after the patience, visibly, and counts again when it has caught up.
func TestFanFallsBackVisibly(t *testing.T) {
	w := newFan(t, 2, geo.FanOptions{Sync: 2, Patience: 50 * time.Millisecond})
	if err := w.join("b"); err != nil {
		t.Fatal(err)
	}
	if st := w.fan.Status(); !st.Short.IsZero() || st.GaveUp {
		t.Fatalf("two of two sites: %+v", st)
	}
	hangs := make(chan struct{})
	w.sites["b"].set(nil, hangs)
	if err := w.fan.Put(t.Context(), "one", []byte("1")); err != nil {
		t.Fatal(err)
	}
	if st := w.fan.Status(); st.Short.IsZero() || !st.GaveUp || st.Sites[1].Member || st.Sites[1].Err == nil {
		t.Errorf("one of two sites: %+v", st)
	}
	if err := w.fan.Put(t.Context(), "two", []byte("2")); err != nil { // nobody is waited for again
		t.Fatal(err)
	}
	w.sites["b"].set(nil, nil)
	close(hangs)
	if err := w.join("b"); err != nil {
		t.Fatal(err)
	}
	if st := w.fan.Status(); !st.Short.IsZero() || st.GaveUp {
		t.Errorf("two of two sites again: %+v", st)
	}
	if n := w.holders("one") + w.holders("two"); n != 4 {
		t.Errorf("two sites hold %d of 4", n)
	}
}

// The last member stays one: what fails there fails, and what is repeated goes on.
func TestFanKeepsItsLastMember(t *testing.T) {
	w := newFan(t, 2, geo.FanOptions{Sync: 1})
	if err := w.join("b"); err != nil {
		t.Fatal(err)
	}
	w.sites["a"].set(errDown, nil)
	if err := w.fan.Put(t.Context(), "one", nil); err != nil {
		t.Fatal(err)
	}
	if w.fan.Has(t.Context(), "a") {
		t.Error("a has what failed there")
	}
	w.sites["b"].set(errDown, nil)
	if err := w.fan.Put(t.Context(), "two", nil); !errors.Is(err, errDown) {
		t.Fatalf("both are down: %v", err)
	}
	if w.fan.Source() != "b" {
		t.Errorf("the source is %q: only b has everything", w.fan.Source())
	}
	w.sites["a"].set(nil, nil)
	if err := w.join("a"); !errors.Is(err, errDown) {
		t.Errorf("a joins from a site that is down: %v", err)
	}
	w.sites["b"].set(nil, nil)
	if err := w.fan.Put(t.Context(), "two", nil); err != nil {
		t.Fatal(err)
	}
	if err := w.join("a"); err != nil {
		t.Fatal(err)
	}
	if n := w.holders("one") + w.holders("two"); n != 4 || !w.fan.Has(t.Context(), "a") {
		t.Errorf("two sites hold %d of 4", n)
	}
}

// What is deleted is deleted behind its successor at each site, and nowhere before.
func TestFanDeletesBehindItsSuccessor(t *testing.T) {
	w := newFan(t, 2, geo.FanOptions{Sync: 1})
	if err := w.join("b"); err != nil {
		t.Fatal(err)
	}
	if err := w.fan.Put(t.Context(), "piece", nil); err != nil || !w.fan.Has(t.Context(), "b") {
		t.Fatal(err)
	}
	hangs := make(chan struct{})
	w.sites["b"].set(nil, hangs)
	if err := errors.Join(w.fan.Put(t.Context(), "whole", nil), w.fan.Delete(t.Context(), "piece")); err != nil {
		t.Fatal(err)
	}
	w.sites["b"].set(errDown, nil)
	close(hangs)                // the first of the two still gets through, or fails: the second is done only behind it
	w.fan.Has(t.Context(), "b") // waits for either
	_, piece := w.sites["b"].Stat(t.Context(), "piece")
	_, whole := w.sites["b"].Stat(t.Context(), "whole")
	if piece != nil && whole != nil {
		t.Error("site b has neither the piece nor what takes its place")
	}
}

// reached waits until a site was asked so often.
func (f *flaky) reached(t *testing.T, n int32) {
	t.Helper()
	for f.calls.Load() < n {
		if t.Context().Err() != nil {
			t.Fatal("nothing came")
		}
		runtime.Gosched()
	}
}

// A member that lags is no refuge: the one that alone has what was acknowledged stays, and what fails at it is told.
func TestFanKeepsWhoHasWhatWasAcknowledged(t *testing.T) {
	w := newFan(t, 2, geo.FanOptions{Sync: 1})
	if err := w.join("b"); err != nil {
		t.Fatal(err)
	}
	hangs := make(chan struct{})
	n := w.sites["b"].calls.Load()
	w.sites["b"].set(errDown, hangs)
	if err := w.fan.Put(t.Context(), "acknowledged", nil); err != nil {
		t.Fatal(err)
	}
	w.sites["b"].reached(t, n+1)
	w.sites["a"].set(errDown, nil)
	if err := w.fan.Put(t.Context(), "later", nil); !errors.Is(err, errDown) {
		t.Errorf("a is down, and b lags: %v", err)
	}
	close(hangs)
	if w.fan.Has(t.Context(), "b") || w.fan.Source() != "a" {
		t.Errorf("b lacks what was acknowledged: %+v", w.fan.Status())
	}
	w.sites["a"].set(nil, nil)
	w.sites["b"].set(nil, nil)
	if err := w.fan.Put(t.Context(), "later", nil); err != nil {
		t.Fatal(err)
	}
	if err := w.join("b"); err != nil || w.holders("acknowledged")+w.holders("later") != 4 {
		t.Errorf("b has caught up: %v", err)
	}
}

// With a site away for long, the others still all count.
func TestFanWaitsForThoseThatAnswer(t *testing.T) {
	w := newFan(t, 3, geo.FanOptions{Sync: 3, Patience: 100 * time.Millisecond})
	for _, s := range []string{"b", "c"} {
		if err := w.join(s); err != nil {
			t.Fatal(err)
		}
	}
	w.sites["c"].set(errDown, nil)
	for _, name := range []string{"one", "two"} {
		hangs := make(chan struct{})
		w.sites["b"].set(nil, hangs)
		time.AfterFunc(5*time.Millisecond, func() { w.sites["b"].set(nil, nil); close(hangs) })
		if err := w.fan.Put(t.Context(), name, nil); err != nil {
			t.Fatal(err)
		}
		if n := w.holders(name); n != 2 {
			t.Errorf("%s was acknowledged with %d sites, and two answer", name, n)
		}
	}
	if st := w.fan.Status(); !st.GaveUp || !st.Sites[1].Member {
		t.Errorf("c is away: %+v", st)
	}
}

// A mark is written behind what it promises at each site.
func TestFanKeepsTheOrderOfMarks(t *testing.T) {
	w := newFan(t, 2, geo.FanOptions{Sync: 1, Free: []string{"log/"}})
	if err := w.join("b"); err != nil {
		t.Fatal(err)
	}
	hangs := make(chan struct{})
	n := w.sites["b"].calls.Load()
	w.sites["b"].set(errDown, hangs)
	if err := w.fan.Put(t.Context(), "log/1", nil); err != nil {
		t.Fatal(err)
	}
	w.sites["b"].reached(t, n+1)
	w.sites["b"].set(nil, nil)
	if err := errors.Join(w.fan.Put(t.Context(), "marks/1", nil), w.fan.Put(t.Context(), "log/2", nil)); err != nil {
		t.Fatal(err)
	}
	close(hangs)
	if w.fan.Has(t.Context(), "b") {
		t.Error("b counts, and lacks a part of the log")
	}
	if n := w.holders("marks/1"); n != 1 {
		t.Errorf("%d sites have a mark, and one has what it promises", n)
	}
}
