package capture

import (
	"context"
	"time"

	"github.com/holdfast-dr/holdfast/internal/pg/wal"
	"github.com/holdfast-dr/holdfast/internal/repo"
)

// markPause is how long a busy archiver lets pushed segments gather before it marks them: a mark is some requests.
const markPause = 20 * time.Millisecond

// pushMarks is how far one timeline was pushed without a gap, and how far that was marked. No file is said to be
// durable before the mark says so too: a recovery that ends below what was acknowledged is refused by it.
type pushMarks struct {
	apart   map[wal.LSN]wal.LSN // pushed segments, start to end, that pushed has not reached
	pushed  wal.LSN
	marked  wal.LSN
	err     error         // of the last mark
	changed chan struct{} // closed when a mark was tried

	stored []repo.Extent // what the repository had, from a position on, at a time
	from   wal.LSN
	listed time.Time
}

func (a *Archiver) marksLocked(tl wal.TimelineID) *pushMarks {
	m := a.marks[tl]
	if m == nil {
		m = &pushMarks{apart: map[wal.LSN]wal.LSN{}, changed: make(chan struct{})}
		a.marks[tl] = m
	}
	return m
}

// ask notes that PostgreSQL asks for the segment at start, so that everything before it was archived.
func (m *pushMarks) ask(start wal.LSN) {
	if m.pushed < start {
		m.pushed = start
		m.join()
	}
}

func (m *pushMarks) done(start, end wal.LSN) {
	m.apart[start] = max(m.apart[start], end)
	m.join()
}

func (m *pushMarks) join() {
	for start, end := range m.apart {
		if end <= m.pushed {
			delete(m.apart, start)
		}
	}
	for end, ok := m.apart[m.pushed]; ok; end, ok = m.apart[m.pushed] {
		delete(m.apart, m.pushed)
		m.pushed = end
	}
}

// untilMarked waits until a pushed job is marked.
func (a *Archiver) untilMarked(ctx context.Context, j *pushJob) error {
	end := j.name.Start + wal.LSN(j.id.SegmentSize)
	for {
		a.mu.Lock()
		m := a.marksLocked(j.name.Timeline)
		marked, changed := m.marked, m.changed
		a.mu.Unlock()
		if marked >= end {
			return nil
		}
		wake(a.marked)
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		a.mu.Lock()
		err := m.err
		a.mu.Unlock()
		if err != nil {
			return err
		}
	}
}

// mark marks what was pushed: several segments at once where there are several.
func (a *Archiver) mark(ctx context.Context) {
	for {
		select {
		case <-a.marked:
		case <-ctx.Done():
			return
		}
		a.mu.Lock()
		todo := map[wal.TimelineID]wal.LSN{}
		for tl, m := range a.marks {
			if m.pushed > m.marked && m.pushed > 0 {
				todo[tl] = m.pushed
			}
		}
		busy := len(a.queue) > 0
		a.mu.Unlock()
		for tl, end := range todo {
			a.settle(tl, end, putPushMark(ctx, a.Log, tl, end))
		}
		if busy {
			select {
			case <-time.After(markPause):
			case <-ctx.Done():
				return
			}
		}
	}
}

func (a *Archiver) settle(tl wal.TimelineID, end wal.LSN, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	m := a.marks[tl]
	if m.err = err; err == nil {
		m.marked = end
	}
	close(m.changed)
	m.changed = make(chan struct{})
}

// stored returns what the repository has of a segment's timeline from the segment on, or had some seconds ago.
func (a *Archiver) stored(ctx context.Context, name wal.Name) ([]repo.Extent, error) {
	a.listing.Lock()
	defer a.listing.Unlock()
	a.mu.Lock()
	m := a.marksLocked(name.Timeline)
	a.mu.Unlock()
	if name.Start >= m.from && time.Since(m.listed) < listEvery {
		return m.stored, nil
	}
	began := time.Now()
	stored, err := a.Log.Extents(ctx, repo.StreamID(name.Timeline), uint64(name.Start))
	if err != nil {
		return nil, err
	}
	m.stored, m.from, m.listed = stored, name.Start, began
	return stored, nil
}
