package repo

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"

	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/store"
)

// LogReport says what CollectLog removed.
type LogReport struct {
	Extents   int   `json:"extents"`
	Summaries int   `json:"summaries"`
	Bytes     int64 `json:"bytes"`     // stored
	Undecided int   `json:"undecided"` // writers that may need any part of the log: nothing was removed because of them
}

// CollectLog removes the extents of a system's log that end at or before their stream's floor: the position from
// which on somebody needs it, which only the engine knows; and their summaries. A stream without a floor is kept whole. Nothing is
// removed where the system has no snapshot, or an undecided writer; a snapshot that was committed after the floors
// were found lowers them.
func (r *Repository) CollectLog(ctx context.Context, system string, floors map[StreamID]uint64) (LogReport, error) {
	var report LogReport
	var err error
	// Intents first: who is decided by now is in the list of snapshots.
	if report.Undecided, err = r.undecided(ctx, system); err != nil || report.Undecided > 0 {
		return report, err
	}
	snapshots, err := r.Snapshots(ctx, system)
	if err != nil || len(snapshots) == 0 {
		return report, err
	}
	for _, s := range snapshots {
		if s.Err != nil {
			return report, dr.Fail(fmt.Sprintf("collect the log of %s: snapshot %s cannot be read, so nobody knows what it needs", system, s.ID), s.Err,
				"repair it (holdfast repo check), or forget it; until then nothing is removed")
		}
	}
	floors = lowered(floors, snapshots)
	l := r.Log(system)
	streams, err := l.Streams(ctx)
	if err != nil {
		return report, err
	}
	for _, s := range streams {
		// A copier may have come meanwhile, of a snapshot from below the floors.
		if report.Undecided, err = r.undecided(ctx, system); err != nil || report.Undecided > 0 {
			return report, err
		}
		if err := l.dropBelow(ctx, s, floors[s], &report); err != nil {
			return report, err
		}
	}
	return report, nil
}

// lowered returns the floors with which every one of the snapshots keeps what it needs. One that begins below the
// floor of its own stream was not known to who found the floors; then nothing of later streams is removed either.
func lowered(floors map[StreamID]uint64, snapshots []Listed) map[StreamID]uint64 {
	floors = maps.Clone(floors)
	from := StreamID(math.MaxUint32)
	for _, s := range snapshots {
		log := s.Manifest.Log
		if floor, ok := floors[log.Stream]; ok && floor > log.Start {
			floors[log.Stream] = log.Start
			from = min(from, log.Stream)
		}
	}
	for s := range floors {
		if s > from {
			floors[s] = 0
		}
	}
	return floors
}

// undecided returns the number of the system's intents that have no outcome.
func (r *Repository) undecided(ctx context.Context, system string) (int, error) {
	var outcomes []string
	err := r.store.List(ctx, prefixIntents+r.keys.NameHash(system)+"/", "", func(i store.Info) error {
		outcomes = append(outcomes, outcomeOf(i.Name))
		return nil
	})
	n := 0
	for _, name := range outcomes {
		there, statErr := r.exists(ctx, name)
		if err = errors.Join(err, statErr); err == nil && !there {
			n++
		}
	}
	return n, err
}

// dropBelow removes the oldest extents first, so that what is left after a crash has no gap.
func (l *Log) dropBelow(ctx context.Context, s StreamID, floor uint64, report *LogReport) error {
	if floor == 0 {
		return nil
	}
	// Before the extents: streams are found by these, so that a crash in between leaves no summary behind for ever.
	if err := l.dropSummaries(ctx, s, floor, report); err != nil {
		return err
	}
	all, err := l.Extents(ctx, s, 0)
	if err != nil {
		return err
	}
	for _, e := range all {
		if e.End > floor {
			continue
		}
		if err := l.r.store.Delete(ctx, l.r.extentName(l.system, s, e.Start, e.End)); err != nil {
			return err
		}
		report.Extents, report.Bytes = report.Extents+1, report.Bytes+e.Stored
	}
	return nil
}
