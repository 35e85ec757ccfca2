package layer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/bits"
	"sync"
	"sync/atomic"
)

// File is a file of the snapshot. Its methods may be called by several goroutines.
type File struct {
	layer   *Layer
	id      Ident
	backing Backing // nil while nobody uses it; guarded by the layer's mu, and constant during a use
	users   int     // guarded by the layer's mu

	isWhole atomic.Bool
	bits    []atomic.Uint64 // a word for each chunk of the snapshot's size: pages that are local

	// cut is held for writing while the limit changes, and for reading by who writes pages below it.
	cut   sync.RWMutex
	limit atomic.Int64
	last  atomic.Int64 // chunk that was fetched

	// syncing is held during a sync: the next one must not be answered before what this one has taken is in the journal.
	syncing sync.Mutex

	mu      sync.Mutex     // guards what follows
	broken  error          // the first sync that failed, for good: the system tells of it once, and all who have the file open share that
	pending map[int]uint64 // by chunk: pages that are local, and not safe
	owes    bool           // something of pending was written, or a cut is done: a sync has to go to the journal
}

func newFile(l *Layer, id Ident) *File {
	f := &File{layer: l, id: id, pending: map[int]uint64{}}
	f.last.Store(-2)
	f.limit.Store(id.Size)
	known := l.journal.file(id.ID)
	if known.whole {
		f.isWhole.Store(true)
		return f
	}
	if known.isCut {
		f.limit.Store(min(id.Size, known.limit))
	}
	f.bits = make([]atomic.Uint64, (id.Size+ChunkSize-1)/ChunkSize)
	for chunk, m := range known.pages[:min(len(known.pages), len(f.bits))] {
		f.bits[chunk].Store(m)
	}
	return f
}

// Ident returns which file it is.
func (f *File) Ident() Ident { return f.id }

// Whole tells whether all of it is local and safe.
func (f *File) Whole() bool { return f.isWhole.Load() }

// Size returns the file's size.
func (f *File) Size() (int64, error) { return f.backing.Size() }

// Backing returns the local file. What is not local in it is zeros.
func (f *File) Backing() Backing { return f.backing }

// usable returns why nothing is durable any more that is written to the file. It is so until it is mounted again.
func (f *File) usable() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.broken
}

// breaks notes why, and returns it.
func (f *File) breaks(err error) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.broken == nil {
		f.broken = fmt.Errorf("%s: nothing of it is durable since a sync failed, until it is mounted again: %w", f.id.Path, err)
	}
	return f.broken
}

// syncBacking makes the local file durable.
func (f *File) syncBacking() error {
	if err := f.usable(); err != nil {
		return err
	}
	if err := f.backing.Sync(); err != nil {
		return f.breaks(err)
	}
	return nil
}

// untouched tells whether the journal knows all that is known here.
func (f *File) untouched() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.pending) == 0 && !f.owes && f.broken == nil
}

// below returns the pages of a chunk that are below the limit.
func (f *File) below(chunk int) uint64 {
	pages := (f.limit.Load() - int64(chunk)*ChunkSize + PageSize - 1) / PageSize
	if pages <= 0 {
		return 0
	}
	return mask(0, int(min(pages, PagesPerChunk)))
}

// missing returns which of some pages of a chunk are not local.
func (f *File) missing(chunk int, want uint64) uint64 {
	if f.isWhole.Load() || chunk >= len(f.bits) {
		return 0
	}
	return want & f.below(chunk) &^ f.bits[chunk].Load()
}

// here returns how many pages of a chunk are local.
func (f *File) here(chunk int) int { return bits.OnesCount64(f.bits[chunk].Load()) }

// Missing returns which pages of a chunk are not local.
func (f *File) Missing(chunk int) uint64 { return f.missing(chunk, ^uint64(0)) }

// Chunks returns how many chunks come from the snapshot, or did.
func (f *File) Chunks() int { return len(f.bits) }

