package incremental

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/pg/control"
	"github.com/holdfast-dr/holdfast/internal/pg/wal/changed"
)

// Options say what is checked.
type Options struct {
	Backups []string // directories, the full backup first, in plain or tar format
	WAL     []string // folders with segments of the log, besides each backup's pg_wal
	Unpack  string   // folder in which those in tar format are unpacked, and removed at the end; empty: that for temporary files
}

// maxFindings bounds the report: who has so many knows enough.
const maxFindings = 10_000

// audit is one run.
type audit struct {
	backups       []*backup
	segmentBlocks uint32
	logs          logs
	changes       []*changed.Map // [k]: the log from the start of backup k-1 to that of k; nil: not known
	replay        []*changed.Map // [k]: the log from the start of backup k to its end; nil: not known
	spans         []spans
	report        *Report
}

type spans struct{ changes, replay span }

// Run checks a chain. An error means that it could not be checked; what is wrong with the backups is in the report.
func Run(ctx context.Context, o Options) (*Report, error) {
	a := &audit{report: &Report{Findings: []Finding{}, Gaps: []string{}, Ranges: []Range{}, Problems: problems()}}
	if len(o.Backups) == 0 {
		return nil, errors.New("no backup was named")
	}
	a.report.Backups = make([]Backup, len(o.Backups))
	var made []string
	defer func() {
		for _, dir := range made {
			_ = os.RemoveAll(dir) // copies
		}
	}()
	room := func() (string, error) {
		dir, err := os.MkdirTemp(o.Unpack, "holdfast-audit-")
		made = append(made, dir)
		return dir, err
	}
	for i, dir := range o.Backups {
		at, archive, err := unpack(ctx, dir, room)
		if err != nil {
			return nil, err
		}
		b, err := openBackup(ctx, dir, at)
		if err != nil {
			return nil, err
		}
		b.out = &a.report.Backups[i]
		*b.out = Backup{Path: dir, Archive: archive, Incremental: b.label.IncrementalFrom != 0, Timeline: b.label.Timeline, Start: b.label.StartLSN, From: b.label.IncrementalFrom}
		a.backups = append(a.backups, b)
	}
	first := a.backups[0].control
	a.segmentBlocks = first.SegmentBlocks
	a.report.SystemID, a.report.Version = strconv.FormatUint(first.SystemID, 10), first.Major()
	for _, b := range a.backups {
		if err := a.verifyFiles(ctx, b); err != nil {
			return nil, dr.Fail("read the backup "+b.dir, err, "")
		}
		b.out.End = b.stop
	}
	if !a.checkChain() {
		a.gap("the pages: the backups are no chain in this order")
		return a.report, nil
	}
	a.logs = logs{size: first.WALSegmentSize, systemID: first.SystemID}
	for _, b := range a.backups {
		a.logs.dirs = append(a.logs.dirs, filepath.Join(b.at, "pg_wal"))
	}
	a.logs.dirs = append(a.logs.dirs, o.WAL...)
	if err := a.readLogs(ctx); err != nil {
		return nil, err
	}
	for k := 1; k < len(a.backups); k++ {
		if err := a.checkIncremental(ctx, k); err != nil {
			return nil, fmt.Errorf("check %s: %w", a.backups[k].dir, err)
		}
	}
	if err := a.checkImage(ctx); err != nil {
		return nil, fmt.Errorf("check the image of %s: %w", a.backups[len(a.backups)-1].dir, err)
	}
	a.sort()
	return a.report, nil
}

func (a *audit) find(f Finding) {
	if len(a.report.Findings) >= maxFindings {
		a.report.Omitted++
		return
	}
	a.report.Findings = append(a.report.Findings, f)
}

func (a *audit) gap(format string, args ...any) {
	a.report.Gaps = append(a.report.Gaps, fmt.Sprintf(format, args...))
}

// sort puts proofs first, and otherwise keeps the order in which things were found.
func (a *audit) sort() {
	slices.SortStableFunc(a.report.Findings, func(x, y Finding) int {
		switch {
		case x.Proof == y.Proof:
			return 0
		case x.Proof:
			return -1
		}
		return 1
	})
}

// checkChain tells whether each backup is of the same cluster and builds on the one before.
func (a *audit) checkChain() bool {
	ok := true
	bad := func(b *backup, format string, args ...any) {
		a.find(Finding{Kind: BadChain, Proof: true, Backup: b.dir, Reason: fmt.Sprintf(format, args...)})
		ok = false
	}
	first := a.backups[0]
	if first.label.IncrementalFrom != 0 {
		bad(first, "the first backup is an incremental one (from %s), it must be the full one%s", first.label.IncrementalFrom, a.rightOrder())
	}
	for i, b := range a.backups {
		c := b.control
		switch {
		case c.SystemID != first.control.SystemID:
			bad(b, "it is of the cluster %d, %s of the cluster %d", c.SystemID, first.dir, first.control.SystemID)
		case b.manifest.systemID != 0 && b.manifest.systemID != c.SystemID:
			bad(b, "its manifest is of the cluster %d, its pg_control of %d", b.manifest.systemID, c.SystemID)
		case c.Major() != first.control.Major() || c.SegmentBlocks != first.control.SegmentBlocks || c.WALSegmentSize != first.control.WALSegmentSize:
			bad(b, "it is of another version or build of PostgreSQL than %s", first.dir)
		}
		if r := b.manifest.ranges; len(r) > 0 && !slices.ContainsFunc(r, func(w walRange) bool { return w.Start == b.label.StartLSN }) {
			bad(b, "its label says that it begins at %s, no range in its manifest does", b.label.StartLSN)
		}
		if i > 0 {
			a.checkLink(a.backups[i-1], b, bad)
		}
	}
	a.checkChecksums()
	return ok
}

