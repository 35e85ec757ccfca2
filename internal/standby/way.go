package standby

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/holdfast-dr/holdfast/internal/pg"
	"github.com/holdfast-dr/holdfast/internal/pg/wal"
	"github.com/holdfast-dr/holdfast/internal/repo"
)

// newestWay returns the way to the newest timeline of which there is a history.
func newestWay(ctx context.Context, log *repo.Log) (*wal.Timelines, error) {
	names, err := log.Files(ctx)
	if err != nil {
		return nil, err
	}
	newest := wal.TimelineID(1)
	for _, name := range names {
		n, err := wal.ParseName(strings.ToUpper(strings.TrimSuffix(name, ".history"))+".history", wal.DefaultSegmentSize)
		if strings.HasSuffix(name, ".history") && err == nil {
			newest = max(newest, n.Timeline)
		}
	}
	if newest == 1 {
		return &wal.Timelines{Timeline: 1}, nil
	}
	b, err := log.File(ctx, pg.HistoryFile(newest))
	if err != nil {
		return nil, err
	}
	return wal.ParseHistory(newest, b)
}

// list returns the pieces of a way at or behind a position. A timeline's log begins with a copy of the older one's bytes, from
// the start of the segment in which it began.
func (t *tail) list(ctx context.Context, log *repo.Log, way *wal.Timelines, from wal.LSN) (out []piece, err error) {
	timelines := []wal.TimelineID{way.Timeline}
	for _, a := range way.Ancestors {
		timelines = append(timelines, a.Timeline)
	}
	for _, tl := range timelines {
		begin, end, ok := way.Range(tl)
		if !ok || end <= from {
			continue
		}
		begin = max(t.system.SegmentSize.Floor(begin), from)
		extents, err := log.Extents(ctx, repo.StreamID(tl), uint64(begin))
		if err != nil {
			return nil, err
		}
		for _, e := range extents {
			if p := (piece{e, max(wal.LSN(e.Start), begin), min(wal.LSN(e.End), end)}); p.from < p.to {
				out = append(out, p)
			}
		}
	}
	return out, nil
}

// left says where the way leaves a standby that is on the session's timeline at a position; nil where it does not.
func (v view) left(at wal.LSN) error {
	if v.Way == nil || v.Session == 0 || at == 0 || v.Way.IsAncestor(v.Session, at) {
		return nil
	}
	return fmt.Errorf("the standby is on timeline %d at %s, and the way to the newest timeline %d does not lead past there", v.Session, at, v.Way.Timeline)
}

// extends tells whether way a goes on from where b is now, or is the same.
func extends(a, b *wal.Timelines) bool {
	n := len(b.Ancestors)
	same := func(x, y wal.Switch) bool { return x.Timeline == y.Timeline && x.End == y.End }
	if len(a.Ancestors) < n || !slices.EqualFunc(a.Ancestors[:n], b.Ancestors, same) {
		return false
	}
	if len(a.Ancestors) == n {
		return a.Timeline == b.Timeline
	}
	return a.Ancestors[n].Timeline == b.Timeline
}

// beyond says what is known of the timeline that a longer way leaves, behind where it leaves it: that was acknowledged, or is with the
// standby, and only the repository can say that it has been given up.
func (v *view) beyond(way *wal.Timelines) error {
	if v.Way == nil {
		return nil
	}
	_, left, _ := way.Range(v.Way.Timeline)
	known := max(v.End, v.Sent, v.Has, wal.LSN(v.Mark.LSN))
	if known <= left {
		return nil
	}
	return fmt.Errorf("it is on timeline %d, which left timeline %d at %s, and that is known up to %s: what lies between is not in its history", way.Timeline, v.Way.Timeline, left, known)
}

// meet takes the way of the primary where it goes on from the repository's, and refuses another one.
func (t *tail) meet(way *wal.Timelines) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	v := &t.view
	switch {
	case v.Way == nil || extends(way, v.Way) && way.Timeline != v.Way.Timeline:
		if err := v.beyond(way); err != nil {
			return err
		}
		v.Way, v.Lent = way, true
		t.pieces, v.End, v.Next = nil, v.Base, 0 // on the way that was; the next look lists those of this one
		t.begun++
		t.broadcastLocked()
	case extends(way, v.Way):
	case extends(v.Way, way):
		return fmt.Errorf("it is on timeline %d, and the repository's log goes on on timeline %d", way.Timeline, v.Way.Timeline)
	default:
		return fmt.Errorf("it is on timeline %d, which is on another branch than timeline %d of the repository", way.Timeline, v.Way.Timeline)
	}
	return nil
}

// follow returns the view with the repository's way. That counts, unless the primary's goes on from there.
func (v view) follow(way *wal.Timelines) (view, error) {
	switch {
	case v.Lent && extends(v.Way, way) && v.Way.Timeline != way.Timeline:
		return v, nil
	case v.Lent && !extends(way, v.Way):
		v.Strayed = fmt.Errorf("the standby has followed its primary to timeline %d, and the repository has timeline %d from another branch", v.Way.Timeline, way.Timeline)
	case v.Way != nil && !v.Lent && way.Timeline < v.Way.Timeline:
		return v, fmt.Errorf("the store lists no history of timeline %d, which it had", v.Way.Timeline)
	}
	v.Way, v.Lent = way, false
	return v, nil
}

// history returns the history file of a timeline, which the repository need not have yet where the primary has told of it.
func (t *tail) history(ctx context.Context, tl wal.TimelineID) (b []byte, err error) {
	v, _ := t.state()
	if log := t.current(); log != nil {
		b, err = log.File(ctx, pg.HistoryFile(tl))
	}
	if err == nil && b != nil || !v.Lent {
		return b, err
	}
	n := slices.IndexFunc(v.Way.Ancestors, func(s wal.Switch) bool { return s.Timeline == tl })
	if n < 0 {
		if tl != v.Way.Timeline {
			return nil, err
		}
		n = len(v.Way.Ancestors)
	}
	return (&wal.Timelines{Timeline: tl, Ancestors: v.Way.Ancestors[:n]}).Format(), nil
}
