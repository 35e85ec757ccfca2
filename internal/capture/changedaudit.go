package capture

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/pg/cluster"
	"github.com/holdfast-dr/holdfast/internal/pg/wal/changed"
	"github.com/holdfast-dr/holdfast/internal/repo"
)

// Every snapshot of what changed also reads some pages that the log did not name, and compares them with what is
// stored: so many, of so many files. Files are drawn from the snapshot before, larger ones with preference.
const (
	auditDraws = 64
	auditFiles = 8
	auditPages = 8 // of each file
)

// audit compares a sample. A page that changed without a word in the log is a *doubtError, after which everything is
// read.
func (c *changedFiles) audit(ctx context.Context) error {
	chance := rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64())) //nolint:gosec // a sample, not a secret
	p := c.s.proof(c.m)
	type draw struct {
		path string
		e    *repo.Entry
	}
	var draws []draw
	err := c.reader.Sample(ctx, c.root, chance, auditDraws, func(path string, e *repo.Entry, _ int64) error {
		draws = append(draws, draw{path, e})
		return nil
	})
	if err != nil && !errors.Is(err, repo.ErrNoSizes) {
		return err
	}
	chance.Shuffle(len(draws), func(i, j int) { draws[i], draws[j] = draws[j], draws[i] })
	for _, d := range draws {
		if p.files == auditFiles {
			break
		}
		r, ok := cluster.ParsePath(d.path)
		if !ok || r.Fork == cluster.FSM || d.e.Size < repo.PageSize {
			continue
		}
		if err := c.auditFile(ctx, p, r, d.path, d.e, chance); err != nil {
			return err
		}
	}
	c.s.report.Compared, c.s.report.Missed = p.pages, p.missed
	if len(p.missed) == 0 {
		return nil
	}
	c.s.cfg.Log.Error("a page changed of which the log did not tell", dr.KeySystem, c.s.cfg.System, dr.KeyFile, p.missed[0].String(),
		dr.KeyNext, "report this with the server's version; the snapshot reads everything now")
	return doubtf("a sample found a change of which the log did not tell: %s", p.missed[0])
}

func (c *changedFiles) auditFile(ctx context.Context, p *proof, r cluster.Relation, path string, e *repo.Entry, chance *rand.Rand) error {
	part := chance.IntN(repo.ListCount(e.Size))
	stored, err := c.reader.FilePart(ctx, e, part)
	if err != nil {
		return err
	}
	change := c.m.Lookup(changed.Fork{Tablespace: r.Tablespace, Database: r.Database, Relation: r.Number, Fork: r.Fork})
	first := r.FirstBlock(p.blocks) + uint32(part)*pagesOfPart
	var pages []uint16
	for range auditPages {
		page := uint16(chance.Int64N(stored.Length() / repo.PageSize))
		if !change.Has(first+uint32(page)) && !slices.Contains(pages, page) {
			pages = append(pages, page)
		}
	}
	if len(pages) == 0 {
		return nil
	}
	p.files++
	slices.Sort(pages)
	f, err := c.open.open(ctx, path)
	if err == nil {
		defer f.Close() //nolint:errcheck // only read
		err = c.comparePages(ctx, f, path, part, stored, pages, func(n uint16, was, is []byte) { p.page(path, r.Fork, first+uint32(n), was, is) })
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil // dropped
	}
	return err
}

// comparePages calls fn for pages of a part as they are stored and as they are now.
func (c *changedFiles) comparePages(ctx context.Context, f openFile, path string, part int, stored *repo.FilePart, pages []uint16, fn func(n uint16, was, is []byte)) error {
	reads := make([]fileRead, len(pages))
	for i, n := range pages {
		reads[i] = fileRead{path, int64(part)*pieceBytes + int64(n)*repo.PageSize, repo.PageSize}
	}
	c.open.announce(reads)
	now := make([]byte, repo.PageSize)
	return c.reader.Pages(ctx, stored, pages, func(n uint16, was []byte) error {
		for try := 1; ; try++ {
			if _, err := f.ReadAt(now, int64(part)*pieceBytes+int64(n)*repo.PageSize); isEOF(err) {
				return nil // cut off
			} else if err != nil {
				return err
			}
			if bytes.Equal(was, now) || try == tornTries {
				break
			}
			select { // it may be in the middle of being written
			case <-time.After(tornPause):
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
		fn(n, was, now)
		return nil
	})
}
