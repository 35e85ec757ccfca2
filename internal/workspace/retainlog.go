package workspace

import (
	"context"
	"errors"
	"math"
	"time"

	"github.com/holdfast-dr/holdfast/internal/pg/wal"
	"github.com/holdfast-dr/holdfast/internal/repo"
	"github.com/holdfast-dr/holdfast/internal/restore/points"
)

// RetainLog removes the part of a system's log that none of its snapshots needs, and returns how many objects
// and bytes that were. Where a snapshot cannot be read nothing is removed: it may need what the others do not.
func (w *Workspace) RetainLog(ctx context.Context, s System) (objects int, bytes int64, err error) {
	// A system that was added to the configuration, and has no snapshot yet.
	if list, err := s.Repo.Snapshots(ctx, string(s.Name)); err != nil || len(list) == 0 {
		return 0, 0, err
	}
	v, err := points.Load(ctx, s.Repo, string(s.Name))
	if err != nil {
		return 0, 0, err
	}
	if len(v.Unread) > 0 || len(v.Snapshots) == 0 {
		return 0, 0, errors.Join(v.Unread...)
	}
	began, floors := time.Now(), logFloors(v)
	report, err := s.Repo.CollectLog(ctx, string(s.Name), floors)
	if err != nil {
		return 0, 0, err
	}
	if report.Extents > 0 {
		w.recordLog(ctx, s, report.Extents, report.Bytes, floors, began)
	}
	return report.Extents, report.Bytes, nil
}

// logFloors returns, for each stream of which the repository has anything, the position from which on it is
// needed: by a snapshot on it from the start of the segment on in which the snapshot's log begins, since a server reads
// whole segments; by a snapshot on an ancestor whole, by nobody not at all. A stream whose history is not known is not in
// the map, and stays.
func logFloors(v *points.View) map[repo.StreamID]uint64 {
	floors := map[repo.StreamID]uint64{}
	for _, tl := range v.Timelines() {
		way, err := v.Way(tl)
		if err != nil {
			continue
		}
		floor := uint64(math.MaxUint64)
		for _, s := range v.Snapshots {
			f := s.Facts
			begin := f.LogStart()
			switch {
			case f.Timeline != tl && way.IsAncestor(f.Timeline, f.StartLSN):
				floor = 0
			case f.Timeline == tl || needsAncestor(v, f.EndTimeline(), tl, begin):
				floor = min(floor, uint64(begin))
			}
		}
		floors[repo.StreamID(tl)] = floor
	}
	return floors
}

// needsAncestor tells whether a snapshot that ended on timeline stop needs tl, on the way there, from a position on: it
// began on it, or in the segment in which it was left.
func needsAncestor(v *points.View, stop, tl wal.TimelineID, from wal.LSN) bool {
	if stop <= tl {
		return false
	}
	way, err := v.Way(stop)
	if err != nil {
		return true // not known: keep
	}
	left, ok := way.SwitchPoint(tl)
	return ok && left > from
}