// checkLink compares a backup with the one before.
func (a *audit) checkLink(prev, b *backup, bad func(*backup, string, ...any)) {
	switch {
	case b.label.IncrementalFrom == 0:
		bad(b, "it is a full backup and no incremental one%s", a.rightOrder())
	case b.label.IncrementalFrom != prev.label.StartLSN:
		bad(b, "it builds on a backup that starts at %s, and %s starts at %s%s", b.label.IncrementalFrom, prev.dir, prev.label.StartLSN, a.rightOrder())
	case b.fromTL != 0 && b.fromTL != prev.label.Timeline:
		bad(b, "it builds on a backup of timeline %d, and %s is of timeline %d", b.fromTL, prev.dir, prev.label.Timeline)
	case b.label.Timeline < prev.label.Timeline:
		bad(b, "it is of timeline %d, and %s of timeline %d", b.label.Timeline, prev.dir, prev.label.Timeline)
	case prev.stop > b.label.StartLSN && b.label.Timeline == prev.label.Timeline:
		bad(b, "it starts at %s, before the end of %s at %s", b.label.StartLSN, prev.dir, prev.stop)
	}
}

// rightOrder proposes the order in which the backups are a chain, if there is one.
func (a *audit) rightOrder() string {
	sorted := slices.Clone(a.backups)
	slices.SortStableFunc(sorted, func(x, y *backup) int { return cmp.Compare(x.label.StartLSN, y.label.StartLSN) })
	if slices.Equal(sorted, a.backups) || sorted[0].label.IncrementalFrom != 0 {
		return "; a backup of the chain is missing"
	}
	text := "; in this order they are a chain:"
	for i, b := range sorted {
		if i > 0 && b.label.IncrementalFrom != sorted[i-1].label.StartLSN {
			return "; in no order are they a chain"
		}
		text += " " + b.dir
	}
	return text
}

// checkChecksums notes whether pages can be checked by their checksums.
func (a *audit) checkChecksums() {
	last := a.backups[len(a.backups)-1].control
	a.report.Checksums = last.ChecksumVersion != 0
	if !a.report.Checksums {
		a.gap("the content of pages by their checksums: the cluster has none")
	}
	for _, b := range a.backups {
		if (b.control.ChecksumVersion != 0) != a.report.Checksums {
			a.find(Finding{Kind: BadChain, Backup: b.dir, Path: control.Path, Reason: "data checksums were switched between the backups: pg_checksums rewrites pages without the log, so no incremental knows of it"})
		}
	}
}

// readLogs makes the maps of what changed.
func (a *audit) readLogs(ctx context.Context) error {
	n := len(a.backups)
	a.changes, a.replay, a.spans = make([]*changed.Map, n), make([]*changed.Map, n), make([]spans, n)
	for k, b := range a.backups {
		way, err := a.logs.way(b.label.Timeline, b.label.Timeline)
		if err != nil {
			return err
		}
		a.spans[k].replay = span{b.label.StartLSN, b.stop, way}
		if a.replay[k], err = a.readLog(ctx, b, "replay", a.spans[k].replay, nil); err != nil {
			return err
		}
		if k == 0 {
			continue
		}
		prev := a.backups[k-1].label
		way, err = a.logs.way(b.label.Timeline, prev.Timeline)
		a.spans[k].changes = span{prev.StartLSN, b.label.StartLSN, way}
		if a.changes[k], err = a.readLog(ctx, b, "changes", a.spans[k].changes, err); err != nil {
			return err
		}
	}
	return nil
}

// readLog reads a span, unless there was an error before; what cannot be read is a gap.
func (a *audit) readLog(ctx context.Context, b *backup, purpose string, s span, err error) (*changed.Map, error) {
	r := Range{Backup: b.dir, Purpose: purpose, Start: s.from, End: s.to}
	var m *changed.Map
	if err == nil {
		m, err = a.logs.changes(ctx, s)
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if err == nil {
		for _, d := range m.Doubts {
			if d.Kind != changed.NoFullPageWrites {
				a.gap("what the log before %s changed from %s on: %s", b.dir, d.At, d.Reason)
			}
		}
	} else {
		r.Reason, m = err.Error(), nil
		what := "whether every block that changed before the start of %s is in it"
		if purpose == "replay" {
			what = "whether the log of %s puts pages right"
		}
		a.gap(what+": the log from %s to %s cannot be read, %s", b.dir, s.from, s.to, err)
	}
	r.Read = m != nil
	a.report.Ranges = append(a.report.Ranges, r)
	return m, nil
}
