package walserve

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/holdfast-dr/holdfast/internal/pg/wal"
	"github.com/holdfast-dr/holdfast/internal/repo"
	"github.com/holdfast-dr/holdfast/internal/store"
)

// far is a store that takes its time over each object.
type far struct {
	store.Store
	latency time.Duration
}

func (f *far) Get(ctx context.Context, name string, limit int64) ([]byte, error) {
	<-time.After(f.latency) // of the bubble's clock
	return f.Store.Get(ctx, name, limit)
}

func (f *far) GetRange(ctx context.Context, name string, off int64, dst []byte) error {
	<-time.After(f.latency)
	return f.Store.GetRange(ctx, name, off, dst)
}

// replay asks for n segments of timeline 1, one after the other, and takes a time for each, by a clock on which nothing
// else takes any. It returns what was counted, and the number of the last segment that was late.
func replay(t *testing.T, a *archive, p *Prefetcher, n int, each time.Duration) (s Stats, lastLate int) {
	t.Helper()
	in, err := openPlace(t.TempDir(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer in.close()
	p.in, p.Source = in, NewSource(a.r, Policy{System: system, SegmentSize: uint32(size)})
	if err := in.mkdir(SpoolName); err != nil {
		t.Fatal(err)
	}
	p.setDefaults()
	ctx, cancel := context.WithCancel(t.Context())
	var eg errgroup.Group
	p.begin(ctx, &eg)
	<-time.After(time.Second) // as a server needs to start
	for i := range n {
		before := p.Stats().Late
		if r := p.get(ctx, request{wal.SegmentName(1, wal.SegmentNumber(i), size), "RECOVERYXLOG"}); r.Outcome != Served {
			t.Fatalf("segment %d is %+v", i, r)
		}
		if p.Stats().Late > before {
			lastLate = i
		}
		<-time.After(each)
	}
	cancel()
	if err := eg.Wait(); err != nil {
		t.Error(err)
	}
	return p.Stats(), lastLate
}

// A server that replays 200 MB of log in a second has a store that needs 50 ms for each segment of 1 MiB. The look-ahead
// that suffices is found within a few segments, and then each one is there before it is asked for.
func TestTheReplayDoesNotWaitForAFarStore(t *testing.T) {
	const n, each, latency = 100, 5 * time.Millisecond, 50 * time.Millisecond
	synctest.Test(t, func(t *testing.T) {
		a := newArchive(t)
		for i := range uint64(n + 1) {
			a.put(1, 2*i, 2*i+2)
		}
		a.st.Store = &far{a.st.Store, latency}

		s, last := replay(t, a, &Prefetcher{Begin: wal.SegmentName(1, 0, size), Ahead: 16}, n, each)
		t.Logf("by itself: %+v, the last late one is segment %d", s, last)
		if s.Segments != n || s.Ready+s.Late+s.Unforeseen != n || s.Unforeseen != 0 {
			t.Errorf("of %d segments are counted: %+v", n, s)
		}
		if last > n/2 || s.Late > n/10 {
			t.Errorf("%d segments were late, the last is number %d: the look-ahead did not become wide enough", s.Late, last)
		}
		// What this test is worth: a look-ahead that stays as it is never catches up.
		fixed, _ := replay(t, a, &Prefetcher{Ahead: 16, Workers: 4}, n, each)
		t.Logf("fixed: %+v", fixed)
		if fixed.Late < n/10 || fixed.Unforeseen != 1 {
			t.Errorf("with 4 requests at once: %+v; want many that are late, and the first one unforeseen", fixed)
		}
	})
}

// PostgreSQL reads the checkpoint's record first, which may lie some segments behind its redo position. What was fetched
// for the beginning is kept meanwhile.
func TestTheBeginningIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newArchive(t)
		for i := range uint64(10) {
			a.put(1, 2*i, 2*i+2)
		}
		in, err := openPlace(t.TempDir(), nil)
		if err != nil {
			t.Fatal(err)
		}
		defer in.close()
		p := &Prefetcher{Source: NewSource(a.r, Policy{System: system, SegmentSize: uint32(size)}), Begin: wal.SegmentName(1, 2, size), Ahead: 3, Workers: 2, in: in}
		if err := in.mkdir(SpoolName); err != nil {
			t.Fatal(err)
		}
		p.setDefaults()
		ctx, cancel := context.WithCancel(t.Context())
		var eg errgroup.Group
		p.begin(ctx, &eg)
		synctest.Wait()
		for _, i := range []wal.SegmentNumber{4, 2, 3, 4, 5} {
			if r := p.get(ctx, request{wal.SegmentName(1, i, size), "RECOVERYXLOG"}); r.Outcome != Served {
				t.Fatalf("segment %d is %+v", i, r)
			}
			synctest.Wait()
		}
		if s := p.Stats(); s.Ready != 5 {
			t.Errorf("counted %+v; want all 5 ready", s)
		}
		// Nothing that was passed by is left.
		names, err := os.ReadDir(filepath.Join(in.root.Name(), SpoolName))
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range names {
			if e.Name() < wal.SegmentName(1, 6, size) {
				t.Errorf("the spool still holds %s", e.Name())
			}
		}
		cancel()
		if err := eg.Wait(); err != nil {
			t.Error(err)
		}
	})
}

