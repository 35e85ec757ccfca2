package incremental

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/holdfast-dr/holdfast/internal/pg/cluster"
	"github.com/holdfast-dr/holdfast/internal/pg/page"
	"github.com/holdfast-dr/holdfast/internal/pg/wal"
)

// reportSuspects makes findings of suspects, one for all blocks of a file with the same fault.
func (w *step) reportSuspects() {
	all := make([]*suspect, 0, len(w.suspects))
	for _, s := range w.suspects {
		all = append(all, s)
	}
	slices.SortFunc(all, func(a, b *suspect) int {
		return cmp.Or(cmp.Compare(a.path, b.path), cmp.Compare(a.id.block, b.id.block))
	})
	type fault struct {
		path, problem string
		kind          Kind
		proof         bool
	}
	groups, order := map[fault]*tally{}, []fault{}
	for _, s := range all {
		f, guilty := w.verdict(s)
		if !guilty {
			continue
		}
		key := fault{s.path, f.Problem, f.Kind, f.Proof}
		if groups[key] == nil {
			if w.replay[w.k] == nil {
				f.Reason += "; whether the backup's own log puts it right is not known"
			}
			groups[key], order = &tally{f: f}, append(order, key)
		}
		groups[key].add(s.id.block)
	}
	for _, key := range order {
		groups[key].flush(w.audit)
	}
}

// checkImage reads every page of what the chain restores to.
func (a *audit) checkImage(ctx context.Context) error {
	last := len(a.backups) - 1
	torn := map[blockID]*suspect{}
	for _, root := range relationRoots {
		err := a.backups[last].files(ctx, root, func(p string) error {
			bare, rel, partly, ok := relationPath(p)
			if !ok || partly && rel.Fork == cluster.FSM {
				return nil
			}
			seg, err := a.openSegment(last, bare, rel)
			var bad *sourceError
			if errors.As(err, &bad) {
				if last == 0 {
					return a.blame(p, err)
				}
				return nil // named by its step
			}
			if err != nil {
				return err
			}
			defer seg.close()
			return a.checkPages(ctx, seg, torn)
		})
		if err != nil {
			return err
		}
	}
	if err := a.markRestored(ctx, last, torn); err != nil {
		return err
	}
	for _, s := range torn {
		if s.restored {
			continue
		}
		b := a.backups[last]
		a.find(Finding{
			Kind: BadPage, Proof: a.replay[last] != nil && s.id.fork.Fork != cluster.FSM, Backup: b.dir, Path: s.path, Blocks: []uint32{s.id.block}, Count: 1,
			Reason: "PostgreSQL would refuse the page, and no image of it in the backup's own log puts it right",
		})
	}
	return nil
}

// checkPages reads the image of a segment. A page that was torn while the last backup copied it has an LSN past the
// backup's start, and replay puts it right: the log decides. One of an older backup that is torn was changed after
// that one's start, so that the next one must have carried it.
func (a *audit) checkPages(ctx context.Context, seg *segment, torn map[blockID]*suspect) error {
	last := len(a.backups) - 1
	broken := make([]tally, last+1)
	future := make([]tally, last+1)
	buf := make([]byte, page.Size)
	for i := range seg.length {
		if i%1024 == 0 && ctx.Err() != nil {
			return context.Cause(ctx)
		}
		from, err := seg.page(i, buf)
		if err != nil {
			return err
		}
		a.report.Pages++
		if from < 0 {
			a.report.Filled++
			continue
		}
		block, b, lsn := seg.first+i, a.backups[from], wal.LSN(page.LSN(buf))
		_, bad := page.Verify(buf, block, b.control.ChecksumVersion != 0)
		switch {
		case bad == nil && lsn > b.stop && b.stop != 0 && seg.rel.Fork != cluster.FSM:
			future[from].f.Reason = fmt.Sprintf("a page has an LSN behind the backup's end at %s", b.stop)
			future[from].add(block)
		case bad == nil:
		case from == last && lsn >= b.label.StartLSN && len(torn) < maxSuspects:
			id := blockID{seg.fork, block}
			torn[id] = &suspect{id: id, path: seg.path, kind: BadPage, lsn: lsn}
		default:
			broken[from].f.Reason = bad.Error()
			broken[from].add(block)
		}
	}
	for j, b := range a.backups {
		broken[j].f.Kind, future[j].f.Kind = BadPage, FuturePage
		for _, t := range []*tally{&broken[j], &future[j]} {
			t.f.Proof, t.f.Backup, t.f.Path = seg.rel.Fork != cluster.FSM, b.dir, seg.path
			t.flush(a)
		}
	}
	return nil
}
