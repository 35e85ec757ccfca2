package capture

import (
	"cmp"
	"context"
	"errors"
	"io/fs"
	"slices"

	"github.com/holdfast-dr/holdfast/internal/repo"
	"github.com/holdfast-dr/holdfast/internal/seal"
)

const (
	pagesOfChunk = repo.Grid / repo.PageSize
	pagesOfPart  = repo.ListLen * pagesOfChunk

	// A unit gathers about so many changed pages: more compress better, and cost more to read when few of them still count
	// (docs/decisions/0014). What a part has beyond a multiple of it is spread over its units.
	pagesOfUnit = 32
	mostOfUnit  = pagesOfUnit * 3 / 2
	// A unit that has so many is not continued with pages of the next part: who restores a part then reads little
	// that belongs to others.
	pagesWorthAUnit = 8
	pagesOfBatch    = 256
	partsOfBatch    = 64
)

// changedFile is a file some of whose parts are read.
type changedFile struct {
	localFile
	before *repo.Entry // in the snapshot before; nil: it is new
	read   bool        // it is read whole, and may turn out to be as it was
}

// changedPart is a part of a file with the pages that are taken from the disk, ascending, counted from the part's
// beginning. All others are as they were.
type changedPart struct {
	file    *changedFile
	n       int
	pages   []uint16
	reads   []pageRead
	base    *repo.FilePart
	whole   map[int]seal.ChunkID
	patches []repo.PagePatch
}

func (p *changedPart) length() int64 { return partLength(p.file.Size, p.n) }

func partLength(size int64, n int) int64 { return min(size-int64(n)*pieceBytes, pieceBytes) }

// send cuts a file into parts and hands those that have to be looked at to the workers.
func (c *changedFiles) send(ctx context.Context, f *changedFile, runs []blockRun, limit uint32) error {
	if f.Size == 0 {
		if f.before == nil || f.before.Size > 0 {
			c.edit(repo.TreeEdit{Path: f.Path, Entry: newEntry(f.Entry)})
		}
		return nil
	}
	n := repo.ListCount(f.Size)
	f.lists, f.sizes = make([]repo.FileList, n), make([]int64, n)
	had := int64(0)
	if f.before != nil {
		had = f.before.Size
	}
	fresh := min(int64(limit), had/repo.PageSize) // from this block on all is read
	if f.read {
		c.reread += had / repo.PageSize
	}
	var parts []*changedPart
	for i := range n {
		p := &changedPart{file: f, n: i}
		if !f.read {
			p.pages = pagesWithin(runs, fresh, int64(i)*pagesOfPart, int64(i)*pagesOfPart+p.length()/repo.PageSize)
			c.reread += pagesBefore(p.pages, had/repo.PageSize-int64(i)*pagesOfPart)
			if len(p.pages) == 0 && partLength(had, i) == p.length() {
				f.sizes[i] = p.length()
				f.lists[i] = listOf(f.before, i)
				continue
			}
		}
		parts = append(parts, p)
	}
	if len(parts) == 0 && had == f.Size {
		return nil
	}
	f.left.Store(int32(len(parts)) + 1) // this goroutine is one more
	for _, p := range parts {
		if err := c.add(ctx, p); err != nil {
			return err
		}
	}
	c.done(f)
	return nil
}

// listOf returns a part of a file as it was.
func listOf(e *repo.Entry, part int) repo.FileList {
	if len(e.Lists) > 0 {
		return repo.FileList{List: e.Lists[part]}
	}
	return repo.FileList{Chunks: e.Chunks}
}

// pagesWithin returns the blocks in [from, to) that lie in a run, or at fresh or behind, counted from from.
func pagesWithin(runs []blockRun, fresh, from, to int64) (pages []uint16) {
	for _, r := range runs {
		for b := max(int64(r.first), from); b < min(int64(r.first)+int64(r.n), to, fresh); b++ {
			pages = append(pages, uint16(b-from))
		}
	}
	for b := max(fresh, from); b < to; b++ {
		pages = append(pages, uint16(b-from))
	}
	return pages
}

// pagesBefore returns how many of ascending pages come before one.
func pagesBefore(pages []uint16, end int64) int64 {
	n, _ := slices.BinarySearchFunc(pages, end, func(page uint16, end int64) int { return cmp.Compare(int64(page), end) })
	return int64(n)
}

