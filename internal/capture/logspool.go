package capture

import (
	"context"
	"errors"
	"time"

	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/pg/wal"
)

// healthyAfter is how long bytes may wait for the repository before they go to the spool.
func (w *LogWriter) healthyAfter() time.Duration { return max(3*w.opts.Interval, 5*time.Second) }

// runSpool brings what has to go there into the spool, and drops what the repository has.
func (w *LogWriter) runSpool(ctx context.Context) error {
	if w.opts.Spool == nil {
		return nil
	}
	for {
		w.mu.Lock()
		now := time.Now()
		b, from, to, d := w.takeSpoolLocked(now)
		changed := w.changed
		w.mu.Unlock()
		if err := w.cleanSpool(); err != nil {
			w.opts.Logger.Warn("the spool keeps what the repository has", dr.KeyError, err)
		}
		if b != nil {
			w.spool(b, from, to)
			w.tell()
			continue
		}
		if err := waitChange(ctx, changed, d); err != nil {
			return w.leaveSpool(err)
		}
	}
}

// takeSpoolLocked chooses what goes to the spool next.
func (w *LogWriter) takeSpoolLocked(now time.Time) (b *logBlock, from, to wal.LSN, wait time.Duration) {
	if d := w.spoolAt.Sub(now); d > 0 {
		return nil, 0, 0, d
	}
	wait = -1
	take := func(b *logBlock) (*logBlock, wal.LSN, wal.LSN, time.Duration) {
		b.spooling = true
		return b, b.spooled, b.hi, 0
	}
	if w.starved {
		// The newest that is complete: the oldest ones are stored next.
		for i := len(w.blocks) - 1; i >= 0; i-- {
			if b := w.blocks[i]; b.closed && b.data != nil && !b.busy && b.summed {
				return take(b)
			}
		}
	}
	for _, b := range w.blocks {
		if b.data == nil || b.unspooled.IsZero() || b.stored == b.hi {
			continue
		}
		var due time.Duration
		switch {
		case !w.opts.AckSpool:
			due = b.since.Add(w.healthyAfter()).Sub(now)
		case !w.opts.Synchronous && !w.closing:
			due = b.unspooled.Add(w.opts.Interval).Sub(now)
		}
		if due <= 0 {
			return take(b)
		}
		if wait < 0 || due < wait {
			wait = due
		}
	}
	return nil, 0, 0, wait
}

// cleanSpool drops what the repository has.
func (w *LogWriter) cleanSpool() error {
	w.mu.Lock()
	drops, files := w.drops, w.dropFiles
	w.drops, w.dropFiles = nil, nil
	w.mu.Unlock()
	var err error
	for _, p := range drops {
		err = errors.Join(err, w.opts.Spool.Drop(p.timeline, p.lsn))
	}
	for _, f := range files {
		err = errors.Join(err, w.opts.Spool.DropFile(f))
	}
	return err
}

// spool brings a part of a block into the spool, and takes the block out of memory where Write waits for that.
func (w *LogWriter) spool(b *logBlock, from, to wal.LSN) {
	began := time.Now()
	w.mu.Lock()
	data, clock := b.bytes(from, to), b.clock
	w.mu.Unlock()
	end, err := w.opts.Spool.Append(b.timeline, from, data, clock)
	if syncErr := w.opts.Spool.Sync(); syncErr != nil {
		end, err = from, errors.Join(err, syncErr)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	defer w.broadcastLocked()
	b.spooling = false
	b.spooled = end
	b.unspooled = time.Time{}
	if b.hi > end {
		b.unspooled = began
	}
	if err != nil {
		if w.status.SpoolErr == nil {
			w.opts.Logger.Error("the spool takes no more of the log", dr.KeyTimeline, b.timeline, dr.KeyLSN, end, dr.KeyError, err)
		}
		w.spoolAt = began.Add(w.opts.Interval)
	}
	w.status.SpoolErr = err
	if w.starved && b.closed && b.hi == b.spooled && !b.busy && b.summed && b.data != nil {
		w.free = append(w.free, b.data)
		b.data = nil
	}
	w.popLocked()
}

// leaveSpool leaves the spool so that nothing of worth is lost with this process: empty where the repository has
// everything, and otherwise with all that memory holds.
func (w *LogWriter) leaveSpool(cause error) error {
	w.mu.Lock()
	blocks := w.blocks
	w.drops = append(w.drops, w.storedLocked())
	w.mu.Unlock()
	for _, b := range blocks {
		if b.data != nil && b.spooled < b.hi && b.stored < b.hi {
			w.spool(b, b.spooled, b.hi)
		}
	}
	err := w.cleanSpool()
	w.tell()
	return errors.Join(cause, err)
}
