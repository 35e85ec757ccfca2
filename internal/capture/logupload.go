package capture

import (
	"context"
	"errors"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/pg/wal"
	"github.com/holdfast-dr/holdfast/internal/repo"
)

const (
	logWorkers   = 2
	firstBackoff = 250 * time.Millisecond
	maxBackoff   = 15 * time.Second
)

// Run stores what Write takes until Finish was called and everything is stored, or ctx ends; then it returns the
// context's cause.
func (w *LogWriter) Run(ctx context.Context) error {
	side, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	var workers, sides errgroup.Group
	for range logWorkers {
		workers.Go(func() error { return w.work(ctx) })
	}
	sides.Go(func() error { return w.runSpool(side) })
	sides.Go(func() error { return w.runMarks(side) })
	sides.Go(func() error { return w.runChanges(side) })
	sides.Go(func() error { return w.runSummaries(side) })
	err := workers.Wait()
	stop(errDrained)
	sideErr := sides.Wait()
	if errors.Is(sideErr, errDrained) {
		sideErr = nil
	}
	if err != nil {
		return err
	}
	sideErr = errors.Join(sideErr, w.lastMark(ctx))
	w.lastSummaries(ctx)
	return sideErr
}

// work stores one extent after another.
func (w *LogWriter) work(ctx context.Context) error {
	encoder := w.log.Encoder()
	var scratch []byte
	for {
		w.mu.Lock()
		now := time.Now()
		job, d := w.takeLocked(now)
		changed, drained := w.changed, w.drained
		w.mu.Unlock()
		switch {
		case drained:
			return nil
		case job == nil:
			if err := waitChange(ctx, changed, d); err != nil {
				return err
			}
			continue
		}
		var err error
		scratch, err = w.store(ctx, encoder, job, scratch)
		w.finish(ctx, job, err)
		w.tell()
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
}

// takeLocked chooses the next extent to store: the oldest block first. Without one it says how long there will be
// none unless something changes; negative: for ever.
func (w *LogWriter) takeLocked(now time.Time) (*logJob, time.Duration) {
	if d := w.retryAt.Sub(now); d > 0 {
		return nil, d
	}
	wait, left, backlog := time.Duration(-1), false, 0
	for _, b := range w.blocks {
		if b.closed && b.whole != b.hi {
			backlog++
		}
	}
	for _, b := range w.blocks {
		if b.busy {
			left = true
			continue
		}
		if b.closed && b.whole != b.hi {
			return w.jobLocked(b, now, backlog > 1), 0
		}
		if b.hi == b.stored {
			continue
		}
		left = true
		due := b.since.Add(w.opts.Interval).Sub(now)
		if w.opts.Synchronous || w.closing || due <= 0 {
			return w.jobLocked(b, now, backlog > 1), 0
		}
		if wait < 0 || due < wait {
			wait = due
		}
	}
	if w.closing && !left && !w.drained {
		w.drained = true
		w.broadcastLocked()
	}
	return nil, wait
}

func (w *LogWriter) jobLocked(b *logBlock, now time.Time, backlog bool) *logJob {
	j := &logJob{block: b, from: b.lo, to: b.hi, clock: b.clock, final: b.closed, backlog: backlog, taken: now}
	if b.closed {
		j.drops = b.pieces.any()
	} else {
		j.from, j.joins = b.pieces.next(b)
		j.drops = j.joins
	}
	j.data = b.bytes(j.from, j.to)
	j.history = w.histories[b.timeline]
	b.busy = true
	return j
}

// store does a job. It returns scratch, grown to hold what the spool had.
func (w *LogWriter) store(ctx context.Context, encoder *repo.ExtentEncoder, j *logJob, scratch []byte) ([]byte, error) {
	tl := j.block.timeline
	if j.history != nil {
		// Before any byte of the timeline: without its history nobody could tell where it comes from.
		if err := storeHistory(ctx, w.log, tl, j.history); err != nil {
			return scratch, err
		}
	}
	data := j.data
	if data == nil {
		if scratch == nil {
			scratch = make([]byte, logBlockSize)
		}
		data = scratch[:j.to-j.from]
		if err := w.opts.Spool.Read(tl, j.from, data); err != nil {
			return scratch, err
		}
	}
	compression := repo.Fast
	if j.final && !j.backlog {
		compression = repo.Small
	}
	clock := repo.ExtentClock{Source: j.clock, Writer: time.Now()}
	return scratch, encoder.Put(ctx, repo.StreamID(tl), uint64(j.from), data, clock, compression)
}

// finish notes a job's end.
func (w *LogWriter) finish(ctx context.Context, j *logJob, err error) {
	w.mu.Lock()
	b := j.block
	w.broadcastLocked()
	if err != nil {
		b.busy = false
		w.failedLocked(err)
		w.mu.Unlock()
		return
	}
	w.backoff, w.retryAt, w.status.Err = 0, time.Time{}, nil
	if j.history != nil {
		delete(w.histories, b.timeline)
		w.dropFiles = append(w.dropFiles, wal.HistoryName(b.timeline))
	}
	b.stored = max(b.stored, j.to)
	if j.from == b.lo {
		b.whole = max(b.whole, j.to)
	}
	b.since = time.Time{}
	if b.hi > b.stored {
		b.since = j.taken // the oldest of them came after that
	}
	if !b.closed || !j.final {
		b.pieces = b.pieces.put(b, j.from, j.to, j.joins)
	}
	w.status.stored(j)
	if !j.drops {
		b.busy = false
		w.popLocked()
		w.mu.Unlock()
		return
	}
	w.mu.Unlock()
	w.tell() // it counts now; dropping what it supersedes may take its time
	w.dropPieces(ctx, j)
}

// dropPieces removes the pieces that a job superseded. Where that fails they stay: they cost space and nothing else.
func (w *LogWriter) dropPieces(ctx context.Context, j *logJob) {
	keep := repo.Extent{Stream: repo.StreamID(j.block.timeline), Start: uint64(j.from), End: uint64(j.to)}
	err := w.log.DropPieces(ctx, keep)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.status.Requests++
	if err != nil {
		w.status.Undropped++
		w.opts.Logger.Warn("superseded pieces of the log stay in the repository", dr.KeyLSN, j.to, dr.KeyError, err)
	}
	j.block.busy = false
	w.popLocked()
	w.broadcastLocked()
}

// failedLocked puts off the next try.
func (w *LogWriter) failedLocked(err error) {
	w.backoff = min(max(2*w.backoff, firstBackoff), maxBackoff)
	w.retryAt = time.Now().Add(w.backoff)
	if w.status.Err == nil {
		w.opts.Logger.Error("the log cannot be stored", dr.KeyTimeline, w.timeline, dr.KeyLSN, w.storedLocked().lsn, dr.KeyError, err)
	}
	w.status.Err = err
	w.status.Failures++
}
