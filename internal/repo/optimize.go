package repo

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/seal"
)

// A snapshot that stores only what changed leaves a file in pieces: a page here and there comes from a unit that some
// earlier snapshot wrote. Reading it decodes more than it has, and asks the store more often. Optimize bounds that. It
// writes the newest snapshot once more, with what is in too many pieces in whole chunks, and forgets the one that was:
//
//	rank       the parts of files whose fragmentation is above the bound, the worst first
//	rewrite    of each, the pages that still count of the groups in which the fewest do, gathered anew
//	commit     the tree with these parts exchanged, as a snapshot of the same moment
//	forget     the one that was read
//
// After the commit either of the two is enough, so it may end anywhere: whoever applies retention forgets the older one.

// FragmentationBound is the fragmentation of a part above which Optimize rewrites it: docs/decisions/0014 says why.
const FragmentationBound = 1.15

// leastGain is the part of its pages that reading a part must decode less when it is rewritten, as a divisor.
const leastGain = 32

// OptimizeOptions are those of Optimize.
type OptimizeOptions struct {
	Bound  float64 // parts whose fragmentation is above it are rewritten; 0: FragmentationBound
	AtMost int64   // bytes that may be stored again, before compression; 0: as many as it takes
	DryRun bool    // only tell what would be done
	// Codec returns the codec for a file's pages, nil for none. It may be nil.
	Codec func(path string) Codec
	// Enough is asked before each part, and ends the run where it is true: what is rewritten by then is kept. It may be nil.
	Enough   func() bool
	Progress dr.ProgressFunc
}

// OptimizeReport says what Optimize did, or would do.
type OptimizeReport struct {
	System    string        `json:"system"`
	Original  SnapshotID    `json:"original,omitempty"`  // empty: the system has no snapshot
	Rewritten SnapshotID    `json:"rewritten,omitempty"` // what takes its place; empty: nothing was rewritten
	Before    Fragmentation `json:"before"`
	After     Fragmentation `json:"after"` // in a dry run of what it would be
	Parts     int           `json:"parts"` // that were rewritten
	Left      int           `json:"left"`  // that are above the bound, and were not
	Bytes     int64         `json:"bytes"` // of the pages stored again, before compression
	Stored    int64         `json:"storedBytes"`
	Problems  []string      `json:"problems,omitempty"` // parts that cannot be read, which stay as they are
	DryRun    bool          `json:"dryRun"`
}

// ErrCollecting is the error of Optimize where a collection is under way that has not considered the snapshot.
var ErrCollecting = errors.New("a collection that is under way may be about to remove what the snapshot needs")

// Optimize rewrites the newest snapshot of a system where its files are too fragmented. It may run beside anything: a
// snapshot that is being taken on top of the original goes on, as after any other forgetting.
func (r *Repository) Optimize(ctx context.Context, system string, opts OptimizeOptions) (*OptimizeReport, error) {
	report := &OptimizeReport{System: system, DryRun: opts.DryRun}
	m, err := r.LatestSnapshot(ctx, system)
	if err != nil || m == nil {
		return report, err
	}
	report.Original = m.ID
	o := &optimizer{r: r, opts: opts, m: m, report: report, rd: r.Reader()}
	if o.opts.Bound == 0 {
		o.opts.Bound = FragmentationBound
	}
	parts, err := o.rank(ctx)
	if err != nil {
		return report, err
	}
	report.After = report.Before
	if len(parts) == 0 {
		return report, nil
	}
	if opts.DryRun {
		return report, o.parts(ctx, parts, func(rankedPart, *Entry, *FilePart, *rewritePlan) error { return nil })
	}
	return report, o.replace(ctx, parts)
}

// optimizer is one run of Optimize.
type optimizer struct {
	r      *Repository
	opts   OptimizeOptions
	m      *Manifest
	report *OptimizeReport
	rd     *Reader

	w    *Writer
	lane *Lane
	unit []byte
}

// rank measures the snapshot, and returns the parts above the bound, the worst first.
func (o *optimizer) rank(ctx context.Context) (ranked []rankedPart, err error) {
	o.report.Before, ranked, err = o.rd.rankParts(ctx, o.m, o.opts.Bound)
	slices.SortStableFunc(ranked, func(a, b rankedPart) int { return cmp.Compare(b.f.Ratio(), a.f.Ratio()) })
	return ranked, err
}

// parts calls fn for the parts that the budget and the caller's patience allow, and counts.
func (o *optimizer) parts(ctx context.Context, ranked []rankedPart, fn func(rankedPart, *Entry, *FilePart, *rewritePlan) error) error {
	root, err := o.m.RootID()
	if err != nil {
		return err
	}
	progress := o.opts.Progress
	for i, p := range ranked {
		if o.opts.Enough != nil && o.opts.Enough() {
			o.report.Left += len(ranked) - i
			return nil
		}
		e, err := o.rd.Lookup(ctx, root, p.path)
		if err != nil {
			return err
		}
		part, err := o.rd.FilePart(ctx, e, p.n) // again: all of them at once would be as many as the database is large
		if err != nil {
			return err
		}
		plan := part.rewrite(o.opts.Bound)
		after, bytes := plan.after(part), plan.bytes(part)
		if p.f.Decoded-after.Decoded < p.f.Pages/leastGain {
			continue
		}
		if o.opts.AtMost > 0 && o.report.Bytes+bytes > o.opts.AtMost {
			o.report.Left++ // a smaller one may fit
			continue
		}
		if err := fn(p, e, part, plan); err != nil {
			var broken *ChunkError
			if !errors.As(err, &broken) {
				return err
			}
			o.report.Problems = append(o.report.Problems, fmt.Sprintf("%s: %v", p.path, err))
			o.report.Left++
			continue
		}
		o.report.Parts, o.report.Bytes = o.report.Parts+1, o.report.Bytes+bytes
		o.report.After.exchange(p.f, after)
		if progress != nil {
			progress(dr.Progress{Phase: "rewriting " + o.m.System, Done: pageBytes(ranked[:i+1]), Total: pageBytes(ranked)})
		}
	}
	return nil
}