// add puts a part into the batch that goes to a worker next: small changes are gathered, so that their pages share
// units.
func (c *changedFiles) add(ctx context.Context, p *changedPart) error {
	c.batch = append(c.batch, p)
	c.pages += len(p.pages)
	if p.file.read {
		c.pages += int(p.length()/repo.PageSize) + 1
	}
	if c.pages >= pagesOfBatch || len(c.batch) >= partsOfBatch {
		return c.flush(ctx)
	}
	return nil
}

func (c *changedFiles) flush(ctx context.Context) error {
	if len(c.batch) == 0 {
		return nil
	}
	batch := c.batch
	c.batch, c.pages = nil, 0
	return send(ctx, c.parts, batch)
}

// done is called once for each part of a file, and once more.
func (c *changedFiles) done(f *changedFile) {
	if f.left.Add(-1) > 0 {
		return
	}
	if f.gone.Load() { // dropped meanwhile: replay of the log drops it too
		c.edit(repo.TreeEdit{Path: f.Path})
		return
	}
	c.ended(f)
}

// changedWorker reads and stores changed pages: one goroutine, one lane.
type changedWorker struct {
	c      *changedFiles
	local  localWorker
	reader *repo.Reader
	unit   []byte
	slots  []unitSlot // whose pages the unit holds
	full   int        // how many it shall have
	left   int        // patches of the part that are not read yet
}

// unitSlot names a patch that waits for its unit's ID.
type unitSlot struct {
	part  *changedPart
	patch int
}

func newChangedWorker(c *changedFiles, files fileReader, check *pageChecker) *changedWorker {
	return &changedWorker{
		c: c, reader: c.s.repo.Reader(), unit: make([]byte, 0, mostOfUnit*repo.PageSize),
		local: localWorker{s: c.s, lane: c.s.w.Lane(), files: files, check: check, buf: make([]byte, repo.Grid), progress: func(int) {}},
	}
}

func (w *changedWorker) run(ctx context.Context) error {
	for batch := range w.c.parts {
		if err := w.plan(ctx, batch); err != nil {
			return err
		}
		for _, p := range batch {
			if err := w.part(ctx, p); err != nil {
				return err
			}
		}
		if err := w.closeUnit(ctx); err != nil {
			return err
		}
		for _, p := range batch {
			if err := w.store(ctx, p); err != nil {
				return err
			}
			w.c.done(p.file)
		}
	}
	return nil
}

// plan decides what is read of the parts of a batch, and announces it.
func (w *changedWorker) plan(ctx context.Context, batch []*changedPart) (err error) {
	var reads []fileRead
	for _, p := range batch {
		at := int64(p.n) * pieceBytes
		if p.file.read {
			for end := at + p.length(); at < end; at += repo.Grid {
				reads = append(reads, fileRead{p.file.Path, at, int(min(repo.Grid, end-at))})
			}
			continue
		}
		if b := p.file.before; b != nil && p.n < repo.ListCount(b.Size) {
			if p.base, err = w.reader.FilePart(ctx, b, p.n); err != nil {
				return err
			}
		}
		p.cut()
		for _, r := range p.reads {
			reads = append(reads, fileRead{p.file.Path, at + int64(r.page)*repo.PageSize, r.bytes(p)})
		}
	}
	w.local.files.announce(reads)
	return nil
}

// cut decides which chunks of a part are stored whole. Neighbours are read together.
func (p *changedPart) cut() {
	for pages := p.pages; len(pages) > 0; {
		chunk := pages[0] / pagesOfChunk
		n := 1
		for n < len(pages) && pages[n]/pagesOfChunk == chunk {
			n++
		}
		if p.wantsWhole(int(chunk), n) {
			p.reads = append(p.reads, pageRead{page: chunk * pagesOfChunk, whole: true})
			pages = pages[n:]
			continue
		}
		for ; n > 0; n-- {
			last := len(p.reads) - 1
			if last >= 0 && !p.reads[last].whole && pages[0] == p.reads[last].page+p.reads[last].n && p.reads[last].n < pagesOfUnit && pages[0]%pagesOfChunk > 0 {
				p.reads[last].n++
			} else {
				p.reads = append(p.reads, pageRead{page: pages[0], n: 1})
			}
			pages = pages[1:]
		}
	}
}

// pageRead is a chunk that is read whole, or n pages.
type pageRead struct {
	page, n uint16
	whole   bool
}

func (r pageRead) bytes(p *changedPart) int {
	if r.whole {
		return int(min(repo.Grid, p.length()-int64(r.page)*repo.PageSize))
	}
	return int(r.n) * repo.PageSize
}

