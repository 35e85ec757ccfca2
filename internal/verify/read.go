package verify

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/pg/control"
	"github.com/holdfast-dr/holdfast/internal/repo"
	"github.com/holdfast-dr/holdfast/internal/restore"
	"github.com/holdfast-dr/holdfast/internal/restore/points"
)

// reading reads what is stored of a point and throws it away: whatever comes out of a repo.Reader has been proven to be what its ID
// names. The tree is always read whole; of the files' content a sample, where that is asked for.
type reading struct {
	repo     *repo.Repository
	plan     *points.Plan
	sample   float64 // of the chunks; 1: all of them
	progress dr.ProgressFunc
	pages    *pageCheck // nil: pages are not looked at
	restored string     // directory in which everything has been proven already: content is read from there; empty: from the repository

	total, read, done atomic.Int64
	mu                sync.Mutex // guards result
	result            *Result
}

// part is a piece of work: a part of a file.
type part struct {
	path string
	e    *repo.Entry
	n    int
}

// files reads the snapshot's tree and files. What is damaged is a problem of the result; an error means that it is not known.
func (x *reading) files(ctx context.Context) error {
	root, err := x.plan.Snapshot.Manifest.RootID()
	if err != nil {
		x.damaged("the snapshot's root", err)
		return nil
	}
	parts := make(chan part)
	eg, ctx := errgroup.WithContext(ctx)
	eg.Go(func() error {
		defer close(parts)
		return x.walk(ctx, root, parts)
	})
	workers := 2 * runtime.GOMAXPROCS(0)
	if x.repo.Far() {
		workers = max(workers, farWorkers)
	}
	for range workers {
		eg.Go(func() error {
			rd := x.repo.Reader()
			rnd := rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64())) //nolint:gosec // a sample, no secret
			for p := range parts {
				if err := x.part(ctx, rd, rnd, p); err != nil {
					return fmt.Errorf("read %s: %w", p.path, err)
				}
			}
			return nil
		})
	}
	err = eg.Wait()
	x.result.Figures.Read += dr.Bytes(x.read.Load())
	return err
}

// farWorkers is how many read from a store that is far: most of their time they wait.
const farWorkers = 12

// walk sends every part of every file, and looks at what the tree itself says.
func (x *reading) walk(ctx context.Context, root [32]byte, parts chan<- part) error {
	return x.repo.Reader().WalkAround(ctx, root, func(path string, e *repo.Entry) error {
		if x.pages != nil {
			x.pages.entry(path, e)
		}
		if e.Type != repo.TypeFile {
			return ctx.Err()
		}
		x.mu.Lock()
		x.result.Figures.Files++
		x.result.Figures.Bytes += dr.Bytes(e.Size)
		x.mu.Unlock()
		x.total.Add(e.Size)
		for n := range max(repo.ListCount(e.Size), 1) {
			select {
			case parts <- part{path, e, n}:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		return nil
	}, func(l repo.LostPaths) error {
		if !restore.IsDamage(l.Err) {
			return l.Err
		}
		x.damaged("the snapshot's tree: "+l.String(), l.Err)
		return nil
	})
}

// part reads one part of a file, or a sample of it.
func (x *reading) part(ctx context.Context, rd *repo.Reader, rnd *rand.Rand, p part) error {
	if x.restored != "" && p.path != control.Path { // which a restore changes
		return x.restoredPart(ctx, p)
	}
	fp, err := rd.FilePart(ctx, p.e, p.n)
	if err != nil {
		return x.lost(p, -1, err)
	}
	start := int64(p.n) * repo.ListLen * repo.Grid
	var chunks []int
	for i := range fp.Len() {
		if x.sample >= 1 || p.path == control.Path || rnd.Float64() < x.sample {
			chunks = append(chunks, i)
		}
	}
	if len(chunks) == 0 {
		return ctx.Err()
	}
	return rd.Part(ctx, fp, chunks, func(chunk int, plain []byte) error {
		x.read.Add(int64(len(plain)))
		x.tell("reading the snapshot", len(plain))
		if x.pages != nil {
			x.pages.content(p.path, start+int64(chunk)*repo.Grid, plain)
		}
		return ctx.Err()
	}, func(chunk int, err error) error { return x.lost(p, chunk, err) })
}

// restoredPart looks at a part of a file that was restored.
func (x *reading) restoredPart(ctx context.Context, p part) error {
	if !hasPages(p.path) {
		return ctx.Err()
	}
	f, err := os.OpenFile(filepath.Join(x.restored, filepath.FromSlash(p.path)), os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // only read
	b := make([]byte, repo.Grid)
	from := int64(p.n) * repo.ListLen * repo.Grid
	for at := from; at < min(p.e.Size, from+repo.ListLen*repo.Grid) && ctx.Err() == nil; at += repo.Grid {
		n, err := f.ReadAt(b, at)
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		x.tell("looking at the pages", n)
		x.pages.content(p.path, at, b[:n])
	}
	return ctx.Err()
}

func (x *reading) tell(phase string, n int) {
	done := x.done.Add(int64(n))
	if x.progress != nil {
		x.progress(dr.Progress{Phase: phase, Done: dr.Bytes(done), Total: dr.Bytes(float64(x.total.Load()) * x.sample)})
	}
}

// lost notes that a chunk, or with -1 a whole part, cannot be had. An error that says nothing about it is returned.
func (x *reading) lost(p part, chunk int, err error) error {
	if !restore.IsDamage(err) {
		return err
	}
	what := p.path
	if chunk > 0 || p.n > 0 {
		what = fmt.Sprintf("%s from byte %d on", p.path, (int64(p.n)*repo.ListLen+int64(max(chunk, 0)))*repo.Grid)
	}
	x.damaged(what, err)
	return nil
}

func (x *reading) damaged(what string, err error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.result.problem(Objects, what, "%v", err)
}