// A recovery that knows its way looks ahead over the change of a timeline, which lies in the middle of a segment.
func TestTheNextTimelineIsForeseen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newArchive(t)
		a.put(1, 0, 6)
		a.put(3, 3, 8)
		history := []byte("1\t0/180000\tpromoted\n")
		if err := a.log.PutFile(t.Context(), "00000003.history", history); err != nil {
			t.Fatal(err)
		}
		way, err := wal.ParseHistory(3, history)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range []struct {
			way        *wal.Timelines
			unforeseen int
		}{{way, 0}, {nil, 1}} {
			in, err := openPlace(t.TempDir(), nil)
			if err != nil {
				t.Fatal(err)
			}
			defer in.close()
			p := &Prefetcher{Source: NewSource(a.r, Policy{System: system, SegmentSize: uint32(size), Timeline: 3}), Begin: wal.SegmentName(1, 0, size), Way: c.way, in: in}
			if err := in.mkdir(SpoolName); err != nil {
				t.Fatal(err)
			}
			p.setDefaults()
			ctx, cancel := context.WithCancel(t.Context())
			var eg errgroup.Group
			p.begin(ctx, &eg)
			synctest.Wait()
			for _, name := range []string{wal.SegmentName(1, 0, size), wal.SegmentName(3, 1, size), wal.SegmentName(3, 2, size), wal.SegmentName(3, 3, size)} {
				if r := p.get(ctx, request{name, "RECOVERYXLOG"}); r.Outcome != Served {
					t.Fatalf("%s is %+v", name, r)
				}
				synctest.Wait()
			}
			if s := p.Stats(); s.Unforeseen != c.unforeseen || s.Late != 0 || s.Segments != 4 {
				t.Errorf("with the way %v is counted %+v, want %d unforeseen", c.way, s, c.unforeseen)
			}
			cancel()
			if err := eg.Wait(); err != nil {
				t.Error(err)
			}
		}
	})
}

// The look-ahead begins and ends within its bounds, whatever the size of segments.
func TestReachHasBounds(t *testing.T) {
	a := newArchive(t)
	in, err := openPlace(t.TempDir(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer in.close()
	for _, segment := range []uint32{1 << 20, 16 << 20, 64 << 20, 1 << 30} {
		p := &Prefetcher{Source: NewSource(a.r, Policy{System: system, SegmentSize: segment}), in: in}
		p.setDefaults()
		first := p.reach
		started := 0
		p.reach.start = func() { started++ }
		for range 20 {
			p.count("", late, 0)
		}
		if got := p.reach; got.ahead < 1 || got.ahead > max(first.ahead, mostAhead/int(segment)) || got.workers > maxWorkers || started != got.workers-first.workers {
			t.Errorf("segments of %d: from %+v to %+v, with %d workers started", segment, first, got, started)
		}
	}
	if s := int64(workerMemory); s != 2*repo.MaxExtent {
		t.Errorf("a worker holds %d", s)
	}
}