// part reads the pages of one part.
func (w *changedWorker) part(ctx context.Context, p *changedPart) error {
	if p.file.read {
		return w.local.read(ctx, piece{&p.file.localFile, p.n})
	}
	f, err := w.local.files.open(ctx, p.file.Path)
	if err == nil {
		defer f.Close() //nolint:errcheck // only read
		err = w.readPart(ctx, f, p)
	}
	if errors.Is(err, fs.ErrNotExist) {
		p.file.gone.Store(true)
		return nil
	}
	return err
}

func (w *changedWorker) readPart(ctx context.Context, f openFile, p *changedPart) error {
	w.left = 0
	for _, r := range p.reads {
		w.left += int(r.n)
	}
	w.full = unitSize(len(w.slots) + w.left)
	for _, r := range p.reads {
		at := int64(p.n)*pieceBytes + int64(r.page)*repo.PageSize
		buf := w.local.buf[:r.bytes(p)]
		if err := w.readPages(ctx, f, p, at, buf); err != nil {
			return err
		}
		if err := w.take(ctx, p, r, buf); err != nil {
			return err
		}
	}
	if len(w.slots) >= pagesWorthAUnit {
		return w.closeUnit(ctx)
	}
	return nil
}

// wantsWhole tells whether a chunk of which n pages are read is stored whole: where most of it changed anyway. What many
// snapshots together have changed becomes whole when it is optimized, which knows what a restore gains by it.
func (p *changedPart) wantsWhole(chunk, n int) bool {
	has := int(min(p.length()/repo.PageSize-int64(chunk)*pagesOfChunk, pagesOfChunk))
	return n >= has*3/4
}

// unitSize returns how many pages a unit shall have where n are to be stored: from three quarters of pagesOfUnit on, and
// less than mostOfUnit.
func unitSize(n int) int {
	units := max(1, (n+pagesOfUnit/2)/pagesOfUnit)
	return max((n+units-1)/units, pagesOfUnit*3/4)
}

// take saves a chunk, or puts pages into units.
func (w *changedWorker) take(ctx context.Context, p *changedPart, r pageRead, buf []byte) error {
	if r.whole {
		id, err := w.local.lane.Save(ctx, buf, w.c.s.cfg.Codec)
		if p.whole == nil {
			p.whole = map[int]seal.ChunkID{}
		}
		p.whole[int(r.page)/pagesOfChunk] = id
		return err
	}
	for n := range r.n {
		w.unit = append(w.unit, buf[int(n)*repo.PageSize:int(n+1)*repo.PageSize]...)
		p.patches = append(p.patches, repo.PagePatch{Page: r.page + n, Slot: uint8(len(w.slots))})
		w.slots = append(w.slots, unitSlot{p, len(p.patches) - 1})
		w.left--
		if len(w.slots) >= w.full {
			if err := w.closeUnit(ctx); err != nil {
				return err
			}
			w.full = unitSize(w.left)
		}
	}
	return nil
}

// readPages reads and checks pages. What was cut off meanwhile is zeros: replay of the log cuts it off too.
func (w *changedWorker) readPages(ctx context.Context, f openFile, p *changedPart, at int64, buf []byte) error {
	n, err := f.ReadAt(buf, at)
	if n < len(buf) {
		if !isEOF(err) {
			return err
		}
		clear(buf[n:])
	}
	return w.local.check.chunk(ctx, f, &p.file.localFile, at, buf)
}

// closeUnit stores the pages that are gathered.
func (w *changedWorker) closeUnit(ctx context.Context) error {
	if len(w.slots) == 0 {
		return nil
	}
	id, err := w.local.lane.Save(ctx, w.unit, w.c.s.cfg.Codec)
	for _, s := range w.slots {
		patch := &s.part.patches[s.patch]
		patch.Unit, patch.UnitPages = id, uint8(len(w.slots))
	}
	w.unit, w.slots = w.unit[:0], w.slots[:0]
	return err
}

// store describes what a part consists of now.
func (w *changedWorker) store(ctx context.Context, p *changedPart) error {
	if p.file.read || p.file.gone.Load() {
		return nil
	}
	var err error
	p.file.lists[p.n], err = w.c.s.w.PatchPart(ctx, p.base, p.whole, p.patches, p.length())
	p.file.sizes[p.n] = p.length()
	return err
}
