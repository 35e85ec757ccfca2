package walserve

import (
	"context"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/holdfast-dr/holdfast/internal/pg/wal"
	"github.com/holdfast-dr/holdfast/internal/repo"
	"github.com/holdfast-dr/holdfast/internal/repo/repotest"
	"github.com/holdfast-dr/holdfast/internal/store"
	"github.com/holdfast-dr/holdfast/internal/store/storetest"
)

const (
	system = "orders-db"
	size   = wal.SegmentSize(1 << 20)
	id     = 7100000000000000001
)

// broken is a store that can be made to fail.
type broken struct {
	store.Store
	err error
}

func (b *broken) Get(ctx context.Context, name string, limit int64) ([]byte, error) {
	if b.err != nil {
		return nil, &store.Error{Op: "get", Name: name, Store: "test", Kind: store.Busy, Err: b.err}
	}
	return b.Store.Get(ctx, name, limit)
}

func (b *broken) GetRange(ctx context.Context, name string, off int64, dst []byte) error {
	if b.err != nil {
		return &store.Error{Op: "get", Name: name, Store: "test", Kind: store.Busy, Err: b.err}
	}
	return b.Store.GetRange(ctx, name, off, dst)
}

// archive has timeline 1 up to 4.5 MiB with a gap from 2 to 3 MiB, which timeline 3 lacks: it left 1 at 1.5 MiB.
type archive struct {
	t   *testing.T
	st  *broken
	r   *repo.Repository
	log *repo.Log
}

func newArchive(t *testing.T) *archive {
	t.Helper()
	st := &broken{Store: storetest.NewMemory()}
	r := repotest.Init(t, st, repo.Options{})
	a := &archive{t, st, r, r.Log(system)}
	if err := a.log.Register(t.Context(), repo.DefaultGroup); err != nil {
		t.Fatal(err)
	}
	return a
}

// put stores the log of a timeline from one position to another, in units of half a segment.
func (a *archive) put(tl repo.StreamID, from, to uint64) {
	a.t.Helper()
	half := uint64(size) / 2
	b := make([]byte, (to-from)*half)
	for i := range b {
		b[i] = byte(tl)
	}
	for at := uint64(0); at < uint64(len(b)); at += half {
		if (from*half+at)%uint64(size) == 0 {
			header(b[at:], from*half+at)
		}
	}
	if err := a.log.Encoder().Put(a.t.Context(), tl, from*half, b, repo.ExtentClock{}, repo.Fast); err != nil {
		a.t.Fatal(err)
	}
}

func header(b []byte, at uint64) {
	le := binary.LittleEndian
	le.PutUint16(b, 0xD110)
	le.PutUint16(b[2:], 2)
	le.PutUint32(b[4:], 1)
	le.PutUint64(b[8:], at)
	le.PutUint64(b[24:], id)
	le.PutUint32(b[32:], uint32(size))
	le.PutUint32(b[36:], wal.PageSize)
}

func (a *archive) mark(tl repo.StreamID, halves uint64) {
	a.t.Helper()
	if err := a.log.PutMark(a.t.Context(), repo.Mark{Stream: tl, LSN: halves * uint64(size) / 2}); err != nil {
		a.t.Fatal(err)
	}
}

func (a *archive) fetch(p Policy, name string) (Result, []byte) {
	a.t.Helper()
	p.System, p.SegmentSize = system, uint32(size)
	path := filepath.Join(a.t.TempDir(), "RECOVERYXLOG")
	r := Fetch(a.t.Context(), name, path, FetchOptions{Open: func(context.Context) (*Source, error) { return NewSource(a.r, p), nil }})
	b, err := os.ReadFile(path)
	if (err == nil) != (r.Outcome == Served) {
		a.t.Errorf("%s is %s, and the file: %v", name, r.Outcome, err)
	}
	return r, b
}

