package restore

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/holdfast-dr/holdfast/internal/pg/control"
	"github.com/holdfast-dr/holdfast/internal/repo"
)

// A file is cut into pieces of repo.ListLen chunks (128 MiB). Workers take pieces of large files in the order of the tree, so
// that at most a few neighbours of one file are written at once, and the small files after these: so the work ends for all
// workers at about the same time. The last piece hands the file to a syncer.
type file struct {
	path string
	e    *repo.Entry
	a    *area
	rel  string

	open    sync.Once
	openErr error
	f       *os.File
	direct  *os.File // the same, past the page cache; nil where that is not wanted or not possible
	was     int64    // size before, for Delta
	left    atomic.Int32
	damaged atomic.Bool

	known bool     // pages says all that is to be written
	pages []uint32 // of the file, ascending
	kept  bool     // there are none
}

type piece struct {
	file *file
	n    int // number of the list
}

// Syncers sync files beside the workers: they wait for the disk, and the workers for the processor. Where most files are
// kept, these waits are all that is left, and the disk answers many of them at once.
const (
	syncersOfWritten = 4
	syncersOfKept    = 32
)

// largeFile is the size from which on a file is written before the others.
const largeFile = 32 << 20

// gatherMemory is what all workers together gather changed pages in.
const gatherMemory = 128 << 20

// writeFiles restores the content of all files but pg_control.
func (x *run) writeFiles(ctx context.Context) error {
	// A write past the page cache is a system call that waits for the disk, and one of Go's processors waits with it until the
	// runtime notices: with as many of them as there are workers nobody else does.
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(x.opts.Workers))
	x.progress.phase("writing files")
	x.progress.total.Store(x.total)
	eg, ctx := errgroup.WithContext(ctx)
	pieces := make(chan piece)
	syncers := syncersOfWritten
	if x.known != nil {
		syncers = syncersOfKept
	}
	whole := make(chan *file, syncers)
	var damage damageList

	var senders sync.WaitGroup // to whole
	senders.Add(1 + x.opts.Workers)
	eg.Go(func() error {
		defer senders.Done()
		defer close(pieces)
		return x.cut(ctx, pieces, whole)
	})
	for range x.opts.Workers {
		eg.Go(func() error {
			defer senders.Done()
			b, free, err := buffer(repo.Grid)
			if err != nil {
				return err
			}
			gather, freeGather, err := buffer(max(gatherMemory/x.opts.Workers/repo.Grid, 4) * repo.Grid)
			if err != nil {
				return errors.Join(err, free())
			}
			w := worker{x: x, reader: x.repo.Reader(), damage: &damage, freeHave: func() error { return nil }}
			w.reader.Into(b)
			w.reader.GatherIn(gather)
			return errors.Join(w.run(ctx, pieces, whole), w.freeHave(), freeGather(), free())
		})
	}
	eg.Go(func() error {
		senders.Wait()
		close(whole)
		return nil
	})
	for range syncers {
		eg.Go(func() error {
			var errs []error
			for f := range whole { // to the end, also after an error: these files are open
				if f.kept {
					if err := x.create(f); err != nil {
						f.damaged.Store(true) // so that the next run looks at it again
						errs = append(errs, fmt.Errorf("keep %s: %w", f.path, err))
					}
				}
				errs = append(errs, x.settle(f))
			}
			return errors.Join(errs...)
		})
	}
	err := eg.Wait()
	x.result.Damaged = damage.sorted()
	return err
}

// cut sends what is to be written, and what is kept.
func (x *run) cut(ctx context.Context, pieces chan<- piece, whole chan<- *file) error {
	large := func(e *repo.Entry) bool { return e.Size >= largeFile }
	small := func(e *repo.Entry) bool { return !large(e) }
	if err := x.cutThose(ctx, large, pieces, whole); err != nil {
		return err
	}
	return x.cutThose(ctx, small, pieces, whole)
}

