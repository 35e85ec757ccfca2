package incremental

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/holdfast-dr/holdfast/internal/pg/wal"
	"github.com/holdfast-dr/holdfast/internal/pg/wal/changed"
	"github.com/holdfast-dr/holdfast/internal/pg/wal/record"
)

// logs finds segments of the log in folders.
type logs struct {
	dirs     []string
	size     wal.SegmentSize
	systemID uint64
}

// gapError says that a part of the log cannot be read.
type gapError struct {
	at     wal.LSN
	reason string
}

func (e *gapError) Error() string { return fmt.Sprintf("at %s %s", e.at, e.reason) }

// logReader is a record.Reader or a changed.Decoder.
type logReader interface {
	Next() wal.LSN
	End() wal.LSN
	Write(b []byte) (int, error)
}

// span is a part of the log on the way to a timeline.
type span struct {
	from, to wal.LSN
	way      *wal.Timelines
}

// way returns the way to a timeline: that of its history file, or the timeline alone, where from is on it too.
func (l *logs) way(tl, from wal.TimelineID) (*wal.Timelines, error) {
	for _, dir := range l.dirs {
		b, err := readSmall(filepath.Join(dir, wal.HistoryName(tl)))
		if err == nil {
			return wal.ParseHistory(tl, b)
		}
	}
	if tl == from {
		return &wal.Timelines{Timeline: tl}, nil
	}
	return nil, fmt.Errorf("%s, which says where timeline %d was left, is not there", wal.HistoryName(tl), from)
}

// changes returns what the log of a span changed. An error that is no *gapError is one of reading.
func (l *logs) changes(ctx context.Context, s span) (*changed.Map, error) {
	var maps []*changed.Map
	err := l.parts(ctx, s, func(c record.Config) (logReader, error) {
		return changed.NewDecoder(c)
	}, func(r logReader) {
		maps = append(maps, r.(*changed.Decoder).Cut()) //nolint:forcetypeassert // made above
	}, nil)
	if err != nil {
		return nil, err
	}
	return changed.Join(s.way, maps...)
}

// records calls fn for each record of a span.
func (l *logs) records(ctx context.Context, s span, fn func(*record.Record)) error {
	return l.parts(ctx, s, func(c record.Config) (logReader, error) {
		return record.NewReader(c, fn)
	}, func(logReader) {}, nil)
}

// pieces calls fn for what each page of the log changed, to say where a change was.
func (l *logs) pieces(ctx context.Context, s span, fn func(*changed.Map)) error {
	return l.parts(ctx, s, func(c record.Config) (logReader, error) {
		return changed.NewDecoder(c)
	}, func(logReader) {}, func(r logReader) {
		fn(r.(*changed.Decoder).Cut()) //nolint:forcetypeassert // made above
	})
}

// parts reads a span timeline by timeline, each by a reader of its own: done is told of each at its end, and page,
// where not nil, after each page of the log.
func (l *logs) parts(ctx context.Context, s span, open func(record.Config) (logReader, error), done, page func(logReader)) error {
	next := s.from
	for tl := s.way.At(s.from); next < s.to; {
		_, end, ok := s.way.Range(tl)
		if !ok {
			return &gapError{next, fmt.Sprintf("the way to timeline %d does not pass timeline %d", s.way.Timeline, tl)}
		}
		end = min(end, s.to)
		r, err := open(record.Config{Start: next, Timeline: tl, SegmentSize: l.size, SystemID: l.systemID})
		if err != nil {
			return &gapError{next, err.Error()}
		}
		if err := l.feed(ctx, r, s.way, tl, end, page); err != nil {
			return err
		}
		if l.size.BeforeHeader(r.End()) < l.size.BeforeHeader(end) {
			return &gapError{r.End(), fmt.Sprintf("the last complete record before %s ends", end)}
		}
		done(r)
		next = end
		if tl, ok = s.way.Next(tl); !ok && next < s.to {
			return &gapError{next, "the timeline ends"}
		}
	}
	return nil
}

// feed writes the log up to a position to r.
func (l *logs) feed(ctx context.Context, r logReader, way *wal.Timelines, tl wal.TimelineID, to wal.LSN, page func(logReader)) error {
	buf := make([]byte, 128<<10)
	if page != nil {
		buf = buf[:wal.PageSize]
	}
	for r.Next() < to {
		f, name, err := l.open(way, tl, r.Next())
		if err != nil {
			return err
		}
		err = l.feedSegment(ctx, r, f, buf, to, page)
		if err := errors.Join(err, f.Close()); err != nil {
			var stop *record.StopError
			if errors.As(err, &stop) {
				return &gapError{stop.At, fmt.Sprintf("%s cannot be read on: %s", name, stop.Reason)}
			}
			return err
		}
	}
	return nil
}

// feedSegment writes the rest of one segment to r.
func (l *logs) feedSegment(ctx context.Context, r logReader, f *os.File, buf []byte, to wal.LSN, page func(logReader)) error {
	start := l.size.Floor(r.Next())
	end := min(start+wal.LSN(l.size), to)
	for r.Next() < end {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		at := r.Next()
		n, err := f.ReadAt(buf[:min(wal.LSN(len(buf)), end-at)], int64(at-start))
		if n == 0 {
			if errors.Is(err, io.EOF) {
				return &gapError{at, f.Name() + " ends"}
			}
			return err
		}
		if _, err := r.Write(buf[:n]); err != nil {
			return err
		}
		if page != nil {
			page(r)
		}
		if r.Next() == at {
			return &gapError{at, "reading does not go on"}
		}
	}
	return nil
}

// open finds the segment that holds a position of a timeline. A segment in which a timeline was left is there
// under the name of the next one too, with the same bytes up to that point.
func (l *logs) open(way *wal.Timelines, tl wal.TimelineID, at wal.LSN) (*os.File, string, error) {
	want := wal.SegmentName(tl, l.size.Segment(at), l.size)
	names := []string{want}
	for next, ok := way.Next(tl); ok; next, ok = way.Next(next) {
		names = append(names, wal.SegmentName(next, l.size.Segment(at), l.size))
	}
	names = slices.Insert(names, 1, want+".partial")
	for _, name := range names {
		for _, dir := range l.dirs {
			path := filepath.Join(dir, name)
			f, err := openRegular(path)
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err != nil {
				return nil, "", err
			}
			if l.good(f, name) {
				return f, name, nil
			}
			_ = f.Close() // another cluster's, or one that was made ready for later: the next folder may have it
		}
	}
	return nil, "", &gapError{at, want + " is not there (segments that an archive compressed have to be unpacked first)"}
}

// good tells whether a file begins with the segment after which it is named.
func (l *logs) good(f *os.File, name string) bool {
	first := make([]byte, wal.LongHeaderSize)
	if _, err := f.ReadAt(first, 0); err != nil {
		return false
	}
	n, err := wal.ParseName(name, l.size)
	if err != nil {
		return false
	}
	_, err = wal.CheckSegment(first, n, l.size, l.systemID)
	return err == nil
}
