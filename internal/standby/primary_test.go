package standby

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/internal/config"
	"github.com/holdfast-dr/holdfast/internal/pg/wal"
	"github.com/holdfast-dr/holdfast/internal/pg/walsender"
	"github.com/holdfast-dr/holdfast/internal/repo"
)

// source is a primary that has a part of a world's text.
type source struct {
	w    *world
	way  *wal.Timelines
	path string // of its socket
	stop func()

	mu   sync.Mutex // guards the rest
	end  int        // offset
	more chan struct{}
}

func (w *world) source(way *wal.Timelines) *source {
	w.t.Helper()
	p := &source{w: w, way: way, path: filepath.Join(w.t.TempDir(), ".s.PGSQL.5432"), more: make(chan struct{})}
	w.tail.primary = config.Connection("host=" + filepath.Dir(p.path) + " port=5432 user=nobody sslmode=disable")
	p.start()
	w.t.Cleanup(func() { p.stop() })
	return p
}

func (p *source) start() {
	p.w.t.Helper()
	_ = os.Remove(p.path)
	l, err := net.Listen("unix", p.path)
	if err != nil {
		p.w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(p.w.t.Context()))
	ended := make(chan error, 1)
	go func() {
		s := &walsender.Server{Log: p, Keepalive: 10 * time.Millisecond, Logger: slog.New(slog.DiscardHandler)}
		ended <- s.Serve(ctx, l)
	}()
	p.stop = sync.OnceFunc(func() {
		cancel()
		<-ended
	})
}

func (p *source) grow(end int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.end = end
	close(p.more)
	p.more = make(chan struct{})
}

func (p *source) has() (wal.LSN, <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return begin + wal.LSN(p.end), p.more
}

func (p *source) System(context.Context) (walsender.System, error) {
	end, _ := p.has()
	return walsender.System{ID: 42, Timeline: p.way.Timeline, Flushed: end, SegmentSize: size, Major: 15}, nil
}

func (p *source) History(context.Context, wal.TimelineID) ([]byte, error) { return p.way.Format(), nil }

func (p *source) Send(ctx context.Context, tl wal.TimelineID, from wal.LSN, fn func(wal.LSN, []byte) error) (walsender.End, error) {
	_, left, _ := p.way.Range(tl)
	for at := from; ; {
		end, more := p.has()
		if end = min(end, left); at < end {
			if err := fn(at, p.w.text[at-begin:end-begin]); err != nil {
				return walsender.End{}, err
			}
			at = end
		}
		if at == left {
			next, _ := p.way.Next(tl)
			return walsender.End{At: left, Next: next}, nil
		}
		select {
		case <-more:
		case <-ctx.Done():
			return walsender.End{}, context.Cause(ctx)
		}
	}
}

// The log comes from the repository to its end, from the primary while that answers, and from the repository again; in one line,
// without a hole.
func TestTheLogComesFromWhoHasMore(t *testing.T) {
	t.Parallel()
	w := newStillWorld(t)
	p := w.source(&wal.Timelines{Timeline: 1})
	p.grow(5000)
	w.put(1, 0, 1000)
	w.follow()
	s := w.send(1, 0)
	s.has(5000)
	if v, _ := w.tail.state(); !v.Streams || v.End != begin+1000 || v.Severed != nil {
		t.Errorf("while it streams: %+v", v)
	}
	p.stop()
	w.put(1, 1000, 7000)
	s.has(7000)
	if v, _ := w.tail.state(); v.Streams || v.Severed == nil {
		t.Errorf("without the primary: %+v", v)
	}
	p.start()
	p.grow(9000)
	s.has(9000)
	// The repository has a hole which the primary has filled for the standby, and then more than the primary.
	w.put(1, 8500, 9500)
	s.has(9500)
	if v, _ := w.tail.state(); v.Next != 0 || v.End != begin+9500 {
		t.Errorf("behind the hole: %+v", v)
	}
	p.grow(2 * size)
	s.has(2 * size)
	// A promotion ends what comes, whichever way.
	if v, err := w.tail.freezeAtEnd(t.Context()); err != nil || v.End != begin+9500 {
		t.Errorf("frozen at %s, %v", v.End, err)
	}
	p.grow(2*size + 100)
	s.has(2 * size)
	w.tail.thaw()
	s.has(2*size + 100)
}

