package standby

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/pg/wal"
	"github.com/holdfast-dr/holdfast/internal/pg/walsender"
	"github.com/holdfast-dr/holdfast/internal/repo"
	"github.com/holdfast-dr/holdfast/internal/seal"
	"github.com/holdfast-dr/holdfast/internal/store"
)

// sending is one session with the standby. It holds two extents at most: the one that is sent, and the one after it.
type sending struct {
	t       *tail
	tl      wal.TimelineID
	at      wal.LSN
	fn      func(wal.LSN, []byte) error
	scan    *wal.Scanner
	commit  commit      // the newest that was scanned
	spaces  []wal.Event // tablespaces that the scanned log creates
	now     *fetch      // what is sent
	ahead   *fetch      // what comes after it; nil: nothing yet
	readers [2]*repo.LogReader
	log     *repo.Log // of the readers

	line chan line // a connection to the primary comes; nil: nobody asks for one
	due  time.Time // when the next one may be asked for
}

// fetch reads one extent. done is closed when the rest is there.
type fetch struct {
	extent repo.Extent
	reader int
	done   chan struct{}
	data   []byte // of the whole extent; it belongs to the reader
	clock  repo.ExtentClock
	err    error
}

// Send implements walsender.Log. A store that fails lets the standby wait.
func (t *tail) Send(ctx context.Context, tl wal.TimelineID, from wal.LSN, fn func(wal.LSN, []byte) error) (walsender.End, error) {
	s := &sending{t: t, tl: tl, at: from, fn: fn}
	s.scan = wal.NewScanner(from, t.system.SegmentSize, s.event, wal.Commit, wal.TablespaceCreate)
	defer s.wait()
	ctx, cancel := context.WithCancel(ctx)
	defer func() {
		cancel()
		s.hangUp(ctx)
	}()
	t.begin(tl, from)
	for {
		end, err := s.step(ctx)
		if err != nil {
			return walsender.End{}, err
		}
		if end != nil {
			return *end, nil
		}
	}
}

// step sends a piece of what the repository has, or waits for more, or sends what the primary has until that fails. The end of the
// timeline ends it.
func (s *sending) step(ctx context.Context) (*walsender.End, error) {
	p, end, changed, err := s.next(ctx)
	if err == nil && p != nil {
		changed, err = s.send(ctx, *p)
	}
	if err != nil || end != nil || changed == nil {
		return end, err
	}
	conn, err := s.await(ctx, changed)
	if err == nil && conn != nil {
		s.wait() // the repository's pieces are others when it is its turn again
		err = s.relay(ctx, conn)
	}
	return nil, err
}

// begin notes where the standby is. Where that is outside of what was looked at, it needs another look.
func (t *tail) begin(tl wal.TimelineID, from wal.LSN) {
	t.mu.Lock()
	defer t.mu.Unlock()
	v := &t.view
	v.Session, v.Sent, v.Foreign, v.Refused, v.Damaged = tl, from, nil, "", 0
	if from < v.Base || from > v.End {
		v.Base, v.End, v.Next, t.pieces = from, from, 0, nil
		t.begun++
	}
	select {
	case t.wake <- struct{}{}:
	default:
	}
}

// next returns what is to be sent, or the timeline's end; neither where there is nothing more before changed is closed.
func (s *sending) next(ctx context.Context) (_ *piece, _ *walsender.End, changed <-chan struct{}, err error) {
	t := s.t
	t.mu.Lock()
	defer t.mu.Unlock()
	v := &t.view
	if v.Strayed != nil {
		return nil, nil, nil, v.Strayed
	}
	if v.Way == nil {
		return nil, nil, t.changed, nil
	}
	_, left, ok := v.Way.Range(s.tl)
	if !ok || s.at > left {
		v.Foreign = fmt.Errorf("the standby is on timeline %d at %s, and the way to the newest timeline %d does not lead past there", s.tl, s.at, v.Way.Timeline)
		return nil, nil, nil, v.Foreign
	}
	if s.at == left {
		tl, _ := v.Way.Next(s.tl)
		return nil, &walsender.End{At: left, Next: tl}, nil, nil
	}
	p, ok := t.pieceLocked(s.at, left)
	if !ok {
		return nil, nil, t.changed, nil
	}
	if s.now = s.ahead; s.now == nil || s.now.extent != p.Extent {
		s.wait() // for what was read in vain
		s.now = s.fetch(ctx, p.Extent, 0)
	}
	s.ahead = nil
	if q, ok := t.pieceLocked(p.to, left); ok {
		s.ahead = s.fetch(ctx, q.Extent, s.now.reader^1)
	}
	return &p, nil, nil, nil
}

// pieceLocked returns the piece that reaches farthest of those that hold the byte at a position, as far as it may be served.
func (t *tail) pieceLocked(at, left wal.LSN) (best piece, ok bool) {
	left = min(left, t.limit, t.view.End)
	for _, p := range t.pieces {
		if p.from > at {
			break
		}
		if p.to = min(p.to, left); p.to > at && (!ok || p.to > best.to) {
			best, ok = p, true
		}
	}
	return best, ok
}

