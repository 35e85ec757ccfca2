package repo

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"

	"github.com/holdfast-dr/holdfast/internal/seal"
)

// Sample draws n bytes of all files of the tree at root, every byte with the same chance and each draw by itself, and
// calls fn with the file and the offset of each, in the order of paths and offsets. A byte may be drawn twice. Of a tree
// without bytes it draws none. It reads the nodes on the way to what it draws, level by level; all nodes of a tree that was
// written by a holdfast which noted no sizes, as EditTree does.
func (rd *Reader) Sample(ctx context.Context, root seal.ChunkID, r *rand.Rand, n int, fn func(path string, e *Entry, at int64) error) error {
	top, err := rd.node(ctx, root)
	if err != nil {
		return err
	}
	total, known, err := top.total()
	switch {
	case err != nil:
		return err
	case !known:
		return rd.sampleAll(ctx, root, r, n, fn)
	case total == 0:
		return nil
	}
	drawn := make([]int64, n)
	for i := range drawn {
		drawn[i] = r.Int64N(total)
	}
	slices.Sort(drawn)
	return rd.bytes(ctx, top, drawn, fn)
}

// sampleAll is Sample by one walk over the whole tree. Each of the n draws is replaced by a byte of the next file with the
// chance that this file has among all so far: in the end every byte has had the same one.
func (rd *Reader) sampleAll(ctx context.Context, root seal.ChunkID, r *rand.Rand, n int, fn func(path string, e *Entry, at int64) error) error {
	type drawnByte struct {
		path string
		e    *Entry
		at   int64
	}
	drawn, total := make([]drawnByte, n), int64(0)
	err := rd.Walk(ctx, root, "", func(path string, e *Entry) error {
		if e.Size <= 0 {
			return nil
		}
		if total += e.Size; total > maxTreeSize {
			return fmt.Errorf("the files up to %q have %d bytes", path, total)
		}
		for i := range drawn {
			if at := r.Int64N(total); at < e.Size {
				drawn[i] = drawnByte{path, e, at}
			}
		}
		return nil
	})
	if err != nil || total == 0 {
		return err
	}
	slices.SortFunc(drawn, func(a, b drawnByte) int { return cmp.Or(cmp.Compare(a.path, b.path), cmp.Compare(a.at, b.at)) })
	for _, d := range drawn {
		if err := fn(d.path, d.e, d.at); err != nil {
			return err
		}
	}
	return nil
}

// drawnBelow are bytes below a node, counted from its first one.
type drawnBelow struct {
	id    seal.ChunkID
	level int   // of the parent
	size  int64 // as the parent tells
	bytes []int64
}

// bytes finds the files to which bytes of a tree belong, counted over all files in the order of paths.
func (rd *Reader) bytes(ctx context.Context, top *node, drawn []int64, fn func(path string, e *Entry, at int64) error) error {
	below, err := top.divide(drawn, fn)
	for err == nil && len(below) > 0 {
		ids := make([]seal.ChunkID, len(below))
		for i, b := range below {
			ids[i] = b.id
		}
		var next []drawnBelow
		err = rd.Chunks(ctx, ids, func(i int, plain []byte) error {
			n, err := parseNode(plain)
			if err == nil {
				err = n.isAs(below[i])
			}
			if err != nil {
				return &ChunkError{ID: ids[i], Pack: "tree", Err: err}
			}
			some, err := n.divide(below[i].bytes, fn)
			next = append(next, some...)
			return err
		}, nil)
		below = next
	}
	return err
}

// isAs compares a node with what its parent tells.
func (n *node) isAs(b drawnBelow) error {
	total, known, err := n.total()
	switch {
	case err != nil:
		return err
	case n.level >= b.level:
		return errors.New("a tree node is not below its parent")
	case !known:
		return errors.New("a tree node does not tell how large its files are, and its parent does")
	case total != b.size:
		return fmt.Errorf("its files have %d bytes, its parent tells of %d", total, b.size)
	}
	return nil
}

// divide hands the bytes of a leaf to fn, and returns those of an inner node by child.
func (n *node) divide(drawn []int64, fn func(path string, e *Entry, at int64) error) (below []drawnBelow, err error) {
	from := int64(0)
	for i := 0; i < len(n.keys) && len(drawn) > 0; i++ {
		size, _, err := n.size(i)
		if err != nil {
			return nil, err
		}
		var own []int64
		for len(drawn) > 0 && drawn[0] < from+size {
			own, drawn = append(own, drawn[0]-from), drawn[1:]
		}
		from += size
		switch {
		case len(own) == 0:
		case n.level > 0:
			below = append(below, drawnBelow{n.child(i), n.level, size, own})
		default:
			e, err := parseEntry(n.values[i])
			if err != nil {
				return nil, err
			}
			for _, at := range own {
				if err := fn(n.keys[i], e, at); err != nil {
					return nil, err
				}
			}
		}
	}
	return below, nil
}
