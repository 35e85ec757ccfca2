package workspace

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-dr/holdfast/internal/capture"
	"github.com/holdfast-dr/holdfast/internal/geo"
	"github.com/holdfast-dr/holdfast/internal/pg/wal"
	"github.com/holdfast-dr/holdfast/internal/repo"
	"github.com/holdfast-dr/holdfast/internal/repo/repotest"
	"github.com/holdfast-dr/holdfast/internal/restore/points"
	"github.com/holdfast-dr/holdfast/internal/seal"
	"github.com/holdfast-dr/holdfast/internal/store"
	"github.com/holdfast-dr/holdfast/internal/store/storetest"
)

// flown is what a far site has when all else is lost, after one part of the log was held back on its way there.
type flown struct {
	t       *testing.T
	r       *repo.Repository
	there   *storetest.Memory
	durable uint64 // that was acknowledged to the source
}

const (
	flownFrom = 64<<20 - 40<<10 // near the end of a block
	flownStep = 10 << 10
	flownTo   = flownFrom + 10*flownStep
)

// fly writes a log to two sites, one of which never gets the nth part that is sent to it.
func fly(t *testing.T, sites, nth int) flown {
	f := flown{t: t, there: storetest.NewMemory()}
	here := storetest.NewMemory()
	f.r = repotest.Init(t, here, repo.Options{})
	signer, err := seal.NewSigner()
	if err != nil {
		t.Fatal(err)
	}
	if err := f.r.CopyKeys(t.Context(), f.there); err != nil {
		t.Fatal(err)
	}
	open := func(st store.Store) (*repo.Repository, *repo.Log, string) {
		r, err := f.r.Beside(t.Context(), st, repo.Options{Signer: signer, CacheDir: t.TempDir()})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = r.Close() })
		log := r.Log("orders-db")
		if err := log.Register(t.Context(), repo.DefaultGroup); err != nil {
			t.Fatal(err)
		}
		replica, err := r.Replica(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return r, log, replica
	}
	_, _, replica := open(here)
	_, _, other := open(f.there)
	var mu sync.Mutex
	seen := map[string]bool{}
	held := storetest.NewFaulty(f.there, storetest.Fault{Op: "put", When: storetest.Stall, Kind: store.Busy, Match: func(name string) bool {
		mu.Lock()
		defer mu.Unlock()
		if !strings.HasPrefix(name, "log/") || seen[name] {
			return false
		}
		seen[name] = true
		return len(seen) == nth
	}})
	known := repo.NewHolders()
	fan := geo.NewFan(t.Context(), []string{"here", "there"}, "here", here, geo.FanOptions{Sync: sites, Free: repo.FreeOfOrder(), Known: known, Replica: replica})
	_, log, _ := open(fan)
	log.Tell(known, "")
	j := geo.Joining{Site: "there", Replica: other, Store: held, Close: func() {}}
	if err := fan.Join(t.Context(), j, "here", func(context.Context) error { return nil }); err != nil {
		t.Fatal(err)
	}
	w := capture.NewLogWriter(log, capture.LogOptions{Interval: time.Second, Durable: func(_ wal.TimelineID, lsn wal.LSN) { f.durable = uint64(lsn) }})
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { _ = w.Run(ctx); close(ended) }()
	if err := w.Begin(ctx, 1, flownFrom, nil, 0); err != nil {
		t.Fatal(err)
	}
	for at := wal.LSN(flownFrom); at < flownTo; at += flownStep {
		if err := w.Write(ctx, capture.LogArrival{Timeline: 1, Start: at, Data: make([]byte, flownStep), Clock: time.Now(), End: at + flownStep}); err != nil {
			t.Fatal(err)
		}
		<-time.After(1100 * time.Millisecond) // of the bubble
		synctest.Wait()
	}
	f.there = f.there.Clone() // everything is lost at once
	stop()
	late, cancel := context.WithTimeout(context.Background(), time.Millisecond)
	defer cancel()
	fan.End(late)
	<-ended
	return f
}

// judge says what the first gap is that the site has; ok is false where there is none.
func (f flown) judge() (start uint64, flight *points.Flight, lost string, ok bool) {
	r, err := f.r.Beside(f.t.Context(), f.there, repo.Options{CacheDir: f.t.TempDir()})
	if err != nil {
		f.t.Fatal(err)
	}
	defer r.Close() //nolint:errcheck // only read
	log := r.Log("orders-db")
	extents, err := log.Extents(f.t.Context(), 1, 0)
	if err != nil {
		f.t.Fatal(err)
	}
	ranges := repo.Merge(extents)
	if len(ranges) < 2 {
		return 0, nil, "", false
	}
	var behind []repo.Extent
	for _, e := range extents {
		if e.Start > ranges[0].End {
			behind = append(behind, e)
		}
	}
	flight, lost, err = points.Judge(f.t.Context(), log, wal.LSN(ranges[0].End), behind)
	if err != nil {
		f.t.Fatal(err)
	}
	return ranges[0].End, flight, lost, true
}

// TestEveryPartThatIsHeldBack holds each part in turn back on its way to a site while others pass it: what is left there ends in what
// was in flight, and where the log is acknowledged at two sites nothing that was acknowledged is missing. With a part gone that the site
// had, it is a hole.
func TestEveryPartThatIsHeldBack(t *testing.T) {
	t.Parallel()
	for sites := 1; sites <= 2; sites++ {
		gaps, holes := 0, 0
		for nth := 1; nth <= 10; nth++ {
			synctest.Test(t, func(t *testing.T) {
				f := fly(t, sites, nth)
				start, flight, lost, ok := f.judge()
				if ok {
					gaps++
					if flight == nil || lost != "" {
						t.Errorf("%d sites, without part %d: the gap at %x is a hole: %q", sites, nth, start, lost)
					}
					if sites == 2 && f.durable > start {
						t.Errorf("two sites, without part %d: %x was acknowledged, and there is log up to %x", nth, f.durable, start)
					}
				}
				for _, name := range f.there.Names() {
					if strings.HasPrefix(name, "log/") && strings.Contains(name, fmt.Sprintf("-%016x", flownFrom+2*flownStep)) {
						if err := f.there.Delete(t.Context(), name); err != nil {
							t.Fatal(err)
						}
					}
				}
				at, flight, lost, hole := f.judge()
				if hole && at < flownFrom+2*flownStep && nth > 3 {
					holes++
					if flight != nil || !strings.Contains(lost, "this replica had everything up to") {
						t.Errorf("%d sites, without part %d, which never came, and one that had: in flight is %v, lost %q", sites, nth, flight, lost)
					}
				}
			})
		}
		t.Logf("%d sites: %d gaps, %d holes", sites, gaps, holes)
		if gaps == 0 || holes == 0 {
			t.Errorf("%d sites: nothing was tried", sites)
		}
	}
}
