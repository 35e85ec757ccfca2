package repo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/internal/store"
	"github.com/holdfast-dr/holdfast/internal/store/s3"
	"github.com/holdfast-dr/holdfast/internal/store/storetest"
)

// A site that refuses, or falls silent, while several read from it is read on from the other at once: nobody spends all tries of
// store.Retry on it, and when it is known to be gone nobody asks it at all.
func TestASiteThatDiesIsGivenUpByAll(t *testing.T) {
	t.Parallel()
	server := storetest.S3(t)
	for name, dies := range map[string]func(*storetest.Proxy){
		"refuses": func(p *storetest.Proxy) { p.Order(storetest.Cut{}) },
		"silent":  func(p *storetest.Proxy) { p.Silence() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			line := storetest.NewProxy(t, server.Endpoint)
			o := server.Options(name + "/")
			o.Endpoint = line.Endpoint
			here, err := s3.Open(t.Context(), o)
			if err != nil {
				t.Fatal(err)
			}
			tries := storetest.NewFaulty(here)
			l := newFarLogIn(t, store.Retry(tries, store.Budget{}))
			const readers, b = 4, 1 << 16
			for i := range uint64(readers) {
				l.put(1, i*b, (i+1)*b)
			}
			log := l.r.Log("orders-db")
			if err := errors.Join(log.PutFile(t.Context(), "00000002.history", []byte("x")), log.PutMark(t.Context(), Mark{Stream: 1, LSN: readers * b, Writer: time.Now()})); err != nil {
				t.Fatal(err)
			}
			other := l.replica(storetest.NewMemory())
			must(other.CopyLog(t.Context(), l.r, "orders-db", nil))
			end := l.r.Help(Helpers{Others: func(context.Context) []*Repository { return []*Repository{other} }})
			defer end()
			l.r.help.Load().listFor = 0 // also with what it lists
			dies(line)
			before := len(tries.Calls())
			var all sync.WaitGroup
			for i := range uint64(readers) {
				all.Go(func() {
					if err := readExtent(t.Context(), log, i*b, (i+1)*b); err != nil {
						t.Error(err)
					}
				})
			}
			all.Wait()
			// Each fails some times within the second after which it is doubted, and then the marker does.
			asked := len(tries.Calls()) - before
			if most := readers*5 + probeTries; asked == 0 || asked > most || !l.r.help.Load().gone.Load() {
				t.Errorf("it was asked %d times, want %d at most; gone is %t", asked, most, l.r.help.Load().gone.Load())
			}
			asked = len(tries.Calls())
			for i := range uint64(readers) {
				if err := readExtent(t.Context(), log, i*b, (i+1)*b); err != nil {
					t.Error(err)
				}
			}
			if n := len(tries.Calls()) - asked; n != 0 {
				t.Errorf("it was asked %d times more", n)
			}
		})
	}
}

// readExtent reads a part of a log as restores do.
func readExtent(ctx context.Context, log *Log, start, end uint64) error {
	mark, ok, err := log.Mark(ctx, 1)
	if err != nil || !ok || mark.LSN < end {
		return fmt.Errorf("mark %+v, %v, %w", mark, ok, err)
	}
	extents, err := log.Extents(ctx, 1, start)
	if err != nil {
		return err
	}
	for _, e := range extents {
		if e.Start == start {
			data, _, err := log.Reader().Read(ctx, e)
			if err == nil && !bytes.Equal(data, position(start, end)) {
				err = errors.New("other bytes")
			}
			return err
		}
	}
	return fmt.Errorf("nothing begins at %x", start)
}

