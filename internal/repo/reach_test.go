package repo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
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