// Ensure makes pages of a chunk local.
func (f *File) Ensure(ctx context.Context, chunk int, want uint64) error {
	return f.layer.ensure(ctx, f, chunk, want)
}

// Put makes pages local that somebody has read from the snapshot, and passes over those that are already.
func (f *File) Put(chunk, first int, plain []byte) error {
	f.layer.fetched.Add(int64(len(plain)))
	return f.install(chunk, first, plain)
}

// each calls fn for the pieces of a range that lie in one chunk each.
func each(off, length int64, fn func(chunk int, off, length int64) error) error {
	for length > 0 {
		chunk := off / ChunkSize
		n := min(length, (chunk+1)*ChunkSize-off)
		if err := fn(int(chunk), off, n); err != nil {
			return err
		}
		off, length = off+n, length-n
	}
	return nil
}

// touched returns the pages of a chunk that a range within it touches.
func touched(chunk int, off, length int64) uint64 {
	at := off - int64(chunk)*ChunkSize
	return mask(int(at/PageSize), int((at+length+PageSize-1)/PageSize))
}

// partly returns those of them that it does not cover.
func partly(chunk int, off, length int64) (m uint64) {
	at := off - int64(chunk)*ChunkSize
	if at%PageSize != 0 {
		m |= 1 << (at / PageSize)
	}
	if end := at + length; end%PageSize != 0 { // a chunk's end is a page's
		m |= 1 << (end / PageSize)
	}
	return m
}

// ReadAt reads; less than asked for at the file's end, without an error.
func (f *File) ReadAt(ctx context.Context, b []byte, off int64) (int, error) {
	if !f.isWhole.Load() && off < f.limit.Load() {
		err := each(off, min(int64(len(b)), f.limit.Load()-off), func(chunk int, off, n int64) error {
			return f.layer.ensure(ctx, f, chunk, touched(chunk, off, n))
		})
		if err != nil {
			return 0, err
		}
	}
	n, err := f.backing.ReadAt(b, off)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return n, err
}

// WriteAt writes, and makes what it covers local.
func (f *File) WriteAt(ctx context.Context, b []byte, off int64) (int, error) {
	if err := f.usable(); err != nil {
		return 0, err
	}
	if f.isWhole.Load() || off >= f.limit.Load() {
		return f.backing.WriteAt(b, off)
	}
	done := 0
	err := each(off, int64(len(b)), func(chunk int, off, n int64) error {
		wrote, err := f.writeChunk(ctx, chunk, b[done:done+int(n)], off)
		done += wrote
		return err
	})
	return done, err
}

func (f *File) writeChunk(ctx context.Context, chunk int, b []byte, off int64) (int, error) {
	length := int64(len(b))
	part := partly(chunk, off, length)
	if end := off + length; end >= f.limit.Load() && off <= (end-1)/PageSize*PageSize {
		part &^= touched(chunk, end-1, 1) // all that the snapshot has of this page is written over
	}
	if err := f.layer.ensure(ctx, f, chunk, part); err != nil {
		return 0, err
	}
	f.cut.RLock()
	defer f.cut.RUnlock()
	// The lock of the chunk is held while local memory is written: who fetches it must not write over us.
	lock := f.layer.lock(f, chunk)
	lock.Lock()
	defer lock.Unlock()
	n, err := f.backing.WriteAt(b, off)
	if n > 0 {
		f.wrote(chunk, touched(chunk, off, int64(n)))
	}
	return n, err
}

