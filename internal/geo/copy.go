package geo

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/repo"
)

// Options are those of Copy.
type Options struct {
	// Keep returns which of the snapshots of all replicas, oldest first, the policy keeps.
	Keep func([]*repo.Manifest) []*repo.Manifest
	// Floors returns from which position of each stream on snapshots need the log: what CopyLog takes.
	Floors func(context.Context, []*repo.Manifest) (map[repo.StreamID]uint64, error)
	// Progress is told what is being done; may be nil.
	Progress dr.ProgressFunc
}

// Report says what Copy has brought.
type Report struct {
	Snapshots []repo.SnapshotID `json:"snapshots"` // in this order
	Refused   []repo.SnapshotID `json:"refused"`   // that were forgotten here, or whose copiers were given up: they stay away
	Packs     int               `json:"packs"`
	Bytes     int64             `json:"bytes"` // stored, of snapshots and log
	Extents   int               `json:"extents"`
	Evidence  int               `json:"evidence"` // records
	// Newest is the newest snapshot that is there now; empty where none is.
	Newest repo.SnapshotID `json:"newest,omitempty"`
	// Ends are where the streams of the log end that is there now.
	Ends Ends `json:"-"`
}

// Ends are positions in the streams of a log.
type Ends map[repo.StreamID]uint64

// Tail brings what came behind ends of a system's log, and returns where it ends now. It looks at the newest stream only, and so
// asks little: where another stream has begun Copy is needed, and where the replica has not what it had.
func Tail(ctx context.Context, from, to *repo.Repository, system string, ends Ends) (Ends, error) {
	newest := repo.StreamID(0)
	for s := range ends {
		newest = max(newest, s)
	}
	copied, err := to.FollowLog(ctx, from, system, newest, ends[newest])
	if err != nil {
		return ends, err
	}
	now := maps.Clone(ends)
	maps.Copy(now, copied.Ends)
	return now, nil
}

// Copy brings what one replica lacks of a system from another. It may be interrupted, and goes on where it was. Of a snapshot
// that cannot be copied, because it is damaged there, the error tells; the others are copied all the same.
func Copy(ctx context.Context, from, to *repo.Repository, system string, o Options) (Report, error) {
	report := Report{Snapshots: []repo.SnapshotID{}, Refused: []repo.SnapshotID{}}
	theirs, broken, err := manifests(ctx, from, system)
	if err != nil {
		return report, err
	}
	ours, _, err := manifests(ctx, to, system)
	if err != nil {
		return report, err
	}
	wanted := Wanted(theirs, ours, o.Keep)
	c := &copier{from: from, to: to, system: system, options: o, here: ours, report: &report}
	failed := slices.Clone(broken)
	for i := len(wanted) - 1; i >= 0 && ctx.Err() == nil; i-- {
		// The log of the newest, so that it can be recovered soon; then that of all others at once.
		others := wanted[i:]
		if i < len(wanted)-1 {
			others = wanted
		}
		if err := c.snapshot(ctx, wanted[i], others); err != nil {
			failed = append(failed, err)
		}
	}
	if report.Ends == nil && ctx.Err() == nil { // also where there is no snapshot yet: it comes
		failed = append(failed, c.log(ctx, nil))
	}
	if ctx.Err() == nil {
		n, err := copyEvidence(ctx, from, to, system)
		report.Evidence, failed = n, append(failed, err)
	}
	for _, m := range c.here {
		if report.Newest == "" || m.Started.After(c.newest) {
			report.Newest, c.newest = m.ID, m.Started
		}
	}
	return report, errors.Join(failed...)
}

// copyEvidence makes both replicas have what either has of the evidence about a system: of one that was away, or that only somebody at its
// site could reach, the other lacks what was recorded there.
func copyEvidence(ctx context.Context, from, to *repo.Repository, system string) (n int, err error) {
	n, err = to.CopyEvidence(ctx, from, system)
	back, backErr := from.CopyEvidence(ctx, to, system)
	return n + back, errors.Join(err, backErr)
}

