package verify

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/pg/wal"
	"github.com/holdfast-dr/holdfast/internal/pg/wal/record"
	"github.com/holdfast-dr/holdfast/internal/repo"
	"github.com/holdfast-dr/holdfast/internal/restore"
	"github.com/holdfast-dr/holdfast/internal/restore/points"
	"github.com/holdfast-dr/holdfast/internal/store"
)

// stretch is a part of one timeline's log on the way to a point.
type stretch struct {
	timeline wal.TimelineID
	from, to wal.LSN
}

// stretches cuts a way's log from one position to another by its timelines. A new timeline counts from the start of the segment in
// which it began: that begins with a copy of the old one's bytes, and where segments were archived as files only this copy may be
// there.
func stretches(way *wal.Timelines, from, to wal.LSN, size wal.SegmentSize) (out []stretch) {
	add := func(tl wal.TimelineID) {
		if begin, end, ok := way.Range(tl); ok && begin < to && end > from {
			out = append(out, stretch{tl, max(size.Floor(begin), from), min(end, to)})
		}
	}
	for _, a := range way.Ancestors {
		add(a.Timeline)
	}
	add(way.Timeline)
	return out
}

// log reads the log from the snapshot's start up to the point, and every record in it. Of extents that overlap one suffices: a damaged
// one is a problem where it alone holds something.
func (x *reading) log(ctx context.Context) error {
	p := x.plan
	from, to := p.Snapshot.Facts.LogStart(), p.Range.To
	if p.Target.Kind == points.AtLSN || p.Target.Kind == points.AtName {
		to = min(to, max(p.Target.LSN, p.Snapshot.Facts.StopLSN))
	}
	if p.Target.Kind == points.Immediate {
		to = p.Snapshot.Facts.StopLSN
	}
	x.result.From, x.result.To = from, to
	rd := logReading{reading: x, lr: x.repo.Log(p.System).Reader()}
	if err := rd.begin(); err != nil {
		return err
	}
	for _, s := range stretches(p.Way, from, to, wal.SegmentSize(p.Snapshot.Facts.SegmentSize)) {
		if err := rd.stretch(ctx, s); err != nil || rd.past {
			return errors.Join(err, rd.end())
		}
	}
	return rd.end()
}

// logReading is one pass over a log.
type logReading struct {
	*reading
	lr      *repo.LogReader
	records *record.Reader // nil once it has stopped
	stopped *record.StopError
	at      wal.LSN // up to where the log was handed to records
	reached wal.LSN // up to where it was read
	past    bool    // the point is a time, and what follows is later
	n       int64
}

func (l *logReading) begin() error {
	f := l.plan.Snapshot.Facts
	var err error
	l.at = f.LogStart()
	l.records, err = record.NewReader(record.Config{
		Start: l.at, Timeline: l.plan.Way.Timeline, SegmentSize: wal.SegmentSize(f.SegmentSize), SystemID: f.SystemID, PageSize: f.PageSize,
	}, func(*record.Record) { l.n++ })
	return err
}

// stretch reads the extents of a stretch, oldest first.
func (l *logReading) stretch(ctx context.Context, s stretch) error {
	for try := 1; ; try++ {
		extents, err := l.repo.Log(l.plan.System).Extents(ctx, repo.StreamID(s.timeline), uint64(s.from))
		if err != nil {
			return fmt.Errorf("list the log of timeline %d: %w", s.timeline, err)
		}
		var good []repo.Extent
		broken := map[repo.Extent]error{}
		replaced := false
		for _, e := range extents {
			if e.Start >= uint64(s.to) || e.End <= uint64(s.from) {
				continue
			}
			if err := l.extent(ctx, s, e); err != nil && !damagedLog(err) {
				return fmt.Errorf("read the log of timeline %d from %s: %w", s.timeline, wal.LSN(e.Start), err)
			} else if err != nil {
				broken[e], replaced = err, replaced || errors.Is(err, store.ErrNotExist)
				continue
			}
			if good = append(good, e); l.past {
				break
			}
		}
		// While the log is written, its last pieces are replaced by what is finished.
		if !replaced || try == 3 {
			l.judge(s, good, broken)
			return ctx.Err()
		}
	}
}

func (l *logReading) extent(ctx context.Context, s stretch, e repo.Extent) error {
	b, clock, err := l.lr.Read(ctx, e)
	if err != nil {
		return err
	}
	l.mu.Lock()
	l.result.Figures.Log += dr.Bytes(len(b))
	l.mu.Unlock()
	l.feed(s, wal.LSN(e.Start), b)
	l.reached = max(l.reached, min(wal.LSN(e.End), s.to))
	l.past = l.beyond(clock)
	return nil
}

// beyond tells whether everything after an extent with this clock lies after the point.
func (l *logReading) beyond(c repo.ExtentClock) bool {
	t := l.plan.Target
	return t.Kind == points.AtTime && !c.Source.IsZero() && c.Source.After(t.Time.Add(time.Second))
}

// damagedLog tells an extent that is lost from a store that does not answer.
func damagedLog(err error) bool { return restore.IsDamage(&repo.ChunkError{Pack: "log", Err: err}) }

// judge says what of a stretch no good extent holds.
func (l *logReading) judge(s stretch, good []repo.Extent, broken map[repo.Extent]error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	have := repo.Merge(good)
	for e, err := range broken {
		from, to := max(e.Start, uint64(s.from)), min(e.End, uint64(s.to))
		what := fmt.Sprintf("the log of timeline %d from %s to %s", s.timeline, wal.LSN(from), wal.LSN(to))
		if slices.ContainsFunc(have, func(r repo.Range) bool { return r.Start <= from && to <= r.End }) {
			l.result.note("%s: %v; another object holds the same bytes", what, err)
			continue
		}
		l.result.problem(Objects, what, "%v", err)
	}
}

// feed hands what is new of an extent to the reader of records.
func (l *logReading) feed(s stretch, start wal.LSN, b []byte) {
	end := min(start+wal.LSN(len(b)), s.to)
	if l.records == nil || l.sample < 1 || start > l.at || end <= l.at {
		return // what lies behind a part that is missing cannot be read as records
	}
	_, err := l.records.Write(b[l.at-start : end-start])
	l.at = end
	if stop := new(record.StopError); errors.As(err, &stop) {
		l.records, l.stopped = nil, stop
	}
}

// end says how far the records went.
func (l *logReading) end() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	r := l.result
	r.Figures.Records = l.n
	if l.past {
		r.To = l.reached
	}
	switch s := l.stopped; {
	case l.sample < 1:
		r.leave("the records of the log: with a sample they are not followed")
	case s != nil:
		r.problem(Objects, fmt.Sprintf("the log at %s", s.At), "%s; it goes on to %s", s.Reason, r.To)
	default:
		r.cover("%d records of the log from %s to %s, each with its CRC", l.n, r.From, l.at)
	}
	return nil
}
