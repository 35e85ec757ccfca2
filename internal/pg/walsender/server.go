package walsender

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/pg/wal"
	"github.com/holdfast-dr/holdfast/internal/sidecar"
)

// Log is what is served. Its methods may be called from several goroutines.
type Log interface {
	// System says whose log it is, and how far it goes.
	System(ctx context.Context) (System, error)

	// History returns the history file of a timeline.
	History(ctx context.Context, tl wal.TimelineID) ([]byte, error)

	// Send calls fn with the log of a timeline from a position on, in order and without a gap, as it comes, until the
	// timeline's end: it returns where that is. data is lent. It returns fn's error as it is, and others to tell the
	// standby.
	Send(ctx context.Context, tl wal.TimelineID, from wal.LSN, fn func(at wal.LSN, data []byte) error) (End, error)
}

// System is what a standby is told of its primary.
type System struct {
	ID          uint64
	Timeline    wal.TimelineID // the newest
	Flushed     wal.LSN        // the end of its log
	SegmentSize wal.SegmentSize
	Major       int // of PostgreSQL
}

// End is where a timeline was left.
type End struct {
	At   wal.LSN
	Next wal.TimelineID // that begins there
}

// Progress is what a standby says of itself.
type Progress struct {
	Written, Flushed, Applied wal.LSN
}

// Server serves one log to one standby: a second one that begins ends the first, which is most often the connection of a
// walreceiver that died.
type Server struct {
	Log       Log
	Progress  func(Progress) // is told each status of the standby; nil: nobody
	Keepalive time.Duration  // between messages to a standby that waits; 0: 5 s
	Logger    *slog.Logger

	mu  sync.Mutex         // guards end
	end context.CancelFunc // of the replication that runs
}

// maxSessions bounds how many are connected at once.
const maxSessions = 16

// Serve answers those who connect until ctx ends. It closes the listener.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	if s.Keepalive == 0 {
		s.Keepalive = 5 * time.Second
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	defer context.AfterFunc(ctx, func() { _ = l.Close() })()
	var sessions errgroup.Group
	sessions.SetLimit(maxSessions)
	var err error
	for {
		var conn net.Conn
		if conn, err = l.Accept(); err != nil {
			break
		}
		sessions.Go(func() error {
			s.serve(ctx, conn)
			return nil
		})
	}
	ended := ctx.Err() != nil
	stop()
	_ = sessions.Wait()
	if ended || errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// serve talks with one client to its end.
func (s *Server) serve(ctx context.Context, conn net.Conn) {
	defer conn.Close()                                          //nolint:errcheck // the client sees the end
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })() // wakes whoever reads or writes
	err := s.admit(conn)
	if err == nil {
		err = newSession(s, conn).run(ctx)
	}
	if err != nil && ctx.Err() == nil {
		s.Logger.Debug("a connection of a standby ended", dr.KeyError, err)
	}
}

// admit lets in whose user may have the log.
func (s *Server) admit(conn net.Conn) error {
	if _, local := conn.(*net.UnixConn); !local {
		return errors.New("only local connections are served")
	}
	peer, err := sidecar.Peer(conn)
	if err != nil {
		return err
	}
	if peer == uint32(os.Geteuid()) {
		return nil
	}
	return fmt.Errorf("user %d is not served", peer)
}

// only ends the replication that runs, and returns the context of the one that takes its place.
func (s *Server) only(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.end != nil {
		s.end()
	}
	s.end = cancel
	return ctx, cancel
}

func (s *Server) tell(p Progress) {
	if s.Progress != nil {
		s.Progress(p)
	}
}
