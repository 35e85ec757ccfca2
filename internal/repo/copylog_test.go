package repo

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/holdfast-dr/holdfast/internal/seal"
	"github.com/holdfast-dr/holdfast/internal/store"
	"github.com/holdfast-dr/holdfast/internal/store/storetest"
)

// farLog is a log in another replica.
type farLog struct {
	*Log
	t  *testing.T
	st *storetest.Memory
}

func newFarLog(t *testing.T) *farLog {
	t.Helper()
	st := storetest.NewMemory()
	l := newFarLogIn(t, st)
	l.st = st
	return l
}

// newFarLogIn is newFarLog in a store whose objects nobody looks at.
func newFarLogIn(t *testing.T, st store.Store) *farLog {
	t.Helper()
	l := newRepository(t, st).Log("orders-db")
	if err := l.Register(t.Context(), DefaultGroup); err != nil {
		t.Fatal(err)
	}
	return &farLog{Log: l, t: t}
}

// position has the bytes of a log that say where they are.
func position(start, end uint64) []byte {
	b := make([]byte, end-start)
	for i := range b {
		b[i] = byte((start + uint64(i)) >> 6)
	}
	return b
}

func (l *farLog) put(s StreamID, start, end uint64) {
	l.t.Helper()
	if err := l.Encoder().Put(l.t.Context(), s, start, position(start, end), ExtentClock{}, Fast); err != nil {
		l.t.Fatal(err)
	}
}

func (l *farLog) mark(s StreamID, at uint64) {
	l.t.Helper()
	if err := l.PutMark(l.t.Context(), Mark{Stream: s, LSN: at}); err != nil {
		l.t.Fatal(err)
	}
}

func (l *farLog) replica(st store.Store) *Repository {
	l.t.Helper()
	if err := l.r.CopyKeys(l.t.Context(), st); err != nil {
		l.t.Fatal(err)
	}
	r := must(l.r.Beside(l.t.Context(), st, testOptions(l.t)))
	l.t.Cleanup(func() { r.Close() })
	return r
}

// want reads the log in a replica, whose mark must be at the end.
func (l *farLog) want(st store.Store, s StreamID, start, end uint64) {
	l.t.Helper()
	log := reopen(l.t, st).Log("orders-db")
	extents := must(log.Extents(l.t.Context(), s, start))
	if got := Merge(extents); len(got) != 1 || got[0] != (Range{start, end}) {
		l.t.Errorf("stream %d has %v, want %d to %d", s, got, start, end)
	}
	for _, e := range extents {
		if b, _, err := log.Reader().Read(l.t.Context(), e); err != nil || !bytes.Equal(b, position(e.Start, e.End)) {
			l.t.Errorf("%+v: %d other bytes, %v", e, len(b), err)
		}
	}
	if m, ok, err := log.Mark(l.t.Context(), s); err != nil || !ok || m.LSN != end {
		l.t.Errorf("the mark of stream %d: %+v, %v, %v; want %d", s, m, ok, err, end)
	}
}