// CopyLog brings what one replica lacks of a system's log from another, as far as the snapshots of the former need it: all
// timelines, with their histories, and what is known of gaps.
func CopyLog(ctx context.Context, from, to *repo.Repository, system string, o Options) (Ends, error) {
	ours, _, err := manifests(ctx, to, system)
	if err != nil {
		return nil, err
	}
	c := &copier{from: from, to: to, system: system, options: o, here: ours, report: &Report{}}
	err = c.log(ctx, nil)
	return c.report.Ends, err
}

// manifests returns the snapshots that can be read, oldest first, and why others cannot.
func manifests(ctx context.Context, r *repo.Repository, system string) (all []*repo.Manifest, broken []error, err error) {
	list, err := r.Snapshots(ctx, system)
	for _, l := range list {
		if l.Err != nil {
			broken = append(broken, fmt.Errorf("snapshot %s of %s in %s: %w", l.ID, system, r.Store(), l.Err))
			continue
		}
		all = append(all, l.Manifest)
	}
	return all, broken, err
}

// Wanted returns which snapshots of one replica are to be copied into another, oldest first: keep says which of both the policy keeps.
func Wanted(theirs, ours []*repo.Manifest, keep func([]*repo.Manifest) []*repo.Manifest) (out []*repo.Manifest) {
	have := map[repo.SnapshotID]bool{}
	for _, m := range ours {
		have[m.Moment()] = true
	}
	all := slices.Clone(ours)
	superseded := repo.Superseded(theirs)
	for _, m := range theirs {
		if _, ok := superseded[m.ID]; !ok && !have[m.Moment()] {
			all = append(all, m)
		}
	}
	slices.SortStableFunc(all, func(a, b *repo.Manifest) int { return a.Started.Compare(b.Started) })
	for _, m := range keep(all) {
		if !have[m.Moment()] {
			out = append(out, m)
		}
	}
	return out
}

// copier copies one system.
type copier struct {
	from, to *repo.Repository
	system   string
	options  Options
	here     []*repo.Manifest // snapshots
	newest   time.Time        // of them
	report   *Report
}

// log copies the log that the snapshots here and some others need.
func (c *copier) log(ctx context.Context, others []*repo.Manifest) error {
	floors, err := c.options.Floors(ctx, slices.Concat(c.here, others))
	if err != nil {
		return err
	}
	copied, err := c.to.CopyLog(ctx, c.from, c.system, floors)
	c.report.Extents, c.report.Bytes, c.report.Ends = c.report.Extents+copied.Extents, c.report.Bytes+copied.Bytes, copied.Ends
	return err
}

// snapshot copies a snapshot, with the log that it and others need.
func (c *copier) snapshot(ctx context.Context, m *repo.Manifest, others []*repo.Manifest) error {
	c.progress(fmt.Sprintf("copying snapshot %s of %s", m.ID, c.system))
	copied, err := c.to.CopySnapshot(ctx, c.from, c.system, m.ID, func(ctx context.Context) error {
		c.progress("copying the log of " + c.system)
		return c.log(ctx, others)
	})
	c.report.Packs, c.report.Bytes = c.report.Packs+copied.Packs, c.report.Bytes+copied.Bytes
	switch {
	case errors.Is(err, repo.ErrRefused):
		c.report.Refused = append(c.report.Refused, m.ID)
		return nil
	case err != nil:
		return fmt.Errorf("copy snapshot %s of %s: %w", m.ID, c.system, err)
	}
	if !copied.There {
		c.report.Snapshots = append(c.report.Snapshots, m.ID)
	}
	c.here = append(c.here, m)
	return nil
}

func (c *copier) progress(phase string) {
	if c.options.Progress != nil {
		c.options.Progress(dr.Progress{Phase: phase})
	}
}
