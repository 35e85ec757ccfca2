package restore

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/holdfast-dr/holdfast/internal/pg/control"
	"github.com/holdfast-dr/holdfast/internal/repo"
	"github.com/holdfast-dr/holdfast/internal/seal"
)

// A file is cut into pieces of repo.ListLen chunks (128 MiB). Workers take pieces in the order of the tree, so
// that at most a few neighbours of one file are written at once; the last piece hands the file to a syncer.
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
}

type piece struct {
	file *file
	n    int // number of the list
}

// syncers sync files beside the workers: they wait for the disk, and the workers for the processor.
const syncers = 4

// writeBack is how many bytes of a file are written before the kernel is told to begin with them, so that the
// sync at the end finds little left.
const writeBack = 4 << 20

// writeFiles restores the content of all files but pg_control.
func (x *run) writeFiles(ctx context.Context) error {
	x.progress.phase("writing files")
	x.progress.total.Store(x.total)
	eg, ctx := errgroup.WithContext(ctx)
	pieces := make(chan piece)
	whole := make(chan *file, syncers)
	var damage damageList

	eg.Go(func() error {
		defer close(pieces)
		return x.cut(ctx, pieces)
	})
	var workers sync.WaitGroup
	for range x.opts.Workers {
		workers.Add(1)
		eg.Go(func() error {
			defer workers.Done()
			b, free, err := buffer(repo.Grid)
			if err != nil {
				return err
			}
			w := worker{x: x, reader: x.repo.Reader(), damage: &damage}
			w.reader.Into(b)
			return errors.Join(w.run(ctx, pieces, whole), free())
		})
	}
	eg.Go(func() error {
		workers.Wait()
		close(whole)
		return nil
	})
	for range syncers {
		eg.Go(func() error {
			var errs []error
			for f := range whole { // to the end, also after an error: these files are open
				errs = append(errs, x.settle(f))
			}
			return errors.Join(errs...)
		})
	}
	err := eg.Wait()
	x.result.Damaged = damage.sorted()
	return err
}

