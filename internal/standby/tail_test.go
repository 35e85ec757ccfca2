package standby

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/internal/pg"
	"github.com/holdfast-dr/holdfast/internal/pg/pgtest"
	"github.com/holdfast-dr/holdfast/internal/pg/wal"
	"github.com/holdfast-dr/holdfast/internal/pg/walsender"
	"github.com/holdfast-dr/holdfast/internal/repo"
	"github.com/holdfast-dr/holdfast/internal/repo/repotest"
	"github.com/holdfast-dr/holdfast/internal/store/storetest"
)

const (
	size  = 1 << 20
	begin = 5 * size
)

// world is a log that grows in a repository, and a tail of it.
type world struct {
	t     *testing.T
	store *storetest.Faulty
	repo  *repo.Repository
	log   *repo.Log
	tail  *tail
	text  []byte // what the log shall be, from begin on
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := newStillWorld(t)
	w.follow()
	return w
}

func (w *world) follow() {
	w.tail.every = 2 * time.Millisecond
	ctx, cancel := context.WithCancel(w.t.Context())
	done := make(chan struct{})
	go func() { defer close(done); w.tail.follow(ctx) }()
	w.t.Cleanup(func() { cancel(); <-done })
}

// newStillWorld is a world in which the test looks, or lets follow.
func newStillWorld(t *testing.T) *world {
	t.Helper()
	st := storetest.NewFaulty(storetest.NewMemory())
	r := repotest.Init(t, st, repo.Options{})
	w := &world{t: t, store: st, repo: r, log: r.Log("orders-db"), text: make([]byte, 6*size)}
	for i := range w.text {
		w.text[i] = byte(rand.N(256))
	}
	w.tail = newTail(walsender.System{ID: 42, SegmentSize: size, Major: 15}, w.log, begin)
	w.tail.every = time.Hour
	return w
}

// put stores a part of the text, by offsets, on a timeline.
func (w *world) put(tl wal.TimelineID, from, to int) {
	w.t.Helper()
	if err := w.log.Encoder().Put(w.t.Context(), repo.StreamID(tl), begin+uint64(from), w.text[from:to], repo.ExtentClock{Source: time.Now()}, repo.Fast); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) history(tl wal.TimelineID, left int) {
	w.t.Helper()
	h := wal.Timelines{Timeline: tl, Ancestors: []wal.Switch{{Timeline: tl - 1, End: begin + wal.LSN(left), Reason: "test"}}}
	if err := w.log.PutFile(w.t.Context(), pg.HistoryFile(tl), h.Format()); err != nil {
		w.t.Fatal(err)
	}
}

// mark promises that the log of a timeline reached an offset.
func (w *world) mark(tl wal.TimelineID, at uint64) {
	w.t.Helper()
	if err := w.log.PutMark(w.t.Context(), repo.Mark{Stream: repo.StreamID(tl), LSN: begin + at}); err != nil {
		w.t.Fatal(err)
	}
}

// session is one Send.
type session struct {
	w      *world
	cancel context.CancelFunc
	ended  chan struct{}
	end    walsender.End
	err    error

	mu   sync.Mutex // guards got
	from int
	got  []byte
}

func (w *world) send(tl wal.TimelineID, from int) *session {
	ctx, cancel := context.WithCancel(w.t.Context())
	s := &session{w: w, cancel: cancel, ended: make(chan struct{}), from: from}
	go func() {
		defer close(s.ended)
		s.end, s.err = w.tail.Send(ctx, tl, begin+wal.LSN(from), func(at wal.LSN, b []byte) error {
			s.mu.Lock()
			defer s.mu.Unlock()
			if at != begin+wal.LSN(from+len(s.got)) {
				return errors.New("a piece is out of order")
			}
			s.got = append(s.got, b...)
			return nil
		})
	}()
	w.t.Cleanup(func() { cancel(); <-s.ended })
	return s
}

