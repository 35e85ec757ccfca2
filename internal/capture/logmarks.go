package capture

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/pg/wal"
	"github.com/holdfast-dr/holdfast/internal/repo"
)

const (
	markBusy  = 10 * time.Second // between marks while something is stored
	markIdle  = 60 * time.Second // while nothing is, by default: only the source's clock moves on
	maxClocks = 128
)

// logMarks decides when which high-water mark is written. Its methods are called under the writer's lock.
type logMarks struct {
	idle     time.Duration // between marks while nothing is stored
	finished bool          // a block was finished since the last mark
	left     []logPosition // ends of timelines that were left
	base     logPosition   // where we began: to mark it would tell nothing
	last     logPosition   // the last mark
	source   time.Time     // of the last mark
	at       time.Time     // when it was written, or when that failed
	previous time.Time     // the source's clock in the message before
	clocks   []logClock    // ascending
}

// logClock says that at this time, by the source's clock, the source's log reached no further than pos.
type logClock struct {
	pos   logPosition
	clock time.Time
}

func (m *logMarks) begin(pos logPosition) {
	m.base, m.previous, m.clocks = pos, time.Time{}, nil
}

// observe learns from a message after which we have the log up to pos. A server reads first how far its log
// reaches and then the clock, so something may have been committed in between: only what it had before it
// sent the message before is certain to be in this one.
func (m *logMarks) observe(pos logPosition, a LogArrival) {
	before := m.previous
	if a.Clock.IsZero() {
		return
	}
	m.previous = a.Clock
	if a.End > pos.lsn || before.IsZero() {
		return // it has more than we have
	}
	if n := len(m.clocks); n > 0 && m.clocks[n-1].pos == pos {
		m.clocks[n-1].clock = before
		return
	}
	if len(m.clocks) >= maxClocks {
		// Every second one is enough: a mark then tells a time that is a little older.
		for i := range maxClocks / 2 {
			m.clocks[i] = m.clocks[2*i+1]
		}
		m.clocks = m.clocks[:maxClocks/2]
	}
	m.clocks = append(m.clocks, logClock{pos, before})
}

// sourceAt returns the newest clock at which the source's log reached no further than pos, and forgets older ones.
func (m *logMarks) sourceAt(pos logPosition) time.Time {
	n := 0
	for n < len(m.clocks) && m.clocks[n].pos.timeline == pos.timeline && m.clocks[n].pos.lsn <= pos.lsn {
		n++
	}
	if n == 0 {
		return time.Time{}
	}
	m.clocks = slices.Delete(m.clocks, 0, n-1)
	return m.clocks[0].clock
}

// due returns the mark to write now, or how long there is none unless something changes.
func (m *logMarks) due(stored logPosition, now time.Time) (repo.Mark, bool, time.Duration) {
	mark := repo.Mark{Stream: repo.StreamID(stored.timeline), LSN: uint64(stored.lsn)}
	moved := stored != m.last && stored != m.base
	if !moved && m.last == (logPosition{}) {
		return mark, false, -1
	}
	wait := m.idle
	switch {
	case m.finished && moved:
		wait = 0
	case moved:
		wait = markBusy
	}
	if m.at.IsZero() {
		wait = 0
	}
	if d := m.at.Add(wait).Sub(now); d > 0 {
		return mark, false, d
	}
	mark.Source = m.sourceAt(stored)
	if !moved && !mark.Source.After(m.source) {
		return mark, false, m.idle
	}
	return mark, true, 0
}

// runMarks writes the marks.
func (w *LogWriter) runMarks(ctx context.Context) error {
	for {
		w.mu.Lock()
		mark, now, d := w.nextMarkLocked(time.Now())
		changed := w.changed
		w.mu.Unlock()
		if !now {
			if err := waitChange(ctx, changed, d); err != nil {
				return err
			}
			continue
		}
		if err := w.putMark(ctx, mark); err != nil {
			if ctx.Err() != nil {
				return context.Cause(ctx) // the end: what is missing lastMark writes, or Run's error tells
			}
			w.opts.Logger.Warn("a high-water mark cannot be stored", dr.KeyLSN, wal.LSN(mark.LSN), dr.KeyError, err)
			if err := waitChange(ctx, nil, markBusy); err != nil {
				return err
			}
		}
	}
}

func (w *LogWriter) nextMarkLocked(now time.Time) (repo.Mark, bool, time.Duration) {
	if len(w.marks.left) > 0 {
		pos := w.marks.left[0]
		if !slices.ContainsFunc(w.blocks, func(b *logBlock) bool { return b.timeline == pos.timeline }) {
			return repo.Mark{Stream: repo.StreamID(pos.timeline), LSN: uint64(pos.lsn)}, true, 0
		}
	}
	return w.marks.due(w.storedLocked(), now)
}

// putMark writes one mark.
func (w *LogWriter) putMark(ctx context.Context, mark repo.Mark) error {
	mark.Writer = time.Now().UTC()
	w.mu.Lock()
	w.marks.at = time.Now()
	w.marks.finished = false
	w.mu.Unlock()
	err := w.log.PutMark(ctx, mark)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.status.Requests += 2
	pos := logPosition{wal.TimelineID(mark.Stream), wal.LSN(mark.LSN)}
	switch {
	case err != nil:
		w.marks.finished = true
	case len(w.marks.left) > 0 && w.marks.left[0] == pos:
		w.marks.left = w.marks.left[1:]
	default:
		w.marks.last, w.marks.source = pos, mark.Source
	}
	return err
}

// lastMark writes what runMarks has not: everything is stored.
func (w *LogWriter) lastMark(ctx context.Context) error {
	for {
		w.mu.Lock()
		w.marks.at = time.Time{} // whatever the intervals say
		mark, now, _ := w.nextMarkLocked(time.Now())
		w.mu.Unlock()
		if !now {
			return nil
		}
		if err := w.putMark(ctx, mark); err != nil {
			if ctxErr := waitChange(ctx, nil, firstBackoff); ctxErr != nil {
				return errors.Join(err, ctxErr)
			}
		}
	}
}
