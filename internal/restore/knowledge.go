package restore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"

	"golang.org/x/sync/errgroup"

	"github.com/holdfast-dr/holdfast/internal/pg/control"
	"github.com/holdfast-dr/holdfast/internal/pg/wal"
	"github.com/holdfast-dr/holdfast/internal/pg/wal/changed"
	"github.com/holdfast-dr/holdfast/internal/pg/wal/record"
	"github.com/holdfast-dr/holdfast/internal/repo"
	"github.com/holdfast-dr/holdfast/internal/restore/points"
)

// A Delta need not look at the pages of which two logs say that nothing happened to them: the cluster's own, and the
// repository's. docs/decisions/0016-a-delta-by-the-log.md has the cases, and why each of the conditions below is there.

// ChangesFunc tells what the repository's log changed on a way through the timelines, between two positions at which a
// record starts. Where nobody knows it returns an error.
type ChangesFunc func(ctx context.Context, way *wal.Timelines, from, to wal.LSN) (*changed.Map, error)

// DeltaReport says how a Delta knew what to write.
type DeltaReport struct {
	Compared  string  `json:"compared,omitempty"` // why every byte was compared; empty: the log told what to write
	Since     wal.LSN `json:"since,omitempty"`    // up to here the cluster and the snapshot are known to be one
	Fork      wal.LSN `json:"fork,omitempty"`     // the end of the history that they share
	OwnEnd    wal.LSN `json:"ownEnd,omitempty"`   // the end of the cluster's own log
	Rewritten int64   `json:"rewritten"`          // pages that were written because the log names them
	Sampled   int64   `json:"sampled"`            // pages that it does not name, and that were compared all the same
	Files     int64   `json:"files"`              // of which nothing was read or written
}

// doubtError says why every byte has to be compared.
type doubtError struct{ reason string }

func (e *doubtError) Error() string { return e.reason }

func doubtf(format string, args ...any) error { return &doubtError{fmt.Sprintf(format, args...)} }

// knowledge is what is known of a cluster that is to be overwritten. A page that none of the maps names is as good as the
// snapshot's.
type knowledge struct {
	raw     []byte // pg_control, as it was when this was learned
	control control.Data
	own     *ownLog
	maps    []*changed.Map

	snapshot point   // where recovery from the snapshot begins
	fork     wal.LSN // up to here the cluster's history is also that of what is recovered
	end      wal.LSN // of the cluster's own log
	since    wal.LSN // at this checkpoint's redo both had the same pages

	proven func() error // waits for what says that the two histories are one before fork
	stop   func()       // what is read besides is of no use
}

// point is a checkpoint: where its record is, and where recovery from it begins.
type point = checkpoint

// learn finds out what need not be looked at. What stands against it is a reason to compare, never an error.
func (x *run) learn(ctx context.Context) error {
	if x.state != targetCluster && x.state != targetOurDelta {
		return nil
	}
	x.result.Delta = &DeltaReport{}
	x.progress.phase("reading the logs")
	reading, stop := context.WithCancel(ctx)
	defer stop()
	k, notes := &knowledge{proven: func() error { return nil }, stop: stop}, len(x.result.Notes)
	err := x.know(reading, k)
	if err == nil {
		err = x.sample(reading, k)
	}
	if err != nil {
		stop() // the proof is of no use any more, unless it was that which has stopped the rest
	}
	if unproven := k.proven(); unproven != nil && !errors.Is(unproven, context.Canceled) {
		// It says more than what was read of two histories that are not one.
		err, x.result.Notes = unproven, x.result.Notes[:notes]
	}
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case err != nil:
		x.compare(err.Error())
	default:
		x.known = k
		x.result.Delta.Since, x.result.Delta.Fork, x.result.Delta.OwnEnd = k.since, k.fork, k.end
	}
	return nil
}

// compare has every byte compared.
func (x *run) compare(why string) {
	x.known = nil
	x.result.Delta.Compared = why
}

// stillStopped forgets what was learned of a cluster that was started since. It is asked when nobody can start it any more
// without being seen.
func (x *run) stillStopped(ctx context.Context) {
	if x.known == nil {
		return
	}
	_, raw, err := control.Read(ctx, x.opts.To)
	if err != nil || !bytes.Equal(raw, x.known.raw) || RunningServer(x.opts.To) != 0 {
		x.compare("the cluster was started while its log was read")
	}
}