// has waits until the session has sent everything up to an offset, and wants no more than that after another look.
func (s *session) has(to int) {
	s.w.t.Helper()
	deadline := time.After(20 * time.Second)
	for looks := 0; looks < 3; {
		_, changed := s.w.tail.state()
		s.mu.Lock()
		n := s.from + len(s.got)
		same := bytes.Equal(s.got, s.w.text[s.from:n])
		s.mu.Unlock()
		if n > to || !same {
			s.w.t.Fatalf("it was sent up to %d, and it is the log: %v; want %d", n, same, to)
		}
		if n == to {
			looks++
		}
		select {
		case <-changed:
		case <-s.ended:
			s.w.t.Fatalf("the session ended at %d: %+v, %v", n, s.end, s.err)
		case <-deadline:
			s.w.t.Fatalf("it was sent up to %d of %d", n, to)
		}
	}
}

func TestOnlyWhatIsThereWithoutAHoleIsServed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := w.send(1, 0)
	s.has(0)
	w.put(1, 0, 1000)
	w.put(1, 1000, 5000)
	s.has(5000)
	w.put(1, 9000, 12000) // stored before what comes before it
	s.has(5000)
	if v, _ := w.tail.state(); v.End != begin+5000 || v.Next != begin+9000 {
		t.Errorf("of the hole is known: %+v", v)
	}
	w.put(1, 5000, 9000)
	s.has(12000)
	// One extent takes the place of its pieces.
	w.put(1, 0, 2*size)
	if err := w.log.DropPieces(t.Context(), repo.Extent{Stream: 1, Start: begin, End: begin + 2*size}); err != nil {
		t.Fatal(err)
	}
	s.has(2 * size)
	w.tail.mu.Lock()
	n := len(w.tail.pieces)
	w.tail.mu.Unlock()
	if n > 2 {
		t.Errorf("%d pieces are remembered, of which nobody will ask", n)
	}
	if v, err := w.tail.freezeAtEnd(t.Context()); err != nil || v.End != begin+2*size {
		t.Errorf("frozen at %s, %v", v.End, err)
	}
	w.put(1, 2*size, 2*size+100)
	s.has(2 * size)
	w.tail.thaw()
	s.has(2*size + 100)
	// A standby that is further behind comes.
	s.cancel()
	w.send(1, size).has(2*size + 100)
}

// A store whose directory is gone lists nothing, without an error: that is no end of the log, and no reason to follow an older timeline.
func TestAStoreThatIsGone(t *testing.T) {
	t.Parallel()
	w := newStillWorld(t)
	w.history(2, 0)
	w.put(2, 0, 1000)
	w.follow()
	s := w.send(2, 0)
	s.has(1000)
	empty := repotest.Init(t, storetest.NewMemory(), repo.Options{}).Log("orders-db")
	w.tail.mu.Lock()
	full := w.tail.log
	w.tail.log, w.tail.waysAt = empty, time.Time{}
	w.tail.mu.Unlock()
	for v, changed := w.tail.state(); v.Problem == nil; v, changed = w.tail.state() {
		<-changed
	}
	if v, _ := w.tail.state(); v.Way.Timeline != 2 || v.Foreign != nil || v.End != begin+1000 {
		t.Errorf("it believes it: %+v", v)
	}
	w.tail.mu.Lock()
	w.tail.log = full
	w.tail.mu.Unlock()
	w.put(2, 1000, 2000)
	s.has(2000)
}

// The end of a timeline is told, and what lies before it may come from the beginning of the next one's log.
func TestTimelines(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	const left = size + 5000
	w.put(1, 0, size+1000)
	s := w.send(1, 0)
	s.has(size + 1000)
	w.history(2, left)
	w.put(2, size, left+3000) // from the start of the segment on
	<-s.ended
	if s.err != nil || s.end != (walsender.End{At: begin + left, Next: 2}) || !bytes.Equal(s.got, w.text[:left]) {
		t.Fatalf("timeline 1 ends with %+v, %v, after %d bytes", s.end, s.err, len(s.got))
	}
	s = w.send(2, size)
	s.has(left + 3000)
	if sys, err := w.tail.System(t.Context()); err != nil || sys.Timeline != 2 || sys.Flushed != begin+left+3000 {
		t.Errorf("the system is %+v, %v", sys, err)
	}
	// One that was on timeline 1 behind that is not on the way.
	s.cancel()
	<-s.ended
	s = w.send(1, left+1)
	<-s.ended
	if v, _ := w.tail.state(); s.err == nil || v.Foreign == nil {
		t.Errorf("it was served: %v, %v", s.err, v.Foreign)
	}
}

