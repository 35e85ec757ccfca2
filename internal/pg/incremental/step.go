package incremental

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/holdfast-dr/holdfast/internal/pg/cluster"
	"github.com/holdfast-dr/holdfast/internal/pg/page"
	"github.com/holdfast-dr/holdfast/internal/pg/wal"
	"github.com/holdfast-dr/holdfast/internal/pg/wal/changed"
)

// step checks one incremental backup against the image of the one before.
type step struct {
	*audit
	k        int
	b, prev  *backup
	suspects map[blockID]*suspect
	dropped  bool // suspects beyond the largest number
}

// relationRoots are the folders with relations.
var relationRoots = []string{"base", "global", "pg_tblspc"}

func (a *audit) checkIncremental(ctx context.Context, k int) error {
	w := &step{audit: a, k: k, b: a.backups[k], prev: a.backups[k-1], suspects: map[blockID]*suspect{}}
	for _, root := range relationRoots {
		if err := w.b.files(ctx, root, func(p string) error { return w.file(ctx, p) }); err != nil {
			return err
		}
		if a.changes[k] == nil || a.replay[k] == nil {
			continue
		}
		if err := w.prev.files(ctx, root, w.gone); err != nil {
			return err
		}
	}
	return w.resolve(ctx)
}

// file checks one file of the backup.
func (w *step) file(ctx context.Context, p string) error {
	bare, rel, partly, ok := relationPath(p)
	switch {
	case partly && (!ok || rel.Fork == cluster.FSM):
		w.find(Finding{Kind: BadIncrement, Proof: true, Backup: w.b.dir, Path: p, Reason: "PostgreSQL stores such a file whole"})
		return nil
	case !ok || rel.Fork == cluster.FSM:
		return nil
	}
	seg, err := w.openSegment(w.k, bare, rel)
	if err != nil {
		return w.blame(p, err)
	}
	defer seg.close()
	prev, err := w.before(seg)
	if err != nil {
		return err
	}
	if prev != nil {
		defer prev.close()
	}
	w.length(seg)
	if err := w.shrunk(seg, prev); err != nil {
		return err
	}
	if rel.Fork == cluster.VM {
		if err := w.pastEnd(seg); err != nil {
			return err
		}
	}
	if err := w.carriedPages(ctx, seg, prev); err != nil {
		return err
	}
	return w.others(ctx, seg)
}

// blame makes a finding of an error that is the fault of a backup.
func (a *audit) blame(p string, err error) error {
	var bad *sourceError
	if errors.As(err, &bad) {
		a.find(Finding{Kind: bad.kind, Proof: true, Backup: a.backups[bad.backup].dir, Path: p, Reason: bad.reason})
		return nil
	}
	return err
}

// before opens the image of the segment as of the backup before; nil where it has none, or a broken one, which the
// step before named.
func (w *step) before(seg *segment) (*segment, error) {
	prev, err := w.openSegment(w.k-1, seg.path, seg.rel)
	var bad *sourceError
	if errors.Is(err, fs.ErrNotExist) || errors.As(err, &bad) {
		return nil, nil //nolint:nilnil // there is none
	}
	return prev, err
}

// length looks at what the header itself says.
func (w *step) length(seg *segment) {
	h := seg.sources[0].head
	if h == nil {
		return
	}
	w.b.out.Carried += uint64(len(h.blocks))
	if n := len(h.blocks); n > 0 && h.blocks[n-1] >= h.length {
		w.find(Finding{
			Kind: BadLength, Proof: true, Backup: w.b.dir, Path: seg.path, Blocks: []uint32{seg.first + h.blocks[n-1]}, Count: 1,
			Reason: fmt.Sprintf("the INCREMENTAL file says that the file has at least %d blocks and carries block %d: PostgreSQL never writes a length below a block that it carries", h.length, h.blocks[n-1]),
		})
	}
}

// limit returns how short a fork was, as the log says, from the backup before to the end of this one; zero where
// that is not known.
func (w *step) limit(f changed.Fork) uint32 {
	c, r := w.changes[w.k], w.replay[w.k]
	if c == nil || r == nil || doubtful(c) || doubtful(r) {
		return 0
	}
	return min(c.Lookup(f).Limit, r.Lookup(f).Limit)
}

func doubtful(m *changed.Map) bool {
	for _, d := range m.Doubts {
		if d.Kind != changed.NoFullPageWrites {
			return true
		}
	}
	return false
}

// shrunk looks for a file that lost pages without a truncation in the log. Blocks that were never written may be
// lost: their extension was not logged.
func (w *step) shrunk(seg, prev *segment) error {
	if prev == nil || prev.length <= seg.length || w.limit(seg.fork) <= seg.first+seg.length {
		return nil
	}
	t := tally{f: Finding{
		Kind: BadLength, Proof: true, Backup: w.b.dir, Path: seg.path,
		Reason: fmt.Sprintf("the file had %d blocks in %s and has %d, and the log between them has no truncation", prev.length, w.prev.dir, seg.length),
	}}
	buf := make([]byte, page.Size)
	for i := seg.length; i < prev.length; i++ {
		if _, err := prev.page(i, buf); err != nil {
			return err
		}
		if !page.IsNew(buf) {
			t.add(seg.first + i)
		}
	}
	t.flush(w.audit)
	return nil
}