// cut walks the tree and sends what is to be written.
func (x *run) cut(ctx context.Context, pieces chan<- piece) error {
	return x.walk(ctx, func(path string, e *repo.Entry, a *area, rel string) error {
		if e.Type != repo.TypeFile || path == control.Path {
			return nil
		}
		x.result.Files++
		x.result.Bytes += e.Size
		if x.journal.has(path, e.Size) && a.has(rel, e.Size) {
			atomic.AddInt64(&x.result.Kept, e.Size)
			x.progress.add(e.Size)
			return nil
		}
		n := max(repo.ListCount(e.Size), 1)
		f := &file{path: path, e: e, a: a, rel: rel}
		f.left.Store(int32(n))
		for i := range n {
			select {
			case pieces <- piece{f, i}:
			case <-ctx.Done():
				return errors.Join(ctx.Err(), x.giveUp(f, n-i))
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
	fi, err := f.a.root.Lstat(f.rel)
	switch {
	case err == nil && !fi.Mode().IsRegular():
		if err := f.a.root.RemoveAll(f.rel); err != nil {
			return err
		}
	case err == nil && x.opts.Mode == Delta:
		f.was = fi.Size()
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return err
	}
	f.f, err = f.a.root.OpenFile(f.rel, flags, 0o600)
	if err != nil {
		return err
	}
	if err := x.opts.Owner.chown(f.f); err != nil {
		return err
	}
	// Group access, where initdb allowed it, is kept; more than PostgreSQL accepts is not.
	if err := f.f.Chmod(fs.FileMode(0o600 | f.e.Mode&0o040)); err != nil {
		return err
	}
	if err := resize(f.f, f.e.Size); err != nil {
		return err
	}
	f.openDirect()
	return nil
}

// worker writes pieces. Its memory is that of one repo.Reader and, for Delta, one chunk.
type worker struct {
	x      *run
	reader *repo.Reader
	damage *damageList
	have   []byte
}

func (w *worker) run(ctx context.Context, pieces <-chan piece, whole chan<- *file) error {
	for p := range pieces {
		p.file.open.Do(func() { p.file.openErr = w.x.create(p.file) })
		err := p.file.openErr
		if err == nil {
			err = w.write(ctx, p)
		}
		// The file goes to a syncer also after an error, which closes it.
		if p.file.left.Add(-1) == 0 {
			if err != nil {
				p.file.damaged.Store(true)
			}
			whole <- p.file
		}
		if err != nil {
			return fmt.Errorf("write %s: %w", p.file.path, err)
		}
	}
	return ctx.Err()
}

// write writes one piece: all of it, or for Delta what differs.
func (w *worker) write(ctx context.Context, p piece) error {
	ids, err := w.reader.FileChunks(ctx, p.file.e, p.n)
	start := int64(p.n) * repo.ListLen * repo.Grid
	if err != nil {
		length := min(p.file.e.Size-start, repo.ListLen*repo.Grid)
		return w.lost(p.file, start, length, err)
	}
	offsets := make([]int64, len(ids))
	for i := range ids {
		offsets[i] = start + int64(i)*repo.Grid
	}
	if p.file.was > 0 {
		if ids, offsets, err = w.differing(p.file, ids, offsets); err != nil {
			return err
		}
	}
	from, to := start, start // what was written and not yet given to the kernel to write back
	err = w.reader.Chunks(ctx, ids, func(i int, plain []byte) error {
		if want := min(p.file.e.Size-offsets[i], repo.Grid); int64(len(plain)) != want {
			return fmt.Errorf("the chunk at %d has %d bytes, not %d", offsets[i], len(plain), want)
		}
		cached, err := p.file.put(plain, offsets[i])
		if err != nil {
			return err
		}
		to = offsets[i] + int64(len(plain))
		if !cached {
			from = to
		} else if to-from >= writeBack {
			flush(p.file.f, from, to)
			from = to
		}
		w.x.progress.add(int64(len(plain)))
		return ctx.Err()
	}, func(i int, err error) error {
		return w.lost(p.file, offsets[i], min(p.file.e.Size-offsets[i], repo.Grid), err)
	})
	if to > from {
		flush(p.file.f, from, to)
	}
	return err
}

// flush asks the kernel to begin writing. It is advice: the sync at the end is what counts.
func flush(f *os.File, from, to int64) {
	_ = unix.SyncFileRange(int(f.Fd()), from, to-from, unix.SYNC_FILE_RANGE_WRITE)
}

// differing returns the chunks of which the file on disk holds other bytes.
func (w *worker) differing(f *file, ids []seal.ChunkID, offsets []int64) ([]seal.ChunkID, []int64, error) {
	if w.have == nil {
		w.have = make([]byte, repo.Grid)
	}
	keys := w.x.repo.Keys()
	var wantIDs []seal.ChunkID
	var wantAt []int64
	for i, id := range ids {
		size := min(f.e.Size-offsets[i], repo.Grid)
		if offsets[i]+size <= f.was {
			b := w.have[:size]
			if _, err := f.f.ReadAt(b, offsets[i]); err != nil && !errors.Is(err, unix.EIO) {
				return nil, nil, err
			} else if err == nil && keys.ChunkID(string(w.x.plan.Snapshot.Manifest.Group), b) == id {
				atomic.AddInt64(&w.x.result.Kept, size)
				w.x.progress.add(size)
				continue
			}
		}
		wantIDs, wantAt = append(wantIDs, id), append(wantAt, offsets[i])
	}
	return wantIDs, wantAt, nil
}

// lost notes damage of the repository; anything else is an error. The range is zeros in the file, also where an
// old file had bytes there: nothing of two moments is ever mixed.
func (w *worker) lost(f *file, offset, length int64, err error) error {
	if !isDamage(err) {
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
