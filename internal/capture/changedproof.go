package capture

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/holdfast-dr/holdfast/internal/pg/cluster"
	"github.com/holdfast-dr/holdfast/internal/pg/page"
	"github.com/holdfast-dr/holdfast/internal/pg/wal"
	"github.com/holdfast-dr/holdfast/internal/pg/wal/changed"
	"github.com/holdfast-dr/holdfast/internal/repo"
)

// Missed is a page that changed without a word in the log: a snapshot of what changed would not have read it. There must
// be none.
type Missed struct {
	Path  string  `json:"path"`
	Block uint32  `json:"block"` // of the relation's fork, over all segments
	Was   wal.LSN `json:"was"`   // what the page said of its last change in the snapshot before
	Is    wal.LSN `json:"is"`
}

// String names the page.
func (m Missed) String() string {
	return fmt.Sprintf("%s: block %d changed, from LSN %s to %s, and the log did not tell", m.Path, m.Block, m.Was, m.Is)
}

// maxMissed bounds the list: one is enough.
const maxMissed = 100

// proof compares pages with those of a snapshot before.
type proof struct {
	m           *changed.Map
	tablespaces string // the server's folder in tablespaces
	blocks      uint32 // of a segment
	checksums   bool
	hintsLogged bool  // no bit of a visibility map changes without the log
	pages       int64 // that were compared
	files       int   // of which there were any
	missed      []Missed
}

func (s *snapshot) proof(m *changed.Map) *proof {
	// wal_log_hints alone does not count: without checksums nobody sees that a page was read half old, half new.
	return &proof{m: m, tablespaces: s.info.TablespaceDir(), blocks: s.info.SegmentBlocks, checksums: s.info.Checksums, hintsLogged: s.info.Checksums}
}

// page compares two versions of a page that the map says nothing of. Replay from the later snapshot's beginning mends
// what was changed behind it.
//
// Every record but one sets the LSN of the pages that it changes, the one that clears bits in the visibility map. In
// other forks a difference below an equal LSN is of hint bits, killed index entries or SP-GiST's cache: even with
// checksums they are logged only at the first change behind a checkpoint, and a standby has them not as its primary.
func (p *proof) page(path string, fork cluster.Fork, block uint32, was, is []byte) {
	p.pages++
	if bytes.Equal(was, is) {
		return
	}
	before, now := wal.LSN(page.LSN(was)), wal.LSN(page.LSN(is))
	if now >= p.m.End || before >= p.m.End || before == now && (fork != cluster.VM || !p.hintsLogged) {
		return
	}
	if _, err := page.Verify(is, block, p.checksums); err != nil {
		return // damaged, which is told elsewhere, or torn: its record is behind the end
	}
	if len(p.missed) < maxMissed {
		p.missed = append(p.missed, Missed{path, block, before, now})
	}
}

// prove looks, after everything was read, for pages which the log should have named.
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
	p := s.proof(m)
	tree, old, fresh := s.repo.Reader(), s.repo.Reader(), s.repo.Reader()
	err = tree.Diff(ctx, b.manifest, now, func(path string, was, is *repo.Entry) error {
		r, ok := cluster.ParsePath(path)
		if !ok || r.Fork == cluster.FSM || is == nil {
			return nil // dropped, or of no log
		}
		return p.file(ctx, r, path, was, is, old, fresh)
	})
	s.report.Compared, s.report.Missed = p.pages, p.missed
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
		if err := p.part(ctx, path, r.Fork, first, change, before, now, old, fresh); err != nil {
			return err
		}
	}
	return nil
}

func (p *proof) part(ctx context.Context, path string, fork cluster.Fork, first uint32, change changed.Change, before, now *repo.FilePart, old, fresh *repo.Reader) error {
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
			p.page(path, fork, block, was[at:at+repo.PageSize], is[at:at+repo.PageSize])
		}
		return nil
	}, nil)
}
