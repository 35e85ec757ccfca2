package repo

import (
	"context"
	"errors"
	"sort"

	"github.com/holdfast-dr/holdfast/internal/seal"
)

// Lookup returns the entry of one path of the tree at root, nil where there is none. The nodes on the way to the last path
// are kept: many paths in ascending order cost each node once.
func (rd *Reader) Lookup(ctx context.Context, root seal.ChunkID, path string) (*Entry, error) {
	id := root
	for depth := 0; ; depth++ {
		n, err := rd.onWay(ctx, depth, id)
		if err != nil {
			return nil, err
		}
		i := sort.SearchStrings(n.keys, path)
		switch {
		case i == len(n.keys):
			return nil, nil
		case n.level > 0:
			id = n.child(i)
			continue
		case n.keys[i] != path:
			return nil, nil
		}
		e, err := parseEntry(n.values[i])
		if err != nil {
			err = &ChunkError{ID: id, Pack: "tree", Err: err}
		}
		return e, err
	}
}

// wayNode is a node on the way to the path that was looked up last.
type wayNode struct {
	id seal.ChunkID
	*node
}

// onWay returns the node at a depth below the root, and keeps it.
func (rd *Reader) onWay(ctx context.Context, depth int, id seal.ChunkID) (*node, error) {
	if depth < len(rd.way) && rd.way[depth].id == id {
		return rd.way[depth].node, nil
	}
	rd.way = rd.way[:min(depth, len(rd.way))]
	n, err := rd.node(ctx, id)
	if err == nil && depth > 0 && n.level >= rd.way[depth-1].level {
		err = &ChunkError{ID: id, Pack: "tree", Err: errors.New("a tree node is not below its parent")}
	}
	if err != nil {
		return nil, err
	}
	rd.way = append(rd.way, wayNode{id, n})
	return n, nil
}
