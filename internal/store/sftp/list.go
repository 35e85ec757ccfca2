package sftp

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/holdfast-dr/holdfast/internal/store"
	"github.com/holdfast-dr/holdfast/internal/store/tree"
)

// A directory is read in answers of about a hundred names each, one after the other: the call that does may be long.
const listingSize = 1 << 30

// List calls fn for the objects in the order of their whole names. It holds the names of one directory of each
// level in memory.
func (s *Store) List(ctx context.Context, prefix, after string, fn func(store.Info) error) error {
	if err := store.CheckPrefix(prefix); err != nil {
		return s.fail(ctx, "list", prefix, err)
	}
	l := listing{s: s, want: tree.Selection{Prefix: prefix, After: after}, fn: fn}
	err := l.walk(ctx, l.want.Dir())
	var stop *tree.Stopped
	if errors.As(err, &stop) {
		return stop.Err
	}
	return err
}

type listing struct {
	s    *Store
	want tree.Selection
	fn   func(store.Info) error
}

// entry is what a directory can hold of what is wanted: an object, or a directory, whose key ends in a slash.
type entry struct {
	key  string
	size int64
}

// walk lists the directory dir, which is "" or ends in a slash. Nothing is held on the server meanwhile: fn may call
// the store.
func (l *listing) walk(ctx context.Context, dir string) error {
	var entries []entry
	err := l.s.call(ctx, "list", l.want.Prefix, listingSize, func(ctx context.Context, c *conn) (err error) {
		entries, err = l.entries(ctx, c, dir)
		return err
	})
	if errors.Is(err, store.ErrNotExist) {
		return nil // nothing there, or removed meanwhile
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		if ctx.Err() != nil {
			return l.s.fail(ctx, "list", l.want.Prefix, context.Cause(ctx))
		}
		if strings.HasSuffix(e.key, "/") {
			err = l.walk(ctx, dir+e.key)
		} else if err = l.fn(store.Info{Name: dir + e.key, Size: e.size}); err != nil {
			err = &tree.Stopped{Err: err}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (l *listing) entries(ctx context.Context, c *conn, dir string) ([]entry, error) {
	name := strings.TrimSuffix(dir, "/")
	infos, err := c.ReadDirContext(ctx, l.s.path(name))
	if err != nil {
		if fi, statErr := c.Lstat(l.s.path(name)); statErr == nil && !fi.IsDir() {
			return nil, store.ErrNotExist
		}
		return nil, l.s.missing(c, name, did(fmt.Sprintf("read directory %q", dir), err))
	}
	var entries []entry
	for _, fi := range infos {
		switch elem := fi.Name(); {
		case fi.IsDir():
			if key, wanted := l.want.Directory(dir, elem); wanted {
				entries = append(entries, entry{key: key})
			}
		case fi.Mode().IsRegular() && l.want.Object(dir, elem):
			entries = append(entries, entry{elem, fi.Size()})
		}
	}
	slices.SortFunc(entries, func(a, b entry) int { return cmp.Compare(a.key, b.key) })
	return entries, nil
}
