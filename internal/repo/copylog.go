package repo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sort"

	"github.com/holdfast-dr/holdfast/internal/seal"
	"github.com/holdfast-dr/holdfast/internal/store"
)

// LogCopyReport says what a copy of a log has put.
type LogCopyReport struct {
	Extents int   `json:"extents"`
	Others  int   `json:"others"` // summaries, files and marks
	Bytes   int64 `json:"bytes"`  // of extents, stored
	// Ends are where each stream ends that was looked at, as the other replica has it: it is here up to there.
	Ends map[StreamID]uint64 `json:"-"`
}

// CopyLog copies what this replica lacks of a system's log, as far as another replica has it: extents in the order of their
// positions, then summaries, the files of the log, and, when all that they promise is here, the marks. Of a stream with a floor
// nothing is copied that ends at or before it; see CollectLog. It may run beside anything, and be interrupted anywhere.
func (r *Repository) CopyLog(ctx context.Context, from *Repository, system string, floors map[StreamID]uint64) (LogCopyReport, error) {
	report := LogCopyReport{Ends: map[StreamID]uint64{}}
	if r.id != from.id {
		return report, fmt.Errorf("copy to %s: it is another repository", r.store)
	}
	if _, err := r.copyObject(ctx, from, r.systemName(system), maxSmall); err != nil {
		return report, err
	}
	c := &logCopier{src: from.Log(system), dst: r.Log(system), report: &report}
	streams, err := c.src.Streams(ctx)
	if err != nil {
		return report, err
	}
	for _, s := range streams {
		if err := c.stream(ctx, s, floors[s]); err != nil {
			return report, err
		}
	}
	if err := c.places(ctx); err != nil {
		return report, err
	}
	names, err := c.src.Files(ctx)
	if err != nil {
		return report, err
	}
	for _, name := range names {
		if err := c.other(ctx, prefixLogFiles+r.keys.NameHash(system)+"/"+name); err != nil {
			return report, err
		}
	}
	return report, nil
}

// ErrLogBehind is the error of FollowLog where the replica has not the log up to the position that it was said to have.
var ErrLogBehind = errors.New("the replica's log ends before it did")

// FollowLog is CopyLog of one stream, whose log is here up to end, as an earlier copy has told. It asks little: nothing before
// the last extent is looked at.
func (r *Repository) FollowLog(ctx context.Context, from *Repository, system string, s StreamID, end uint64) (LogCopyReport, error) {
	report := LogCopyReport{Ends: map[StreamID]uint64{}}
	c := &logCopier{src: from.Log(system), dst: r.Log(system), report: &report}
	floor := max(end, MaxExtent) - MaxExtent // pieces that lie there may have been replaced
	ours, err := c.dst.Extents(ctx, s, floor)
	if err != nil {
		return report, err
	}
	if have := Merge(ours); len(have) == 0 || have[len(have)-1].End < end {
		return report, fmt.Errorf("follow the log of %s in %s: %w", system, r.store, ErrLogBehind)
	}
	return report, c.stream(ctx, s, floor)
}

// logCopier copies one system's log.
type logCopier struct {
	src, dst *Log
	report   *LogCopyReport
}

func (c *logCopier) stream(ctx context.Context, s StreamID, floor uint64) error {
	for range viewTries {
		if again, err := c.pass(ctx, s, floor); err != nil || !again {
			return err
		}
	}
	return fmt.Errorf("copy the log of %s: what %s lists of it is not there", c.src.system, c.src.r.store)
}

// pass copies what is listed; again is true where some of it was replaced meanwhile.
func (c *logCopier) pass(ctx context.Context, s StreamID, floor uint64) (again bool, err error) {
	// The mark first: what it promises was there when it was written, so it is in the listing that follows.
	mark, err := c.src.markObject(ctx, s)
	if err != nil {
		return false, err
	}
	theirs, err := c.src.Extents(ctx, s, floor)
	if err != nil {
		return false, err
	}
	ours, err := c.dst.Extents(ctx, s, floor)
	if err != nil {
		return false, err
	}
	for _, e := range Uncovered(theirs, Merge(ours)) {
		stored, err := c.extent(ctx, e)
		if err != nil {
			return false, err
		}
		if !stored {
			return true, nil // replaced by a longer one since it was listed
		}
		if err := c.dropPieces(ctx, ours, e); err != nil {
			return false, err
		}
	}
	for _, e := range theirs {
		c.report.Ends[s] = max(c.report.Ends[s], e.End)
	}
	if err := c.summaries(ctx, s, floor); err != nil || mark == "" {
		return false, err
	}
	return false, c.mark(ctx, s, mark)
}

// Uncovered returns the extents, sorted as Extents does, that neither ranges, as Merge returns them, nor the extent before hold whole:
// of two that begin alike the longer one comes first.
func Uncovered(extents []Extent, have []Range) (out []Extent) {
	for _, e := range extents {
		if n := len(out); holds(have, e) || n > 0 && holds([]Range{{out[n-1].Start, out[n-1].End}}, e) {
			continue
		}
		out = append(out, e)
	}
	return out
}

