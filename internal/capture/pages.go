package capture

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/holdfast-dr/holdfast/internal/pg/cluster"
	"github.com/holdfast-dr/holdfast/internal/pg/page"
)

// Problem is a page that is damaged at the source.
type Problem struct {
	Path     string           `json:"path"`  // relative to the data directory
	Block    uint32           `json:"block"` // of the relation's fork, over all segments
	Relation cluster.Relation `json:"relation"`
	Reason   string           `json:"reason"`
	lsn      uint64           // what the page says of its last change
}

// String names file, block and relation: what somebody needs to look at it with the server's own tools.
func (p Problem) String() string {
	return fmt.Sprintf("%s: block %d of relation file %d (database %d, tablespace %d, fork %s): %s",
		p.Path, p.Block, p.Relation.Number, p.Relation.Database, p.Relation.Tablespace, p.Relation.Fork, p.Reason)
}

// maxProblems bounds the list: a whole disk may be bad. The count goes on.
const maxProblems = 1000

const (
	tornTries = 6
	tornPause = 20 * time.Millisecond
)

// pageChecker checks pages for one goroutine.
type pageChecker struct {
	checksums     bool
	segmentBlocks uint32
	pages, torn   int64
	problems      []Problem
	more          int // problems beyond maxProblems
}

// chunk checks the pages of buf, which was read at offset at, and replaces those that were torn. A page that
// PostgreSQL is writing may be seen half old, half new: it is read again, and if it stays bad and was changed
// since the backup began, replay writes it whole from its full-page image. Only another bad page is a problem.
func (c *pageChecker) chunk(ctx context.Context, f io.ReaderAt, file *localFile, at int64, buf []byte) error {
	first := file.Relation.FirstBlock(c.segmentBlocks) + uint32(at/page.Size)
	for i := 0; i+page.Size <= len(buf); i += page.Size {
		c.pages++
		p, block := buf[i:i+page.Size], first+uint32(i/page.Size)
		_, err := page.Verify(p, block, c.checksums)
		for try := 1; err != nil && try < tornTries; try++ {
			c.torn++
			select {
			case <-time.After(tornPause):
			case <-ctx.Done():
				return context.Cause(ctx)
			}
			n, rerr := f.ReadAt(p, at+int64(i))
			if rerr != nil && !isEOF(rerr) {
				return rerr
			}
			clear(p[n:]) // truncated meanwhile: an empty page
			_, err = page.Verify(p, block, c.checksums)
		}
		if err != nil {
			c.bad(file.Path, file.Relation, block, p, err)
		}
	}
	return nil
}

// bad notes a page that stays bad. Whether replay mends it is known when the backup has ended (add).
func (c *pageChecker) bad(path string, r cluster.Relation, block uint32, p []byte, err error) {
	if len(c.problems) == maxProblems {
		c.more++
		return
	}
	c.problems = append(c.problems, Problem{Path: path, Block: block, Relation: r, Reason: err.Error(), lsn: page.LSN(p)})
}

func (r *SnapshotReport) add(c *pageChecker) {
	r.Pages += c.pages
	r.Torn += c.torn
	r.Problems = append(r.Problems, c.problems...)
	if c.more > 0 {
		r.Problems = append(r.Problems, Problem{Reason: fmt.Sprintf("and %d more damaged pages", c.more)})
	}
}

// dropMended removes the pages that were written between the backup's start and its stop: replay writes those
// whole, from their full-page images.
func (r *SnapshotReport) dropMended(start, stop uint64) {
	r.Problems = slices.DeleteFunc(r.Problems, func(p Problem) bool { return p.lsn >= start && p.lsn <= stop })
}

func isEOF(err error) bool { return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) }