// cutThose walks the tree and sends files. One that is kept is made durable all the same: whoever copied the cluster here
// may not have.
func (x *run) cutThose(ctx context.Context, those func(*repo.Entry) bool, pieces chan<- piece, whole chan<- *file) error {
	return x.walk(ctx, func(path string, e *repo.Entry, a *area, rel string) error {
		if e.Type != repo.TypeFile || path == control.Path || !those(e) {
			return nil
		}
		x.result.Files++
		x.result.Bytes += e.Size
		if x.opts.Lazy.has(path, e) {
			return nil // layFiles has made it
		}
		if x.journal.has(path, e.Size) && a.has(rel, e.Size) {
			atomic.AddInt64(&x.result.Kept, e.Size)
			x.progress.add(e.Size)
			return nil
		}
		f := &file{path: path, e: e, a: a, rel: rel}
		parts := x.partsToWrite(f)
		if f.kept {
			whole <- f // taken to the end
			return ctx.Err()
		}
		f.left.Store(int32(len(parts)))
		for i, part := range parts {
			select {
			case pieces <- piece{f, part}:
			case <-ctx.Done():
				return errors.Join(ctx.Err(), x.giveUp(f, len(parts)-i))
			}
		}
		return nil
	})
}

// giveUp notes that the last pieces of a file will be taken by nobody, and closes it where nobody else will.
func (x *run) giveUp(f *file, pieces int) error {
	f.damaged.Store(true)
	if f.left.Add(-int32(pieces)) > 0 {
		return nil // whoever writes the last of those before hands it to a syncer
	}
	return x.settle(f)
}

// settle makes a written file durable and records it.
func (x *run) settle(f *file) error {
	if f.f == nil {
		return nil
	}
	err := f.f.Sync()
	if f.direct != nil {
		err = errors.Join(err, f.direct.Close())
	}
	if err := errors.Join(err, f.f.Close()); err != nil {
		return fmt.Errorf("write %s: %w", f.path, err)
	}
	if f.damaged.Load() {
		return nil
	}
	return x.journal.record(f.path, f.e.Size)
}

// create opens a file for writing. Fresh files get their size at once, so that pieces can be written in any
// order; what stands in the file's place and is none is removed.
func (x *run) create(f *file) error {
	flags := os.O_RDWR | os.O_CREATE
	folder, name := f.a.folder(f.rel)
	fi, err := folder.Lstat(name)
	switch {
	case err == nil && !fi.Mode().IsRegular():
		if err := folder.RemoveAll(name); err != nil {
			return err
		}
	case err == nil && x.opts.Mode.overwrites():
		f.was = fi.Size()
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return err
	}
	f.f, err = folder.OpenFile(name, flags, 0o600)
	if err != nil {
		return err
	}
	if err := x.adopt(f); err != nil {
		return err
	}
	f.openDirect()
	return nil
}

// adopt gives an open file its owner, mode and size. What it has right is left alone: an inode that did not change costs
// no entry in the file system's journal when it is synced.
func (x *run) adopt(f *file) error {
	fi, err := f.f.Stat()
	if err != nil {
		return err
	}
	if err := x.opts.Owner.chown(f.f); err != nil {
		return err
	}
	if mode := f.mode(); fi.Mode() != mode {
		if err := f.f.Chmod(mode); err != nil {
			return err
		}
	}
	if fi.Size() == f.e.Size {
		return nil
	}
	return resize(f.f, f.e.Size)
}

// worker writes pieces. Its memory is that of one repo.Reader and, for Delta, of comparedAtOnce chunks.
type worker struct {
	x      *run
	reader *repo.Reader
	damage *damageList

	have     []byte // for Delta: what files had before
	freeHave func() error
}

func (w *worker) run(ctx context.Context, pieces <-chan piece, whole chan<- *file) error {
	for p := range pieces {
		p.file.open.Do(func() { p.file.openErr = w.x.create(p.file) })
		err := p.file.openErr
		if err == nil {
			err = w.write(ctx, p)
		}
		// The file goes to a syncer also after an error, which closes it.
		if p.file.pieceDone(err) {
			whole <- p.file
		}
		if err != nil {
			return fmt.Errorf("write %s: %w", p.file.path, err)
		}
	}
	return ctx.Err()
}

