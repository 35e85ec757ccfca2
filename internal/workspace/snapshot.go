package workspace

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/holdfast-dr/holdfast/internal/capture"
	"github.com/holdfast-dr/holdfast/internal/config"
	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/pg"
	"github.com/holdfast-dr/holdfast/internal/pg/cluster"
	"github.com/holdfast-dr/holdfast/internal/pg/figure"
	"github.com/holdfast-dr/holdfast/internal/pg/stream"
	"github.com/holdfast-dr/holdfast/internal/pg/wal"
	"github.com/holdfast-dr/holdfast/internal/repo"
)

// SnapshotOptions are those of one snapshot.
type SnapshotOptions struct {
	Checkpoint config.Checkpoint // begins with a new one of this kind; empty: only where one is needed, as configured
	Scan       capture.Scan
	Progress   dr.ProgressFunc
}

// Snapshot takes a snapshot of a system. Where nobody brings its log into the repository (an agent does, or an
// archive_command), it receives the log itself while it lasts, through a slot that ends with the connection: a
// snapshot without its log could not be recovered.
func (w *Workspace) Snapshot(ctx context.Context, s System, o SnapshotOptions) (*capture.SnapshotReport, error) {
	streamed, err := w.streamed(ctx, s)
	if err != nil {
		return nil, err
	}
	if streamed {
		return capture.Snapshot(ctx, s.Repo, w.SnapshotConfig(s, o))
	}
	log := s.Repo.Log(string(s.Name))
	if err := log.Register(ctx, s.Group()); err != nil {
		return nil, err
	}
	stream := capture.NewLogStream(capture.StreamConfig{
		Connection: s.Postgres.Connection.DSN(), Slot: fmt.Sprintf("holdfast_tmp_%d", os.Getpid()), Temporary: true,
		Log: log, Interval: time.Second, Logger: w.log,
	})
	eg, egctx := errgroup.WithContext(ctx)
	streaming, stop := context.WithCancel(egctx)
	defer stop()
	eg.Go(func() error { return stream.Run(streaming) })
	var report *capture.SnapshotReport
	eg.Go(func() error {
		defer stop()
		if err := awaitStream(egctx, s, stream); err != nil {
			return err
		}
		cfg := w.SnapshotConfig(s, o)
		cfg.WaitLog = func(ctx context.Context, tl wal.TimelineID, start, end wal.LSN) error {
			return waitLog(ctx, log, tl, start, end, func() error { return gapWithin(stream.Status().Gaps, start, end) })
		}
		var err error
		report, err = capture.Snapshot(egctx, s.Repo, cfg)
		return err
	})
	return report, eg.Wait()
}

// streamPatience is how long a snapshot waits for a stream of its own that does not come nearer.
const streamPatience = 30 * time.Second