// gone looks for a file of the backup before that this one does not have, though the log has no drop of it.
func (w *step) gone(p string) error {
	bare, rel, partly, ok := relationPath(p)
	if !ok || rel.Fork == cluster.FSM {
		return nil
	}
	if !partly {
		// The first segment of a dropped relation stays empty until the next checkpoint (md.c, mdunlink).
		fi, err := os.Stat(filepath.Join(w.prev.at, filepath.FromSlash(p)))
		if err != nil || fi.Size() == 0 {
			return err
		}
	}
	src, err := w.openSource(w.k, bare)
	var bad *sourceError
	switch {
	case err == nil:
		return src.file.Close()
	case errors.As(err, &bad): // named where it was read
		return nil
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	f := changed.Fork{Tablespace: rel.Tablespace, Database: rel.Database, Relation: rel.Number, Fork: rel.Fork}
	if w.limit(f) > rel.FirstBlock(w.segmentBlocks) {
		w.find(Finding{Kind: MissingFile, Proof: true, Backup: w.b.dir, Path: bare, Reason: "it is in " + w.prev.dir + " and not here, and the log between them drops no such file"})
	}
	return nil
}

// carriedPages reads the pages that the backup itself has, and compares their ages.
func (w *step) carriedPages(ctx context.Context, seg, prev *segment) error {
	newest := seg.sources[0]
	vm := w.openVM(seg)
	defer vm.close()
	if newest.head == nil && prev == nil && vm == nil {
		return nil
	}
	old := tally{f: Finding{Kind: OldPage, Proof: newest.head != nil, Backup: w.b.dir, Path: seg.path, Reason: "a page is older than the same one in " + w.prev.dir}}
	if newest.head == nil && w.changes[w.k] != nil && w.changes[w.k].Lookup(seg.fork).Limit > seg.first {
		old.f.Proof = true // the log says that it is the same file still
	}
	future := tally{f: Finding{Kind: FuturePage, Proof: true, Backup: w.b.dir, Path: seg.path, Reason: fmt.Sprintf("a page has an LSN behind the backup's end at %s", w.b.stop)}}
	buf, was := make([]byte, page.Size), make([]byte, page.Size)
	n := newest.blocks
	if newest.head != nil {
		n = uint32(len(newest.head.blocks))
	}
	for i := range n {
		if i%1024 == 0 && ctx.Err() != nil {
			return context.Cause(ctx)
		}
		block := i
		if newest.head != nil {
			block = newest.head.blocks[i]
		}
		if _, err := seg.page(block, buf); err != nil {
			return err
		}
		lsn := wal.LSN(page.LSN(buf))
		if lsn > w.b.stop && w.k < len(w.backups)-1 { // the last image is read as a whole later
			future.add(seg.first + block)
		}
		if prev != nil && block < prev.length && lsn != 0 {
			if _, err := prev.page(block, was); err != nil {
				return err
			}
			if wal.LSN(page.LSN(was)) > lsn && (newest.head != nil || w.limitBefore(seg.fork) > seg.first+block) {
				old.add(seg.first + block)
			}
		}
		if err := w.visibility(vm, seg, seg.first+block, buf); err != nil {
			return err
		}
	}
	old.flush(w.audit)
	future.flush(w.audit)
	return nil
}

// limitBefore returns how short a fork was between the two backups; NoLimit where that is not known.
func (w *step) limitBefore(f changed.Fork) uint32 {
	if m := w.changes[w.k]; m != nil {
		return m.Lookup(f).Limit
	}
	return changed.NoLimit
}

// others looks at what an INCREMENTAL file does not carry.
func (w *step) others(ctx context.Context, seg *segment) error {
	if seg.sources[0].head == nil {
		return nil
	}
	var c changed.Change
	m := w.changes[w.k]
	if m != nil {
		c = m.Lookup(seg.fork)
	}
	unseen := tally{f: Finding{
		Kind: MissingBlock, Backup: w.b.dir, Path: seg.path, Problem: missedBlock,
		Reason: fmt.Sprintf("the page in %s was changed after that backup's start (%s), so this one must carry it; whether it changed once more only the log can tell", w.prev.dir, w.prev.label.StartLSN),
	}}
	// A file that is truncated between the start and its copy lacks blocks that its header asks older backups for;
	// replay truncates it again (GetFileBackupMethod: the length is at least the limit).
	cutLater := changed.NoLimit
	if r := w.replay[w.k]; r != nil {
		cutLater = r.Lookup(seg.fork).Limit
	}
	buf := make([]byte, page.Size)
	for i := range seg.length {
		if i%4096 == 0 && ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if seg.carried(i) {
			continue
		}
		block := seg.first + i
		src, _ := seg.find(i)
		cut := -1
		if src != nil {
			cut = seg.cutBefore(i, src)
		}
		asked := m != nil && c.Has(block)
		if cut < 0 && !asked && (m != nil || src == nil || src.backup != w.k-1) {
			continue
		}
		if _, err := seg.page(i, buf); err != nil {
			return err
		}
		lsn := wal.LSN(page.LSN(buf))
		switch {
		case cut >= 0 && !page.IsNew(buf):
			w.suspect(seg, block, suspect{kind: Resurrected, cut: cut, lsn: lsn})
		case asked:
			w.suspect(seg, block, suspect{kind: MissingBlock, lsn: lsn, empty: page.IsNew(buf)})
		case m == nil && block < cutLater && lsn > w.prev.label.StartLSN && lsn <= w.prev.stop:
			unseen.add(block)
		}
	}
	unseen.flush(w.audit)
	return nil
}

// tally gathers the blocks of a finding.
type tally struct{ f Finding }

// maxListed bounds the blocks that a finding names.
const maxListed = 8

func (t *tally) add(block uint32) {
	if t.f.Count++; len(t.f.Blocks) < maxListed {
		t.f.Blocks = append(t.f.Blocks, block)
	}
}

func (t *tally) flush(a *audit) {
	if t.f.Count > 0 {
		a.find(t.f)
	}
}
