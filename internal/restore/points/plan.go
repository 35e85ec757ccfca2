package points

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/pg/wal"
)

// Loss says what a plan does where the log ends below its mark.
type Loss bool

// The rules for losses.
const (
	RefuseLoss Loss = false
	AllowLoss  Loss = true // a person has said so
)

// Plan is a snapshot and the way from it to a target.
type Plan struct {
	System   string
	Snapshot Snapshot
	Target   Target
	Way      *wal.Timelines
	Range    Range
	Loss     Loss
	Notes    []string // what a person should know, such as a newer snapshot that could not be read
	Doubt    string   // why the snapshot may lack changes; empty: nothing is known against it
}

// Plan chooses the newest snapshot that suffices for a target, of those of which it is not known that they may lack changes
// where one of these reaches as far. The error says which moments can be recovered where this one cannot.
func (v *View) Plan(ctx context.Context, t Target, tl Timeline, loss Loss) (*Plan, error) {
	way, err := v.choose(tl)
	if err != nil {
		return nil, err
	}
	ranges, err := v.along(ctx, way)
	if err != nil {
		return nil, err
	}
	if len(ranges) == 0 {
		return nil, v.noSnapshot(way)
	}
	want := t
	if t.Kind == AtName {
		// The snapshot has to lie before the point, so its position must be known.
		if want.LSN, err = v.findName(ctx, way, t.Name); err != nil {
			return nil, err
		}
	}
	enough := slices.DeleteFunc(slices.Clone(ranges), func(r Range) bool { return !suffices(r, want, loss) })
	if len(enough) == 0 {
		return nil, v.unreachable(want, way, ranges)
	}
	p := &Plan{System: v.System, Target: want, Way: way, Loss: loss}
	v.take(p, enough)
	for _, err := range v.Unread {
		p.Notes = append(p.Notes, err.Error())
	}
	if len(v.lent) > 0 {
		p.Notes = append(p.Notes, fmt.Sprintf("this replica did not answer: what is known of the log is what %s has, and this replica may have more", strings.Join(v.lent, " and ")))
	}
	if p.Flight() != nil {
		p.Notes = append(p.Notes, p.Range.Gap.Ends())
	}
	return p, nil
}

// Flight returns what came behind the end of the log to which a plan goes, and cannot be used; nil where nothing did.
func (p *Plan) Flight() *Flight {
	if p.Target.Kind != Latest && p.Target.Kind != "" || p.Range.Gap == nil {
		return nil
	}
	return p.Range.Gap.Flight
}

// choose returns the way to the timeline that is asked for.
func (v *View) choose(tl Timeline) (*wal.Timelines, error) {
	switch all := v.Timelines(); {
	case tl.Number != 0:
		return v.Way(tl.Number)
	case tl.Current:
		return v.Way(v.Snapshots[len(v.Snapshots)-1].Facts.EndTimeline())
	default:
		return v.Way(all[len(all)-1])
	}
}

// along returns the ranges of one way, oldest snapshot first.
func (v *View) along(ctx context.Context, way *wal.Timelines) ([]Range, error) {
	var out []Range
	for _, s := range v.Snapshots {
		if !passes(way, s) {
			continue
		}
		r, err := v.rangeOf(ctx, s, way)
		if err != nil {
			return nil, err
		}
		out = append(out, r)
	}
	return out, nil
}

func (v *View) snapshot(r Range) Snapshot {
	for _, s := range v.Snapshots {
		if s.Manifest.ID == r.Snapshot {
			return s
		}
	}
	panic("points: a range of a snapshot that was not loaded")
}

// suffices tells whether a range holds the target.
func suffices(r Range, t Target, loss Loss) bool {
	if !r.Usable {
		return false
	}
	switch t.Kind {
	case Immediate:
		return true
	case AtTime:
		return !t.Time.Before(r.FromTime) && !t.Time.After(r.ToTime)
	case AtLSN, AtName:
		return t.LSN >= r.From && t.LSN <= r.To
	default:
		return r.Complete() || loss == AllowLoss
	}
}