func TestOutcomes(t *testing.T) {
	a := newArchive(t)
	a.put(1, 0, 4)
	a.put(1, 6, 9)
	a.put(3, 3, 6)
	a.put(5, 0, 2)
	if err := a.log.PutFile(t.Context(), "00000003.history", []byte("1\t0/180000\tpromoted\n")); err != nil {
		t.Fatal(err)
	}
	name := func(tl wal.TimelineID, n wal.SegmentNumber) string { return wal.SegmentName(tl, n, size) }
	strict, bounded, loss := Policy{SystemID: id}, Policy{Bounded: true}, Policy{AllowLoss: true}
	a.mark(1, 9)
	for _, c := range []struct {
		why    string
		policy Policy
		name   string
		want   Outcome
		code   int
	}{
		{"whole", strict, name(1, 0), Served, 0},
		{"in the gap", strict, name(1, 2), Gap, 200},
		{"in the gap, with a target before it", bounded, name(1, 2), Gap, 200},
		{"in the gap, accepted", loss, name(1, 2), EndOfLog, 1},
		{"behind the gap", strict, name(1, 3), Served, 0},
		{"the tail", strict, name(1, 4), Served, 0},
		{"behind the end", strict, name(1, 5), EndOfLog, 1},
		{"two timelines in one segment", strict, name(3, 1), Served, 0},
		{"the older timeline behind the switch", Policy{Timeline: 3}, name(1, 2), EndOfLog, 1},
		{"a history", strict, "00000003.history", Served, 0},
		{"no such timeline", strict, "00000004.history", NotThere, 1},
		{"log without its history", strict, "00000005.history", StoreFailed, 201},
		{"a file for people", strict, name(1, 0) + ".00000028.backup", NotThere, 1},
		{"no name", strict, "../../etc/passwd", BadRequest, 203},
		{"another cluster", Policy{SystemID: 1}, name(1, 0), StoreFailed, 201},
	} {
		r, b := a.fetch(c.policy, c.name)
		if r.Outcome != c.want || r.ExitCode() != c.code {
			t.Errorf("%s: %s is %+v, code %d; want %s, %d", c.why, c.name, r, r.ExitCode(), c.want, c.code)
		}
		if (r.ExitCode() > 128) != (r.Err() != nil) {
			t.Errorf("%s: code %d with the message %v", c.why, r.ExitCode(), r.Err())
		}
		if r.Outcome == Served && filepath.Ext(c.name) == "" && len(b) != int(size) {
			t.Errorf("%s: %d bytes", c.why, len(b))
		}
		if c.why == "two timelines in one segment" && (b[size/2-1] != 1 || b[size/2] != 3) {
			t.Errorf("%s: the bytes are of timelines %d and %d", c.why, b[size/2-1], b[size/2])
		}
		if c.why == "the tail" && (b[size/2-1] != 1 || b[size/2] != 0) {
			t.Errorf("%s: it is not padded", c.why)
		}
	}

	a.mark(1, 10)
	for _, c := range []struct {
		policy Policy
		n      wal.SegmentNumber
		want   Outcome
	}{{strict, 4, BelowMark}, {strict, 5, EndOfLog}, {bounded, 4, Served}, {loss, 4, Served}} {
		if c.n == 5 {
			a.mark(1, 11)
			c.want = BelowMark
		}
		if r, _ := a.fetch(c.policy, name(1, c.n)); r.Outcome != c.want {
			t.Errorf("with a higher mark, segment %d with %+v is %+v, want %s", c.n, c.policy, r, c.want)
		}
	}

	a.st.err = errors.New("no route to host")
	for _, n := range []string{name(1, 0), name(1, 5), "00000003.history", "00000004.history"} {
		if r, _ := a.fetch(strict, n); r.Outcome != StoreFailed || r.ExitCode() != 201 {
			t.Errorf("without the store, %s is %+v", n, r)
		}
	}
}

// A repository that is emptied, or made anew at its place, while a recovery runs has no log and no marks. That is no end.
func TestRepositoryLostOnTheWay(t *testing.T) {
	full, empty := newArchive(t), newArchive(t)
	full.put(1, 0, 4)
	full.mark(1, 4)
	planned := Policy{SystemID: id, Timeline: 1, Reached: 4 * wal.LSN(size) / 2}
	if r, _ := full.fetch(planned, wal.SegmentName(1, 2, size)); r.Outcome != EndOfLog {
		t.Errorf("behind the end: %+v", r)
	}
	bounded := planned
	bounded.Bounded = true
	for _, c := range []struct {
		policy Policy
		want   Outcome
	}{{planned, BelowMark}, {bounded, EndOfLog}} {
		r, _ := empty.fetch(c.policy, wal.SegmentName(1, 1, size))
		if r.Outcome != c.want || c.want == BelowMark && (r.To != planned.Reached || r.ExitCode() != 202) {
			t.Errorf("from the emptied repository: %+v, want %s", r, c.want)
		}
	}
}

// The Prefetcher gives the same answers, in any order, and leaves nothing behind.
func TestPrefetcher(t *testing.T) {
	a := newArchive(t)
	a.put(1, 0, 21)
	dir := t.TempDir()
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	p := Policy{System: system, SegmentSize: uint32(size)}
	go func() { ended <- (&Prefetcher{Source: NewSource(a.r, p), Ahead: 3}).Run(ctx, dir) }()
	o := FetchOptions{
		StartPrefetcher: func(string) (<-chan struct{}, error) { return nil, nil }, // it was started above
		Open:            func(context.Context) (*Source, error) { return nil, errors.New("not the prefetcher's answer") },
	}
	for _, n := range []wal.SegmentNumber{0, 1, 2, 5, 6, 3, 10, 11, 9, 10} {
		path := filepath.Join(dir, "RECOVERYXLOG")
		r := Fetch(t.Context(), wal.SegmentName(1, n, size), path, o)
		want := Served
		if n == 11 {
			want = EndOfLog
		}
		if r.Outcome != want {
			t.Fatalf("segment %d is %+v, want %s", n, r, want)
		}
		if want != Served {
			continue
		}
		b, err := os.ReadFile(path)
		if err != nil || binary.LittleEndian.Uint64(b[8:]) != uint64(size.Start(n)) {
			t.Fatalf("segment %d is another one: %v", n, err)
		}
		os.Remove(path)
	}
	a.put(1, 21, 24) // the log goes on
	if r := Fetch(t.Context(), wal.SegmentName(1, 11, size), filepath.Join(dir, "RECOVERYXLOG"), o); r.Outcome != Served {
		t.Errorf("more log was not seen: %+v", r)
	}
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(dir, SpoolName)); err == nil {
		t.Error("the spool was left behind")
	}
}
