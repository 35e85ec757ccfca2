package points

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

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
	Count     int        // of snapshots that are there: more than Snapshots where Recent has read the newest only
	Unread    []error    // snapshots that are listed and cannot be read

	lent    []string // the stores whose listings stand in for this replica's, which did not answer
	log     *repo.Log
	reader  *repo.LogReader
	streams map[wal.TimelineID]*stream
	ways    map[wal.TimelineID]*wal.Timelines
	clocks  map[repo.Extent]time.Time
	joined  map[runsOf][]run // that were asked for
	judged  map[gapOf]verdict
}

// stream is the log of one timeline.
type stream struct {
	extents []repo.Extent
	mark    *repo.Mark
}

// Load reads what the repository holds of a system.
func Load(ctx context.Context, r *repo.Repository, system string) (*View, error) {
	list, err := r.Snapshots(ctx, system)
	if err != nil {
		return nil, fmt.Errorf("list the snapshots of %s: %w", system, err)
	}
	v := newView(r, system)
	for _, l := range list {
		if l.Err != nil {
			v.Unread = append(v.Unread, fmt.Errorf("snapshot %s cannot be read: %w", l.ID, l.Err))
			continue
		}
		if err := v.add(l.Manifest); err != nil {
			v.Unread = append(v.Unread, fmt.Errorf("snapshot %s cannot be used: %w", l.ID, err))
		}
	}
	v.Count = len(v.Snapshots)
	switch {
	case len(v.Snapshots) > 0:
		return v, v.loadLog(ctx, 0)
	case len(v.Unread) > 0:
		return nil, fmt.Errorf("no snapshot of %s can be read: %w", v.System, errors.Join(v.Unread...))
	}
	return nil, &dr.Failure{
		What:   fmt.Sprintf("there is no snapshot of %s in this repository", v.System),
		Reason: "a recovery begins with a snapshot; log alone does not suffice",
		Next:   "see what there is: holdfast snapshot list",
		Err:    store.ErrNotExist,
	}
}

// Recent is Load of what the newest recovery point depends on: the newest snapshot and the log from there on. The others are counted,
// and not read. Where the newest cannot be read or used, nor the log recovered to its end from it, it is Load: an older one may do.
func Recent(ctx context.Context, r *repo.Repository, system string) (*View, error) {
	l, err := r.Latest(ctx, system)
	if err != nil {
		return nil, fmt.Errorf("list the snapshots of %s: %w", system, err)
	}
	v := newView(r, system)
	if l.Manifest == nil || l.Unread > 0 || v.add(l.Manifest) != nil {
		return Load(ctx, r, system)
	}
	v.Count = l.Count
	if err := v.loadLog(ctx, uint64(v.Snapshots[0].Facts.LogStart())); err != nil {
		return nil, err
	}
	if _, err := v.Plan(ctx, Target{Kind: Latest}, Timeline{}, RefuseLoss); err != nil {
		return Load(ctx, r, system)
	}
	return v, nil
}

func newView(r *repo.Repository, system string) *View {
	v := &View{
		System: system, log: r.Log(system), streams: map[wal.TimelineID]*stream{},
		ways: map[wal.TimelineID]*wal.Timelines{1: {Timeline: 1}}, clocks: map[repo.Extent]time.Time{},
		judged: map[gapOf]verdict{},
	}
	v.reader = v.log.Reader()
	return v
}

// loadLog lists the log from a position on. What does not depend on each other is asked for at once: a store may be far away.
func (v *View) loadLog(ctx context.Context, from uint64) error {
	var ids []repo.StreamID
	var histories map[wal.TimelineID]*wal.Timelines
	first, fctx := errgroup.WithContext(ctx)
	first.Go(func() (err error) {
		histories, err = v.histories(fctx)
		return err
	})
	first.Go(func() (err error) {
		if ids, err = v.log.Streams(fctx); err != nil {
			err = fmt.Errorf("list the log of %s: %w", v.System, err)
		}
		return err
	})
	if err := first.Wait(); err != nil {
		return err
	}
	maps.Copy(v.ways, histories) // it may be newer than that of a snapshot
	for _, id := range ids {
		v.streams[wal.TimelineID(id)] = &stream{}
	}
	v.knowTimelines()
	var eg errgroup.Group
	eg.SetLimit(logReads)
	for tl, s := range v.streams {
		if slices.Contains(ids, repo.StreamID(tl)) {
			eg.Go(func() (err error) {
				if s.extents, err = v.log.Extents(ctx, repo.StreamID(tl), from); err != nil {
					err = fmt.Errorf("list the log of %s: %w", v.System, err)
				}
				return err
			})
		}
		eg.Go(func() error {
			m, ok, err := v.log.Mark(ctx, repo.StreamID(tl))
			if err != nil {
				return fmt.Errorf("read the high-water mark of timeline %d: %w", tl, err)
			}
			if ok {
				s.mark = &m
			}
			return nil
		})
	}
	err := eg.Wait()
	v.lent = v.log.Lent()
	return err
}

// logReads is how many timelines are looked at at once.
const logReads = 16

// histories reads the stored history files.
func (v *View) histories(ctx context.Context) (map[wal.TimelineID]*wal.Timelines, error) {
	names, err := v.log.Files(ctx)
	if err != nil {
		return nil, fmt.Errorf("list the timelines of %s: %w", v.System, err)
	}
	out := map[wal.TimelineID]*wal.Timelines{}
	for _, name := range names {
		n, err := wal.ParseName(strings.ToUpper(strings.TrimSuffix(name, ".history"))+".history", wal.DefaultSegmentSize)
		if !strings.HasSuffix(name, ".history") || err != nil {
			continue
		}
		b, err := v.log.File(ctx, name)
		if err != nil {
			return nil, fmt.Errorf("read the history of timeline %d: %w", n.Timeline, err)
		}
		way, err := wal.ParseHistory(n.Timeline, b)
		if err != nil {
			return nil, fmt.Errorf("read the history of timeline %d: %w", n.Timeline, err)
		}
		out[n.Timeline] = way
	}
	return out, nil
}

// knowTimelines makes a stream of every timeline that is known from anywhere: it may have a mark although its log is gone.
func (v *View) knowTimelines() {
	know := func(tl wal.TimelineID) {
		if v.streams[tl] == nil {
			v.streams[tl] = &stream{}
		}
	}
	for tl := range v.ways {
		know(tl)
	}
	for _, s := range v.Snapshots {
		know(s.Facts.Timeline)
	}
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
	other.Snapshots, other.Unread, other.ways, other.joined = nil, nil, maps.Clone(v.ways), nil
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
