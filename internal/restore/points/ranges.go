package points

import (
	"context"
	"fmt"
	"time"

	"github.com/holdfast-dr/holdfast/internal/pg/wal"
	"github.com/holdfast-dr/holdfast/internal/repo"
)

// Range is what one snapshot can be recovered to, along the way to one timeline: every position from From to
// To, every moment from FromTime to ToTime.
type Range struct {
	Snapshot repo.SnapshotID `json:"snapshot"`
	Timeline wal.TimelineID  `json:"timeline"`
	From     wal.LSN         `json:"from"` // the snapshot's consistent point
	To       wal.LSN         `json:"to"`   // the end of unbroken log
	FromTime time.Time       `json:"fromTime"`
	ToTime   time.Time       `json:"toTime,omitzero"`
	Gap      *Gap            `json:"gap,omitempty"` // what ends it, where more log follows
	Mark     wal.LSN         `json:"mark"`          // how far the log is known to have reached
	MarkTime time.Time       `json:"markTime,omitzero"`
	Usable   bool            `json:"usable"` // the log holds at least what makes the snapshot consistent
}

// Complete reports whether nothing that was acknowledged here is missing at the range's end.
func (r Range) Complete() bool {
	return r.Usable && (r.Gap == nil || r.Gap.Flight != nil) && r.To >= r.Mark
}

// Ranges returns the recoverable moments of every snapshot along the way to every timeline that passes it,
// oldest snapshot first. Ways that cannot be followed for lack of a history file are left out; Way names them.
func (v *View) Ranges(ctx context.Context) ([]Range, error) {
	var out []Range
	for _, s := range v.Snapshots {
		for _, tl := range v.Timelines() {
			way := v.ways[tl]
			if way == nil || !passes(way, s) {
				continue
			}
			r, err := v.rangeOf(ctx, s, way)
			if err != nil {
				return nil, err
			}
			out = append(out, r)
		}
	}
	return out, nil
}

// passes tells whether a way leads past a snapshot: where it begins, and where it ends, which may be on a later timeline.
func passes(way *wal.Timelines, s Snapshot) bool {
	return way.IsAncestor(s.Facts.Timeline, s.Facts.StartLSN) && way.IsAncestor(s.Facts.EndTimeline(), s.Facts.StopLSN)
}

func (v *View) rangeOf(ctx context.Context, s Snapshot, way *wal.Timelines) (Range, error) {
	size := wal.SegmentSize(s.Facts.SegmentSize)
	reached := v.reach(way, s.Facts.LogStart(), size)
	r := Range{
		Snapshot: s.Manifest.ID, Timeline: way.Timeline, From: s.Facts.StopLSN, To: reached.end,
		FromTime: s.Manifest.Finished, Gap: reached.gap, Usable: reached.end >= s.Facts.StopLSN,
	}
	r.Mark, r.MarkTime = v.mark(way)
	if !r.Usable {
		return r, nil
	}
	switch {
	case r.Gap == nil:
	case r.To < r.Mark:
		r.Gap.Lost = fmt.Sprintf("the high-water mark says that it was stored up to %s", r.Mark)
	default:
		if err := v.judge(ctx, way, r.Gap); err != nil {
			return r, err
		}
	}
	r.ToTime = r.FromTime
	if reached.last != nil {
		t, err := v.clock(ctx, *reached.last)
		if err != nil {
			return r, err
		}
		r.ToTime = later(r.ToTime, t)
	}
	// Up to the mark's clock nothing was acknowledged that lies behind the mark.
	if r.Complete() {
		r.ToTime = later(r.ToTime, r.MarkTime)
	}
	return r, nil
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}