// pieceDone notes that a piece was taken, with this error, and tells whether it was the last one. The file is not whole where
// any of its pieces failed, also where the last one is written after that, before its worker is told to end.
func (f *file) pieceDone(err error) (last bool) {
	if err != nil {
		f.damaged.Store(true)
	}
	return f.left.Add(-1) == 0
}

// write writes one piece: all of it, or for Delta what differs, or what the logs name.
func (w *worker) write(ctx context.Context, p piece) error {
	if p.file.known {
		return w.writePages(ctx, p)
	}
	part, err := w.reader.FilePart(ctx, p.file.e, p.n)
	if err != nil {
		return w.lostPart(p, err)
	}
	c := wanted{part: part, start: p.start()}
	for i := range part.Len() {
		c.chunks = append(c.chunks, i)
	}
	if p.file.was > c.start {
		return w.overwrite(ctx, p.file, c)
	}
	return w.fetch(ctx, p.file, c)
}

// start returns where a piece begins in its file.
func (p piece) start() int64 { return int64(p.n) * repo.ListLen * repo.Grid }

// lostPart notes that of a whole piece nothing is known.
func (w *worker) lostPart(p piece, err error) error {
	return w.lost(p.file, p.start(), min(p.file.e.Size-p.start(), repo.ListLen*repo.Grid), err)
}

// wanted are chunks of a part of a file that are to be written.
type wanted struct {
	part   *repo.FilePart
	start  int64 // of the part in the file
	chunks []int // ascending

	old [][]byte // for Delta: what the file has in place of each, or nil
}

// offset returns where a chunk lies in the file.
func (c *wanted) offset(chunk int) int64 { return c.start + int64(chunk)*repo.Grid }

// fetch reads chunks from the repository and writes them.
func (w *worker) fetch(ctx context.Context, f *file, c wanted) error {
	if len(c.chunks) == 0 {
		return nil
	}
	back := writeBack{f: f.f, from: c.offset(c.chunks[0]), to: c.offset(c.chunks[0])}
	defer back.flush()
	return w.reader.PartPieces(ctx, c.part, c.chunks, func(chunk int, pieces [][]byte) error {
		offset := c.offset(chunk)
		var old []byte
		if i, ok := slices.BinarySearch(c.chunks, chunk); ok && c.old != nil {
			old = c.old[i]
		}
		size := sizeOf(pieces)
		written, cached, err := f.patch(pieces, old, offset)
		if err != nil {
			return err
		}
		atomic.AddInt64(&w.x.result.Kept, int64(size-written))
		back.wrote(offset+int64(size), cached)
		w.x.progress.add(int64(size))
		return ctx.Err()
	}, func(chunk int, err error) error {
		return w.lost(f, c.offset(chunk), min(f.e.Size-c.offset(chunk), repo.Grid), err)
	})
}

// writeBack has the kernel begin writing what lies in its page cache, so that the sync at the end finds little left.
type writeBack struct {
	f        *os.File
	from, to int64 // what was written since
}

const writeBackEvery = 4 << 20

// wrote notes that the file is written up to a position.
func (b *writeBack) wrote(to int64, cached bool) {
	b.to = to
	switch {
	case !cached:
		b.from = to
	case to-b.from >= writeBackEvery:
		b.flush()
	}
}

// flush asks for it. It is advice: the sync at the end is what counts.
func (b *writeBack) flush() {
	if b.to > b.from {
		_ = unix.SyncFileRange(int(b.f.Fd()), b.from, b.to-b.from, unix.SYNC_FILE_RANGE_WRITE)
	}
	b.from = b.to
}

// lost notes damage of the repository; anything else is an error. The range is zeros in the file, also where an
// old file had bytes there: nothing of two moments is ever mixed.
func (w *worker) lost(f *file, offset, length int64, err error) error {
	if !IsDamage(err) {
		return err
	}
	f.damaged.Store(true)
	w.damage.add(DamagedRange{File: f.path, Offset: offset, Length: length, Reason: err.Error()})
	zeros := make([]byte, min(length, repo.Grid))
	for at := offset; at < offset+length; at += repo.Grid {
		if _, err := f.f.WriteAt(zeros[:min(offset+length-at, repo.Grid)], at); err != nil {
			return err
		}
	}
	return nil
}
