package local

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/holdfast-dr/holdfast/internal/store"
	"github.com/holdfast-dr/holdfast/internal/store/tree"
)

// List calls fn for the objects in the order of their whole names. It holds the names of one directory of each
// level in memory. Files whose names no object can have (lost+found, a README) are not listed.
func (s *Store) List(ctx context.Context, prefix, after string, fn func(store.Info) error) error {
	l := listing{s: s, want: tree.Selection{Prefix: prefix, After: after}, fn: fn}
	err := store.CheckPrefix(prefix)
	if err == nil {
		err = l.walk(ctx, l.want.Dir())
	}
	var stop *tree.Stopped
	if errors.As(err, &stop) {
		return stop.Err
	}
	if err != nil {
		return s.fail("list", prefix, err)
	}
	return nil
}

type listing struct {
	s    *Store
	want tree.Selection
	fn   func(store.Info) error
}

// walk lists the directory dir, which is "" or ends in a slash.
func (l *listing) walk(ctx context.Context, dir string) error {
	fd, err := l.s.openDir(strings.TrimSuffix(dir, "/"))
	if errors.Is(err, store.ErrNotExist) {
		return nil // nothing there, or removed meanwhile
	}
	if err != nil {
		return fmt.Errorf("open directory %q: %w", dir, err)
	}
	f := os.NewFile(uintptr(fd), filepath.Join(l.s.dir, dir))
	defer f.Close()
	keys, err := l.keys(f, dir)
	if err != nil {
		return err
	}
	for _, key := range keys {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if strings.HasSuffix(key, "/") {
			err = l.walk(ctx, dir+key)
		} else {
			err = l.object(fd, dir, key)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// keys returns what of a directory can hold wanted names, sorted. A directory's key ends in a slash.
func (l *listing) keys(f *os.File, dir string) ([]string, error) {
	entries, err := f.ReadDir(-1)
	if err != nil {
		return nil, fmt.Errorf("read directory %q: %w", dir, err)
	}
	keys := make([]string, 0, len(entries))
	for _, e := range entries {
		switch {
		case e.IsDir():
			if key, wanted := l.want.Directory(dir, e.Name()); wanted {
				keys = append(keys, key)
			}
		case e.Type().IsRegular() && l.want.Object(dir, e.Name()):
			keys = append(keys, e.Name())
		}
	}
	slices.SortFunc(keys, cmp.Compare[string])
	return keys, nil
}

func (l *listing) object(at int, dir, base string) error {
	var st unix.Stat_t
	err := fstatAt(at, base, &st)
	if errors.Is(err, unix.ENOENT) {
		return nil // deleted meanwhile
	}
	if err != nil {
		return fmt.Errorf("stat %s: %w", dir+base, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil
	}
	if err := l.fn(store.Info{Name: dir + base, Size: st.Size}); err != nil {
		return &tree.Stopped{Err: err}
	}
	return nil
}
