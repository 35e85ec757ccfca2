package capture

import (
	"bytes"
	"context"
	"errors"

	"github.com/holdfast-dr/holdfast/internal/pg/cluster"
	"github.com/holdfast-dr/holdfast/internal/pg/page"
	"github.com/holdfast-dr/holdfast/internal/pg/wal"
	"github.com/holdfast-dr/holdfast/internal/pg/wal/changed"
	"github.com/holdfast-dr/holdfast/internal/repo"
)

// proof compares pages with those of a snapshot before.
type proof struct {
	m         *changed.Map
	blocks    uint32 // of a segment
	checksums bool
	// heap returns a page of a relation's main fork as it is now, valid until the next call; nil where there is none.
	heap func(ctx context.Context, r cluster.Relation, block uint32) ([]byte, error)
	// damaged is told of pages that PostgreSQL would refuse; nil: whoever read them has told.
	damaged func(path string, r cluster.Relation, block uint32, p []byte, err error)

	pages  int64 // that were compared
	missed *missedPages
}

func (s *snapshot) proof(m *changed.Map) *proof {
	return &proof{m: m, blocks: s.info.SegmentBlocks, checksums: s.info.Checksums, missed: &s.missed}
}

// page compares two versions of a page that the map says nothing of. Replay from the later snapshot's beginning mends
// what was changed behind it.
//
// Every record but one sets the LSN of the pages that it changes, the one that clears bits in the visibility map. In
// other forks a difference below an equal LSN is of hint bits, killed index entries or SP-GiST's cache: even with
// checksums they are logged only at the first change behind a checkpoint, and a standby has them not as its primary.
func (p *proof) page(ctx context.Context, path string, r cluster.Relation, block uint32, was, is []byte) error {
	p.pages++
	if bytes.Equal(was, is) {
		return nil
	}
	if _, err := page.Verify(is, block, p.checksums); err != nil {
		if p.damaged != nil {
			p.damaged(path, r, block, is, err)
		}
		return nil
	}
	before, now := wal.LSN(page.LSN(was)), wal.LSN(page.LSN(is))
	lost := before != now
	switch {
	case now >= p.m.End || before >= p.m.End:
		return nil
	case page.IsNew(is):
		return nil // cut off, and extended again, both behind the map's end: what was logged before has an LSN
	case !lost && r.Fork == cluster.VM:
		var err error
		if lost, err = p.stale(ctx, r, block, was, is); err != nil {
			return err
		}
	}
	if lost {
		p.missed.add(Missed{path, block, before, now})
	}
	return nil
}

// prove looks, after everything was read, for pages which the log should have named. What was stored must be readable.
func (s *snapshot) prove(ctx context.Context, now *repo.Manifest, start wal.LSN) error {
	b, err := s.before, s.beforeErr
	var m *changed.Map
	if err == nil {
		m, err = s.changedSince(ctx, b, &anchor{start: start, timeline: b.way.At(start)})
	}
	var doubt *doubtError
	if errors.As(err, &doubt) {
		s.report.NotCompared = doubt.reason
		return nil
	}
	if err != nil {
		return err
	}
	root, err := now.RootID()
	if err != nil {
		return err
	}
	p := s.proof(m)
	heap := &storedHeap{reader: s.repo.Reader(), root: root, dir: s.info.TablespaceDir(), blocks: p.blocks}
	p.heap = heap.page
	tree, old, fresh := s.repo.Reader(), s.repo.Reader(), s.repo.Reader()
	err = tree.Diff(ctx, b.manifest, now, func(path string, was, is *repo.Entry) error {
		r, ok := cluster.ParsePath(path)
		if !ok || r.Fork == cluster.FSM || is == nil {
			return nil // dropped, or of no log
		}
		return p.file(ctx, r, path, was, is, old, fresh)
	})
	s.report.Compared = p.pages
	return err
}

// file compares the pages of a segment in which two snapshots differ.
func (p *proof) file(ctx context.Context, r cluster.Relation, path string, was, is *repo.Entry, old, fresh *repo.Reader) error {
	change := p.m.Lookup(changed.Fork{Tablespace: r.Tablespace, Database: r.Database, Relation: r.Number, Fork: r.Fork})
	for n := range repo.ListCount(is.Size) {
		now, err := fresh.FilePart(ctx, is, n)
		if err != nil {
			return err
		}
		var before *repo.FilePart
		if was != nil && n < repo.ListCount(was.Size) {
			if before, err = old.FilePart(ctx, was, n); err != nil {
				return err
			}
		}
		first := r.FirstBlock(p.blocks) + uint32(n)*pagesOfPart
		if err := p.part(ctx, path, r, first, change, before, now, old, fresh); err != nil {
			return err
		}
	}
	return nil
}

func (p *proof) part(ctx context.Context, path string, r cluster.Relation, first uint32, change changed.Change, before, now *repo.FilePart, old, fresh *repo.Reader) error {
	var differ []int
	for i := range now.Len() {
		is, whole := now.Whole(i)
		if before != nil && i < before.Len() {
			if was, ok := before.Whole(i); ok && whole && was == is {
				continue
			}
		}
		differ = append(differ, i)
	}
	var was []byte
	return fresh.Part(ctx, now, differ, func(i int, is []byte) error {
		was = was[:0]
		if before != nil && i < before.Len() {
			err := old.Part(ctx, before, []int{i}, func(_ int, plain []byte) error { was = append(was, plain...); return nil }, nil)
			if err != nil {
				return err
			}
		}
		for at := 0; at+repo.PageSize <= len(is); at += repo.PageSize {
			block := first + uint32(i)*pagesOfChunk + uint32(at/repo.PageSize)
			if at+repo.PageSize > len(was) || change.Has(block) {
				continue // behind the end of what was there: read in any case
			}
			if err := p.page(ctx, path, r, block, was[at:at+repo.PageSize], is[at:at+repo.PageSize]); err != nil {
				return err
			}
		}
		return nil
	}, nil)
}
