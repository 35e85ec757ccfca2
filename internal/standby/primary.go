package standby

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/pg/cluster"
	"github.com/holdfast-dr/holdfast/internal/pg/stream"
	"github.com/holdfast-dr/holdfast/internal/pg/wal"
	"github.com/holdfast-dr/holdfast/internal/repo"
)

// The log comes from the repository to its end, and then from the primary, while that answers. Where it does not, the repository's end
// grows and is what comes; the primary is tried again beside that. Its bytes pass through here, so that the server knows no
// password of it, and what is not to be replayed is not sent, whichever way it came.

const (
	dialTimes   = 5                // looks between two tries to reach the primary
	dialLimit   = 10 * time.Second // for one
	silentLimit = 10 * time.Second // that a primary may not say anything: the repository has more by then
)

// line is a connection to the primary.
type line struct {
	conn *pgconn.PgConn
	err  error
}

// dial connects to the primary, and proves that it writes the end of this log.
func (t *tail) dial(ctx context.Context) (_ *pgconn.PgConn, err error) {
	ctx, cancel := context.WithTimeout(ctx, dialLimit)
	defer cancel()
	conn, err := cluster.ConnectReplication(ctx, t.primary.DSN())
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = conn.Close(context.WithoutCancel(ctx)) // it has said why already
		}
	}()
	sys, err := stream.Identify(ctx, conn)
	if err != nil {
		return nil, err
	}
	if sys.ID != t.system.ID {
		return nil, &stream.WrongSystemError{Got: sys.ID, Want: t.system.ID}
	}
	way := &wal.Timelines{Timeline: sys.Timeline}
	if sys.Timeline > 1 {
		b, err := stream.FetchHistory(ctx, conn, sys.Timeline, sys.Timeline)
		if err != nil {
			return nil, fmt.Errorf("the history of its timeline %d: %w", sys.Timeline, err)
		}
		if way, err = wal.ParseHistory(sys.Timeline, b); err != nil {
			return nil, err
		}
	}
	writes, err := acceptsWrites(ctx, conn)
	if err != nil {
		return nil, err
	}
	if err := t.meet(way); err != nil {
		return nil, err
	}
	t.mu.Lock()
	t.view.Writes = writes
	t.mu.Unlock()
	return conn, nil
}

// borrow learns from the primary what no repository has told yet: the way. A standby comes up with it while the repository is away.
func (t *tail) borrow(ctx context.Context) {
	if v, _ := t.state(); t.primary == "" || v.Way != nil {
		return
	}
	conn, err := t.dial(ctx)
	if err != nil {
		t.severed(err)
		return
	}
	_ = conn.Close(context.WithoutCancel(ctx)) // only asked
}

// await returns when the repository may have more, or with a connection to the primary.
func (s *sending) await(ctx context.Context, changed <-chan struct{}) (*pgconn.PgConn, error) {
	if s.line == nil && s.t.primary != "" && !s.t.frozen() {
		s.line = make(chan line, 1)
		go s.call(ctx, s.line, time.Until(s.due)) // hangUp waits for it
	}
	select {
	case <-changed:
		return nil, nil
	case l := <-s.line:
		s.line, s.due = nil, time.Now().Add(dialTimes*s.t.every)
		if l.err != nil && ctx.Err() == nil {
			s.t.severed(l.err)
		}
		return l.conn, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

func (s *sending) call(ctx context.Context, answer chan<- line, wait time.Duration) {
	select {
	case <-time.After(wait):
		conn, err := s.t.dial(ctx)
		answer <- line{conn, err}
	case <-ctx.Done():
		answer <- line{err: context.Cause(ctx)}
	}
}

// hangUp ends a connection that nobody needs any more.
func (s *sending) hangUp(ctx context.Context) {
	if s.line == nil {
		return
	}
	if l := <-s.line; l.conn != nil {
		_ = l.conn.Close(context.WithoutCancel(ctx))
	}
}

// errTurn ends the log of the primary where the repository says what comes next: at the end of a timeline, at that of a promotion, or
// since it has more.
var errTurn = errors.New("the repository goes on")

// givenError is an error of the standby, not of the primary.
type givenError struct{ err error }

func (e *givenError) Error() string { return e.err.Error() }

// relay sends what the primary sends, until it fails.
func (s *sending) relay(ctx context.Context, conn *pgconn.PgConn) error {
	t := s.t
	r := stream.NewReceiver(conn, stream.Options{SystemID: t.system.ID, IdleLimit: silentLimit})
	t.mu.Lock()
	t.receiver = r
	t.mu.Unlock()
	err := r.Run(ctx, s.tl, s.at, &relay{s})
	t.mu.Lock()
	t.receiver = nil
	t.mu.Unlock()
	switch given := new(givenError); {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.As(err, &given):
		return given.err
	case errors.Is(err, errTurn):
		err = nil
	}
	t.severed(err)
	return nil
}

// severed notes that the log does not come from the primary; why is nil where nothing is wrong.
func (t *tail) severed(why error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if why != nil && t.view.Severed == nil {
		t.logger.Warn("the log does not come from the primary; what the repository has of it comes", dr.KeyError, why)
	}
	if t.view.Streams || why != nil {
		t.view.Severed = why
	}
	t.view.Streams = false
}

// relay takes what the primary sends.
type relay struct{ s *sending }

// WAL implements stream.Sink.
func (r *relay) WAL(ctx context.Context, p stream.Piece) error {
	s := r.s
	data, ends := s.t.ofPrimary(s.tl, s.at, p)
	if err := s.pass(ctx, data); err != nil {
		return &givenError{err}
	}
	clock := repo.ExtentClock{}
	if s.at >= p.ServerEnd {
		clock.Source = p.Sent // all that it had then is here
	}
	s.sent(clock)
	if ends {
		return errTurn
	}
	return nil
}

// History implements stream.Sink.
func (r *relay) History(_ context.Context, tl wal.TimelineID, _ []byte) error {
	if tl != r.s.tl {
		return errTurn
	}
	return nil
}

// Idle implements stream.Sink.
func (r *relay) Idle(_ context.Context, end wal.LSN, sent time.Time) error {
	s := r.s
	_, ends := s.t.ofPrimary(s.tl, s.at, stream.Piece{Start: s.at, ServerEnd: end})
	if v, _ := s.t.state(); ends || v.End > s.at && end <= s.at {
		return errTurn
	}
	if end <= s.at {
		s.sent(repo.ExtentClock{Source: sent})
	}
	return nil
}

// ofPrimary returns what may be sent of what the primary has sent; ends tells that nothing behind it may.
func (t *tail) ofPrimary(tl wal.TimelineID, at wal.LSN, p stream.Piece) (data []byte, ends bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	v := &t.view
	_, left, ok := v.Way.Range(tl)
	if t.limit != wal.MaxLSN || !ok || left <= at || v.Strayed != nil {
		return nil, true
	}
	if !v.Streams {
		v.Streams, v.Severed = true, nil
		t.logger.Info("the log comes from the primary", dr.KeyLSN, at, dr.KeyTimeline, tl)
	}
	v.PrimaryEnd, v.Heard = p.ServerEnd, time.Now()
	if room := left - at; wal.LSN(len(p.Data)) >= room {
		return p.Data[:room], true
	}
	return p.Data, false
}

// frozen tells whether a promotion has ended what is served.
func (t *tail) frozen() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.limit != wal.MaxLSN
}
