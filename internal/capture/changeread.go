package capture

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"golang.org/x/sync/errgroup"

	"github.com/holdfast-dr/holdfast/internal/pg/wal"
	"github.com/holdfast-dr/holdfast/internal/repo"
	"github.com/holdfast-dr/holdfast/internal/store"
)

// logExtents reads the log of a way through the timelines out of the server's own files, and what these do not have out
// of a repository.
type logExtents struct {
	log    *repo.Log
	way    *wal.Timelines
	files  func(tl wal.TimelineID, from wal.LSN) (io.ReadCloser, error) // the server's; may be nil
	last   bool                                                         // they are read only where the repository has nothing
	from   wal.LSN                                                      // nothing before its page is asked for
	listed map[wal.TimelineID][]repo.Extent

	readers [2]*repo.LogReader // in turn: the last piece of one is in use while the other one reads
}

func newLogExtents(log *repo.Log, way *wal.Timelines, files func(wal.TimelineID, wal.LSN) (io.ReadCloser, error), from wal.LSN) *logExtents {
	return &logExtents{
		log: log, way: way, files: files, from: from, listed: map[wal.TimelineID][]repo.Extent{},
		readers: [2]*repo.LogReader{log.Reader(), log.Reader()},
	}
}

// filesPiece is how much of the server's files is read at once.
const filesPiece = 256 << 10

// wayTimelines returns the timelines of a way, the first one first.
func wayTimelines(way *wal.Timelines) []wal.TimelineID {
	var tls []wal.TimelineID
	for _, a := range way.Ancestors {
		tls = append(tls, a.Timeline)
	}
	return append(tls, way.Timeline)
}

// each calls fn for the log from at up to stop, in order. Meanwhile it fetches the next extent, and no more.
func (l *logExtents) each(ctx context.Context, at, stop wal.LSN, fn func([]byte) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	pieces := make(chan []byte)
	var g errgroup.Group
	g.Go(func() error {
		defer close(pieces)
		return l.fetch(ctx, at, stop, pieces)
	})
	var failed error
	for b := range pieces {
		if failed == nil {
			if failed = fn(b); failed != nil {
				cancel()
			}
		}
	}
	if err := g.Wait(); failed == nil {
		return err
	}
	return failed
}

// fetch sends the log from at up to stop. What it has sent is valid until the next receive.
func (l *logExtents) fetch(ctx context.Context, at, stop wal.LSN, out chan<- []byte) (err error) {
	for turn := 0; at < stop; turn ^= 1 {
		if l.files != nil && !l.last { // neither far nor compressed
			if at, err = l.own(ctx, at, stop, out); err == nil || ctx.Err() != nil {
				return err
			}
		}
		before := at
		at, err = l.stored(ctx, l.readers[turn], at, stop, out)
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case err != nil:
			return fmt.Errorf("read the log at %s: %w", at, err)
		case at > before:
		case l.files == nil:
			return l.gap(at)
		default:
			_, err := l.own(ctx, at, stop, out)
			return err
		}
	}
	return nil
}

// stored sends the log from at up to stop out of one extent, which may end before it. It returns up to where it did: at,
// where no extent has it.
func (l *logExtents) stored(ctx context.Context, reader *repo.LogReader, at, stop wal.LSN, out chan<- []byte) (wal.LSN, error) {
	for tries := 0; ; tries++ {
		e, end, err := l.find(ctx, at)
		if err != nil || e == nil {
			return at, err
		}
		err = reader.Each(ctx, *e, uint64(at), uint64(min(end, stop)), func(piece []byte) error {
			select {
			case out <- piece:
				at += wal.LSN(len(piece))
				return nil
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		})
		if !errors.Is(err, store.ErrNotExist) || tries > 2 {
			return at, err
		}
		delete(l.listed, wal.TimelineID(e.Stream)) // a longer one has superseded it
	}
}

// find returns the extent that has the most of the log from at on, and up to where it is on the way; nil where none
// has any. A timeline's log begins with a copy of the one before it: the segment in which that was left.
func (l *logExtents) find(ctx context.Context, at wal.LSN) (best *repo.Extent, end wal.LSN, err error) {
	own := l.way.At(at)
	for _, tl := range wayTimelines(l.way) {
		_, left, ok := l.way.Range(tl)
		if !ok || tl < own || left <= at {
			continue
		}
		extents, ok := l.listed[tl]
		if !ok {
			if extents, err = l.log.Extents(ctx, repo.StreamID(tl), uint64(l.from-l.from%wal.PageSize)); err != nil {
				return nil, 0, err
			}
			l.listed[tl] = extents
		}
		for i := firstExtent(extents, at); i < len(extents) && wal.LSN(extents[i].Start) <= at; i++ {
			if e := &extents[i]; min(wal.LSN(e.End), left) > max(at, end) {
				best, end = e, min(wal.LSN(e.End), left)
			}
		}
		if best != nil {
			return best, end, nil
		}
	}
	return nil, 0, nil
}

// firstExtent returns the first of the extents that may reach beyond at: none is longer than repo.MaxExtent.
func firstExtent(extents []repo.Extent, at wal.LSN) int {
	i, _ := slices.BinarySearchFunc(extents, int64(at)-repo.MaxExtent, func(e repo.Extent, at int64) int {
		return int(int64(e.Start) - at)
	})
	return i
}

// gap says what is missing.
func (l *logExtents) gap(at wal.LSN) error {
	tl := l.way.At(at)
	reason := "the repository does not have the log from there on"
	for _, e := range l.listed[tl] {
		if wal.LSN(e.Start) > at {
			reason = fmt.Sprintf("the log in the repository has a gap up to %s", wal.LSN(e.Start))
			break
		}
	}
	return &ChangesError{Timeline: tl, At: at, Reason: reason, Err: store.ErrNotExist}
}

// own sends the log from at up to stop out of the server's files, timeline by timeline. It returns up to where it did.
func (l *logExtents) own(ctx context.Context, at, stop wal.LSN, out chan<- []byte) (wal.LSN, error) {
	var buffers [2][]byte
	for turn := 0; at < stop; {
		tl := l.way.At(at)
		_, left, _ := l.way.Range(tl)
		in, err := l.files(tl, at)
		if err != nil {
			return at, &ChangesError{Timeline: tl, At: at, Reason: err.Error(), Err: err}
		}
		for end := min(stop, left); at < end && err == nil; turn ^= 1 {
			if buffers[turn] == nil {
				buffers[turn] = make([]byte, filesPiece)
			}
			b := buffers[turn][:min(filesPiece, end-at)]
			var n int
			n, err = io.ReadFull(in, b)
			if b = b[:n]; n == 0 {
				break
			}
			select {
			case out <- b:
				at += wal.LSN(n)
			case <-ctx.Done():
				err = context.Cause(ctx)
			}
		}
		if err = errors.Join(err, in.Close()); err != nil {
			return at, &ChangesError{Timeline: tl, At: at, Reason: "the rest of the log: " + err.Error(), Err: err}
		}
	}
	return at, nil
}
