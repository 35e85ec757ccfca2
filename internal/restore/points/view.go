package points

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/pg"
	"github.com/holdfast-dr/holdfast/internal/pg/wal"
	"github.com/holdfast-dr/holdfast/internal/repo"
	"github.com/holdfast-dr/holdfast/internal/store"
)

// Snapshot is a snapshot that can be read.
type Snapshot struct {
	Manifest *repo.Manifest
	Facts    *pg.Facts
}

// View is what a repository held of one system when Load read it. It is used by one goroutine.
type View struct {
	System    string
	Snapshots []Snapshot // oldest first
	Unread    []error    // snapshots that are listed and cannot be read

	log     *repo.Log
	reader  *repo.LogReader
	streams map[wal.TimelineID]*stream
	ways    map[wal.TimelineID]*wal.Timelines
	clocks  map[repo.Extent]time.Time
}

// stream is the log of one timeline.
type stream struct {
	extents []repo.Extent
	mark    *repo.Mark
}

// Load reads what the repository holds of a system.
func Load(ctx context.Context, r *repo.Repository, system string) (*View, error) {
	v := &View{
		System: system, log: r.Log(system), streams: map[wal.TimelineID]*stream{},
		ways: map[wal.TimelineID]*wal.Timelines{1: {Timeline: 1}}, clocks: map[repo.Extent]time.Time{},
	}
	v.reader = v.log.Reader()
	if err := v.loadSnapshots(ctx, r); err != nil {
		return nil, err
	}
	if err := v.loadHistories(ctx); err != nil {
		return nil, err
	}
	ids, err := v.log.Streams(ctx)
	if err != nil {
		return nil, fmt.Errorf("list the log of %s: %w", system, err)
	}
	for _, id := range ids {
		s := &stream{}
		if s.extents, err = v.log.Extents(ctx, id, 0); err != nil {
			return nil, fmt.Errorf("list the log of %s: %w", system, err)
		}
		v.streams[wal.TimelineID(id)] = s
	}
	return v, v.loadMarks(ctx)
}

func (v *View) loadSnapshots(ctx context.Context, r *repo.Repository) error {
	list, err := r.Snapshots(ctx, v.System)
	if err != nil {
		return fmt.Errorf("list the snapshots of %s: %w", v.System, err)
	}
	for _, l := range list {
		if l.Err != nil {
			v.Unread = append(v.Unread, fmt.Errorf("snapshot %s cannot be read: %w", l.ID, l.Err))
			continue
		}
		if err := v.add(l.Manifest); err != nil {
			v.Unread = append(v.Unread, fmt.Errorf("snapshot %s cannot be used: %w", l.ID, err))
		}
	}
	if len(v.Snapshots) > 0 {
		return nil
	}
	if len(v.Unread) > 0 {
		return fmt.Errorf("no snapshot of %s can be read: %w", v.System, errors.Join(v.Unread...))
	}
	return &dr.Failure{
		What:   fmt.Sprintf("there is no snapshot of %s in this repository", v.System),
		Reason: "a recovery begins with a snapshot; log alone does not suffice",
		Next:   "see what there is: holdfast snapshot list",
		Err:    store.ErrNotExist,
	}
}

// loadHistories reads the stored history files. The repository's own copy wins over that of a snapshot: it may
// be newer.
func (v *View) loadHistories(ctx context.Context) error {
	names, err := v.log.Files(ctx)
	if err != nil {
		return fmt.Errorf("list the timelines of %s: %w", v.System, err)
	}
	for _, name := range names {
		n, err := wal.ParseName(strings.ToUpper(strings.TrimSuffix(name, ".history"))+".history", wal.DefaultSegmentSize)
		if !strings.HasSuffix(name, ".history") || err != nil {
			continue
		}
		b, err := v.log.File(ctx, name)
		if err != nil {
			return fmt.Errorf("read the history of timeline %d: %w", n.Timeline, err)
		}
		way, err := wal.ParseHistory(n.Timeline, b)
		if err != nil {
			return fmt.Errorf("read the history of timeline %d: %w", n.Timeline, err)
		}
		v.ways[n.Timeline] = way
	}
	return nil
}

// loadMarks reads the mark of every timeline that is known from anywhere: the log of a marked timeline may be
// gone altogether.
func (v *View) loadMarks(ctx context.Context) error {
	for tl := range v.ways {
		if v.streams[tl] == nil {
			v.streams[tl] = &stream{}
		}
	}
	for _, s := range v.Snapshots {
		if v.streams[s.Facts.Timeline] == nil {
			v.streams[s.Facts.Timeline] = &stream{}
		}
	}
	for tl, s := range v.streams {
		m, ok, err := v.log.Mark(ctx, repo.StreamID(tl))
		if err != nil {
			return fmt.Errorf("read the high-water mark of timeline %d: %w", tl, err)
		}
		if ok {
			s.mark = &m
		}
	}
	return nil
}

// Timelines returns the timelines of which the repository holds anything, ascending.
func (v *View) Timelines() []wal.TimelineID {
	var out []wal.TimelineID
	for tl, s := range v.streams {
		// Timeline 1 is always known; it counts where something of it is there.
		if tl > 1 || len(s.extents) > 0 || s.mark != nil || v.hasSnapshotOn(tl) {
			out = append(out, tl)
		}
	}
	slices.Sort(out)
	return out
}

func (v *View) hasSnapshotOn(tl wal.TimelineID) bool {
	return slices.ContainsFunc(v.Snapshots, func(s Snapshot) bool { return s.Facts.Timeline == tl })
}

// Way returns the way to a timeline.
func (v *View) Way(tl wal.TimelineID) (*wal.Timelines, error) {
	if way := v.ways[tl]; way != nil {
		return way, nil
	}
	return nil, &dr.Failure{
		What:   fmt.Sprintf("timeline %d of %s cannot be followed", tl, v.System),
		Reason: fmt.Sprintf("the repository has no history file of it; known are the timelines %s", join(slices.Sorted(maps.Keys(v.ways)))),
		Next:   "choose one of those with --timeline, or restore the history file from another replica",
	}
}

func join(tls []wal.TimelineID) string {
	var b strings.Builder
	for i, tl := range tls {
		if i > 0 {
			b.WriteString(", ")
		}
		fmt.Fprintf(&b, "%d", tl)
	}
	return b.String()
}

// With returns the view as it would be with these snapshots, of whichever replica, instead of its own.
func (v *View) With(snapshots []*repo.Manifest) (*View, error) {
	other := *v
	other.Snapshots, other.Unread, other.ways = nil, nil, maps.Clone(v.ways)
	for _, m := range snapshots {
		if err := other.add(m); err != nil {
			return nil, fmt.Errorf("snapshot %s cannot be used: %w", m.ID, err)
		}
	}
	return &other, nil
}

// add adds a snapshot, and the way that it knows.
func (v *View) add(m *repo.Manifest) error {
	facts, err := pg.ParseFacts(m.Engine, m.Facts)
	if err != nil {
		return err
	}
	v.Snapshots = append(v.Snapshots, Snapshot{m, facts})
	if facts.History != "" && v.ways[facts.Timeline] == nil {
		if way, err := wal.ParseHistory(facts.Timeline, []byte(facts.History)); err == nil {
			v.ways[facts.Timeline] = way
		}
	}
	return nil
}