// While no repository answers, the primary tells of its timelines too, and the standby is led over the switch.
func TestThePrimaryAlone(t *testing.T) {
	t.Parallel()
	w := newStillWorld(t)
	const left = 3000
	p := w.source(&wal.Timelines{Timeline: 2, Ancestors: []wal.Switch{{Timeline: 1, End: begin + left, Reason: "test"}}})
	p.grow(5000)
	log := w.tail.log
	w.tail.log = nil
	var mu sync.Mutex // guards back
	back := false
	w.tail.open = func(context.Context) (*repo.Log, error) {
		mu.Lock()
		defer mu.Unlock()
		if !back {
			return nil, errors.New("the store is away")
		}
		return log, nil
	}
	w.follow()
	if sys, err := w.tail.System(t.Context()); err != nil || sys.Timeline != 2 {
		t.Fatalf("the system is %+v, %v", sys, err)
	}
	s := w.send(1, 0)
	<-s.ended
	if s.err != nil || s.end != (walsender.End{At: begin + left, Next: 2}) || len(s.got) != left {
		t.Fatalf("timeline 1 ends with %+v, %v, after %d bytes", s.end, s.err, len(s.got))
	}
	if b, err := w.tail.History(t.Context(), 2); err != nil || !strings.Contains(string(b), "test") {
		t.Errorf("the history is %q, %v", b, err)
	}
	s = w.send(2, 0)
	s.has(5000)
	// The repository comes back, and does not know of the switch yet.
	w.put(1, 0, 2000)
	mu.Lock()
	back = true
	mu.Unlock()
	for v, changed := w.tail.state(); v.Problem != nil; v, changed = w.tail.state() {
		<-changed
	}
	p.grow(6000)
	s.has(6000)
	if v, _ := w.tail.state(); v.Way.Timeline != 2 || !v.Lent || v.Strayed != nil {
		t.Errorf("it is on %+v", v)
	}
	// What the repository has in the end is another branch: nothing more is sent before the standby is on its way.
	w.history(2, 1000)
	<-s.ended
	if v, _ := w.tail.state(); s.err == nil || v.Strayed == nil || v.Lent {
		t.Errorf("it goes on: %v, %+v", s.err, v)
	}
}

func TestWaysOfARepositoryAndAPrimary(t *testing.T) {
	t.Parallel()
	one := &wal.Timelines{Timeline: 1}
	two := &wal.Timelines{Timeline: 2, Ancestors: []wal.Switch{{Timeline: 1, End: 800}}}
	other := &wal.Timelines{Timeline: 2, Ancestors: []wal.Switch{{Timeline: 1, End: 700}}}
	three := &wal.Timelines{Timeline: 3, Ancestors: []wal.Switch{{Timeline: 1, End: 800}, {Timeline: 2, End: 900}}}
	for _, c := range []struct {
		name    string
		knows   view
		primary *wal.Timelines
		lent    bool
		want    wal.TimelineID
		bad     string
	}{
		{"nothing is known", view{}, two, true, 2, ""},
		{"it goes on", view{Way: one}, three, true, 3, ""},
		{"it goes on from the end", view{Way: one, End: 800, Sent: 800, Has: 800, Mark: repo.Mark{LSN: 800}}, three, true, 3, ""},
		{"the repository has more", view{Way: one, End: 801}, three, false, 1, "left timeline 1 at 0/320"},
		{"more was sent", view{Way: one, Sent: 801}, three, false, 1, "known up to 0/321"},
		{"the standby has more", view{Way: one, Has: 801}, three, false, 1, "known up to 0/321"},
		{"more was acknowledged", view{Way: two, End: 850, Mark: repo.Mark{LSN: 901}}, three, false, 2, "left timeline 2 at 0/384"},
		{"it is the same", view{Way: two}, two, false, 2, ""},
		{"it was left", view{Way: three}, two, false, 3, "goes on on timeline 3"},
		{"it is another", view{Way: two}, other, false, 2, "another branch"},
		{"it goes on elsewhere", view{Way: other}, three, false, 2, "another branch"},
	} {
		w := &tail{view: c.knows, changed: make(chan struct{}), pieces: []piece{{from: 0, to: 1000}}}
		err := w.meet(c.primary)
		if kept := len(w.pieces) > 0; kept == c.lent || (w.view.End == c.knows.End) != (kept || c.knows.End == c.knows.Base) || (w.begun == 0) != kept {
			t.Errorf("%s: pieces of the other way are kept: %+v", c.name, w.pieces)
		}
		if (err != nil) != (c.bad != "") || err != nil && !strings.Contains(err.Error(), c.bad) {
			t.Errorf("%s: %v", c.name, err)
		}
		if w.view.Lent != c.lent || w.view.Way.Timeline != c.want {
			t.Errorf("%s: %+v", c.name, w.view)
		}
	}
	lent := view{Way: two, Lent: true}
	for _, c := range []struct {
		name    string
		knows   view
		repo    *wal.Timelines
		lent    bool
		strayed bool
		err     bool
	}{
		{"the repository is behind", lent, one, true, false, false},
		{"it has come after", lent, two, false, false, false},
		{"it goes on", lent, three, false, false, false},
		{"it has another branch", lent, other, false, true, false},
		{"it forgets", view{Way: two}, one, false, false, true},
	} {
		v, err := c.knows.follow(c.repo)
		if (err != nil) != c.err || v.Lent != c.lent || (v.Strayed != nil) != c.strayed {
			t.Errorf("%s: %+v, %v", c.name, v, err)
		}
	}
}
