package mount

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/repo"
	"github.com/holdfast-dr/holdfast/internal/restore/mount/fusefs"
	"github.com/holdfast-dr/holdfast/internal/restore/mount/layer"
	"github.com/holdfast-dr/holdfast/internal/seal"
	"github.com/holdfast-dr/holdfast/internal/store"
)

// Sizes of the reading ahead and the hydration.
const (
	nearWorkers  = 2
	farWorkers   = 8               // each waits for answers
	together     = 64              // small files that are asked for together
	aheadAtOnce  = 4               // chunks that are read ahead of those who read one after the other, of all of them together
	atOnce       = 16              // chunks that hydration asks for together
	smallFile    = 8 << 20         // files up to here come first: catalogs, and what every query reads
	yieldFor     = time.Second / 5 // how long hydration waits at most, each time, while reads are waited for
	restFor      = time.Second     // how long it waits when the store has failed, and more each time
	restAtMost   = time.Minute
	hydratorNice = 10 // of the threads that hydrate: they take what the server leaves
)

// each calls fn for every file of the snapshot that is below the areas and not known to be whole.
func (m *Mount) each(ctx context.Context, fn func(a *area, f *os.File, id layer.Ident) error) error {
	for _, a := range m.areas {
		root, err := os.OpenRoot(fmt.Sprintf("/proc/self/fd/%d", a.dir.Fd()))
		if err != nil {
			return err
		}
		err = fs.WalkDir(root.FS(), ".", func(path string, d fs.DirEntry, err error) error {
			switch {
			case ctx.Err() != nil:
				return ctx.Err()
			case errors.Is(err, fs.ErrNotExist):
				return nil // the server has removed it meanwhile
			case err != nil:
				return err
			case d.IsDir() && path == StateDir:
				return fs.SkipDir
			case !d.Type().IsRegular():
				return nil
			}
			f, err := fusefs.OpenLocal(a.dir, filepath.FromSlash(path))
			if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ELOOP) {
				return nil
			}
			if err != nil {
				return err
			}
			id, is, err := fusefs.IdentOf(f.File)
			if err == nil && is {
				err = fn(a, f.File, id)
			}
			return errors.Join(err, f.Close())
		})
		if err := errors.Join(err, root.Close()); err != nil {
			return err
		}
	}
	return nil
}

// Hydrate brings all that is not here, small files first. It waits while the store does not answer, and goes on when it does.
// Damage of the repository is an error, after everything else has come.
func (m *Mount) Hydrate(ctx context.Context) error {
	h := &hydrator{m: m, total: m.State().Bytes}
	workers := m.opts.Workers
	if workers == 0 {
		workers = nearWorkers
		if m.repo.Far() {
			workers = farWorkers
		}
	}
	for _, small := range []bool{true, false} {
		eg, ctx := errgroup.WithContext(ctx)
		lots := make(chan []opened)
		eg.Go(func() error {
			defer close(lots)
			return h.choose(ctx, small, lots)
		})
		for range workers {
			eg.Go(func() error { return h.work(ctx, lots) })
		}
		if err := eg.Wait(); err != nil {
			return err
		}
	}
	return errors.Join(h.damage...)
}

// opened is a file that is to be hydrated.
type opened struct {
	f  *os.File
	id layer.Ident
}

// hydrator is one Hydrate.
type hydrator struct {
	m     *Mount
	total int64
	pace  pace

	mu     sync.Mutex // guards damage
	damage []error
}

func (h *hydrator) add(n int64) {
	done := h.m.hydrated.Add(n)
	h.m.opts.Progress(dr.Progress{Phase: "hydrating", Done: dr.Bytes(done), Total: dr.Bytes(h.total)})
}

