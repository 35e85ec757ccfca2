package restore

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/holdfast-dr/holdfast/internal/pg"
	"github.com/holdfast-dr/holdfast/internal/pg/wal"
)

func historyFile(tl wal.TimelineID) string { return pg.HistoryFile(tl) }

// knowSince chooses the checkpoint at which the cluster and the snapshot had the same pages: on the history that both
// share, and not behind the last checkpoint of either, up to which all changes are in the files.
//
// Where the cluster's history goes on behind the fork, its pages may have been marked with what only that history knows
// (which transactions committed: hint bits). Such a mark is logged if the page was changed before the last checkpoint and
// was clean since; so the checkpoint must have been complete before the fork.
func (x *run) knowSince(ctx context.Context, k *knowledge) error {
	own := point{redo: k.control.Redo, at: k.control.Checkpoint}
	last := own // the earlier one
	if k.snapshot.redo <= own.redo {
		last = k.snapshot
	}
	if k.end <= k.fork { // it has nothing of its own
		if last.redo > k.fork {
			return doubtf("the cluster's last checkpoint lies at %s, behind the history that it shares with the snapshot, %s", last.redo, k.fork)
		}
		k.since = last.redo
		return nil
	}
	if k.control.ChecksumVersion == 0 && !k.control.WALLogHints {
		return doubtf("the cluster has gone its own way from %s on, and neither data checksums nor wal_log_hints were on, so that pages changed without a word in its log", k.fork)
	}
	tl := k.own.way.At(k.fork - 1)
	if k.recovering() || k.own.way.Timeline != tl {
		return x.sinceLabel(k, last.redo)
	}
	begin, _, _ := k.own.way.Range(tl)
	fits := func(c checkpoint) bool { return c.redo <= last.redo && c.at < k.fork && c.redo >= begin }
	if fits(last) {
		k.since = last.redo
		return nil
	}
	return x.sinceCheckpoint(ctx, k, fits)
}

// sinceLabel takes the checkpoint with which this copy of the cluster began. One that was a standby may have marked pages
// behind its last checkpoint for longer, since it sets its own checkpoints late.
func (x *run) sinceLabel(k *knowledge, last wal.LSN) error {
	content, err := os.ReadFile(filepath.Join(x.opts.To, "backup_label.old"))
	if errors.Is(err, fs.ErrNotExist) {
		return doubtf("the cluster was a standby when it went its own way at %s, and has no backup_label.old that says since when it is one", k.fork)
	}
	if err != nil {
		return err
	}
	label, err := wal.ParseLabel(content)
	if err != nil {
		return err
	}
	begin := label.StartLSN
	if begin > min(last, k.fork) || !k.own.way.IsAncestor(label.Timeline, begin) || !x.plan.Way.IsAncestor(label.Timeline, begin) {
		return doubtf("the cluster was a standby when it went its own way at %s, and a copy that began at %s, behind the snapshot", k.fork, begin)
	}
	k.since = begin
	return nil
}

// sinceCheckpoint looks for the last checkpoint that fits, in the cluster's own log, and else at which snapshots began.
func (x *run) sinceCheckpoint(ctx context.Context, k *knowledge, fits func(checkpoint) bool) error {
	if begin, ok := k.own.begin(k.control.Redo); ok && begin < k.fork {
		c, err := k.own.lastCheckpoint(ctx, begin, k.fork, fits)
		if err != nil {
			return err
		}
		if c.redo != 0 {
			k.since = c.redo
			return nil
		}
	}
	all, err := x.repo.Snapshots(ctx, x.plan.System)
	if err != nil {
		return err
	}
	for _, s := range all {
		if s.Err != nil {
			continue
		}
		f, err := pg.ParseFacts(s.Manifest.Engine, s.Manifest.Facts)
		if err != nil {
			continue
		}
		label, err := wal.ParseLabel([]byte(f.BackupLabel))
		c := checkpoint{redo: f.StartLSN, at: label.CheckpointLSN}
		if err == nil && f.SystemID == k.control.SystemID && fits(c) && c.redo > k.since &&
			k.own.way.IsAncestor(f.Timeline, c.at) && x.plan.Way.IsAncestor(f.Timeline, c.at) {
			k.since = c.redo
		}
	}
	if k.since == 0 {
		return doubtf("no checkpoint is known from before the histories parted at %s", k.fork)
	}
	return nil
}

// knowChanges reads what changed since then: in the cluster's history to its end, and in the snapshot's to where recovery
// from it begins.
func (x *run) knowChanges(ctx context.Context, k *knowledge) error {
	if err := x.knowOwnChanges(ctx, k); err != nil {
		return err
	}
	if k.since >= k.snapshot.redo {
		return nil
	}
	m, err := x.opts.Changes(ctx, x.plan.Way, k.since, k.snapshot.redo)
	if err != nil {
		return err
	}
	return k.add(m)
}

// knowOwnChanges reads what the cluster changed before its last checkpoint; what came later is known already. Of the log
// that the cluster has dropped the repository tells.
func (x *run) knowOwnChanges(ctx context.Context, k *knowledge) error {
	from, to := k.since, k.control.Redo
	if from >= to {
		return nil
	}
	begin, ok := k.own.begin(to)
	if !ok {
		return doubtf("the cluster's own log does not reach back to its last checkpoint")
	}
	if from < begin {
		if k.end > k.fork && k.control.ChecksumVersion == 0 {
			return doubtf("whether hint bits were logged from %s on is not known", from)
		}
		way := x.plan.Way
		if begin > k.fork {
			way = k.own.way // which is being proven
		}
		m, err := x.opts.Changes(ctx, way, from, min(begin, to))
		if err != nil {
			return err
		}
		if err := k.add(m); err != nil {
			return err
		}
		if from = m.End; from >= to {
			return nil
		}
	}
	watch := &hintWatch{}
	m, err := k.own.part(ctx, from, to, watch)
	if err != nil {
		return err
	}
	if watch.changed && k.end > k.fork && k.control.ChecksumVersion == 0 {
		return doubtf("the settings of the cluster were changed, and with them perhaps wal_log_hints")
	}
	if rest := to - min(to, m.End); rest > wal.LongHeaderSize { // behind a page's header is the same place as before it
		return doubtf("the cluster's own log has no record from %s to %s", m.End, to)
	}
	return k.add(m)
}
