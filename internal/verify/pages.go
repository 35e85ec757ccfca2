package verify

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/holdfast-dr/holdfast/internal/pg"
	"github.com/holdfast-dr/holdfast/internal/pg/cluster"
	"github.com/holdfast-dr/holdfast/internal/pg/control"
	"github.com/holdfast-dr/holdfast/internal/pg/page"
	"github.com/holdfast-dr/holdfast/internal/repo"
)

// pageCheck looks at the files of a cluster as they were copied from it: the log is not replayed yet.
type pageCheck struct {
	facts    *pg.Facts
	problems []string // of the source, that were known when the snapshot was taken

	// Of the tree, which one goroutine walks.
	segments map[cluster.Relation]*segments // by the relation without its segment, where it has several
	paths    map[string]bool                // of needed, those that are there
	odd      []string

	mu      *sync.Mutex // guards what follows; that of the reading
	result  *Result
	control []byte
	version string
	maps    int // free space and visibility maps that the server makes anew
	first   string
}

// segments are the files of one fork of a relation.
type segments struct {
	path  string
	count uint32
	last  uint32
	short int // of all but the last, those that are not full
}

// needed is what a cluster cannot start without, at any time.
var needed = []string{"PG_VERSION", control.Path, "global/pg_filenode.map", "global/1262", "base/1/PG_VERSION", "base/1/pg_filenode.map", "pg_xact", "pg_multixact/offsets", "pg_multixact/members"}

func newPageCheck(m *repo.Manifest, f *pg.Facts, r *Result, mu *sync.Mutex) *pageCheck {
	return &pageCheck{mu: mu, facts: f, problems: m.Problems, result: r, segments: map[cluster.Relation]*segments{}, paths: map[string]bool{}}
}

// entry looks at what the tree says of a path.
func (c *pageCheck) entry(path string, e *repo.Entry) {
	if slices.Contains(needed, path) {
		c.paths[path] = true
	}
	r, ok := cluster.ParsePath(path)
	if !ok || e.Type != repo.TypeFile {
		return
	}
	if e.Size%page.Size != 0 {
		c.odd = append(c.odd, fmt.Sprintf("%s has %d bytes, no multiple of %d", path, e.Size, page.Size))
	}
	full := e.Size == page.SegmentBlocks*page.Size
	if r.Segment == 0 && !full {
		return // most relations have one segment
	}
	of := r
	of.Segment = 0
	s := c.segments[of]
	if s == nil {
		s = &segments{path: strings.TrimSuffix(path, fmt.Sprintf(".%d", r.Segment))}
		c.segments[of] = s
	}
	s.count, s.last = s.count+1, max(s.last, r.Segment)
	if !full {
		s.short++
	}
}

// hasPages tells whether content looks at a file.
func hasPages(path string) bool {
	_, ok := cluster.ParsePath(path)
	return ok || path == "PG_VERSION"
}

// content looks at a part of a file; b is lent.
func (c *pageCheck) content(path string, at int64, b []byte) {
	switch path {
	case control.Path:
		c.keep(&c.control, b)
		return
	case "PG_VERSION":
		c.mu.Lock()
		c.version = strings.TrimSpace(string(b))
		c.mu.Unlock()
		return
	}
	r, ok := cluster.ParsePath(path)
	if !ok || at%page.Size != 0 {
		return
	}
	first := r.FirstBlock(page.SegmentBlocks) + uint32(at/page.Size)
	var pages, fresh int64
	for i := 0; i+page.Size <= len(b); i += page.Size {
		p, block := b[i:i+page.Size], first+uint32(i/page.Size)
		pages++
		switch state, err := page.Verify(p, block, c.facts.Checksums); {
		case err != nil:
			c.bad(path, r, p, err)
		case state == page.New:
			fresh++
		}
	}
	c.mu.Lock()
	c.result.Figures.Pages += pages
	c.result.Figures.NewPages += fresh
	c.mu.Unlock()
}

func (c *pageCheck) keep(to *[]byte, b []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	*to = slices.Clone(b)
}

