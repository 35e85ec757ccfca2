package capture

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/pg/cluster"
	"github.com/holdfast-dr/holdfast/internal/pg/stream"
	"github.com/holdfast-dr/holdfast/internal/pg/wal"
	"github.com/holdfast-dr/holdfast/internal/repo"
)

// StreamConfig says whose log is received, and how.
type StreamConfig struct {
	Connection string // libpq connection string; it may name several hosts
	Slot       string // physical replication slot; made where it is missing
	Temporary  bool   // the slot ends with the connection: for somebody who needs the log for a while only
	Log        *repo.Log
	Spool      *Spool // open; may be nil

	Interval  time.Duration // longest that a byte waits for the repository; 1 s
	IdleMarks time.Duration // between two high-water marks while nothing arrives; 1 minute
	AckSpool  bool          // acknowledge what the spool has on disk, and not only what the repository has
	Blocks    int           // blocks of 16 MiB in memory; 4

	StopTimeout time.Duration // for storing the tail when ctx has ended; 30 s
	Logger      *slog.Logger
	Changed     func() // is told when the connection comes or goes, and returns at once; may be nil
}

// StreamStatus is how a log stream stands.
type StreamStatus struct {
	LogStatus
	System    LogIdentity
	Connected bool
	Since     time.Time     // of Connected
	ConnErr   error         // why there is no connection, or none any more
	Slot      stream.Slot   // as the server showed it last; without a name: not known
	SlotUse   float64       // part of what the slot may keep back; negative: without a limit, or not known
	Sync      bool          // somebody waits for us
	Gaps      []LogGap      // noticed by this stream
	Reconnect time.Duration // until the next try; zero while connected
}

// LogStream receives one system's log.
type LogStream struct {
	cfg    StreamConfig
	writer *LogWriter
	// Only the session uses these, one at a time.
	host     string       // connection string of its server
	warnings slotWarnings // that were given
	slotLost bool         // its slot was found lost

	// mu guards what follows. Not held during I/O.
	mu       sync.Mutex
	status   StreamStatus
	receiver *stream.Receiver
	acked    wal.LSN // for the receiver to come
}

const (
	firstReconnect = 500 * time.Millisecond
	maxReconnect   = 30 * time.Second
)

// NewLogStream returns a stream that Run starts.
func NewLogStream(cfg StreamConfig) *LogStream {
	if cfg.StopTimeout <= 0 {
		cfg.StopTimeout = 30 * time.Second
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Changed == nil {
		cfg.Changed = func() {}
	}
	s := &LogStream{cfg: cfg}
	s.status.SlotUse = -1
	s.writer = NewLogWriter(cfg.Log, LogOptions{
		Interval: cfg.Interval, IdleMarks: cfg.IdleMarks, Spool: cfg.Spool, AckSpool: cfg.AckSpool, Blocks: cfg.Blocks,
		Durable: func(_ wal.TimelineID, lsn wal.LSN) { s.ack(lsn) }, Logger: cfg.Logger,
	})
	return s
}

// StreamLog receives a system's log until ctx ends: then it stores the tail, acknowledges it and returns nil.
func StreamLog(ctx context.Context, cfg StreamConfig) error { return NewLogStream(cfg).Run(ctx) }

// Status returns how the stream stands.
func (s *LogStream) Status() StreamStatus {
	s.mu.Lock()
	st := s.status
	st.Gaps = append([]LogGap(nil), s.status.Gaps...)
	s.mu.Unlock()
	st.LogStatus = s.writer.Status()
	return st
}

// Run receives until ctx ends, and reconnects as often as that takes. An error means that a person has to do
// something: the log is another cluster's, the slot's name is taken.
func (s *LogStream) Run(ctx context.Context) error {
	// The writer outlives ctx by as much as it needs to store the tail.
	storing, stop := context.WithCancelCause(context.WithoutCancel(ctx))
	defer stop(nil)
	var g errgroup.Group
	g.Go(func() error { return s.writer.Run(storing) })
	err := s.receive(ctx)
	deadline := time.AfterFunc(s.cfg.StopTimeout, func() {
		stop(fmt.Errorf("the log's tail could not be stored within %s", s.cfg.StopTimeout))
	})
	defer deadline.Stop()
	s.writer.Finish()
	if writeErr := g.Wait(); writeErr != nil {
		st := s.writer.Status()
		err = errors.Join(err, dr.Fail(fmt.Sprintf("the log is stored up to %s only, and was received up to %s", st.Stored, st.ReceivedLSN),
			errors.Join(writeErr, st.Err), "start it again when the repository answers: the spool and the slot keep the rest"))
	}
	return err
}

// receive connects again and again.
func (s *LogStream) receive(ctx context.Context) error {
	wait := firstReconnect
	uploaded := s.cfg.Spool == nil
	for {
		var err error
		if !uploaded {
			err = UploadSpool(ctx, s.cfg.Log, s.cfg.Spool)
			uploaded = err == nil
		}
		if uploaded {
			began := time.Now()
			err = s.session(ctx)
			if time.Since(began) > maxReconnect {
				wait = firstReconnect
			}
		}
		if ctx.Err() != nil {
			return nil
		}
		var wrong *stream.WrongSystemError
		if errors.Is(err, ErrForeignLog) || errors.As(err, &wrong) {
			return err
		}
		var moved *movedError
		if errors.As(err, &moved) {
			wait = firstReconnect
			continue
		}
		s.disconnected(err, wait)
		if waitChange(ctx, nil, wait) != nil {
			return nil
		}
		wait = min(2*wait, maxReconnect)
	}
}

// movedError says that the stream goes on elsewhere, at once.
type movedError struct{ because error }

func (e *movedError) Error() string { return e.because.Error() }
func (e *movedError) Unwrap() error { return e.because }

// session receives over one connection.
func (s *LogStream) session(ctx context.Context) error {
	host, err := oneHost(ctx, s.cfg.Connection)
	if err != nil {
		return err
	}
	s.host, s.slotLost = host, false
	conn, err := cluster.ConnectReplication(ctx, host)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx)) //nolint:errcheck // Run has closed it where it got so far
	sys, err := stream.Identify(ctx, conn)
	if err != nil {
		return err
	}
	id := LogIdentity{sys.ID, sys.SegmentSize}
	if err := checkLogIdentity(ctx, s.cfg.Log, id); err != nil {
		return err
	}
	s.writer.Summarise(id)
	if err := s.reserve(ctx, conn); err != nil {
		return err
	}
	if err := s.place(ctx, conn, sys); err != nil {
		return err
	}
	pos := s.writer.position()
	watch, stop := context.WithCancel(ctx)
	var g errgroup.Group
	r := stream.NewReceiver(conn, stream.Options{Slot: s.cfg.Slot, SystemID: sys.ID, Started: func() {
		s.connected(id)
		g.Go(func() error { s.watch(watch); return nil })
	}})
	s.attach(r)
	err = r.Run(ctx, pos.timeline, pos.lsn, &logSink{s.writer})
	stop()
	return errors.Join(s.moved(ctx, err), g.Wait())
}

