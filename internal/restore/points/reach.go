package points

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/holdfast-dr/holdfast/internal/pg/wal"
	"github.com/holdfast-dr/holdfast/internal/repo"
)

// Gap is a part of a way's log that the repository does not hold.
type Gap struct {
	Timeline wal.TimelineID `json:"timeline"`
	Start    wal.LSN        `json:"start"`
	End      wal.LSN        `json:"end"` // the first byte that is there again
	// Flight is what came behind it, where it never was here and nothing more ever was whole: the log ends at Start.
	Flight *Flight `json:"inFlight,omitempty"`
	Lost   string  `json:"lost,omitempty"` // how it is known that it was here; empty: it may have been
}

// String says it as a person does: "timeline 4 has no log from 2/B1000000 to 2/B3000000".
func (g Gap) String() string {
	s := fmt.Sprintf("timeline %d has no log from %s to %s", g.Timeline, g.Start, g.End)
	if g.Lost != "" {
		s += "; " + g.Lost
	}
	return s
}

// Ends says of a gap with a Flight what a person should know where the log is taken to end there.
func (g Gap) Ends() string {
	return fmt.Sprintf("the log ends at %s: what follows, up to %s, was on its way to this replica when whoever wrote it was lost, and never came. %s", g.Start, g.End, g.Flight)
}

// reach is how far unbroken log goes along a way.
type reach struct {
	end  wal.LSN
	last *repo.Extent // the extent that holds the byte before end; nil where there is none
	gap  *Gap         // where more log follows
}

// piece is an extent as far as it lies on a way.
type piece struct {
	repo.Extent
	from, to wal.LSN
}

// pieces returns what the log holds of a way at or after from, timeline by timeline and ascending.
//
// A new timeline's first segment begins with a copy of the old one's bytes, so an extent counts from the start
// of the segment in which its timeline began: where segments were archived as files, the old timeline's copy of
// those bytes may not be there.
func (v *View) pieces(way *wal.Timelines, from wal.LSN, size wal.SegmentSize) []piece {
	var out []piece
	add := func(tl wal.TimelineID) {
		begin, end, ok := way.Range(tl)
		s := v.streams[tl]
		if !ok || s == nil {
			return
		}
		begin = max(size.Floor(begin), from)
		for _, e := range s.extents {
			p := piece{e, max(wal.LSN(e.Start), begin), min(wal.LSN(e.End), end)}
			if p.from < p.to {
				out = append(out, p)
			}
		}
	}
	for _, a := range way.Ancestors {
		add(a.Timeline)
	}
	add(way.Timeline)
	return out
}

// run is a part of a way's log without gaps.
type run struct {
	from, to wal.LSN
	last     *repo.Extent // that holds the byte before to
}

// runs returns the runs of a way, ascending. Timelines on a way ascend in their positions, except for the copied beginning of a
// segment, which only overlaps what lies before.
func (v *View) runs(way *wal.Timelines, size wal.SegmentSize) []run {
	k := runsOf{way.Timeline, size}
	if out, ok := v.joined[k]; ok {
		return out
	}
	all := v.pieces(way, 0, size)
	slices.SortStableFunc(all, func(a, b piece) int { return cmp.Compare(a.from, b.from) })
	var out []run
	for i, p := range all {
		n := len(out) - 1
		switch {
		case n < 0 || p.from > out[n].to:
			out = append(out, run{p.from, p.to, &all[i].Extent})
		case p.to > out[n].to:
			out[n].to, out[n].last = p.to, &all[i].Extent
		}
	}
	if v.joined == nil {
		v.joined = map[runsOf][]run{}
	}
	v.joined[k] = out
	return out
}

// runsOf are the runs of one way, with segments of one size.
type runsOf struct {
	timeline wal.TimelineID
	size     wal.SegmentSize
}

// reach follows the log along way from a position on.
func (v *View) reach(way *wal.Timelines, from wal.LSN, size wal.SegmentSize) reach {
	runs := v.runs(way, size)
	i, _ := slices.BinarySearchFunc(runs, from, func(r run, at wal.LSN) int { return cmp.Or(cmp.Compare(r.to, at), -1) }) // ends behind it
	r := reach{end: from}
	if i < len(runs) && runs[i].from <= from {
		r.end, r.last = runs[i].to, runs[i].last
		i++
	}
	if i < len(runs) {
		r.gap = &Gap{Timeline: way.At(r.end), Start: r.end, End: runs[i].from}
	}
	return r
}

// mark returns the highest position of the way that is known to have existed, and the source's clock there.
func (v *View) mark(way *wal.Timelines) (lsn wal.LSN, source time.Time) {
	consider := func(tl wal.TimelineID) {
		_, end, ok := way.Range(tl)
		s := v.streams[tl]
		if !ok || s == nil || s.mark == nil {
			return
		}
		at := min(wal.LSN(s.mark.LSN), end)
		if at < lsn {
			return
		}
		lsn, source = at, time.Time{}
		// The clock of a mark beyond the point where its timeline was left is that of another branch.
		if wal.LSN(s.mark.LSN) <= end {
			source = s.mark.Source
		}
	}
	for _, a := range way.Ancestors {
		consider(a.Timeline)
		// The new timeline began there: the log reached at least so far.
		lsn = max(lsn, a.End)
	}
	consider(way.Timeline)
	return lsn, source
}

// clock returns when the last byte of an extent was written: by the source's clock, or by that of the host that
// stored it.
func (v *View) clock(ctx context.Context, e repo.Extent) (time.Time, error) {
	if t, ok := v.clocks[e]; ok {
		return t, nil
	}
	_, c, err := v.reader.Read(ctx, e)
	if err != nil {
		return time.Time{}, fmt.Errorf("read the newest log of timeline %d: %w", e.Stream, err)
	}
	t := c.Source
	if t.IsZero() {
		t = c.Writer
	}
	v.clocks[e] = t
	return t, nil
}