// bad decides what a page means that PostgreSQL would refuse.
func (c *pageCheck) bad(path string, r cluster.Relation, p []byte, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	lsn := page.LSN(p)
	switch {
	case lsn >= uint64(c.facts.StartLSN) && lsn <= uint64(c.facts.StopLSN):
		// It was written while it was copied: the log from StartLSN on holds all of it.
		c.result.Figures.Mended++
	case r.Fork == cluster.FSM || r.Fork == cluster.VM:
		// The server reads both with RBM_ZERO_ON_ERROR (freespace.c, visibilitymap.c).
		if c.maps++; c.first == "" {
			c.first = path
		}
	default:
		c.result.problem(Pages, path, "%v", err)
	}
}

// finish looks at what all files together say. whole tells that all of their content was looked at.
func (c *pageCheck) finish(whole bool) {
	r := c.result
	for _, path := range needed {
		if !c.paths[path] {
			r.problem(Pages, path, "the snapshot does not have it, and no cluster starts without it")
		}
	}
	for _, o := range c.odd {
		r.problem(Pages, "a relation's file", "%s", o)
	}
	for _, s := range slices.SortedFunc(maps.Values(c.segments), func(a, b *segments) int { return strings.Compare(a.path, b.path) }) {
		// A relation that was cut while it was copied looks like this too, and the replay cuts it.
		if s.count != s.last+1 || s.short > 1 {
			r.note("%s has %d of %d segments, of which %d are not full: where it was not cut while it was copied, a part of it is missing; a test of depth boot or check tells", s.path, s.count, s.last+1, s.short)
		}
	}
	if whole {
		c.checkControl()
		if c.version != "" && c.version != fmt.Sprint(c.facts.Major()) {
			r.problem(Pages, "PG_VERSION", "it says %q, and the snapshot is of version %d", c.version, c.facts.Major())
		}
	}
	if c.maps > 0 {
		r.note("%d pages of free space or visibility maps are not valid, the first in %s: the server makes them anew", c.maps, c.first)
	}
	for _, p := range c.problems {
		r.note("known when the snapshot was taken: %s", p)
	}
	if r.Figures.Mended > 0 {
		r.note("%d pages were being written while they were copied; the log writes them whole", r.Figures.Mended)
	}
	c.coverage()
}

// checkControl compares pg_control with what the snapshot says of its cluster.
func (c *pageCheck) checkControl() {
	if c.control == nil {
		return // lost, which is a problem already
	}
	r, f := c.result, c.facts
	d, err := control.Parse(c.control)
	if err != nil {
		r.problem(Pages, control.Path, "%v", err)
		return
	}
	for _, differs := range []struct {
		of        string
		got, want any
	}{
		{"system identifier", d.SystemID, f.SystemID},
		{"page size", d.BlockSize, f.PageSize},
		{"segment size of the log", uint32(d.WALSegmentSize), f.SegmentSize},
		{"checksums of pages", d.ChecksumVersion != 0, f.Checksums},
	} {
		if differs.got != differs.want {
			r.problem(Pages, control.Path, "its %s is %v, and the snapshot's is %v", differs.of, differs.got, differs.want)
		}
	}
	if m := d.Major(); m != 0 && m != f.Major() {
		r.problem(Pages, control.Path, "it is of version %d, and the snapshot of %d", m, f.Major())
	}
	if d.SegmentBlocks != page.SegmentBlocks {
		r.problem(Pages, control.Path, "relations have segments of %d pages, and only %d is known here", d.SegmentBlocks, page.SegmentBlocks)
	}
}

// coverage says what was looked at, and what cannot be seen so.
func (c *pageCheck) coverage() {
	r := c.result
	if c.facts.Checksums {
		r.cover("the checksum and the header of %d pages", r.Figures.Pages)
		r.leave("pages whose content was wrong already when the source computed their checksums")
	} else {
		r.cover("the header of %d pages", r.Figures.Pages)
		r.leave("what is on the pages: the cluster has no data checksums, so that only their headers can be looked at")
	}
	r.leave("files that have no pages, such as pg_xact and pg_multixact: they are what was copied, and nothing in them says whether that was right")
	r.leave("unlogged tables: a recovery empties them, and a snapshot does not hold them")
}
