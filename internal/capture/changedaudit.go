package capture

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/holdfast-dr/holdfast/internal/pg/cluster"
	"github.com/holdfast-dr/holdfast/internal/pg/page"
	"github.com/holdfast-dr/holdfast/internal/pg/wal/changed"
	"github.com/holdfast-dr/holdfast/internal/repo"
)

// Every snapshot of what changed also reads so many pages that the log did not name, and compares them with what is
// stored. Of the snapshot before every page has the same chance to be drawn. What the log named, or never describes, is
// drawn in vain, and as much is drawn again, a few times: so each page that the log did not name has the chance of
// every other one, whatever file it is in. (Of rounds nothing is thrown away because it would be too much: that would
// prefer the files that come first.)
const (
	auditPages   = 64
	auditRounds  = 4
	auditReaders = 8 // a store far away answers many at once as quickly as one
)

// auditPart are the pages of one part of a file that were drawn.
type auditPart struct {
	path  string
	r     cluster.Relation
	entry *repo.Entry
	n     int
	pages []uint16
	was   []byte // those pages as they are stored
}

func (p *auditPart) reads() (reads []fileRead) {
	for _, n := range p.pages {
		reads = append(reads, fileRead{p.path, int64(p.n)*pieceBytes + int64(n)*repo.PageSize, repo.PageSize})
	}
	return reads
}

// audit compares a sample. A page that changed without a word in the log is a *doubtError, after which everything is
// read.
func (c *changedFiles) audit(ctx context.Context) error {
	p := c.s.proof(c.m)
	p.damaged = func(path string, r cluster.Relation, block uint32, is []byte, err error) {
		c.sampled.bad(path, r, block, is, fmt.Errorf("%w; the log did not name it, and the snapshot has it as it was before", err))
	}
	p.heap = func(ctx context.Context, r cluster.Relation, block uint32) ([]byte, error) {
		return c.heapPage(ctx, p.blocks, r, block)
	}
	chance := rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64())) //nolint:gosec // a sample, not a secret
	drawn := map[drawnPage]bool{}
	for round := 0; round < auditRounds && p.pages < auditPages; round++ {
		parts, err := c.draw(ctx, p.blocks, chance, auditPages-int(p.pages), drawn)
		if err == nil {
			err = c.fetchStored(ctx, parts)
		}
		if err != nil {
			return err
		}
		for _, part := range parts {
			if err := c.auditPart(ctx, p, part); err != nil {
				return err
			}
		}
	}
	c.s.report.Compared = p.pages
	c.s.report.Unread = max(c.base.manifest.Bytes/repo.PageSize-c.reread, p.pages)
	if c.s.missed.count == 0 {
		return nil
	}
	return doubtf("%s%s", foundBySample, c.s.missed.list[0])
}

const foundBySample = "a sample found a change of which the log did not tell: "

// drawnPage is a page of a file.
type drawnPage struct {
	path string
	page uint32
}

// draw returns pages of the snapshot before that the map does not name, by parts, and announces them.
func (c *changedFiles) draw(ctx context.Context, segmentBlocks uint32, chance *rand.Rand, n int, drawn map[drawnPage]bool) (parts []*auditPart, err error) {
	err = c.reader.Sample(ctx, c.root, chance, n, func(path string, e *repo.Entry, at int64) error {
		r, ok := cluster.ParsePath(path)
		block := uint32(at / repo.PageSize)
		if !ok || r.Fork == cluster.FSM || int64(block+1)*repo.PageSize > e.Size {
			return nil
		}
		change := c.m.Lookup(changed.Fork{Tablespace: r.Tablespace, Database: r.Database, Relation: r.Number, Fork: r.Fork})
		this := drawnPage{path, block}
		if change.Has(r.FirstBlock(segmentBlocks)+block) || drawn[this] {
			return nil
		}
		drawn[this] = true
		part, n := int(block/pagesOfPart), uint16(block%pagesOfPart)
		if last := len(parts) - 1; last >= 0 && parts[last].path == path && parts[last].n == part {
			parts[last].pages = append(parts[last].pages, n)
			return nil
		}
		parts = append(parts, &auditPart{path: path, r: r, entry: e, n: part, pages: []uint16{n}})
		return nil
	})
	var reads []fileRead
	for _, p := range parts {
		reads = append(reads, p.reads()...)
	}
	c.open.announce(reads)
	return parts, err
}

// fetchStored reads what the snapshot before has of the pages.
func (c *changedFiles) fetchStored(ctx context.Context, parts []*auditPart) error {
	g, ctx := errgroup.WithContext(ctx)
	for w := range auditReaders {
		if w >= len(parts) {
			break
		}
		g.Go(func() error {
			rd := c.s.repo.Reader()
			for i := w; i < len(parts); i += auditReaders {
				p := parts[i]
				stored, err := rd.FilePart(ctx, p.entry, p.n)
				if err == nil {
					err = rd.Pages(ctx, stored, p.pages, func(_ uint16, plain []byte) error { p.was = append(p.was, plain...); return nil })
				}
				if err != nil {
					return err
				}
			}
			return nil
		})
	}
	return g.Wait()
}

// auditPart compares the pages of one part with what they are now.
func (c *changedFiles) auditPart(ctx context.Context, p *proof, part *auditPart) error {
	f, err := c.open.open(ctx, part.path)
	if err == nil {
		defer f.Close() //nolint:errcheck // only read
		first := part.r.FirstBlock(p.blocks) + uint32(part.n)*pagesOfPart
		for i := 0; i < len(part.pages) && err == nil; i++ {
			at := int64(part.n)*pieceBytes + int64(part.pages[i])*repo.PageSize
			err = auditPage(ctx, p, f, at, part, first+uint32(part.pages[i]), part.was[i*repo.PageSize:][:repo.PageSize])
		}
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil // dropped
	}
	return err
}

// auditPage compares one page, which begins at an offset of its file.
func auditPage(ctx context.Context, p *proof, f openFile, at int64, part *auditPart, block uint32, was []byte) error {
	now := make([]byte, repo.PageSize)
	for try := 1; ; try++ {
		if _, err := f.ReadAt(now, at); isEOF(err) {
			return nil // cut off
		} else if err != nil {
			return err
		}
		// It may be in the middle of being written. Without checksums nobody sees that: the header of a torn page
		// has the LSN of one of its versions all the same, and that decides.
		if _, err := page.Verify(now, block, p.checksums); err == nil || try == tornTries || bytes.Equal(was, now) {
			return p.page(ctx, part.path, part.r, block, was, now)
		}
		select {
		case <-time.After(tornPause):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// heapPage reads a page of a relation's main fork.
func (c *changedFiles) heapPage(ctx context.Context, segmentBlocks uint32, r cluster.Relation, block uint32) ([]byte, error) {
	r, n := heapOf(r, block, segmentBlocks)
	f, err := c.open.open(ctx, r.Path(c.s.info.TablespaceDir()))
	if err == nil {
		defer f.Close() //nolint:errcheck // only read
		heap := make([]byte, repo.PageSize)
		if _, err = f.ReadAt(heap, int64(n)*repo.PageSize); err == nil {
			return heap, nil
		}
	}
	if errors.Is(err, fs.ErrNotExist) || isEOF(err) {
		return nil, nil
	}
	return nil, err
}