// unreachable says why no range holds the target, and what can be had instead.
func (v *View) unreachable(t Target, way *wal.Timelines, ranges []Range) error {
	newest := ranges[len(ranges)-1]
	f := &dr.Failure{What: fmt.Sprintf("restore %s to %s: ", v.System, t)}
	best, usable := bestOf(ranges, t)
	switch {
	case !usable:
		f.What += "no snapshot has the log that makes it consistent"
		f.Reason = missing(newest)
		f.Next = "look for the log in another replica: holdfast repo check"
		return f
	case beforeAll(t, ranges):
		f.What += "it is older than the oldest snapshot"
		f.Reason = fmt.Sprintf("timeline %d can be recovered from %s (%s) on", way.Timeline, stamp(best.FromTime), best.From)
	case best.Gap != nil:
		f.What += "the log has a gap"
		f.Reason = best.Gap.String()
	case t.Kind == Latest:
		f.What += "the log ends before it should"
		f.Reason = missing(best)
	default:
		f.What += "the log does not reach it"
		f.Reason = fmt.Sprintf("timeline %d ends at %s (%s)", way.Timeline, best.To, stamp(best.ToTime))
	}
	f.Next = v.instead(best, t)
	return f
}

// instead is the nearest moment that can be had. Times are cut towards the inside: to whole seconds, or, where
// the range is short, to milliseconds.
func (v *View) instead(r Range, t Target) string {
	if t.Kind == AtLSN || t.Kind == AtName {
		return fmt.Sprintf("%s to %s can be restored: holdfast restore %s --timeline %d --at %s --to DIR", r.From, r.To, v.System, r.Timeline, r.To)
	}
	unit := time.Second
	if r.ToTime.Sub(r.FromTime) < 2*unit {
		unit = time.Millisecond
	}
	from, to := r.FromTime.Add(unit-1).Truncate(unit), r.ToTime.Truncate(unit)
	if to.Before(from) || (t.Kind == Latest && !r.Complete()) {
		return fmt.Sprintf("up to %s can be restored: holdfast restore %s --timeline %d --at %s --to DIR", r.To, v.System, r.Timeline, r.To)
	}
	at := to
	if t.Kind == AtTime && t.Time.Before(from) {
		at = from
	}
	return fmt.Sprintf("%s to %s can be restored: holdfast restore %s --timeline %d --at %s --to DIR",
		stamp(from), stamp(to), v.System, r.Timeline, at.UTC().Format(time.RFC3339Nano))
}

// missing says what a range lacks.
func missing(r Range) string {
	switch {
	case r.Gap != nil:
		return r.Gap.String()
	case !r.Usable:
		return fmt.Sprintf("timeline %d ends at %s, and snapshot %s needs it up to %s", r.Timeline, r.To, r.Snapshot, r.From)
	}
	return fmt.Sprintf("timeline %d ends at %s, and its high-water mark says that it was stored up to %s", r.Timeline, r.To, r.Mark)
}

// bestOf returns the range that comes closest to the target: the last one that begins before it, or the first.
func bestOf(ranges []Range, t Target) (best Range, ok bool) {
	for _, r := range ranges {
		if !r.Usable {
			continue
		}
		if !ok || !after(r, t) {
			best, ok = r, true
		}
	}
	return best, ok
}

// after tells whether a range begins after the target.
func after(r Range, t Target) bool {
	switch t.Kind {
	case AtTime:
		return t.Time.Before(r.FromTime)
	case AtLSN, AtName:
		return t.LSN < r.From
	}
	return false
}

func beforeAll(t Target, ranges []Range) bool {
	for _, r := range ranges {
		if r.Usable && !after(r, t) {
			return false
		}
	}
	return true
}

func (v *View) noSnapshot(way *wal.Timelines) error {
	newest := v.Snapshots[len(v.Snapshots)-1]
	return &dr.Failure{
		What:   fmt.Sprintf("restore %s on timeline %d: no snapshot lies on its way", v.System, way.Timeline),
		Reason: fmt.Sprintf("the newest snapshot, %s, was taken on timeline %d at %s", newest.Manifest.ID, newest.Facts.Timeline, newest.Facts.StopLSN),
		Next:   fmt.Sprintf("choose that timeline: holdfast restore %s --timeline %d --to DIR", v.System, newest.Facts.Timeline),
	}
}

// stamp cuts to milliseconds.
func stamp(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05.999 UTC") }