func TestCopyLog(t *testing.T) {
	t.Parallel()
	l := newFarLog(t)
	l.put(1, 0, 5000)
	l.put(1, 5000, 6000)
	l.put(1, 6000, 6100)
	l.mark(1, 6100)
	if err := l.PutFile(t.Context(), "00000002.history", []byte("1\t0/17D4\tno reason")); err != nil {
		t.Fatal(err)
	}
	if err := l.PutSummary(t.Context(), Summary{1, 0, 6000}, []byte("blocks")); err != nil {
		t.Fatal(err)
	}
	here := storetest.NewMemory()
	r := l.replica(here)
	copied := func(floors map[StreamID]uint64) LogCopyReport {
		t.Helper()
		return must(r.CopyLog(t.Context(), l.r, "orders-db", floors))
	}
	if c := copied(nil); c.Extents != 3 || c.Others != 3 {
		t.Errorf("copied %+v", c)
	}
	l.want(here, 1, 0, 6100)
	if b, err := r.Log("orders-db").File(t.Context(), "00000002.history"); err != nil || !bytes.HasPrefix(b, []byte("1\t0/17D4")) {
		t.Errorf("the file: %q, %v", b, err)
	}
	if b, err := r.Log("orders-db").Summary(t.Context(), Summary{1, 0, 6000}); err != nil || string(b) != "blocks" {
		t.Errorf("the summary: %q, %v", b, err)
	}
	if c := copied(nil); c.Extents+c.Others > 0 || c.Bytes > 0 || c.Ends[1] != 6100 {
		t.Errorf("copied again: %+v", c)
	}

	// A finished extent takes the place of pieces, there and here.
	l.put(1, 5000, 8000)
	if err := l.DropPieces(t.Context(), Extent{Stream: 1, Start: 5000, End: 8000}); err != nil {
		t.Fatal(err)
	}
	l.mark(1, 8000)
	l.put(2, 8000, 9000)
	l.mark(2, 9000)
	if c := copied(nil); c.Extents != 2 {
		t.Errorf("copied %+v", c)
	}
	l.want(here, 1, 0, 8000)
	l.want(here, 2, 8000, 9000)
	if n := len(must(r.Log("orders-db").Extents(t.Context(), 1, 0))); n != 2 {
		t.Errorf("%d extents of stream 1 are here, want 2", n)
	}
	wantClean(t, here)

	// What nobody needs here does not come.
	other := storetest.NewMemory()
	r = l.replica(other)
	if c := copied(map[StreamID]uint64{1: 5000}); c.Extents != 2 {
		t.Errorf("copied %+v", c)
	}
	l.want(other, 1, 5000, 8000)

	// What is followed comes alone, as long as the log is here up to where it was.
	l.put(2, 9000, 9500)
	l.mark(2, 9500)
	if c, err := r.FollowLog(t.Context(), l.r, "orders-db", 2, 9000); err != nil || c.Extents != 1 || c.Ends[2] != 9500 || len(c.Ends) != 1 {
		t.Errorf("followed: %+v, %v", c, err)
	}
	l.want(other, 2, 8000, 9500)
	empty := storetest.NewMemory()
	r = l.replica(empty)
	if _, err := r.FollowLog(t.Context(), l.r, "orders-db", 2, 9000); !errors.Is(err, ErrLogBehind) || count(empty, prefixMarks) > 0 {
		t.Errorf("of a replica that was emptied: %v", err)
	}
}

// An extent that is damaged there is not copied, and the mark behind it promises nothing here.
func TestCopyLogOfDamage(t *testing.T) {
	t.Parallel()
	l := newFarLog(t)
	l.put(1, 0, 5000)
	l.put(1, 5000, 6000)
	l.mark(1, 6000)
	if err := damage["flipped"](t.Context(), l.st, l.r.extentName("orders-db", 1, 5000, 6000)); err != nil {
		t.Fatal(err)
	}
	here := storetest.NewMemory()
	r := l.replica(here)
	var broken *seal.DamagedError
	if _, err := r.CopyLog(t.Context(), l.r, "orders-db", nil); !errors.As(err, &broken) || !strings.HasPrefix(broken.Name, prefixLog) {
		t.Errorf("a damaged extent: %v", err)
	}
	if n, m := count(here, prefixLog), count(here, prefixMarks); n != 1 || m != 0 {
		t.Errorf("%d extents and %d marks are here, want 1 and 0", n, m)
	}
}

func TestCopyLogEveryFault(t *testing.T) {
	t.Parallel()
	l := newFarLog(t)
	l.put(1, 0, 5000)
	l.put(1, 5000, 5500)
	l.put(1, 5000, 6000)
	l.mark(1, 6000)
	storetest.EachFault(t, storetest.Sweep{
		Prepare: func(t *testing.T, s store.Store) {
			early := *l
			early.t = t
			r := early.replica(s)
			if err := r.Log("orders-db").Register(t.Context(), DefaultGroup); err != nil {
				t.Fatal(err)
			}
			if err := r.Log("orders-db").Encoder().Put(t.Context(), 1, 5000, position(5000, 5500), ExtentClock{}, Fast); err != nil {
				t.Fatal(err)
			}
		},
		Kind: store.Denied,
		Run: func(t *testing.T, s store.Store) error {
			r, err := l.r.Beside(t.Context(), s, testOptions(t))
			if err != nil {
				return err
			}
			defer r.Close()
			_, err = r.CopyLog(t.Context(), l.r, "orders-db", nil)
			return err
		},
		Check: func(t *testing.T, s store.Store, _ error) {
			log := reopen(t, s).Log("orders-db")
			if m, ok, err := log.Mark(t.Context(), 1); err != nil || ok && Merge(must(log.Extents(t.Context(), 1, 0)))[0].End < m.LSN {
				t.Errorf("the mark says %+v, %v", m, err)
			}
			must(must(l.r.Beside(t.Context(), s, testOptions(t))).CopyLog(t.Context(), l.r, "orders-db", nil))
			early := *l
			early.t = t
			early.want(s, 1, 0, 6000)
		},
	})
}
