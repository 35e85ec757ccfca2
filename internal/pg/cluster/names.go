package cluster

import (
	"container/heap"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"slices"
)

// maxNames bounds the names of one folder that are in memory at once, some 100 bytes each. A larger folder is
// listed several times.
const maxNames = 1 << 17

// sortedNames calls fn for the entries of a folder in ascending order of bytes. An entry for which descend holds
// is handed over twice: as "name", and as "name/" in the place where paths beneath it belong, so that a walk
// gives sorted paths. A folder that vanished is empty.
func sortedNames(ctx context.Context, dir string, limit int, descend func(fs.DirEntry) bool, fn func(key string) error) error {
	after := ""
	for {
		keys, more, err := smallest(ctx, dir, after, limit, descend)
		if err != nil {
			return err
		}
		for _, key := range keys {
			if err := fn(key); err != nil {
				return err
			}
		}
		if !more {
			return nil
		}
		after = keys[len(keys)-1]
	}
}

// smallest returns the smallest limit keys after one, sorted, and whether there are more.
func smallest(ctx context.Context, dir, after string, limit int, descend func(fs.DirEntry) bool) (keys []string, more bool, err error) {
	f, err := os.Open(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, err
	}
	defer f.Close() //nolint:errcheck // only read
	var h maxHeap
	add := func(key string) {
		switch {
		case key <= after:
		case len(h) < limit:
			heap.Push(&h, key)
		default:
			more = true
			if key < h[0] {
				h[0] = key
				heap.Fix(&h, 0)
			}
		}
	}
	for {
		if ctx.Err() != nil {
			return nil, false, context.Cause(ctx)
		}
		batch, err := f.ReadDir(1024)
		for _, e := range batch {
			add(e.Name())
			if descend(e) {
				add(e.Name() + "/")
			}
		}
		if errors.Is(err, io.EOF) || errors.Is(err, fs.ErrNotExist) {
			break
		}
		if err != nil {
			return nil, false, err
		}
	}
	slices.Sort(h)
	return h, more, nil
}

// maxHeap keeps the largest string at its root.
type maxHeap []string

func (h maxHeap) Len() int           { return len(h) }
func (h maxHeap) Less(i, j int) bool { return h[i] > h[j] }
func (h maxHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *maxHeap) Push(x any)        { *h = append(*h, x.(string)) }
func (h *maxHeap) Pop() any {
	old := *h
	x := old[len(old)-1]
	*h = old[:len(old)-1]
	return x
}
