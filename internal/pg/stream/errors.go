package stream

import (
	"errors"
	"fmt"
	"time"

	"github.com/holdfast-dr/holdfast/internal/pg/wal"
)

// ErrStopped ends Run when the server was stopped cleanly: everything that it wrote, the shutdown checkpoint
// included, was received, handed over and acknowledged.
var ErrStopped = errors.New("the server was stopped; all of its log is here")

// DivergedError says that a position is not on the way of the server's timeline: the log that we have after the
// fork is another one's, as after a failover that lost the end of the log.
type DivergedError struct {
	Timeline       wal.TimelineID // ours
	At             wal.LSN        // where we wanted to go on
	ServerTimeline wal.TimelineID
	Left           wal.LSN // where the server's way leaves our timeline; zero where it never passes it
}

func (e *DivergedError) Error() string {
	if e.Left == 0 {
		return fmt.Sprintf("the server is on timeline %d, whose way does not pass timeline %d", e.ServerTimeline, e.Timeline)
	}
	return fmt.Sprintf("the server is on timeline %d, which left timeline %d at %s, before our position %s",
		e.ServerTimeline, e.Timeline, e.Left, e.At)
}

// AheadError says that we have more of the timeline's log than the server has written: it lost the end of it (a
// crash without fsync, a restore from elsewhere), or it is a standby that lags.
type AheadError struct {
	Timeline wal.TimelineID
	At       wal.LSN // ours
	Flushed  wal.LSN // the server's
}

func (e *AheadError) Error() string {
	return fmt.Sprintf("the server's log on timeline %d ends at %s, before our position %s", e.Timeline, e.Flushed, e.At)
}

// RemovedError says that the server no longer has the log from a position on: a gap.
type RemovedError struct {
	Timeline wal.TimelineID
	At       wal.LSN
	Err      error // what the server said
}

func (e *RemovedError) Error() string {
	return fmt.Sprintf("the server no longer has the log from %s on timeline %d: %v", e.At, e.Timeline, e.Err)
}

// Unwrap returns what the server said.
func (e *RemovedError) Unwrap() error { return e.Err }

// SilentError says that a server that must answer has not: the network between is cut, or the machine hangs.
type SilentError struct{ For time.Duration }

func (e *SilentError) Error() string {
	return fmt.Sprintf("the server has been silent for %v, though it was asked to answer", e.For)
}

// WrongSystemError says that the server is another cluster than the one that was asked for.
type WrongSystemError struct{ Got, Want uint64 }

func (e *WrongSystemError) Error() string {
	return fmt.Sprintf("the server's system identifier is %d, not %d: it is another cluster", e.Got, e.Want)
}
