package mount

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
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
	for _, small := range []bool{true, false} {
		eg, ctx := errgroup.WithContext(ctx)
		files := make(chan opened)
		eg.Go(func() error {
			defer close(files)
			return m.each(ctx, func(_ *area, f *os.File, id layer.Ident) error {
				if m.layer.Whole(id.ID) {
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
				o := opened{os.NewFile(uintptr(fd), f.Name()), id}
				select {
				case files <- o:
					return nil
				case <-ctx.Done():
					return errors.Join(ctx.Err(), o.f.Close())
				}
			})
		})
		for range m.opts.Workers {
			eg.Go(func() error { return h.work(ctx, files) })
		}
		if err := eg.Wait(); err != nil {
			return err
		}
	}
	return errors.Join(h.damage...)
}

type opened struct {
	f  *os.File
	id layer.Ident
}

// hydrator is one Hydrate.
type hydrator struct {
	m      *Mount
	total  int64
	damage []error
	pace   pace
}

func (h *hydrator) add(n int64) {
	done := h.m.hydrated.Add(n)
	h.m.opts.Progress(dr.Progress{Phase: "hydrating", Done: dr.Bytes(done), Total: dr.Bytes(h.total)})
}

// work hydrates files. Its thread gives way to those of the server.
func (h *hydrator) work(ctx context.Context, files <-chan opened) error {
	runtime.LockOSThread() // never unlocked: the thread ends with the goroutine, and its priority with it
	_ = unix.Setpriority(unix.PRIO_PROCESS, unix.Gettid(), hydratorNice)
	rd := h.m.repo.Reader()
	for o := range files {
		if err := h.file(ctx, rd, o); err != nil {
			return errors.Join(err, o.f.Close())
		}
	}
	return ctx.Err()
}

func (h *hydrator) file(ctx context.Context, rd *repo.Reader, o opened) (err error) {
	taken := false
	f, err := h.m.layer.Attach(o.id, func() (layer.Backing, error) { taken = true; return local(o.f), nil })
	if err != nil {
		return err
	}
	if !taken {
		if err := o.f.Close(); err != nil {
			return err
		}
	}
	defer func() { err = errors.Join(err, h.m.layer.Detach(f)) }()
	rest := restFor
	for {
		err := h.fill(ctx, rd, f)
		if err == nil {
			break
		}
		switch k := store.KindOf(err); {
		case ctx.Err() != nil:
			return ctx.Err()
		case k == store.Busy:
			h.m.opts.Log.Warn("hydration waits for the store", "file", o.id.Path, dr.KeyError, err)
		case isDamage(err):
			h.m.opts.Log.Error("a part of the snapshot cannot be had", "file", o.id.Path, dr.KeyError, err)
			h.damage = append(h.damage, fmt.Errorf("%s: %w", o.id.Path, err))
			return nil
		default:
			return err
		}
		if err := wait(ctx, rest); err != nil {
			return err
		}
		rest = min(2*rest, restAtMost)
	}
	whole, err := f.Finish()
	if err == nil && whole {
		h.add(o.id.Size)
	}
	return err
}

func isDamage(err error) bool {
	var c *repo.ChunkError
	var d *seal.DamagedError
	return errors.As(err, &c) || errors.As(err, &d)
}

// fill brings what a file lacks.
func (h *hydrator) fill(ctx context.Context, rd *repo.Reader, f *layer.File) error {
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
			}, nil)
			if err != nil {
				return err
			}
		}
		if err := f.Flush(); err != nil { // what was brought need not be brought again
			return err
		}
	}
	return nil
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
