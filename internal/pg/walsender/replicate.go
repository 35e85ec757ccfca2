package walsender

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/holdfast-dr/holdfast/internal/pg/wal"
)

// replication is one START_REPLICATION. The log, keep-alives and the client's messages each have a goroutine; mu keeps
// the first two from sending at once.
type replication struct {
	s       *session
	replies chan struct{} // the client has asked for a sign of life

	mu   sync.Mutex // guards sent and what is sent. Held while the client takes it
	sent wal.LSN
	buf  []byte
}

var errClientDone = errors.New("the standby has ended the replication")

// replicate sends log until the timeline's end, or the client wants no more.
func (s *session) replicate(ctx context.Context, c command) error {
	if c.timeline == 0 {
		sys, err := s.server.Log.System(ctx)
		if err != nil {
			return err
		}
		c.timeline = sys.Timeline
	}
	ctx, cancel := s.server.only(ctx)
	defer cancel()
	r := &replication{s: s, sent: c.from, replies: make(chan struct{}, 1)}
	s.backend.Send(&pgproto3.CopyBothResponse{})
	if err := s.backend.Flush(); err != nil {
		return &brokenError{err}
	}
	end, err := r.run(ctx, cancel, c)
	switch {
	case errors.Is(err, errClientDone):
		s.backend.Send(&pgproto3.CopyDone{})
		s.complete()
		return nil
	case err != nil:
		return err
	}
	s.row("START_STREAMING", []column{
		{"next_tli", int8Type, fmt.Appendf(nil, "%d", end.Next)}, {"next_tli_startpos", textType, []byte(end.At.String())},
	})
	s.complete() // once for the result, and once for the command: libpqwalreceiver.c, libpqrcv_endstreaming
	return nil
}

func (s *session) complete() {
	s.backend.Send(&pgproto3.CommandComplete{CommandTag: []byte("START_REPLICATION")})
}

// run sends, and reads what the client says, until both have ended the copy: without an error at the timeline's end.
func (r *replication) run(ctx context.Context, cancel context.CancelFunc, c command) (End, error) {
	received := make(chan error, 1)
	go func() { // ends with the connection, or when the client has ended the copy: it is waited for below
		err := r.receive()
		received <- err
		cancel()
	}()
	idle := make(chan struct{})
	go func() {
		defer close(idle)
		r.keepAlive(ctx)
	}()
	end, err := r.s.server.Log.Send(ctx, c.timeline, c.from, r.send)
	cancel()
	<-idle
	select {
	case receiveErr := <-received: // the client was first
		if receiveErr == nil {
			return end, errClientDone
		}
		return end, &brokenError{receiveErr}
	default:
	}
	if err != nil {
		// A reader that waits for the client cannot be called back: the connection goes with it. The client is told why first.
		_ = r.s.refuse("FATAL", err)
		_ = r.s.conn.Close()
		<-received
		return end, &brokenError{err}
	}
	r.s.backend.Send(&pgproto3.CopyDone{})
	if err := r.s.backend.Flush(); err != nil {
		_ = r.s.conn.Close()
		<-received
		return end, &brokenError{err}
	}
	if err := <-received; err != nil {
		return end, &brokenError{err}
	}
	return end, nil
}

// send is what the Log calls.
func (r *replication) send(at wal.LSN, data []byte) error {
	for len(data) > 0 {
		n := min(len(data), maxPiece)
		if err := r.write(at, data[:n]); err != nil {
			return err
		}
		at += wal.LSN(n)
		data = data[n:]
	}
	return nil
}

func (r *replication) write(at wal.LSN, data []byte) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	end := at + wal.LSN(len(data))
	r.sent = max(r.sent, end)
	r.buf = appendPiece(r.buf[:0], at, r.sent, time.Now(), data)
	return r.flushLocked()
}

func (r *replication) flushLocked() error {
	r.s.backend.Send(&pgproto3.CopyData{Data: r.buf})
	return r.s.backend.Flush()
}

// keepAlive sends signs of life, by the clock and when the client asks for one.
func (r *replication) keepAlive(ctx context.Context) {
	tick := time.NewTicker(r.s.server.Keepalive)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-r.replies:
		}
		r.mu.Lock()
		r.buf = appendKeepalive(r.buf[:0], r.sent, time.Now())
		err := r.flushLocked()
		r.mu.Unlock()
		if err != nil {
			return // the sender and the reader see the same
		}
	}
}

// receive reads the client's messages until it ends the copy.
func (r *replication) receive() error {
	for {
		m, err := r.s.backend.Receive()
		if err != nil {
			return err
		}
		switch m := m.(type) {
		case *pgproto3.CopyDone:
			return nil
		case *pgproto3.CopyData:
			p, asks, status, err := parseReply(m.Data)
			if err != nil {
				return err
			}
			if status {
				r.s.server.tell(p)
			}
			if asks {
				select {
				case r.replies <- struct{}{}:
				default:
				}
			}
		case *pgproto3.Terminate:
			return errors.New("the standby has ended the connection")
		default:
			return fmt.Errorf("the standby sent %T", m)
		}
	}
}