// holds tells whether one of ranges, which ascend with gaps between them, holds an extent whole.
func holds(ranges []Range, e Extent) bool {
	i := sort.Search(len(ranges), func(i int) bool { return ranges[i].End >= e.End })
	return i < len(ranges) && ranges[i].Start <= e.Start
}

// extent copies one, after it has proven to be what was sealed under its name; false where it is gone.
func (c *logCopier) extent(ctx context.Context, e Extent) (bool, error) {
	name := c.src.r.extentName(c.src.system, e.Stream, e.Start, e.End)
	b, err := c.src.r.store.Get(ctx, name, 2*MaxExtent)
	if errors.Is(err, store.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if _, err := c.src.r.keys.OpenWhole(seal.KindLogExtent, name, bytes.Clone(b)); err != nil {
		return false, err
	}
	if err := c.dst.r.store.Put(ctx, name, b); err != nil {
		return false, err
	}
	c.report.Extents, c.report.Bytes = c.report.Extents+1, c.report.Bytes+int64(len(b))
	return true, nil
}

// dropPieces removes, of what was here before, what an extent has taken the place of.
func (c *logCopier) dropPieces(ctx context.Context, ours []Extent, keep Extent) error {
	for _, e := range ours {
		if e.Start >= keep.Start && e.End <= keep.End && e.End-e.Start < keep.End-keep.Start {
			if err := c.dst.r.store.Delete(ctx, c.dst.r.extentName(c.dst.system, e.Stream, e.Start, e.End)); err != nil {
				return err
			}
		}
	}
	return nil
}

func (c *logCopier) summaries(ctx context.Context, s StreamID, floor uint64) error {
	const end = ^uint64(0)
	theirs, err := c.src.Summaries(ctx, s, floor, end)
	if err != nil {
		return err
	}
	ours, err := c.dst.Summaries(ctx, s, floor, end)
	if err != nil {
		return err
	}
	have := map[Summary]bool{}
	for _, x := range ours {
		have[x] = true
	}
	for _, x := range theirs {
		if have[x] {
			continue
		}
		if err := c.other(ctx, c.src.summaryName(x)); err != nil {
			return err
		}
	}
	return nil
}

// places copies the records of where the system's data has been, with their signers.
func (c *logCopier) places(ctx context.Context) error {
	return c.src.r.store.List(ctx, c.src.r.placePrefix(c.src.system), "", func(i store.Info) error {
		if there, err := c.dst.r.exists(ctx, i.Name); err != nil || there {
			return err
		}
		p, err := c.src.r.place(ctx, i.Name)
		if err != nil {
			if lost(err) {
				return nil
			}
			return err
		}
		if _, err := c.dst.r.copyObject(ctx, c.src.r, prefixSigners+p.Signer, maxSmall); err != nil {
			return err
		}
		return c.other(ctx, i.Name)
	})
}

// other copies a small object where it is missing. It may be gone meanwhile: nobody needs it then.
func (c *logCopier) other(ctx context.Context, name string) error {
	copied, err := c.dst.r.copyObject(ctx, c.src.r, name, maxIndexObject)
	switch {
	case errors.Is(err, store.ErrNotExist):
		return nil
	case err == nil && copied:
		c.report.Others++
	}
	return err
}

// mark copies a mark that is higher than those here, with its signer, and removes these.
func (c *logCopier) mark(ctx context.Context, s StreamID, name string) error {
	highest, err := c.dst.markObject(ctx, s)
	if err != nil || highest >= name {
		return err
	}
	m, ok, err := c.src.Mark(ctx, s)
	if err != nil || !ok {
		return err
	}
	if _, err := c.dst.r.copyObject(ctx, c.src.r, prefixSigners+m.Signer, maxSmall); err != nil {
		return err
	}
	if err := c.other(ctx, name); err != nil {
		return err
	}
	if there, err := c.dst.r.exists(ctx, name); err != nil || !there {
		return err // a higher one has taken its place: it comes with the next copy
	}
	return c.dst.dropMarks(ctx, s, name)
}

// markObject returns the name of a stream's highest mark; empty where there is none.
func (l *Log) markObject(ctx context.Context, s StreamID) (name string, err error) {
	err = l.r.store.List(ctx, l.markPrefix(s), "", func(i store.Info) error { name = i.Name; return nil })
	return name, err
}

// dropMarks removes the marks of a stream that are lower than one.
func (l *Log) dropMarks(ctx context.Context, s StreamID, than string) error {
	var old []string
	err := l.r.store.List(ctx, l.markPrefix(s), "", func(i store.Info) error {
		if i.Name < than {
			old = append(old, i.Name)
		}
		return nil
	})
	for _, o := range old {
		err = errors.Join(err, l.r.store.Delete(ctx, o))
	}
	return err
}