// attach lets a receiver acknowledge what is durable.
func (s *LogStream) attach(r *stream.Receiver) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.receiver = r
	r.Ack(s.acked)
}

// connected notes that the log arrives.
func (s *LogStream) connected(id LogIdentity) {
	s.mu.Lock()
	s.status.System, s.status.Connected, s.status.Since = id, true, time.Now()
	s.status.ConnErr, s.status.Reconnect = nil, 0
	s.mu.Unlock()
	pos := s.writer.position()
	s.cfg.Logger.Info("the log is received", dr.KeySlot, s.cfg.Slot, dr.KeyTimeline, pos.timeline, dr.KeyLSN, pos.lsn)
	s.cfg.Changed()
}

// disconnected notes that nothing arrives.
func (s *LogStream) disconnected(err error, wait time.Duration) {
	s.mu.Lock()
	was := s.status.Connected || s.status.ConnErr == nil
	s.receiver = nil
	s.status.Connected, s.status.ConnErr, s.status.Reconnect = false, err, wait
	if was {
		s.status.Since = time.Now()
	}
	s.mu.Unlock()
	tell := s.cfg.Logger.Debug // told once, not at each try
	switch {
	case errors.Is(err, stream.ErrStopped):
		tell = s.cfg.Logger.Info
	case was:
		tell = s.cfg.Logger.Warn
	}
	tell("the log is not received", dr.KeySlot, s.cfg.Slot, dr.KeyError, err)
	s.cfg.Changed()
}

// ack tells the server what is durable.
func (s *LogStream) ack(lsn wal.LSN) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.acked = lsn
	if s.receiver != nil {
		s.receiver.Ack(lsn)
	}
}

// logSink hands what a stream.Receiver receives to the writer.
type logSink struct{ w *LogWriter }

func (k *logSink) WAL(ctx context.Context, p stream.Piece) error {
	if k.w.position().timeline != p.Timeline {
		if err := k.w.Begin(ctx, p.Timeline, p.Start, nil, 0); err != nil {
			return err
		}
	}
	return k.w.Write(ctx, LogArrival{p.Timeline, p.Start, p.Data, p.Sent, p.ServerEnd})
}

func (k *logSink) History(_ context.Context, tl wal.TimelineID, content []byte) error {
	return k.w.History(tl, content)
}

func (k *logSink) Idle(ctx context.Context, end wal.LSN, sent time.Time) error {
	return k.w.Write(ctx, LogArrival{Clock: sent, End: end})
}
