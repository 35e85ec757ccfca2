package restore

import (
	"context"
	"errors"
	"fmt"

	"github.com/holdfast-dr/holdfast/internal/pg/wal"
	"github.com/holdfast-dr/holdfast/internal/pg/wal/record"
	"github.com/holdfast-dr/holdfast/internal/repo"
	"github.com/holdfast-dr/holdfast/internal/restore/points"
)

// storedLog reads bytes of the log on a way through the timelines out of the repository.
type storedLog struct {
	log *repo.Log
	way *wal.Timelines

	last repo.Extent // that was read
	data []byte      // of it
}

// read returns the log between two positions, which lie close to each other.
func (s *storedLog) read(ctx context.Context, from, to wal.LSN) ([]byte, error) {
	b := make([]byte, 0, to-from)
	for at := from; at < to; at = from + wal.LSN(len(b)) {
		piece, err := s.piece(ctx, at, to)
		if err != nil {
			return nil, fmt.Errorf("read the repository's log at %s: %w", at, err)
		}
		b = append(b, piece...)
	}
	return b, nil
}

// piece returns the log from at on, out of one extent. The segment in which a timeline was left is the next one's too.
func (s *storedLog) piece(ctx context.Context, at, to wal.LSN) ([]byte, error) {
	own := s.way.At(at)
	tls := []wal.TimelineID{}
	for _, a := range s.way.Ancestors {
		tls = append(tls, a.Timeline)
	}
	if e := s.last; e.Start <= uint64(at) && uint64(at) < e.End && wal.TimelineID(e.Stream) >= own {
		if _, left, ok := s.way.Range(wal.TimelineID(e.Stream)); ok && at < left {
			return s.data[at-wal.LSN(e.Start) : min(wal.LSN(e.End), left, to)-wal.LSN(e.Start)], nil
		}
	}
	for _, tl := range append(tls, s.way.Timeline) {
		_, left, ok := s.way.Range(tl)
		if !ok || tl < own || left <= at {
			continue
		}
		extents, err := s.log.Extents(ctx, repo.StreamID(tl), uint64(at))
		if err != nil {
			return nil, err
		}
		var best *repo.Extent
		for i := range extents {
			if e := &extents[i]; e.Start <= uint64(at) && (best == nil || e.End > best.End) {
				best = e
			}
		}
		if best == nil {
			continue
		}
		if s.data, _, err = s.log.Reader().Read(ctx, *best); err != nil {
			return nil, err
		}
		s.last = *best
		return s.data[at-wal.LSN(best.Start) : min(wal.LSN(best.End), left, to)-wal.LSN(best.Start)], nil
	}
	return nil, errors.New("it is not there")
}

// ReadLog calls fn for each record of the log that a plan's recovery replays, as far as the repository has it. The record dies with the
// call; an error of fn ends it.
func ReadLog(ctx context.Context, r *repo.Repository, p *points.Plan, fn func(*record.Record) error) error {
	from := p.Snapshot.Facts.StartLSN
	var failed error
	reader, err := record.NewReader(record.Config{
		Start: from, Timeline: p.Way.Timeline, SegmentSize: wal.SegmentSize(p.Snapshot.Facts.SegmentSize), SystemID: p.Snapshot.Facts.SystemID,
		PageSize: uint32(p.Snapshot.Facts.PageSize),
	}, func(r *record.Record) {
		if failed == nil {
			failed = fn(r)
		}
	})
	if err != nil {
		return err
	}
	log := &storedLog{log: r.Log(p.System), way: p.Way}
	for at := reader.Next(); at < p.Range.To; at = reader.Next() {
		b, err := log.piece(ctx, at, p.Range.To)
		if err == nil {
			_, err = reader.Write(b)
		}
		if err := errors.Join(failed, err, ctx.Err()); err != nil {
			return err
		}
	}
	return nil
}
