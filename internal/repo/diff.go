package repo

import (
	"bytes"
	"context"

	"github.com/holdfast-dr/holdfast/internal/seal"
)

// Diff calls fn, in order of paths, for every path whose entry differs between two snapshots; an entry is nil
// where that side has no such path. Leaves that both trees share are not read: the cost is that of the inner
// nodes and of what changed. A changed time or mode counts as a difference.
func (rd *Reader) Diff(ctx context.Context, from, to *Manifest, fn func(path string, old, now *Entry) error) error {
	before, now, err := rd.sides(ctx, rd, from, to)
	if err != nil {
		return err
	}
	return diffLeaves(ctx, before, now, fn)
}

// sides returns cursors over the leaves that two snapshots do not share, of which one is read by another reader.
func (rd *Reader) sides(ctx context.Context, other *Reader, from, to *Manifest) (before, now *leafCursor, err error) {
	var leaves [2][]seal.ChunkID
	for i, side := range []struct {
		rd *Reader
		m  *Manifest
	}{{other, from}, {rd, to}} {
		root, err := side.m.RootID()
		if err == nil {
			leaves[i], err = side.rd.leaves(ctx, root, nil)
		}
		if err != nil {
			return nil, nil, err
		}
	}
	return other.cursor(without(leaves[0], leaves[1])), rd.cursor(without(leaves[1], leaves[0])), nil
}

func diffLeaves(ctx context.Context, old, now *leafCursor, fn func(path string, old, now *Entry) error) error {
	for {
		a, err := old.peek(ctx)
		if err != nil {
			return err
		}
		b, err := now.peek(ctx)
		if err != nil {
			return err
		}
		switch {
		case a == nil && b == nil:
			return nil
		case b == nil || (a != nil && a.key < b.key):
			b = nil
		case a == nil || b.key < a.key:
			a = nil
		}
		if a != nil {
			old.next()
		}
		if b != nil {
			now.next()
		}
		if a != nil && b != nil && bytes.Equal(a.value, b.value) {
			continue
		}
		if err := callDiff(a, b, fn); err != nil {
			return err
		}
	}
}

func callDiff(a, b *keyValue, fn func(path string, old, now *Entry) error) error {
	var old, now *Entry
	var path string
	var err error
	if a != nil {
		path = a.key
		if old, err = parseEntry(a.value); err != nil {
			return err
		}
	}
	if b != nil {
		path = b.key
		if now, err = parseEntry(b.value); err != nil {
			return err
		}
	}
	return fn(path, old, now)
}

// leaves appends the IDs of the leaves below id, in order. Only inner nodes are read, and id itself.
func (rd *Reader) leaves(ctx context.Context, id seal.ChunkID, out []seal.ChunkID) ([]seal.ChunkID, error) {
	n, err := rd.node(ctx, id)
	if err != nil {
		return nil, err
	}
	if n.level == 0 {
		return append(out, id), nil
	}
	for i := range n.keys {
		if n.level == 1 {
			out = append(out, n.child(i))
			continue
		}
		if out, err = rd.leaves(ctx, n.child(i), out); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// without returns what of a is not in b.
func without[T comparable](a, b []T) []T {
	has := make(map[T]bool, len(b))
	for _, x := range b {
		has[x] = true
	}
	var out []T
	for _, x := range a {
		if !has[x] {
			out = append(out, x)
		}
	}
	return out
}

type keyValue struct {
	key   string
	value []byte
}

// leafCursor goes through the entries of leaves one by one.
type leafCursor struct {
	rd     *Reader
	leaves []seal.ChunkID
	node   *node
	at     int
}

func (rd *Reader) cursor(leaves []seal.ChunkID) *leafCursor {
	return &leafCursor{rd: rd, leaves: leaves}
}

// peek returns the entry at the cursor, nil at the end.
func (c *leafCursor) peek(ctx context.Context) (*keyValue, error) {
	for c.node == nil || c.at == len(c.node.keys) {
		if len(c.leaves) == 0 {
			return nil, nil
		}
		n, err := c.rd.node(ctx, c.leaves[0])
		if err != nil {
			return nil, err
		}
		c.node, c.at, c.leaves = n, 0, c.leaves[1:]
	}
	return &keyValue{c.node.keys[c.at], c.node.values[c.at]}, nil
}

func (c *leafCursor) next() { c.at++ }
