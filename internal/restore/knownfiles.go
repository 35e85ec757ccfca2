package restore

import (
	"context"
	"io/fs"
	"slices"
	"sync/atomic"

	"github.com/holdfast-dr/holdfast/internal/pg/cluster"
	"github.com/holdfast-dr/holdfast/internal/pg/wal/changed"
	"github.com/holdfast-dr/holdfast/internal/repo"
)

const (
	pagesOfChunk = repo.Grid / repo.PageSize
	pagesOfPart  = repo.ListLen * pagesOfChunk
	pagesAtOnce  = 512 // are gathered in memory
)

// changes returns what the maps say of the fork of a file; false where no log tells.
func (k *knowledge) changes(path string) (r cluster.Relation, all []changed.Change, ok bool) {
	if r, ok = cluster.ParsePath(path); !ok || r.Fork == cluster.FSM {
		return r, nil, false // free space maps are hardly logged
	}
	for _, m := range k.maps {
		all = append(all, m.Lookup(changed.Fork{Tablespace: r.Tablespace, Database: r.Database, Relation: r.Number, Fork: r.Fork}))
	}
	return r, all, true
}

// pages returns the pages of a file that are to be written, ascending, where had bytes of it are there and size shall be.
// False means that no log tells.
func (k *knowledge) pages(path string, had, size int64) (pages []uint32, ok bool) {
	r, all, ok := k.changes(path)
	if !ok || size%repo.PageSize != 0 {
		return nil, false
	}
	first, blocks := r.FirstBlock(k.control.SegmentBlocks), uint32(size/repo.PageSize)
	fresh := min(uint32(had/repo.PageSize), blocks) // from this page on all are written
	touched := false
	for _, c := range all {
		if c.Limit != changed.NoLimit {
			fresh = min(fresh, max(c.Limit, first)-first)
			touched = true
		}
	}
	for _, c := range all {
		for from, n := range c.Runs() {
			touched = true
			for b := max(from, first); b < min(from+n, first+fresh); b++ {
				pages = append(pages, b-first)
			}
		}
	}
	if touched && r.Fork == cluster.Main && first == 0 && fresh > 0 {
		// SP-GiST's first page names pages with room, without the log: here perhaps such as will not be there.
		pages = append(pages, 0)
	}
	slices.Sort(pages)
	pages = slices.Compact(pages)
	for b := fresh; b < blocks; b++ {
		pages = append(pages, b)
	}
	return pages, true
}

// partsToWrite returns which parts of a file have anything to be written. A file of which none has is kept as it is.
func (x *run) partsToWrite(f *file) (parts []int) {
	if x.known != nil {
		folder, name := f.a.folder(f.rel)
		if fi, err := folder.Lstat(name); err == nil && fi.Mode().IsRegular() {
			f.pages, f.known = x.known.pages(f.path, fi.Size(), f.e.Size)
		}
	}
	if !f.known {
		for i := range max(repo.ListCount(f.e.Size), 1) {
			parts = append(parts, i)
		}
		return parts
	}
	kept := f.e.Size
	for i := 0; i < len(f.pages); {
		part := int(f.pages[i]) / pagesOfPart
		parts = append(parts, part)
		for ; i < len(f.pages) && int(f.pages[i])/pagesOfPart == part; i++ {
			kept -= repo.PageSize
		}
	}
	x.keep(kept)
	if f.kept = len(parts) == 0; f.kept {
		x.result.Delta.Files++
	}
	return parts
}

// keep counts bytes that stay as they are.
func (x *run) keep(n int64) {
	atomic.AddInt64(&x.result.Kept, n)
	x.progress.add(n)
}

// mode is that of a restored file. Group access, where initdb allowed it, is kept; more than PostgreSQL accepts is not.
func (f *file) mode() fs.FileMode { return fs.FileMode(0o600 | f.e.Mode&0o040) }

// writePages writes the pages of a part that the log names. Chunks of which all are named are written as a whole.
func (w *worker) writePages(ctx context.Context, p piece) error {
	part, err := w.reader.FilePart(ctx, p.file.e, p.n)
	if err != nil {
		return w.lostPart(p, err)
	}
	base := uint32(p.n) * pagesOfPart
	from, _ := slices.BinarySearch(p.file.pages, base)
	to, _ := slices.BinarySearch(p.file.pages, base+pagesOfPart)
	c := wanted{part: part, start: p.start()}
	var single []uint16
	for pages := p.file.pages[from:to]; len(pages) > 0; {
		chunk := int(pages[0]-base) / pagesOfChunk
		n := 1
		for n < len(pages) && int(pages[n]-base)/pagesOfChunk == chunk {
			n++
		}
		if n == int(min(p.file.e.Size-c.offset(chunk), repo.Grid)/repo.PageSize) {
			c.chunks = append(c.chunks, chunk)
		} else {
			for _, page := range pages[:n] {
				single = append(single, uint16(page-base))
			}
		}
		w.x.rewritten.Add(int64(n))
		pages = pages[n:]
	}
	if err := w.fetch(ctx, p.file, c); err != nil {
		return err
	}
	for some := range slices.Chunk(single, pagesAtOnce) {
		if err := w.single(ctx, p.file, c, some); err != nil {
			return err
		}
	}
	return nil
}

// single writes some pages. Where they cannot be had, their chunks are treated as in any restore.
func (w *worker) single(ctx context.Context, f *file, c wanted, pages []uint16) error {
	err := w.reader.Pages(ctx, c.part, pages, func(page uint16, plain []byte) error {
		w.x.progress.add(int64(len(plain)))
		_, err := f.f.WriteAt(plain, c.start+int64(page)*repo.PageSize)
		return err
	})
	if !IsDamage(err) {
		return err
	}
	broken := wanted{part: c.part, start: c.start}
	for _, page := range pages {
		if n := len(broken.chunks); n == 0 || broken.chunks[n-1] != int(page)/pagesOfChunk {
			broken.chunks = append(broken.chunks, int(page)/pagesOfChunk)
		}
	}
	return w.overwrite(ctx, f, broken)
}
