package stream

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/holdfast-dr/holdfast/internal/pg/wal"
)

// Piece is a part of the log as it arrived.
type Piece struct {
	Timeline  wal.TimelineID
	Start     wal.LSN
	Data      []byte    // lent until the Sink returns
	ServerEnd wal.LSN   // how far the server's log reached when it sent this
	Sent      time.Time // by the server's clock
}

// Sink takes the log. Its methods are called by Run's goroutine, one at a time; an error ends Run and is
// returned as it is. While one works, nothing more is received.
type Sink interface {
	// WAL takes the next piece: it begins where the last one of this timeline ended. The first piece of a
	// further timeline begins at the start of the segment in which the last one was left: that segment's
	// beginning is in both.
	WAL(ctx context.Context, p Piece) error

	// History takes the history file of a timeline greater than 1, before its first piece. It may have come
	// before. content is lent.
	History(ctx context.Context, tl wal.TimelineID, content []byte) error

	// Idle is told how far the server's log reaches, whenever the server says so without sending a piece.
	Idle(ctx context.Context, serverEnd wal.LSN, sent time.Time) error
}

// Options of a Receiver; all may be zero.
type Options struct {
	Slot     string // replication slot to use; empty: none, then nothing is kept for us
	SystemID uint64 // the cluster that it must be; zero: any

	// StatusInterval is how often the status is sent when there is nothing new; 10 s, or a third of the
	// server's wal_sender_timeout if that is less.
	StatusInterval time.Duration
	// IdleLimit is how long the server may be silent, being asked to answer at half of it; 60 s.
	IdleLimit time.Duration

	// Started is called by Run's goroutine when the server has agreed to send: the slot is ours. It returns at once;
	// nil: nobody waits for that.
	Started func()
}

// Receiver receives the log over one connection, once.
type Receiver struct {
	conn *pgconn.PgConn
	opt  Options

	acked atomic.Uint64 // wal.LSN; never falls
	wake  chan struct{} // there is something to tell the server

	// waiting is when Run began to wait for the server, in Unix nanoseconds; zero while it works.
	waiting atomic.Int64
}

// NewReceiver takes a connection of cluster.ConnectReplication; Run closes it.
func NewReceiver(conn *pgconn.PgConn, o Options) *Receiver {
	return &Receiver{conn: conn, opt: o, wake: make(chan struct{}, 1)}
}

// Ack tells the server, at once, that the log before lsn is durable: the server may recycle it, and commits
// that wait for us in synchronous mode return. A position below an earlier one changes nothing. It may be
// called from any goroutine, does not block, and needs no running Run.
func (r *Receiver) Ack(lsn wal.LSN) {
	for {
		old := r.acked.Load()
		if uint64(lsn) <= old {
			return
		}
		if r.acked.CompareAndSwap(old, uint64(lsn)) {
			break
		}
	}
	r.signal()
}

// signal wakes the status loop; one that is awake already looks again anyway.
func (r *Receiver) signal() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// Run receives the log of timeline tl from a position on, and of the timelines that follow it, until ctx ends or
// something fails: it returns the context's cause, ErrStopped after a clean stop of the server, a
// *DivergedError, *AheadError, *RemovedError, *SilentError or *WrongSystemError, the sink's error, or another.
func (r *Receiver) Run(ctx context.Context, tl wal.TimelineID, from wal.LSN, sink Sink) error {
	err := r.run(ctx, tl, from, sink)
	// The server notices the end of the connection by itself, and what it was to know has been sent.
	_ = r.conn.Conn().Close()
	return err
}

func (r *Receiver) run(ctx context.Context, tl wal.TimelineID, from wal.LSN, sink Sink) error {
	iv := r.intervals(0)
	sys, err := within(ctx, iv.idle, func(ctx context.Context) (System, error) {
		sys, err := Identify(ctx, r.conn)
		if err != nil {
			return sys, err
		}
		if r.opt.SystemID != 0 && sys.ID != r.opt.SystemID {
			return sys, &WrongSystemError{Got: sys.ID, Want: r.opt.SystemID}
		}
		return sys, r.onTheWay(ctx, sys, tl, from)
	})
	if err != nil {
		return err
	}
	iv = r.intervals(sys.SenderTimeout)
	for {
		if tl > 1 {
			if err := r.history(ctx, iv, tl, max(tl, sys.Timeline), sink); err != nil {
				return err
			}
		}
		next, left, err := r.timeline(ctx, iv, tl, from, sink)
		if err != nil {
			return err
		}
		if next <= tl {
			return fmt.Errorf("the server says that timeline %d follows timeline %d", next, tl)
		}
		tl, from = next, sys.SegmentSize.Floor(left)
	}
}