// pageBytes returns how large parts are.
func pageBytes(ranked []rankedPart) (sum dr.Bytes) {
	for _, p := range ranked {
		sum += dr.Bytes(p.f.Pages * PageSize)
	}
	return sum
}

// exchange replaces what a part added to f.
func (f *Fragmentation) exchange(was, now Fragmentation) {
	f.add(Fragmentation{Pages: now.Pages - was.Pages, Decoded: now.Decoded - was.Decoded, Patched: now.Patched - was.Patched, Units: now.Units - was.Units})
}

// replace writes the snapshot that takes the place of the original, and forgets that.
func (o *optimizer) replace(ctx context.Context, ranked []rankedPart) (err error) {
	if o.w, err = o.r.beginRewrite(ctx, o.m); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, o.w.Close(context.WithoutCancel(ctx))) }()
	switch ok, err := o.w.MayCarry(ctx, o.m); {
	case err != nil:
		return err
	case !ok:
		return dr.Fail(fmt.Sprintf("rewrite snapshot %s of %s", o.m.ID, o.m.System), ErrCollecting, "run it again when repo prune is done")
	}
	o.lane, o.unit = o.w.Lane(), make([]byte, 0, unitPages*PageSize)
	lists := map[string]map[int]FileList{}
	entries := map[string]*Entry{}
	err = o.parts(ctx, ranked, func(p rankedPart, e *Entry, part *FilePart, plan *rewritePlan) error {
		l, err := o.rewrite(ctx, p.path, part, plan)
		if err != nil {
			return err
		}
		if lists[p.path] == nil {
			lists[p.path], entries[p.path] = map[int]FileList{}, e
		}
		lists[p.path][p.n] = l
		return nil
	})
	if err != nil || len(lists) == 0 {
		return err
	}
	m, err := o.manifest(ctx, lists, entries)
	if err != nil {
		return err
	}
	// Somebody may have forgotten the moment while we worked. That is his decision: it must not come back.
	if _, err := o.r.Manifest(ctx, o.m.System, o.m.ID); err != nil {
		return fmt.Errorf("the snapshot that was rewritten: %w", err)
	}
	if err := o.w.Commit(ctx, m); err != nil {
		return err
	}
	o.report.Rewritten, o.report.Stored = m.ID, m.Written.StoredBytes
	return o.r.Forget(ctx, o.m.System, o.m.ID)
}

// rewrite stores a part anew and returns its list.
func (o *optimizer) rewrite(ctx context.Context, path string, p *FilePart, plan *rewritePlan) (FileList, error) {
	var codec Codec
	if o.opts.Codec != nil {
		codec = o.opts.Codec(path)
	}
	whole := map[int]seal.ChunkID{}
	err := o.rd.Part(ctx, p, plan.whole, func(c int, plain []byte) error {
		id, err := o.lane.Save(ctx, plain, codec)
		whole[c] = id
		return err
	}, nil)
	if err != nil {
		return FileList{}, err
	}
	patches := make([]PagePatch, 0, len(plan.pages))
	o.unit = o.unit[:0]
	err = o.rd.Pages(ctx, p, plan.pages, func(page uint16, plain []byte) error {
		patches = append(patches, PagePatch{Page: page, Slot: uint8(len(o.unit) / PageSize)})
		o.unit = append(o.unit, plain...)
		if short := PageSize - len(plain); short > 0 {
			o.unit = append(o.unit, make([]byte, short)...) // the last page of a file that has no whole number of them
		}
		if len(o.unit) == unitPages*PageSize || len(patches) == len(plan.pages) {
			return o.saveUnit(ctx, patches, codec)
		}
		return nil
	})
	if err != nil {
		return FileList{}, err
	}
	return o.w.PatchPart(ctx, p, whole, patches, p.Length())
}

// saveUnit stores the pages that are gathered, which are those of the last patches.
func (o *optimizer) saveUnit(ctx context.Context, patches []PagePatch, codec Codec) error {
	n := len(o.unit) / PageSize
	id, err := o.lane.Save(ctx, o.unit, codec)
	for i := range patches[len(patches)-n:] {
		x := &patches[len(patches)-n+i]
		x.Unit, x.UnitPages = id, uint8(n)
	}
	o.unit = o.unit[:0]
	return err
}

// manifest stores the tree with the parts exchanged, and says of the snapshot what the original says.
func (o *optimizer) manifest(ctx context.Context, lists map[string]map[int]FileList, entries map[string]*Entry) (*Manifest, error) {
	var edits []TreeEdit
	for path, byPart := range lists {
		e := *entries[path]
		all := make([]FileList, len(e.Lists))
		for n := range all {
			all[n] = FileList{List: e.Lists[n]}
			if l, ok := byPart[n]; ok {
				all[n] = l
			}
		}
		e.SetContent(e.Size, all)
		edits = append(edits, TreeEdit{Path: path, Entry: &e})
	}
	slices.SortFunc(edits, func(a, b TreeEdit) int { return cmp.Compare(a.Path, b.Path) })
	m := &Manifest{Log: o.m.Log, Engine: o.m.Engine, Facts: o.m.Facts, Problems: o.m.Problems}
	return m, o.w.EditTree(ctx, o.m, edits, m)
}
