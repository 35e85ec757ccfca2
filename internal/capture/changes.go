package capture

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"golang.org/x/sync/errgroup"

	"github.com/holdfast-dr/holdfast/internal/pg/wal"
	"github.com/holdfast-dr/holdfast/internal/pg/wal/changed"
	"github.com/holdfast-dr/holdfast/internal/pg/wal/record"
	"github.com/holdfast-dr/holdfast/internal/repo"
)

// ChangesConfig says of which cluster the log is.
type ChangesConfig struct {
	SegmentSize wal.SegmentSize
	SystemID    uint64 // of the cluster; zero: any
	PageSize    uint32 // of its relations' pages; zero: 8192
	// Files reads the log of a timeline from a position on out of the server's own files; nil: nothing does. It may end
	// anywhere: the repository is asked for what is missing, and for what turns out to be damaged.
	Files func(tl wal.TimelineID, from wal.LSN) (io.ReadCloser, error)
	// Keep stores a summary of each block that had to be read to its end, so that nobody has to read it again: archived
	// log, for instance, that was archived faster than it could be summed up.
	Keep bool
}

// ChangesError says why nobody knows what changed: whoever asked has to look at everything.
type ChangesError struct {
	Timeline wal.TimelineID
	At       wal.LSN // from here on it is not known
	Reason   string  // for people
	Err      error   // what is below it; may be nil
}

func (e *ChangesError) Error() string {
	return fmt.Sprintf("what the log of timeline %d changed from %s on is not known: %s", e.Timeline, e.At, e.Reason)
}

func (e *ChangesError) Unwrap() error { return e.Err }

// ChangedBlocks returns what the log from one position to another changed on a way through the timelines. At both a
// record starts, and from is where a recovery begins (redo). The map begins at from, or at the start of the page
// behind whose header that lies, and ends at to, or behind it where no record ends there. Where the
// repository has summaries it reads these, and the log where it has none. Its memory is two extents, as they are stored
// and as they are, and a few summaries, however long the log is.
//
// An error is a *ChangesError unless ctx has ended. The map may have doubts (changed.Map.Doubts).
func ChangedBlocks(ctx context.Context, log *repo.Log, way *wal.Timelines, c ChangesConfig, from, to wal.LSN) (*changed.Map, error) {
	from, to = c.SegmentSize.BeforeHeader(from), c.SegmentSize.BeforeHeader(to)
	r := &changeReader{
		cfg: c, way: way, from: from, to: to,
		log: newLogExtents(log, way, c.Files, from),
	}
	r.keeping.SetLimit(keepers)
	err := r.run(ctx)
	_ = r.keeping.Wait() // what cannot be kept is read again
	var typed *ChangesError
	switch {
	case err == nil:
		return r.all, nil
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case errors.As(err, &typed):
		return nil, typed
	}
	return nil, &ChangesError{Timeline: way.At(r.pos), At: r.pos, Reason: err.Error(), Err: err}
}

// changeReader is one call of ChangedBlocks.
type changeReader struct {
	cfg       ChangesConfig
	way       *wal.Timelines
	from, to  wal.LSN
	log       *logExtents
	summaries []repo.Summary // that may be of use, by their start
	pos       wal.LSN        // up to here it is known
	all       *changed.Map   // what changed until pos; nil: nothing is known yet
	keeping   errgroup.Group // stores what is kept
}

func (r *changeReader) run(ctx context.Context) error {
	if r.pos = r.from; r.from > r.to {
		return fmt.Errorf("the range ends before it, at %s", r.to)
	}
	if err := r.list(ctx); err != nil {
		return err
	}
	for r.all == nil || r.pos < r.to {
		if row := r.row(); len(row) > 0 {
			if err := r.read(ctx, row); err != nil {
				return err
			}
			continue
		}
		if err := r.decode(ctx); err != nil {
			return err
		}
	}
	return nil
}

// add counts in the changes from pos on.
func (r *changeReader) add(m *changed.Map) (err error) {
	if r.all == nil {
		r.all, err = changed.Join(r.way, m)
	} else {
		err = r.all.Extend(r.way, m)
	}
	if err == nil {
		r.pos = r.all.End
	}
	return err
}

// list finds the summaries that lie within the range, and on the way.
func (r *changeReader) list(ctx context.Context) error {
	for _, tl := range wayTimelines(r.way) {
		_, end, ok := r.way.Range(tl)
		if !ok || end <= r.from {
			continue
		}
		list, err := r.log.log.Summaries(ctx, repo.StreamID(tl), uint64(r.from), uint64(r.to))
		if err != nil {
			return err
		}
		for _, s := range list {
			if s.End <= uint64(min(end, r.to)) {
				r.summaries = append(r.summaries, s)
			}
		}
	}
	slices.SortFunc(r.summaries, func(a, b repo.Summary) int {
		if a.Start < b.Start {
			return -1
		}
		return int(min(a.Start-b.Start, 1))
	})
	return nil
}

// maxRow is how many summaries are in memory at once.
const maxRow = 16