// awaitStream waits until the stream has received what the server has now. Before that its slot may not hold the log
// of the backup: a stream that asks for log that the server has removed loses its connection, its slot with that,
// and comes back later. A stream that does not move is not waited for: the snapshot's end finds out.
func awaitStream(ctx context.Context, s System, stream *capture.LogStream) error {
	conn, err := cluster.Connect(ctx, s.Postgres.Connection.DSN())
	if err != nil {
		return err
	}
	info, err := cluster.Identify(ctx, conn)
	if err = errors.Join(err, conn.Close(context.WithoutCancel(ctx))); err != nil {
		return err
	}
	end := info.LSN
	// After a switch of segments the position is behind the next one's header, which nobody has written yet.
	if begin := wal.SegmentSize(info.WALSegmentSize).Floor(end); end <= begin+wal.LongHeaderSize {
		end = begin
	}
	tick := time.NewTicker(20 * time.Millisecond) // it announces nothing: ask
	defer tick.Stop()
	moved := time.Now()
	for last := end; time.Since(moved) < streamPatience; {
		st := stream.Status()
		if st.Connected && st.ReceivedLSN >= end {
			return nil
		}
		if st.ReceivedLSN != last {
			last, moved = st.ReceivedLSN, time.Now()
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// gapWithin returns an error where the log has a gap between start and end: nothing will fill it.
func gapWithin(gaps []capture.LogGap, start, end wal.LSN) error {
	for _, g := range gaps {
		if g.From < end && g.To > start {
			return dr.Fail("the log of this snapshot has a gap", errors.New(g.String()), "take another snapshot; holdfast agent keeps the log from being removed meanwhile")
		}
	}
	return nil
}

// SnapshotConfig returns how a snapshot of the system is taken, with a WaitLog that looks into the repository.
func (w *Workspace) SnapshotConfig(s System, o SnapshotOptions) capture.SnapshotConfig {
	checkpoint := s.Postgres.Checkpoint
	if o.Checkpoint != "" {
		checkpoint = o.Checkpoint
	}
	return capture.SnapshotConfig{
		System: string(s.Name), Group: s.Group(), Connection: s.Postgres.Connection.DSN(), DataDir: s.Postgres.DataDirectory,
		Checkpoint: cluster.CheckpointMode(checkpoint == config.CheckpointFast), ForceCheckpoint: o.Checkpoint != "", Scan: o.Scan, Codec: w.codec,
		Progress: o.Progress, Log: w.log, Evidence: w.evidencePoint(s), Figures: figures(s),
		WaitLog: func(ctx context.Context, tl wal.TimelineID, start, end wal.LSN) error {
			return waitLog(ctx, s.Repo.Log(string(s.Name)), tl, start, end, func() error { return nil })
		},
	}
}

// askFor bounds how long the source is asked for figures after a snapshot, which does not exist before.
const askFor = 5 * time.Minute

// figures returns how the source is asked for what restore tests compare with it; nil where nothing is compared.
func figures(s System) func(context.Context) *figure.Recorded {
	var questions []figure.Question
	for _, a := range s.Verify.Assertions {
		if a.EqualsSource {
			questions = append(questions, figure.Question{Name: a.Name, Database: a.Database, SQL: a.SQL, Table: a.Table})
		}
	}
	if len(questions) == 0 {
		return nil
	}
	return func(ctx context.Context) *figure.Recorded {
		ctx, cancel := context.WithTimeout(ctx, askFor)
		defer cancel()
		return figure.Record(ctx, questions, min(s.Policy.Verify.Timeout, askFor), func(ctx context.Context, database string) (*pgx.Conn, error) {
			return cluster.ConnectTo(ctx, s.Postgres.Connection.DSN(), database)
		})
	}
}

// streamed tells whether somebody else brings the system's log into the repository.
func (w *Workspace) streamed(ctx context.Context, s System) (bool, error) {
	if !s.Policy.Log.Stream {
		return true, nil // an archive_command does
	}
	conn, err := cluster.Connect(ctx, s.Postgres.Connection.DSN())
	if err != nil {
		return false, err
	}
	defer conn.Close(context.WithoutCancel(ctx)) //nolint:errcheck // one question was asked
	slot, ok, err := stream.ReadSlot(ctx, conn, SlotName(s.System))
	return ok && slot.Active, err
}

const (
	logPoll    = 250 * time.Millisecond
	logTimeout = 5 * time.Minute
)

var errLogLate = errors.New("it did not arrive in the repository")

// waitLog waits until the repository holds the log from start to end, on the way to timeline tl, or until broken
// says why it never will.
func waitLog(ctx context.Context, log *repo.Log, tl wal.TimelineID, start, end wal.LSN, broken func() error) error {
	deadline := time.NewTimer(logTimeout)
	defer deadline.Stop()
	tick := time.NewTicker(logPoll)
	defer tick.Stop()
	for {
		ok, err := holds(ctx, log, tl, start, end)
		if err != nil || ok {
			return err
		}
		if err := broken(); err != nil {
			return err
		}
		select {
		case <-tick.C:
		case <-deadline.C:
			return dr.Fail(fmt.Sprintf("wait %s for the log", logTimeout), errLogLate,
				"holdfast log status shows who should bring it: the agent, or the server's archive_command")
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// holds reports whether the repository has the log from start to end, on the way to timeline tl.
func holds(ctx context.Context, log *repo.Log, tl wal.TimelineID, start, end wal.LSN) (bool, error) {
	extents, err := log.Extents(ctx, repo.StreamID(tl), uint64(start))
	if err != nil {
		return false, err
	}
	for _, r := range repo.Merge(extents) {
		if r.End < uint64(end) || r.Start > uint64(end) {
			continue
		}
		if r.Start <= uint64(start) {
			return true, nil
		}
		return holdsBefore(ctx, log, tl, start, wal.LSN(r.Start))
	}
	return false, nil
}

// holdsBefore looks for what lies before the beginning of a timeline: on the timeline that it came from.
func holdsBefore(ctx context.Context, log *repo.Log, tl wal.TimelineID, start, begin wal.LSN) (bool, error) {
	if tl == 1 {
		return false, nil
	}
	content, err := log.File(ctx, pg.HistoryFile(tl))
	if err != nil {
		return false, err
	}
	h, err := wal.ParseHistory(tl, content)
	if err != nil || len(h.Ancestors) == 0 {
		return false, err
	}
	parent := h.Ancestors[len(h.Ancestors)-1]
	if parent.End < begin {
		return false, nil // a gap at the beginning of the timeline
	}
	return holds(ctx, log, parent.Timeline, start, parent.End)
}
