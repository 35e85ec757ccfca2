package standby

import (
	"context"
	"fmt"

	"github.com/holdfast-dr/holdfast/internal/pg/wal"
	"github.com/holdfast-dr/holdfast/internal/repo"
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
// there are.
func (t *tail) missing(ctx context.Context, v view) (string, error) {
	if v.Next != 0 {
		return fmt.Sprintf("the log has a gap from %s to %s", v.End, v.Next), nil
	}
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
			return "", fmt.Errorf("the high-water mark of timeline %d: %w", tl, err)
		}
		mark = max(mark, min(wal.LSN(m.LSN), end)) // behind where it was left it is another branch's
	}
	if mark > v.End {
		return fmt.Sprintf("the log ends at %s, and its high-water mark says that it was stored up to %s", v.End, mark), nil
	}
	return "", nil
}