// One that is slow is waited for, although others answer: what they know of a log may be less.
func TestASlowSiteIsNotGivenUp(t *testing.T) {
	t.Parallel()
	l := newFarLog(t)
	const b = 1 << 16
	l.put(1, 0, b)
	other := l.replica(storetest.NewMemory())
	must(other.CopyLog(t.Context(), l.r, "orders-db", nil))
	l.put(1, b, 2*b)
	release, stalled := make(chan struct{}), make(chan struct{})
	faulty := storetest.NewFaulty(l.st, storetest.Fault{Op: "list", When: storetest.Late, Until: release, Once: true, Reached: func() { close(stalled) }})
	r := must(l.r.Beside(t.Context(), faulty, testOptions(t)))
	defer r.Close()
	defer r.Help(Helpers{Others: func(context.Context) []*Repository { return []*Repository{other} }})()
	doubts := func() (n int) {
		for _, c := range faulty.Calls() {
			if c.Op == "get" && c.Name == markerName {
				n++
			}
		}
		return n
	}
	before := doubts()
	go func() {
		defer close(release)
		<-stalled
		for range 2000 {
			if doubts() > before {
				return
			}
			<-time.After(10 * time.Millisecond)
		}
		t.Error("it was not doubted")
	}()
	got := must(r.Log("orders-db").Extents(t.Context(), 1, 0))
	if m := Merge(got); len(m) != 1 || m[0].End != 2*b {
		t.Errorf("of a slow site it has %v", m)
	}
	if r.help.Load().gone.Load() {
		t.Error("it counts as gone")
	}
}

// An outage of seconds does not make another site's listing, which may be behind, that of this one; nor does what nobody has, where
// somebody fails.
func TestAShortOutageHidesNoLogOfAReachableSite(t *testing.T) {
	t.Parallel()
	l := newFarLog(t)
	const b = 1 << 16
	l.put(1, 0, b)
	other := l.replica(storetest.NewMemory())
	must(other.CopyLog(t.Context(), l.r, "orders-db", nil))
	l.put(1, b, 2*b)
	blip := &blinking{Store: l.st}
	r := must(l.r.Beside(t.Context(), store.Retry(blip, store.Budget{}), testOptions(t)))
	defer r.Close()
	others := []*Repository{other}
	end := r.Help(Helpers{Others: func(context.Context) []*Repository { return others }})
	log := r.Log("orders-db")
	blip.until.Store(time.Now().Add(4 * time.Second).UnixNano())
	if m := Merge(must(log.Extents(t.Context(), 1, 0))); len(m) != 1 || m[0].End != 2*b {
		t.Errorf("after an outage it has %v", m)
	}
	if lent := log.Lent(); lent != nil {
		t.Errorf("lent by %v", lent)
	}
	end()
	r.store = gone{r.store}
	end = r.Help(Helpers{Others: func(context.Context) []*Repository { return others }})
	if m := Merge(must(log.Extents(t.Context(), 1, 0))); len(m) != 1 || m[0].End != b || len(log.Lent()) != 1 {
		t.Errorf("of the other it has %v, lent by %v", m, log.Lent())
	}
	end()
	empty, fails := l.replica(storetest.NewMemory()), must(l.r.Beside(t.Context(), l.st, testOptions(t)))
	defer fails.Close()
	fails.store = gone{fails.store}
	others = []*Repository{empty, fails}
	defer r.Help(Helpers{Others: func(context.Context) []*Repository { return others }})()
	if got, err := log.Extents(t.Context(), 1, 0); err == nil {
		t.Errorf("nothing of one, and a failure of another, are %v", got)
	}
}

// blinking is a store that does not answer until some moment.
type blinking struct {
	store.Store
	until atomic.Int64
}

func (b *blinking) refused() error {
	if time.Now().UnixNano() < b.until.Load() {
		return &store.Error{Op: "any", Kind: store.Busy, Err: errors.New("no answer")}
	}
	return nil
}

func (b *blinking) Get(ctx context.Context, name string, most int64) ([]byte, error) {
	if err := b.refused(); err != nil {
		return nil, err
	}
	return b.Store.Get(ctx, name, most)
}

func (b *blinking) List(ctx context.Context, prefix, after string, fn func(store.Info) error) error {
	if err := b.refused(); err != nil {
		return err
	}
	return b.Store.List(ctx, prefix, after, fn)
}
