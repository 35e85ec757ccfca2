package standby

import (
	"context"
	"fmt"
	"slices"

	"github.com/holdfast-dr/holdfast/internal/pg/wal"
	"github.com/holdfast-dr/holdfast/internal/repo"
	"github.com/holdfast-dr/holdfast/internal/restore/points"
)

// freeze ends what is served at the end that is known now, and returns what is known. It does nothing, and is false, where a standby
// has begun elsewhere since the last look: that end is only where it began.
func (t *tail) freeze() (view, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.listed != t.begun {
		return t.view, false
	}
	t.limit = t.view.End
	return t.view, true
}

// freezeAtEnd is freeze after a look at everything. With an error of the look it is frozen too, at the end that was known.
func (t *tail) freezeAtEnd(ctx context.Context) (view, error) {
	for {
		err := t.look(ctx, everything)
		v, ok := t.freeze()
		if err != nil && !ok {
			t.mu.Lock()
			t.limit = t.view.End
			t.mu.Unlock()
		}
		if ok || err != nil {
			return v, err
		}
	}
}

// missing says what is known to be missing behind the log's end: by the high-water marks of the way's timelines, whatever snapshots
// there are, and by what is there behind a gap. What came there without ever having been whole is no loss, and is told in note.
func (t *tail) missing(ctx context.Context, v view) (missing, note string, err error) {
	log, mark := t.current(), wal.LSN(0)
	timelines := []wal.TimelineID{v.Way.Timeline}
	for _, a := range v.Way.Ancestors {
		timelines = append(timelines, a.Timeline)
		mark = max(mark, a.End) // the next one began there: the log reached at least so far
	}
	for _, tl := range timelines {
		_, end, ok := v.Way.Range(tl)
		if !ok {
			continue
		}
		m, _, err := log.Mark(ctx, repo.StreamID(tl))
		if err != nil {
			return "", "", fmt.Errorf("the high-water mark of timeline %d: %w", tl, err)
		}
		mark = max(mark, min(wal.LSN(m.LSN), end)) // behind where it was left it is another branch's
	}
	switch {
	case v.Next == 0 && mark > v.End:
		return fmt.Sprintf("the log ends at %s, and its high-water mark says that it was stored up to %s", v.End, mark), "", nil
	case v.Next == 0:
		return "", "", nil
	case mark > v.End:
		return fmt.Sprintf("the log has a gap from %s to %s, and its high-water mark says that it was stored up to %s", v.End, v.Next, mark), "", nil
	}
	gap := points.Gap{Timeline: v.Way.Timeline, Start: v.End, End: v.Next}
	extents, err := log.Extents(ctx, repo.StreamID(gap.Timeline), uint64(gap.End))
	if err != nil {
		return "", "", err
	}
	behind := slices.DeleteFunc(extents, func(e repo.Extent) bool { return wal.LSN(e.Start) < gap.End })
	if gap.Flight, gap.Lost, err = points.Judge(ctx, log, gap.Start, behind); err != nil {
		return "", "", err
	}
	if gap.Flight == nil {
		return "the log has a gap: " + gap.String(), "", nil
	}
	return "", gap.Ends(), nil
}
