package repo

import (
	"context"
	"errors"
	"fmt"

	"github.com/holdfast-dr/holdfast/internal/seal"
)

// LostPaths is a part of a tree that cannot be read: all paths behind After up to To, and To itself. An empty After is
// the beginning of the tree; with an empty To nothing of it can be read.
type LostPaths struct {
	After, To string
	Err       error // a *ChunkError
}

// String names the paths, for a person.
func (l LostPaths) String() string {
	switch {
	case l.To == "":
		return "every path"
	case l.After == "":
		return fmt.Sprintf("every path up to %q", l.To)
	}
	return fmt.Sprintf("every path after %q up to %q", l.After, l.To)
}

// Walk calls fn for every entry of the tree at root whose path is at or after from, in order.
func (rd *Reader) Walk(ctx context.Context, root seal.ChunkID, from string, fn func(path string, e *Entry) error) error {
	w := treeWalk{rd: rd, from: from, fn: fn}
	return w.below(ctx, root, maxLevel+1, "", "")
}

// WalkAround is Walk of a whole tree that goes around what cannot be read: lost is told of it, and its error ends the
// walk. Between two calls of fn there may be several of lost. A parent has the last path of each of its children, so
// what a lost node held is known to the path.
func (rd *Reader) WalkAround(ctx context.Context, root seal.ChunkID, fn func(path string, e *Entry) error, lost func(LostPaths) error) error {
	w := treeWalk{rd: rd, fn: fn, lost: lost}
	return w.below(ctx, root, maxLevel+1, "", "")
}

// treeWalk is a walk over a tree in the order of its paths.
type treeWalk struct {
	rd    *Reader
	from  string                           // paths before it are passed over
	fn    func(string, *Entry) error       // is called for each entry
	visit func(seal.ChunkID) (bool, error) // nil, or asked for each node whether to go into it
	lost  func(LostPaths) error            // nil, or told of what cannot be read
}

// below goes through the node id, whose level is below above and whose paths lie behind after and up to to.
func (w *treeWalk) below(ctx context.Context, id seal.ChunkID, above int, after, to string) error {
	if w.visit != nil {
		if in, err := w.visit(id); err != nil || !in {
			return err
		}
	}
	n, err := w.rd.node(ctx, id)
	if err == nil && n.level >= above {
		err = &ChunkError{ID: id, Pack: "tree", Err: errors.New("a tree node is not below its parent")}
	}
	if err != nil {
		return w.unreadable(after, to, err)
	}
	for i, key := range n.keys {
		if key >= w.from {
			if n.level > 0 {
				err = w.below(ctx, n.child(i), n.level, after, key)
			} else {
				err = w.entry(id, after, key, n.values[i])
			}
			if err != nil {
				return err
			}
		}
		after = key
	}
	return nil
}

func (w *treeWalk) entry(node seal.ChunkID, after, path string, value []byte) error {
	e, err := parseEntry(value)
	if err != nil {
		return w.unreadable(after, path, &ChunkError{ID: node, Pack: "tree", Err: err})
	}
	return w.fn(path, e)
}

// unreadable tells of lost paths where somebody listens, and only of those that are lost by their chunk.
func (w *treeWalk) unreadable(after, to string, err error) error {
	var broken *ChunkError
	if w.lost == nil || !errors.As(err, &broken) {
		return err
	}
	return w.lost(LostPaths{After: after, To: to, Err: err})
}