// The end of a record that would take over another cluster's tablespace is not sent before that is gone, wherever it lies.
func TestForeignTablespacesAreNotTakenOver(t *testing.T) {
	t.Parallel()
	for _, cut := range []uint64{0, 30, 60} { // bytes of the record in the piece before
		w := newWorld(t)
		taken, data := t.TempDir(), t.TempDir()
		version := filepath.Join(taken, "PG_15_202209061")
		if err := errors.Join(os.Mkdir(version, 0o700), os.Mkdir(filepath.Join(data, "pg_tblspc"), 0o700)); err != nil {
			t.Fatal(err)
		}
		w.tail.mu.Lock()
		w.tail.guard.DataDir = data
		w.tail.mu.Unlock()
		l := pgtest.NewLog(t, begin, size, 42)
		l.FillTo(begin + 20000)
		record, end := l.CreateTablespace(16384, taken)
		l.Record(0, 0x20, make([]byte, 5000))
		w.text = l.Bytes
		at := int(record + cut - begin)
		w.put(1, 0, at)
		w.put(1, at, len(l.Bytes))
		s := w.send(1, 0)
		s.has(at)
		if v, _ := w.tail.state(); v.Refused == "" {
			t.Error("nobody says why")
		}
		if at >= int(end-begin) {
			t.Fatalf("the record ends at %X, before what was cut at %X", end, at)
		}
		if err := os.Remove(version); err != nil {
			t.Fatal(err)
		}
		s.has(len(l.Bytes))
	}
}

// The end of the log is never the place where a standby has just begun, which was not looked behind.
func TestAnEndThatWasNotLookedForIsNone(t *testing.T) {
	t.Parallel()
	w := newStillWorld(t)
	w.put(1, 0, 5000)
	if err := w.tail.look(t.Context(), newLog); err != nil {
		t.Fatal(err)
	}
	w.tail.begin(1, begin-size)
	if v, ok := w.tail.freeze(); ok {
		t.Errorf("frozen at %s, where the standby begins", v.End)
	}
	w.tail.begin(1, begin)
	if v, err := w.tail.freezeAtEnd(t.Context()); err != nil || v.End != begin+5000 {
		t.Errorf("frozen at %s, %v", v.End, err)
	}
}

// A promotion asks for timelines that began since, and compares with the mark of every timeline on the way to them, although no
// snapshot is there.
func TestAPromotionSeesTheNewestTimeline(t *testing.T) {
	t.Parallel()
	w := newStillWorld(t)
	w.put(1, 0, 5000)
	if err := w.tail.look(t.Context(), newLog); err != nil {
		t.Fatal(err)
	}
	w.tail.begin(1, begin)
	w.history(2, 3000)
	w.put(2, 0, 4000)
	v, err := w.tail.freezeAtEnd(t.Context())
	if err != nil || v.Way.Timeline != 2 || v.End != begin+4000 {
		t.Fatalf("the end is %s on timeline %d, %v", v.End, v.Way.Timeline, err)
	}
	r := replaying{end: v.End}
	for range fewLooks + 1 {
		// The position alone would do: it is the branch that would be promoted.
		done, why := r.look(sample{recovering: true, replayed: begin + 5000, received: begin + 5000}, v)
		if done {
			t.Fatal("the branch that was left would be promoted")
		}
		err = why
	}
	if err == nil {
		t.Error("nobody says why it is not promoted")
	}
	if m, _, err := w.tail.missing(t.Context(), v); m != "" || err != nil {
		t.Errorf("missing: %q, %v", m, err)
	}
	if err := w.log.Register(t.Context(), repo.DefaultGroup); err != nil {
		t.Fatal(err)
	}
	w.mark(2, 4100)
	if m, _, err := w.tail.missing(t.Context(), v); m == "" || err != nil {
		t.Errorf("below the mark is missing: %q, %v", m, err)
	}
	w.store.SetFaults(storetest.Fault{When: storetest.Before})
	if m, _, err := w.tail.missing(t.Context(), v); err == nil {
		t.Errorf("a store that fails says that %q is missing", m)
	}
}