// within runs commands that a server must answer at once.
func within[T any](ctx context.Context, limit time.Duration, commands func(context.Context) (T, error)) (T, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, limit, &SilentError{For: limit})
	defer cancel()
	return commands(ctx)
}

func (r *Receiver) history(ctx context.Context, iv intervals, tl, current wal.TimelineID, sink Sink) error {
	content, err := within(ctx, iv.idle, func(ctx context.Context) ([]byte, error) {
		return FetchHistory(ctx, r.conn, tl, current)
	})
	if err != nil {
		return fmt.Errorf("history of timeline %d: %w", tl, err)
	}
	return sink.History(ctx, tl, content)
}

// onTheWay refuses a position that the server's log does not pass: START_REPLICATION would refuse some of
// these with a mere text, and accept others.
func (r *Receiver) onTheWay(ctx context.Context, sys System, tl wal.TimelineID, from wal.LSN) error {
	if tl == sys.Timeline {
		if from > sys.Flushed {
			return &AheadError{Timeline: tl, At: from, Flushed: sys.Flushed}
		}
		return nil
	}
	diverged := &DivergedError{Timeline: tl, At: from, ServerTimeline: sys.Timeline}
	if tl > sys.Timeline {
		return diverged
	}
	content, err := FetchHistory(ctx, r.conn, sys.Timeline, sys.Timeline)
	if err != nil {
		return fmt.Errorf("history of timeline %d: %w", sys.Timeline, err)
	}
	h, err := wal.ParseHistory(sys.Timeline, content)
	if err != nil {
		return err
	}
	if h.IsAncestor(tl, from) {
		return nil
	}
	diverged.Left, _ = h.SwitchPoint(tl)
	return diverged
}

// timeline receives one timeline to its end, and returns the next one and where this one was left.
func (r *Receiver) timeline(ctx context.Context, iv intervals, tl wal.TimelineID, from wal.LSN, sink Sink) (wal.TimelineID, wal.LSN, error) {
	c := &copyBoth{r: r, tl: tl, pos: from, sink: sink, src: r.conn.Frontend()}
	copying, err := within(ctx, iv.idle, func(ctx context.Context) (bool, error) {
		defer r.closeWith(ctx)()
		copying, err := c.start(r.opt.Slot)
		return copying, plain(ctx, err)
	})
	if err != nil {
		return 0, 0, err
	}
	if tell := r.opt.Started; tell != nil {
		r.opt.Started = nil // once
		tell()
	}
	if copying {
		if err := c.runWithStatus(ctx, iv); err != nil {
			return 0, 0, err
		}
	}
	var next wal.TimelineID
	left, err := within(ctx, iv.idle, func(ctx context.Context) (left wal.LSN, err error) {
		defer r.closeWith(ctx)()
		if copying {
			if err := c.endCopy(); err != nil {
				return 0, plain(ctx, err)
			}
		}
		next, left, err = c.nextTimeline()
		return left, plain(ctx, err)
	})
	if err != nil {
		return 0, 0, err
	}
	if left != c.pos {
		return 0, 0, &DivergedError{Timeline: tl, At: c.pos, ServerTimeline: next, Left: left}
	}
	return next, left, nil
}

// closeWith closes the connection when ctx ends, which wakes whoever reads from it; the result ends the watch.
func (r *Receiver) closeWith(ctx context.Context) func() bool {
	return context.AfterFunc(ctx, func() { _ = r.conn.Conn().Close() })
}

type intervals struct{ status, idle time.Duration }

// intervals fills in the defaults; senderTimeout is the server's, zero where there is none or it is not known.
func (r *Receiver) intervals(senderTimeout time.Duration) intervals {
	iv := intervals{r.opt.StatusInterval, r.opt.IdleLimit}
	if iv.status == 0 {
		iv.status = 10 * time.Second
		if t := senderTimeout / 3; t > 0 {
			iv.status = min(iv.status, t)
		}
	}
	if iv.idle == 0 {
		iv.idle = time.Minute
	}
	iv.status = min(iv.status, iv.idle/4)
	return iv
}

// mapStartError gives names to what a server answers to START_REPLICATION.
func mapStartError(err error, tl wal.TimelineID, from wal.LSN) error {
	var pgErr *pgconn.PgError
	if errors.As(err, &pgErr) && pgErr.Code == "58P01" { // undefined_file: "requested WAL segment … has already been removed"
		return &RemovedError{Timeline: tl, At: from, Err: err}
	}
	return err
}