// choose sends the files that are small, in lots, or the others, one by one.
func (h *hydrator) choose(ctx context.Context, small bool, lots chan<- []opened) error {
	var lot []opened
	var bytes int64
	send := func() error {
		if len(lot) == 0 {
			return nil
		}
		select {
		case lots <- lot:
			lot, bytes = nil, 0
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	err := h.m.each(ctx, func(_ *area, f *os.File, id layer.Ident) error {
		if h.m.layer.Whole(id.ID) {
			if small {
				h.add(id.Size)
			}
			return nil
		}
		if (id.Size <= smallFile) != small {
			return nil
		}
		fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			return err
		}
		lot = append(lot, opened{os.NewFile(uintptr(fd), f.Name()), id})
		if bytes += id.Size; !small || len(lot) == together || bytes >= smallFile {
			return send()
		}
		return nil
	})
	if err == nil {
		err = send()
	}
	for _, o := range lot {
		err = errors.Join(err, o.f.Close())
	}
	return err
}

// work hydrates files. Its thread gives way to those of the server.
func (h *hydrator) work(ctx context.Context, lots <-chan []opened) error {
	runtime.LockOSThread() // never unlocked: the thread ends with the goroutine, and its priority with it
	_ = unix.Setpriority(unix.PRIO_PROCESS, unix.Gettid(), hydratorNice)
	rd := h.m.repo.Reader()
	for lot := range lots {
		if err := h.lot(ctx, rd, lot); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// lot hydrates some files, and closes them.
func (h *hydrator) lot(ctx context.Context, rd *repo.Reader, lot []opened) (err error) {
	var files []*layer.File
	defer func() {
		for _, f := range files {
			err = errors.Join(err, h.m.layer.Detach(f))
		}
	}()
	for i, o := range lot {
		taken := false
		f, err := h.m.layer.Attach(o.id, func() (layer.Backing, error) { taken = true; return local(o.f), nil })
		if !taken {
			err = errors.Join(err, o.f.Close())
		}
		if err != nil {
			for _, o := range lot[i+1:] {
				err = errors.Join(err, o.f.Close())
			}
			return err
		}
		files = append(files, f)
	}
	if len(files) > 1 {
		// What goes wrong here goes wrong below for the file that it is about, which says so.
		if err := h.fillTogether(ctx, rd, files); ctx.Err() != nil {
			return errors.Join(ctx.Err(), err)
		}
	}
	for _, f := range files {
		if err := h.file(ctx, rd, f); err != nil {
			return err
		}
	}
	n, err := h.m.layer.Finish(files...)
	h.add(n)
	return err
}

// fillTogether brings what small files lack whose chunks are known by their entries: neighbours in a pack come with one answer.
func (h *hydrator) fillTogether(ctx context.Context, rd *repo.Reader, files []*layer.File) error {
	type piece struct {
		f     *layer.File
		chunk int
	}
	var pieces []piece
	var ids []seal.ChunkID
	var bytes int64
	for _, f := range files {
		e, err := rd.Lookup(ctx, h.m.source.root, f.Ident().Path)
		if err != nil {
			return err
		}
		if e == nil || e.Size != f.Ident().Size || len(e.Lists) > 0 {
			continue
		}
		for c, id := range e.Chunks {
			if f.Missing(c) != 0 {
				pieces, ids, bytes = append(pieces, piece{f, c}), append(ids, id), bytes+min(e.Size, layer.ChunkSize)
			}
		}
	}
	if err := h.yield(ctx, bytes); err != nil {
		return err
	}
	return rd.Chunks(ctx, ids, func(i int, plain []byte) error {
		p := pieces[i]
		if want := min(p.f.Ident().Size-int64(p.chunk)*layer.ChunkSize, layer.ChunkSize); int64(len(plain)) != want {
			return nil // it is damaged: whoever reads it alone says so
		}
		return p.f.Put(p.chunk, 0, plain)
	}, func(int, error) error { return nil })
}

// file brings what a file lacks, and waits for the store as long as that takes.
func (h *hydrator) file(ctx context.Context, rd *repo.Reader, f *layer.File) error {
	rest := restFor
	for {
		err := h.fill(ctx, rd, f)
		if err == nil {
			return nil
		}
		path := f.Ident().Path
		switch k := store.KindOf(err); {
		case ctx.Err() != nil:
			return ctx.Err()
		case k == store.Busy:
			h.m.opts.Log.Warn("hydration waits for the store", "file", path, dr.KeyError, err)
		case isDamage(err):
			h.m.opts.Log.Error("a part of the snapshot cannot be had", "file", path, dr.KeyError, err)
			h.mu.Lock()
			h.damage = append(h.damage, fmt.Errorf("%s: %w", path, err))
			h.mu.Unlock()
			return nil
		default:
			return err
		}
		if err := wait(ctx, rest); err != nil {
			return err
		}
		rest = min(2*rest, restAtMost)
	}
}

func isDamage(err error) bool {
	var c *repo.ChunkError
	var d *seal.DamagedError
	return errors.As(err, &c) || errors.As(err, &d)
}

// fill brings what a file lacks, and says at the end what of it is damaged.
func (h *hydrator) fill(ctx context.Context, rd *repo.Reader, f *layer.File) error {
	var damage []error
	for n := range repo.ListCount(f.Ident().Size) {
		var chunks []int
		first := n * repo.ListLen
		for c := first; c < min(first+repo.ListLen, f.Chunks()); c++ {
			if f.Missing(c) != 0 {
				chunks = append(chunks, c-first)
			}
		}
		if len(chunks) == 0 {
			continue
		}
		p, err := h.m.source.part(ctx, rd, f.Ident(), n)
		if err != nil {
			return err
		}
		for len(chunks) > 0 {
			some := chunks[:min(atOnce, len(chunks))]
			chunks = chunks[len(some):]
			if err := h.yield(ctx, int64(len(some))*layer.ChunkSize); err != nil {
				return err
			}
			err := rd.PartPieces(ctx, p, some, func(chunk int, pieces [][]byte) error {
				return putPieces(func(at int, b []byte) error { return f.Put(first+chunk, at, b) })(chunk, pieces)
			}, func(_ int, err error) error {
				if !isDamage(err) {
					return err
				}
				damage = append(damage, err) // the rest of the file is worth having
				return nil
			})
			if err != nil {
				return err
			}
		}
		if n+1 < repo.ListCount(f.Ident().Size) { // what was brought need not be brought again
			if err := f.Flush(); err != nil {
				return err
			}
		}
	}
	return errors.Join(damage...)
}

// yield lets those go first who wait for a read, and keeps to the rate.
func (h *hydrator) yield(ctx context.Context, bytes int64) error {
	until := time.Now().Add(yieldFor)
	for h.m.source.demand.Load() > 0 && time.Now().Before(until) {
		if err := wait(ctx, yieldFor/40); err != nil {
			return err
		}
	}
	return h.pace.take(ctx, bytes, h.m.opts.Rate)
}

func wait(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// readAhead brings the chunks that follow, where a file is read from one chunk to the next.
func (m *Mount) readAhead(f *layer.File, chunk int) {
	for next := chunk + 1; next <= chunk+aheadAtOnce && next < f.Chunks(); next++ {
		if f.Missing(next) == 0 {
			continue
		}
		select {
		case m.aheadSlot <- struct{}{}:
		default:
			return // as many as may be are on their way
		}
		if !m.layer.Hold(f) {
			<-m.aheadSlot
			return
		}
		m.ahead.Go(func() {
			defer func() { <-m.aheadSlot }()
			_ = f.Ensure(m.ended, next, ^uint64(0)) // whoever needs it asks again
			_ = m.layer.Detach(f)
		})
	}
}
