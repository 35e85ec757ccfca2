package restore

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sync/errgroup"

	"github.com/holdfast-dr/holdfast/internal/pg/control"
	"github.com/holdfast-dr/holdfast/internal/repo"
)

// Lazy says that most files are not written: they are made with their sizes, and somebody else brings their content when it is read.
// The directory is one that can be started only with his help.
type Lazy struct {
	// Is tells whether a file's content is left to Lay. It is asked several times, and answers the same.
	Is func(path string, e *repo.Entry) bool
	// Lay is given such a file, which has its size and holds nothing. n counts them, from 1 on. It is called by several goroutines,
	// and the file is closed after it.
	Lay func(f *os.File, path string, e *repo.Entry, n uint32) error
	// Control is the path that pg_control is written to: nobody may start the directory without his help.
	Control string
	// Beside is a name in the target that is his.
	Beside string
	// Sparse says that most of the content will never be asked for: whether there is room for all of it does not matter.
	Sparse bool
}

func (l *Lazy) has(path string, e *repo.Entry) bool { return l != nil && l.Is(path, e) }

func (l *Lazy) beside() string {
	if l == nil {
		return ""
	}
	return l.Beside
}

// layers is how many make files at once: each waits for the file system's locks most of the time.
const layers = 4

// layFiles makes the files whose content comes later. Nothing is synced: whoever brings the content sees to it.
func (x *run) layFiles(ctx context.Context) error {
	if x.opts.Lazy == nil {
		return nil
	}
	x.progress.phase("making files")
	type laid struct {
		f *file
		n uint32
	}
	eg, ctx := errgroup.WithContext(ctx)
	files := make(chan laid, layers)
	eg.Go(func() error {
		defer close(files)
		n := uint32(0)
		return x.walk(ctx, func(path string, e *repo.Entry, a *area, rel string) error {
			if e.Type != repo.TypeFile || path == control.Path || !x.opts.Lazy.has(path, e) {
				return nil
			}
			n++
			select {
			case files <- laid{&file{path: path, e: e, a: a, rel: rel}, n}:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
	})
	for range layers {
		eg.Go(func() error {
			for l := range files {
				if err := x.lay(l.f, l.n); err != nil {
					return fmt.Errorf("make %s: %w", l.f.path, err)
				}
			}
			return nil
		})
	}
	return eg.Wait()
}

// lay makes one of them. Of an earlier run that was interrupted nothing is left in it.
func (x *run) lay(f *file, n uint32) error {
	folder, name := f.a.folder(f.rel)
	if x.state != targetEmpty {
		if err := folder.RemoveAll(name); err != nil {
			return err
		}
	}
	var err error
	if f.f, err = folder.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, f.mode()); err != nil {
		return err
	}
	// Its room is not reserved, as resize does it: that takes longer than all else here.
	err = errors.Join(x.opts.Owner.chown(f.f), f.f.Chmod(f.mode()), f.f.Truncate(f.e.Size))
	if err == nil {
		err = x.opts.Lazy.Lay(f.f, f.path, f.e, n)
	}
	return errors.Join(err, f.f.Close())
}