// know reads both logs. An error says why nothing is known.
func (x *run) know(ctx context.Context, k *knowledge) error {
	switch {
	case x.opts.Mode == Compare:
		return doubtf("it was asked for")
	case x.opts.Changes == nil:
		return doubtf("nobody tells what the repository's log changed")
	case x.state == targetOurDelta || Unfinished(x.opts.To):
		return doubtf("an earlier restore into the directory was not finished")
	case len(x.result.Lost) > 0 || x.controlLost != nil:
		return doubtf("parts of the snapshot are lost")
	}
	for _, step := range []func(context.Context, *knowledge) error{x.knowCluster, x.knowOwnLog, x.knowFork, x.knowSince, x.knowChanges} {
		if err := step(ctx, k); err != nil {
			return err
		}
	}
	return nil
}

// knowCluster reads what the cluster says of itself.
func (x *run) knowCluster(ctx context.Context, k *knowledge) (err error) {
	f := x.plan.Snapshot.Facts
	if k.control, k.raw, err = control.Read(ctx, x.opts.To); err != nil {
		return err
	}
	c := k.control
	label, err := wal.ParseLabel([]byte(f.BackupLabel))
	if err != nil {
		return err
	}
	k.snapshot = point{redo: f.StartLSN, at: label.CheckpointLSN}
	switch {
	case c.SystemID != f.SystemID:
		return doubtf("the cluster has another system identifier")
	case c.Major() != f.Major():
		return doubtf("the cluster is of PostgreSQL %d", c.Major())
	case c.BlockSize != repo.PageSize || f.PageSize != repo.PageSize || uint32(c.WALSegmentSize) != f.SegmentSize:
		return doubtf("the cluster's pages or segments have another size")
	case (c.ChecksumVersion != 0) != f.Checksums:
		return doubtf("data checksums were switched, which no log tells of")
	case c.BackupStart != 0 || c.BackupEnd != 0 || c.BackupEndRequired:
		return doubtf("the cluster is a copy that has not recovered yet")
	}
	for _, name := range []string{"backup_label", "tablespace_map"} {
		if _, err := os.Lstat(filepath.Join(x.opts.To, name)); err == nil {
			return doubtf("the cluster has a %s: it is a copy that has not recovered yet, or was being copied", name)
		}
	}
	return x.refuseUnsynced()
}

var fsyncLine = regexp.MustCompile(`(?i)(?:^|\s|"|'|-c\s*|--)fsync\s*(?:=|\s)\s*'?(\w+)|"-F"`)

// refuseUnsynced refuses a cluster that ran without fsync: a machine that went down may have kept some of what it wrote,
// and in any order. What stands in files of their own (include) is not seen.
func (x *run) refuseUnsynced() error {
	for _, name := range []string{"postgresql.conf", "postgresql.auto.conf", "postmaster.opts"} {
		b, err := os.ReadFile(filepath.Join(x.opts.To, name))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		on := true
		for line := range bytes.Lines(b) {
			if name != "postmaster.opts" {
				line, _, _ = bytes.Cut(line, []byte("#"))
			}
			for _, m := range fsyncLine.FindAllSubmatch(line, -1) {
				switch string(bytes.ToLower(m[1])) {
				case "on", "true", "yes", "1":
					on = true
				default:
					on = false
				}
			}
		}
		if !on {
			return doubtf("the cluster ran with fsync off, as its %s says", name)
		}
	}
	return nil
}

// recovering tells whether the server was a standby, or in a recovery from the archive, to its end.
func (k *knowledge) recovering() bool {
	return k.control.State == control.InArchiveRecovery || k.control.State == control.ShutDownInRecovery
}

// knowOwnLog reads the cluster's log from its last checkpoint to its end.
func (x *run) knowOwnLog(ctx context.Context, k *knowledge) error {
	c := k.control
	tl := max(c.Timeline, c.MinRecoveryTimeline)
	dir := filepath.Join(x.opts.To, "pg_wal")
	way := &wal.Timelines{Timeline: tl}
	if tl > 1 {
		content, err := os.ReadFile(filepath.Join(dir, wal.HistoryName(tl)))
		if err != nil {
			return doubtf("how the cluster came to timeline %d is not known: %v", tl, err)
		}
		if way, err = wal.ParseHistory(tl, content); err != nil {
			return err
		}
	}
	k.own = &ownLog{dir: dir, way: way, config: record.Config{
		Timeline: tl, SegmentSize: c.WALSegmentSize, SystemID: c.SystemID, PageSize: c.BlockSize,
	}}
	watch := &hintWatch{}
	m, err := k.own.tail(ctx, c.Redo, watch)
	if err != nil {
		return err
	}
	if k.end = m.End; k.end <= c.Checkpoint || k.end < c.MinRecovery {
		return doubtf("the cluster's own log ends at %s, and its files may be of %s", k.end, max(c.Checkpoint, c.MinRecovery))
	}
	if watch.changed && c.ChecksumVersion == 0 {
		k.control.WALLogHints = false // who knows since when
	}
	return k.add(m)
}