// fetch begins to read an extent with one of the two readers, which is not in use. The caller holds the tail's lock.
func (s *sending) fetch(ctx context.Context, e repo.Extent, reader int) *fetch {
	if s.log != s.t.log {
		s.log, s.readers = s.t.log, [2]*repo.LogReader{s.t.log.Reader(), s.t.log.Reader()}
	}
	f := &fetch{extent: e, reader: reader, done: make(chan struct{})}
	lr := s.readers[reader]
	go func() { // is waited for before its reader is used again, and at the end
		defer close(f.done)
		f.data, f.clock, f.err = lr.Read(ctx, e)
	}()
	return f
}

// wait waits for everything that is being read.
func (s *sending) wait() {
	for _, f := range []*fetch{s.now, s.ahead} {
		if f != nil {
			<-f.done
		}
	}
	s.now, s.ahead = nil, nil
}

// send sends a piece from where the session is. changed is not nil where it has to be tried again.
func (s *sending) send(ctx context.Context, p piece) (changed <-chan struct{}, err error) {
	select {
	case <-s.now.done:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	if err := s.now.err; err != nil {
		return s.unread(ctx, err), nil
	}
	if err := s.pass(ctx, s.now.data[s.at-wal.LSN(p.Start):p.to-wal.LSN(p.Start)]); err != nil {
		return nil, err
	}
	s.sent(s.now.clock)
	return nil, nil
}

// pass sends bytes from where the session is, whichever way they came.
func (s *sending) pass(ctx context.Context, data []byte) error {
	for part := range slices.Chunk(data, partSize) {
		s.spaces = s.spaces[:0]
		s.scan.Write(part) //nolint:errcheck // it never fails
		for _, e := range s.spaces {
			before := min(len(part), int(max(e.Start, s.at)-s.at))
			if err := s.give(part[:before]); err != nil {
				return err
			}
			part = part[before:]
			if err := s.hold(ctx, e); err != nil {
				return err
			}
		}
		if err := s.give(part); err != nil {
			return err
		}
	}
	return nil
}

// partSize is how much is looked at before it is sent.
const partSize = 1 << 20

// give sends bytes.
func (s *sending) give(b []byte) error {
	if len(b) == 0 {
		return nil
	}
	err := s.fn(s.at, b)
	s.at += wal.LSN(len(b))
	return err
}

// event takes what the scanner finds.
func (s *sending) event(e wal.Event) {
	if e.Kind == wal.Commit {
		s.commit = commit{e.End, e.Time}
	} else if e.Kind == wal.TablespaceCreate {
		s.spaces = append(s.spaces, e)
	}
}

// hold returns when the replay of a record that creates a tablespace would touch nobody's files. Its last bytes have not been
// sent, so that it is not replayed before.
func (s *sending) hold(ctx context.Context, e wal.Event) error {
	t := s.t
	refused := ""
	defer func() {
		t.mu.Lock()
		t.view.Refused = ""
		t.mu.Unlock()
	}()
	for t.guard.Refuses(e) {
		if refused == "" {
			refused = fmt.Sprintf("at %s the log creates tablespace %d in %q, where files of another cluster are; if that is gone, move them away, and it goes on", e.Start, e.OID, e.Name)
			t.logger.Error("the log is not served on: its replay would take over another cluster's tablespace", dr.KeyReason, refused)
			t.mu.Lock()
			t.view.Refused = refused
			t.mu.Unlock()
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(time.Second):
		}
	}
	return nil
}

// sent notes how far the session has come, and forgets what no session will ask for again: one begins at the start of a
// segment.
func (s *sending) sent(clock repo.ExtentClock) {
	t := s.t
	t.mu.Lock()
	defer t.mu.Unlock()
	v := &t.view
	v.Sent, v.Unread, v.Damaged = s.at, nil, 0
	if s.commit.LSN > v.Commit.LSN {
		v.Commit = s.commit
	}
	at := clock.Source
	if at.IsZero() {
		at = clock.Writer
	}
	if at.After(v.Clock) {
		v.Clock = at
	}
	v.Base = max(v.Base, t.system.SegmentSize.Floor(min(s.at, v.End))) // what a primary has sent need not be there yet
	t.pieces = slices.DeleteFunc(t.pieces, func(p piece) bool { return p.to <= v.Base })
}

// unread notes why an extent could not be read, and returns what is closed when it may be tried again.
func (s *sending) unread(ctx context.Context, err error) <-chan struct{} {
	t := s.t
	end := wal.LSN(0)
	if damaged := new(seal.DamagedError); errors.As(err, &damaged) {
		end = wal.LSN(s.now.extent.End)
	}
	s.wait()
	switch {
	case errors.Is(err, repo.ErrKeysRotated), errors.Is(err, seal.ErrUnknownEpoch):
		err = t.openAgain(ctx)
	case errors.Is(err, store.ErrNotExist):
		// It gave way to a longer one since it was listed: what there is now is listed anew.
		t.mu.Lock()
		t.view.Base, t.view.End, t.pieces = s.at, s.at, nil
		t.begun++
		t.mu.Unlock()
		err = nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.view.Unread, t.view.Damaged = err, end
	return t.changed // by the next look: a store that lists what it does not have must not be asked without pause
}