// row returns the next summaries that can be read from pos on, each of which begins where the one before ended, or
// earlier.
func (r *changeReader) row() (row []repo.Summary) {
	pos := uint64(r.pos)
	for len(row) < maxRow {
		best := -1
		for i, s := range r.summaries {
			if s.Start > pos {
				break
			}
			if s.End > pos && (best < 0 || s.End > r.summaries[best].End) {
				best = i
			}
		}
		if best < 0 {
			break
		}
		row, pos = append(row, r.summaries[best]), r.summaries[best].End
		r.summaries = r.summaries[best+1:] // none of those before reaches further
	}
	return row
}

// read reads a row of summaries. One that is missing or damaged ends it: the log is read instead.
func (r *changeReader) read(ctx context.Context, row []repo.Summary) error {
	maps := make([]*changed.Map, len(row))
	var g errgroup.Group
	g.SetLimit(8)
	for i, s := range row {
		g.Go(func() error {
			if b, err := r.log.log.Summary(ctx, s); err == nil {
				maps[i] = decodeSummary(s, b)
			}
			return nil
		})
	}
	if err := errors.Join(g.Wait(), ctx.Err()); err != nil {
		return err
	}
	for i, m := range maps {
		if m == nil {
			r.summaries = slices.Concat(row[i+1:], r.summaries)
			return nil
		}
		if err := r.add(m); err != nil {
			return err
		}
	}
	return nil
}

// decodeSummary returns nil where the summary is not what its name says.
func decodeSummary(s repo.Summary, b []byte) *changed.Map {
	m, err := changed.Decode(b)
	if err != nil || m.Timeline != wal.TimelineID(s.Stream) || uint64(m.Start) != s.Start || uint64(m.End) != s.End {
		return nil
	}
	return m
}

// decode counts in the log itself from pos up to where the next summary begins, or to the end of the range.
func (r *changeReader) decode(ctx context.Context) error {
	err := r.decodeOnce(ctx)
	var stop *record.StopError
	if errors.As(err, &stop) && r.log.files != nil && !r.log.last {
		r.log.last = true // the server may have begun to write a segment anew that was stored
		err = r.decodeOnce(ctx)
	}
	return err
}

func (r *changeReader) decodeOnce(ctx context.Context) error {
	d, err := changed.NewDecoder(record.Config{
		Start: r.pos, Timeline: r.way.Timeline, SegmentSize: r.cfg.SegmentSize, SystemID: r.cfg.SystemID, PageSize: r.cfg.PageSize,
	})
	if err != nil {
		return err
	}
	for {
		r.summaries = slices.DeleteFunc(r.summaries, func(s repo.Summary) bool { return s.Start <= uint64(max(r.pos, d.Next())) })
		stop := r.to
		if len(r.summaries) > 0 {
			stop = wal.LSN(r.summaries[0].Start)
		}
		target := stop
		if d.Next() >= stop { // no record ends at to
			stop = d.Next() + wal.PageSize
		}
		err := r.log.each(ctx, d.Next(), stop, func(b []byte) error { return r.write(ctx, d, b) })
		if err != nil {
			return r.stopped(err)
		}
		if d.End() < target {
			continue // a summary that begins there is none of this log
		}
		if r.all != nil && r.pos >= target {
			return nil // the end of a block, which is counted in
		}
		_, err = r.cut(d)
		return err
	}
}

// write decodes a piece of the log. What changed up to the end of a block is counted in, and kept.
func (r *changeReader) write(ctx context.Context, d *changed.Decoder, b []byte) error {
	for len(b) > 0 {
		n := min(len(b), int(logBlockSize-d.Next()%logBlockSize))
		if _, err := d.Write(b[:n]); err != nil {
			return err
		}
		if b = b[n:]; d.Next()%logBlockSize != 0 || d.End() <= r.pos {
			continue
		}
		m, err := r.cut(d)
		if err != nil {
			return err
		}
		r.keep(ctx, m)
	}
	return nil
}

// cut counts in what d has read, and returns it.
func (r *changeReader) cut(d *changed.Decoder) (*changed.Map, error) {
	m := d.Cut()
	if m.Start != r.pos {
		return nil, fmt.Errorf("no record starts there; the next one is at %s", m.Start)
	}
	return m, r.add(m)
}

// keepers is how many summaries are stored at once while the log is read.
const keepers = 4

// keep stores a summary of what was read. Log of a timeline that was left is seldom asked for again, and what lies behind
// the range may not be durable.
func (r *changeReader) keep(ctx context.Context, m *changed.Map) {
	if !r.cfg.Keep || r.way.At(m.Start) != m.Timeline || m.End > r.to {
		return
	}
	what, data := repo.Summary{Stream: repo.StreamID(m.Timeline), Start: uint64(m.Start), End: uint64(m.End)}, m.Encode()
	r.keeping.Go(func() error { return r.log.log.PutSummary(ctx, what, data) })
}

// stopped tells where the log is damaged.
func (r *changeReader) stopped(err error) error {
	var stop *record.StopError
	if !errors.As(err, &stop) {
		return err
	}
	reason := "the log is damaged there: " + stop.Reason
	if stop.Ended {
		reason = "the log ends there: " + stop.Reason
	}
	return &ChangesError{Timeline: r.way.At(stop.At), At: stop.At, Reason: reason, Err: err}
}
