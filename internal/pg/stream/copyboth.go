package stream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
	"golang.org/x/sync/errgroup"

	"github.com/holdfast-dr/holdfast/internal/pg/cluster"
	"github.com/holdfast-dr/holdfast/internal/pg/wal"
)

// copyBoth is the conversation of one START_REPLICATION.
type copyBoth struct {
	r    *Receiver
	src  *pgproto3.Frontend
	tl   wal.TimelineID
	pos  wal.LSN // the next byte that must come
	sink Sink
}

// errTimelineEnded ends the receiving loop at the end of a timeline.
var errTimelineEnded = errors.New("timeline ended")

// receive returns the next message that means something here.
func (c *copyBoth) receive() (pgproto3.BackendMessage, error) {
	for {
		c.r.waiting.Store(time.Now().UnixNano())
		m, err := c.src.Receive()
		c.r.waiting.Store(0)
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return nil, fmt.Errorf("the server closed the connection: %w", err)
		}
		if err != nil {
			return nil, err
		}
		switch m := m.(type) {
		case *pgproto3.ErrorResponse:
			return nil, mapStartError(&cluster.ServerError{PgError: pgconn.ErrorResponseToPgError(m)}, c.tl, c.pos)
		case *pgproto3.NoticeResponse, *pgproto3.ParameterStatus, *pgproto3.NotificationResponse:
			continue
		}
		return m, nil
	}
}

// start begins the stream; copying is false where the timeline ended exactly at our position, and the server
// goes on with the answer of nextTimeline.
func (c *copyBoth) start(slot string) (copying bool, err error) {
	cmd := fmt.Sprintf("START_REPLICATION PHYSICAL %s TIMELINE %d", c.pos, c.tl)
	if slot != "" {
		if err := CheckSlotName(slot); err != nil {
			return false, err
		}
		cmd = fmt.Sprintf("START_REPLICATION SLOT %s PHYSICAL %s TIMELINE %d", slot, c.pos, c.tl)
	}
	c.src.SendQuery(&pgproto3.Query{String: cmd})
	if err := c.src.Flush(); err != nil {
		return false, err
	}
	m, err := c.receive()
	if err != nil {
		return false, fmt.Errorf("start replication: %w", err)
	}
	switch m.(type) {
	case *pgproto3.CopyBothResponse:
		return true, nil
	case *pgproto3.RowDescription:
		return false, nil
	}
	return false, fmt.Errorf("the server answers START_REPLICATION with %T", m)
}

// runWithStatus receives until the timeline ends, while the status loop writes to the same connection: one
// reads, one writes, which a connection allows.
func (c *copyBoth) runWithStatus(ctx context.Context, iv intervals) error {
	g, gctx := errgroup.WithContext(ctx)
	received := make(chan struct{})
	var statusErr error
	g.Go(func() error {
		defer close(received)
		return c.receiveLoop(gctx)
	})
	g.Go(func() error {
		statusErr = c.statusLoop(ctx, iv, received)
		return statusErr
	})
	err := g.Wait()
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case statusErr != nil: // it closed the connection, of which the other loop only saw the end
		return statusErr
	case errors.Is(err, errTimelineEnded):
		return nil
	}
	return err
}

func (c *copyBoth) receiveLoop(ctx context.Context) error {
	for {
		m, err := c.receive()
		if err != nil {
			return err
		}
		switch m := m.(type) {
		case *pgproto3.CopyData:
			if err := c.take(ctx, m.Data); err != nil {
				return err
			}
		case *pgproto3.CopyDone:
			return errTimelineEnded
		case *pgproto3.CommandComplete:
			// Without CopyDone before it, it is what a walsender says last when the server is stopped, after we
			// have acknowledged everything (walsender.c, WalSndDone).
			return ErrStopped
		default:
			return fmt.Errorf("the server sent %T within the log", m)
		}
	}
}

func (c *copyBoth) take(ctx context.Context, b []byte) error {
	m, err := parseMessage(b)
	if err != nil {
		return err
	}
	if m.kind == 'k' {
		if m.replyAsked {
			c.r.signal()
		}
		return c.sink.Idle(ctx, m.end, m.sent)
	}
	if m.start != c.pos {
		return fmt.Errorf("the server sent the log from %s where %s was due", m.start, c.pos)
	}
	if len(m.data) == 0 {
		return nil
	}
	c.pos += wal.LSN(len(m.data))
	return c.sink.WAL(ctx, Piece{Timeline: c.tl, Start: m.start, Data: m.data, ServerEnd: m.end, Sent: m.sent})
}

