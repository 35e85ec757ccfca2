package walserve

import (
	"context"

	"github.com/holdfast-dr/holdfast/internal/pg/wal"
	"github.com/holdfast-dr/holdfast/internal/repo"
)

// end answers for a segment of which the log's end, or a gap, leaves something out; got is how far it goes.
// It is the one place that may end a recovery.
func (a *assembler) end(ctx context.Context, name string, n wal.Name, way *wal.Timelines, got wal.LSN) file {
	next, err := a.next(ctx, way, n.Timeline, got)
	if err != nil {
		return file{Result: failed(name, err)}
	}
	mark, err := a.mark(ctx, way)
	if err != nil {
		return file{Result: failed(name, err)}
	}
	lenient := a.s.policy.Bounded || a.s.policy.AllowLoss
	if e := a.s.policy.End; e != 0 && got == e && n.Timeline == a.s.policy.Timeline {
		next = 0 // nobody has filled the gap since
	}
	switch {
	case next != 0 && got == n.Start:
		// PostgreSQL refuses by itself to end before its target, but not where a person allowed losses: a gap
		// then ends the log.
		if a.s.policy.AllowLoss {
			return file{Result: Result{Outcome: EndOfLog, Name: name, From: got}}
		}
		return file{Result: Result{Outcome: Gap, Name: name, From: got, To: next}}
	case next != 0 && !lenient:
		return file{Result: Result{Outcome: Gap, Name: name, From: got, To: next}}
	case mark > got && !lenient:
		return file{Result: Result{Outcome: BelowMark, Name: name, From: got, To: mark}}
	case got > n.Start:
		return a.proven(name, n, got)
	}
	return file{Result: Result{Outcome: EndOfLog, Name: name, From: got}}
}

// next returns where the log goes on behind a position: on the timeline itself, or, for an older timeline of
// the recovery's way, on a newer one. 0 means nowhere.
func (a *assembler) next(ctx context.Context, way *wal.Timelines, tl wal.TimelineID, at wal.LSN) (wal.LSN, error) {
	target, err := a.target(ctx, way)
	if err != nil {
		return 0, err
	}
	var found wal.LSN
	for _, id := range append(ancestors(target), target.Timeline) {
		begin, end, ok := target.Range(id)
		if !ok || end <= at || id < tl {
			continue
		}
		extents, err := a.s.list(ctx, id, max(at, a.s.size.Floor(begin)), true)
		if err != nil {
			return 0, err
		}
		for _, e := range extents {
			if first := max(wal.LSN(e.Start), begin); wal.LSN(e.End) > at && first > at && first < end && (found == 0 || first < found) {
				found = first
			}
		}
	}
	return found, nil
}

// target returns the way on which the recovery is: the policy's, where it passes this one's timeline.
func (a *assembler) target(ctx context.Context, way *wal.Timelines) (*wal.Timelines, error) {
	if a.s.policy.Timeline == 0 || a.s.policy.Timeline == way.Timeline {
		return way, nil
	}
	target, err := a.way(ctx, a.s.policy.Timeline)
	if err != nil {
		return nil, err
	}
	if _, _, ok := target.Range(way.Timeline); !ok {
		return way, nil
	}
	return target, nil
}

// mark returns how far the recovery's log is known to have reached.
func (a *assembler) mark(ctx context.Context, way *wal.Timelines) (wal.LSN, error) {
	target, err := a.target(ctx, way)
	if err != nil {
		return 0, err
	}
	var highest wal.LSN
	if target.Timeline == a.s.policy.Timeline {
		highest = a.s.policy.Reached
	}
	for _, id := range append(ancestors(target), target.Timeline) {
		_, end, ok := target.Range(id)
		if !ok {
			continue
		}
		if id != target.Timeline {
			highest = max(highest, end) // the next timeline began there
		}
		m, ok, err := a.s.log.Mark(ctx, repo.StreamID(id))
		if err != nil {
			return 0, err
		}
		if ok {
			highest = max(highest, min(wal.LSN(m.LSN), end))
		}
	}
	return highest, nil
}