// add counts in a map. It is refused where it does not say everything.
func (k *knowledge) add(m *changed.Map) error {
	for _, d := range m.Doubts {
		if d.Kind != changed.NoFullPageWrites { // torn pages are among those that the log names
			return doubtf("the log at %s: %s", d.At, d.Reason)
		}
	}
	k.maps = append(k.maps, m)
	return nil
}

// reached returns a position that the recovery will reach for certain.
func reached(p *points.Plan) wal.LSN {
	stop := p.Snapshot.Facts.StopLSN
	switch p.Target.Kind {
	case points.AtLSN, points.AtName:
		return min(max(p.Target.LSN, stop), p.Range.To)
	case points.AtTime, points.Immediate:
		return stop
	}
	return p.Range.To
}

// knowFork finds the end of the history that the cluster shares with what is recovered.
func (x *run) knowFork(ctx context.Context, k *knowledge) error {
	fork, ok := common(k.own.way, x.plan.Way)
	if !ok {
		return doubtf("the cluster's timelines and those that are recovered have nothing in common")
	}
	k.fork = min(fork, k.end, reached(x.plan))
	begin, ok := k.own.begin(k.control.Redo)
	if !ok {
		return doubtf("the cluster's own log does not reach back to its last checkpoint")
	}
	log := x.repo.Log(x.plan.System)
	proof := 2 * wal.LSN(k.own.size()) // a segment may hold little: the rest behind a switch is zeros
	if k.fork > begin {
		k.prove(ctx, max(begin, k.fork-min(k.fork, proof))&^(wal.PageSize-1), k.fork, &storedLog{log: log, way: x.plan.Way})
		return nil
	}
	// The cluster has dropped the log of when they parted; the repository may have it.
	way, err := x.wayOf(ctx, k.own.way)
	if err != nil {
		return err
	}
	k.prove(ctx, begin, min(begin+proof, k.end), &storedLog{log: log, way: way})
	return nil
}

// prove begins to compare the two logs, while others look at what they say.
func (k *knowledge) prove(ctx context.Context, from, to wal.LSN, stored *storedLog) {
	var eg errgroup.Group
	eg.Go(func() error {
		err := k.own.same(ctx, from, to, stored.read)
		if err != nil {
			k.stop()
		}
		return err
	})
	k.proven = eg.Wait
}

// wayOf returns a way if the repository says the same of it.
func (x *run) wayOf(ctx context.Context, own *wal.Timelines) (*wal.Timelines, error) {
	if own.Timeline == 1 {
		return own, nil
	}
	content, err := x.repo.Log(x.plan.System).File(ctx, historyFile(own.Timeline))
	if err != nil {
		return nil, doubtf("the cluster's own log does not reach back to where the histories parted, and the repository does not know its timeline %d", own.Timeline)
	}
	way, err := wal.ParseHistory(own.Timeline, content)
	if err != nil {
		return nil, err
	}
	if at, ok := common(own, way); !ok || at != wal.MaxLSN {
		return nil, doubtf("the repository has another timeline %d than the cluster", own.Timeline)
	}
	return way, nil
}

// common returns where two ways part; false where they share nothing.
func common(a, b *wal.Timelines) (wal.LSN, bool) {
	end, shared := wal.LSN(0), false
	for tl := wal.TimelineID(0); ; {
		var ok bool
		if tl, ok = nextOn(a, tl); !ok {
			return end, shared
		}
		begin, endA, okA := a.Range(tl)
		beginB, endB, okB := b.Range(tl)
		if !okA && !okB {
			continue // neither has any of its bytes
		}
		if okA != okB || begin != beginB || shared && begin != end {
			return end, shared
		}
		if end, shared = min(endA, endB), true; endA != endB {
			return end, true
		}
	}
}

// nextOn returns the first timeline of a way behind another one.
func nextOn(way *wal.Timelines, after wal.TimelineID) (wal.TimelineID, bool) {
	for _, s := range way.Ancestors {
		if s.Timeline > after {
			return s.Timeline, true
		}
	}
	return way.Timeline, way.Timeline > after
}