// statusLoop tells the server what is durable: when that changes, when the server asks, and regularly, so that a
// slow sink does not look like a dead receiver. It watches over the server's silence too. When the caller's
// context ends it sends the last state and closes the connection, which wakes the receiving loop.
func (c *copyBoth) statusLoop(ctx context.Context, iv intervals, received <-chan struct{}) error {
	tick := time.NewTicker(iv.status)
	defer tick.Stop()
	for {
		ask := false
		select {
		case <-received:
			return nil
		case <-ctx.Done():
			_ = c.sendStatus(iv, ask) // as a courtesy: what the server misses, it sends again
			return c.r.conn.Conn().Close()
		case <-c.r.wake:
		case <-tick.C:
			silent := c.silent()
			if silent > iv.idle {
				return errors.Join(&SilentError{For: silent.Round(time.Millisecond)}, c.r.conn.Conn().Close())
			}
			ask = silent > iv.idle/2
		}
		if err := c.sendStatus(iv, ask); err != nil {
			return c.unsent(ctx, err, iv, received)
		}
	}
}

// unsent waits for the receiving loop after a status could not be sent: a server that has just ended closed its
// side while its last message was still to be read, and that message says how it ended.
func (c *copyBoth) unsent(ctx context.Context, err error, iv intervals, received <-chan struct{}) error {
	patience := time.NewTimer(iv.idle)
	defer patience.Stop()
	select {
	case <-received:
		return nil
	case <-ctx.Done():
		return c.r.conn.Conn().Close()
	case <-patience.C:
		return errors.Join(fmt.Errorf("send the status: %w", err), c.r.conn.Conn().Close())
	}
}

// silent is how long the server has let us wait.
func (c *copyBoth) silent() time.Duration {
	since := c.r.waiting.Load()
	if since == 0 {
		return 0
	}
	return time.Duration(time.Now().UnixNano() - since)
}

func (c *copyBoth) sendStatus(iv intervals, ask bool) error {
	// A peer that takes nothing any more must not hold us for ever.
	if err := c.r.conn.Conn().SetWriteDeadline(time.Now().Add(iv.idle)); err != nil {
		return err
	}
	msg, err := (&pgproto3.CopyData{Data: status(wal.LSN(c.r.acked.Load()), time.Now(), ask)}).Encode(nil)
	if err != nil {
		return err
	}
	return c.src.SendUnbufferedEncodedCopyData(msg)
}

// endCopy answers the server's CopyDone, and reads to the result that names the next timeline.
func (c *copyBoth) endCopy() error {
	c.src.Send(&pgproto3.CopyDone{})
	if err := c.src.Flush(); err != nil {
		return err
	}
	m, err := c.receive()
	if err != nil {
		return err
	}
	if _, ok := m.(*pgproto3.RowDescription); !ok {
		return fmt.Errorf("the server sent %T where the next timeline was due", m)
	}
	return nil
}

// nextTimeline reads the result's row and the end of the command.
func (c *copyBoth) nextTimeline() (tl wal.TimelineID, left wal.LSN, err error) {
	for {
		m, err := c.receive()
		if err != nil {
			return 0, 0, err
		}
		switch m := m.(type) {
		case *pgproto3.DataRow:
			if len(m.Values) != 2 {
				return 0, 0, fmt.Errorf("the server names the next timeline in %d columns", len(m.Values))
			}
			if tl, err = parseTimeline(string(m.Values[0])); err != nil {
				return 0, 0, err
			}
			if left, err = wal.ParseLSN(string(m.Values[1])); err != nil {
				return 0, 0, err
			}
		case *pgproto3.CommandComplete, *pgproto3.CopyDone:
		case *pgproto3.ReadyForQuery:
			if tl == 0 {
				return 0, 0, errors.New("the server named no next timeline")
			}
			return tl, left, nil
		default:
			return 0, 0, fmt.Errorf("the server sent %T where the next timeline was due", m)
		}
	}
}