// wrote notes that pages were written whole, or were local before.
func (f *File) wrote(chunk int, pages uint64) {
	if pages &= f.below(chunk); pages == 0 || f.isWhole.Load() {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if now := pages &^ f.bits[chunk].Load(); now != 0 {
		f.pending[chunk] |= now
		f.bits[chunk].Or(now)
	}
	f.owes = f.owes || f.pending[chunk]&pages != 0
}

// install writes pages that came from the snapshot, but for those that are local already.
func (f *File) install(chunk, first int, plain []byte) error {
	f.cut.RLock()
	defer f.cut.RUnlock()
	lock := f.layer.lock(f, chunk)
	lock.Lock()
	defer lock.Unlock()
	pages := (len(plain) + PageSize - 1) / PageSize
	for missing := f.missing(chunk, mask(first, first+pages)); missing != 0; {
		from, to := run(missing)
		off := int64(chunk)*ChunkSize + int64(from)*PageSize
		b := plain[(from-first)*PageSize : min((to-first)*PageSize, len(plain))]
		b = b[:min(int64(len(b)), f.limit.Load()-off)] // a limit may lie within a page
		if _, err := f.backing.WriteAt(b, off); err != nil {
			return err
		}
		m := mask(from, to)
		f.mu.Lock()
		f.pending[chunk] |= m
		f.bits[chunk].Or(m)
		f.mu.Unlock()
		missing &^= m
	}
	return nil
}

// Sync makes what was written durable.
func (f *File) Sync() error {
	if f.layer.journal == nil {
		return nil
	}
	if f.isWhole.Load() {
		return f.syncBacking()
	}
	f.syncing.Lock()
	defer f.syncing.Unlock()
	f.mu.Lock()
	owes := f.owes
	f.mu.Unlock()
	if !owes {
		return f.syncBacking()
	}
	return f.flushLocked()
}

// Flush makes what is local safe, so that it need not be fetched again after a crash.
func (f *File) Flush() error {
	if f.layer.journal == nil || f.untouched() {
		return nil
	}
	if f.isWhole.Load() {
		return f.usable()
	}
	f.syncing.Lock()
	defer f.syncing.Unlock()
	return f.flushLocked()
}

// flushLocked syncs the backing, and then says in the journal what was local before that. It needs syncing.
func (f *File) flushLocked() error {
	f.mu.Lock()
	pending := f.pending
	f.pending, f.owes = map[int]uint64{}, false
	f.mu.Unlock()
	err := f.syncBacking()
	if err == nil {
		err = f.layer.journal.local(f.id.ID, pending)
	}
	if err == nil {
		return nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for chunk, m := range pending {
		f.pending[chunk] |= m
	}
	f.owes = true
	return err
}

// Truncate changes the size.
func (f *File) Truncate(size int64) error {
	if err := f.usable(); err != nil {
		return err
	}
	if f.isWhole.Load() || size >= f.limit.Load() {
		return f.backing.Truncate(size)
	}
	f.syncing.Lock()
	defer f.syncing.Unlock()
	f.cut.Lock()
	defer f.cut.Unlock()
	if f.isWhole.Load() { // meanwhile: the journal cuts nothing of it any more
		return f.backing.Truncate(size)
	}
	if f.layer.journal == nil {
		if err := f.backing.Truncate(size); err != nil {
			return err
		}
		f.limit.Store(min(size, f.limit.Load()))
		return nil
	}
	if err := f.flushLocked(); err != nil {
		return err
	}
	if err := f.layer.journal.beginCut(f.id.ID, size); err != nil {
		return err
	}
	// The next mount cuts it in any case: what is written from here on must not be called durable before that is done.
	if err := f.backing.Truncate(size); err != nil {
		return f.breaks(err)
	}
	if err := f.syncBacking(); err != nil {
		return err
	}
	f.limit.Store(min(size, f.limit.Load()))
	f.layer.journal.endCut(f.id.ID)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.owes = true // that it is done must be durable before anything that comes behind it is
	return nil
}

// Pending returns the pages that are local and not safe. For tests.
func (f *File) Pending() map[int]uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return maps.Clone(f.pending)
}

// run returns the first run of bits of a mask that is not zero: [from, to).
func run(m uint64) (from, to int) {
	for m>>from&1 == 0 {
		from++
	}
	for to = from; to < PagesPerChunk && m>>to&1 == 1; {
		to++
	}
	return from, to
}
