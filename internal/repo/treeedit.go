package repo

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/holdfast-dr/holdfast/internal/seal"
)

// TreeEdit is one difference between two trees.
type TreeEdit struct {
	Path  string
	Entry *Entry // nil: remove what is there, if anything is
	Below bool   // with a nil Entry: everything is removed that was below the path, too
}

// EditTree stores the tree that prev has with some differences, and fills Root, Files and Bytes of m. prev is nil, an empty
// tree, or a snapshot that MayCarry allows. Edits are sorted by path, which no two share. Below is of what prev has: an edit
// with an entry below such a path is done all the same. Only nodes on the way to what is edited are read and written
// (all of them, once, where prev's inner nodes tell no sizes), and the tree is the one that NewTree makes of the same entries.
func (w *Writer) EditTree(ctx context.Context, prev *Manifest, edits []TreeEdit, m *Manifest) error {
	rd := w.r.Reader()
	e, err := newTreeEditor(edits, treeBuilder{split: theSplit, save: func(plain []byte) (seal.ChunkID, error) { return w.saveMeta(ctx, plain) }},
		func(id seal.ChunkID) (*node, error) { return rd.node(ctx, id) })
	if err != nil {
		return err
	}
	var root *seal.ChunkID
	if prev != nil {
		if !w.mayCarry(prev.Root) {
			return errNoCarry
		}
		id, err := prev.RootID()
		if err != nil {
			return err
		}
		root, e.files, e.bytes = &id, prev.Files, prev.Bytes
	}
	now, err := e.edit(root)
	if err != nil {
		return fmt.Errorf("edit the tree: %w", err)
	}
	m.Root, m.Files, m.Bytes = now.String(), e.files, e.bytes
	return nil
}

// treeEditor builds a tree from another one. Where a node ends depends on nothing but what is in it, and the rule that ended
// it: so where the builder stands at a border between nodes at which an old node begins, and nothing in that is edited, the
// builder would make the very same node of its items, and it is taken as it is.
type treeEditor struct {
	b       treeBuilder
	read    func(seal.ChunkID) (*node, error)
	edits   []TreeEdit  // that are to be done, but for removals of all below a path
	cuts    []pathRange // what is removed
	lastRef seal.ChunkID

	files, bytes int64
}

// pathRange is paths from one to before another.
type pathRange struct{ from, to string }

func newTreeEditor(edits []TreeEdit, b treeBuilder, read func(seal.ChunkID) (*node, error)) (*treeEditor, error) {
	e := &treeEditor{b: b, read: read}
	for i, x := range edits {
		if x.Path == "" || len(x.Path) > maxKey || (i > 0 && x.Path <= edits[i-1].Path) {
			return nil, fmt.Errorf("an edit of path %q is not behind the one before it", x.Path)
		}
		e.edits = append(e.edits, x)
		if x.Below && x.Entry == nil {
			e.cuts = append(e.cuts, pathRange{x.Path + "/", x.Path + "0"}) // 0 follows the slash
		}
	}
	// Sorted by path, "a/b" may come before "a": what lies in another range falls away, the others do not touch.
	slices.SortFunc(e.cuts, func(x, y pathRange) int { return cmp.Or(cmp.Compare(x.from, y.from), -cmp.Compare(x.to, y.to)) })
	cuts := e.cuts[:0]
	for _, c := range e.cuts {
		if len(cuts) == 0 || c.from >= cuts[len(cuts)-1].to {
			cuts = append(cuts, c)
		}
	}
	e.cuts = cuts
	return e, nil
}

// edit returns the root of the new tree. A nil root is an empty tree.
func (e *treeEditor) edit(root *seal.ChunkID) (seal.ChunkID, error) {
	if root != nil {
		if len(e.edits) == 0 {
			return *root, nil
		}
		n, err := e.read(*root)
		if err == nil {
			err = e.below(n, "", true)
		}
		if err != nil {
			return *root, err
		}
	} else if err := e.insertUpTo(nil); err != nil {
		return seal.ChunkID{}, err
	}
	id, err := e.b.finish()
	// A last node may have had one child. It was not the root then, and is not now.
	for err == nil && id == e.lastRef {
		var n *node
		if n, err = e.read(id); err != nil || n.level == 0 || len(n.keys) != 1 {
			break
		}
		id = n.child(0)
		e.lastRef = id
	}
	return id, err
}

// below goes through an old node, whose paths lie behind after. The last node of its level also takes what is behind it: it
// ended because the tree did.
func (e *treeEditor) below(n *node, after string, last bool) error {
	if n.level == 0 {
		return e.leaf(n, last)
	}
	for i, key := range n.keys {
		id, lastChild := n.child(i), last && i == len(n.keys)-1
		untouched := e.b.atBorder(n.level-1) && !e.touches(after, key, lastChild)
		size, known, err := n.size(i)
		var child *node
		if err == nil && !(untouched && known) {
			if child, err = e.read(id); err == nil && child.level >= n.level {
				err = &ChunkError{ID: id, Pack: "tree", Err: fmt.Errorf("a tree node is not below its parent")}
			}
		}
		if err == nil && untouched && !known && child.level == 0 {
			size, known, err = child.total()
		}
		switch {
		case err != nil:
		case untouched && known:
			err = e.b.refer(n.level-1, key, id, size)
			e.lastRef = id
		default: // also where an older holdfast wrote no sizes: all inner nodes are written anew then, once
			err = e.below(child, after, lastChild)
		}
		if err != nil {
			return err
		}
		after = key
	}
	return nil
}

// touches reports whether something behind after up to to may be edited. Everything up to after is done.
func (e *treeEditor) touches(after, to string, last bool) bool {
	if len(e.edits) > 0 && (last || e.edits[0].Path <= to) {
		return true
	}
	for len(e.cuts) > 0 && e.cuts[0].to <= after {
		e.cuts = e.cuts[1:]
	}
	return len(e.cuts) > 0 && (last || e.cuts[0].from <= to)
}

func (e *treeEditor) leaf(n *node, last bool) error {
	for i, key := range n.keys {
		if err := e.insertUpTo(&key); err != nil {
			return err
		}
		replaced := len(e.edits) > 0 && e.edits[0].Path == key
		if replaced || e.isCut(key) {
			if err := e.count(n.values[i], -1); err != nil {
				return err
			}
		} else if err := e.b.add(key, n.values[i]); err != nil {
			return err
		}
		if replaced {
			if err := e.insert(); err != nil {
				return err
			}
		}
	}
	if last {
		return e.insertUpTo(nil)
	}
	return nil
}

// insertUpTo does the edits of paths before key, or all.
func (e *treeEditor) insertUpTo(key *string) error {
	for len(e.edits) > 0 && (key == nil || e.edits[0].Path < *key) {
		if err := e.insert(); err != nil {
			return err
		}
	}
	return nil
}

// insert does the next edit.
func (e *treeEditor) insert() error {
	x := e.edits[0]
	e.edits = e.edits[1:]
	if x.Entry == nil {
		return nil
	}
	if x.Entry.Type == TypeFile {
		e.files, e.bytes = e.files+1, e.bytes+x.Entry.Size
	}
	return e.b.add(x.Path, x.Entry.marshal())
}

// count adds an old entry to the figures, or takes it off.
func (e *treeEditor) count(value []byte, sign int64) error {
	old, err := parseEntry(value)
	if err == nil && old.Type == TypeFile {
		e.files, e.bytes = e.files+sign, e.bytes+sign*old.Size
	}
	return err
}

func (e *treeEditor) isCut(key string) bool {
	for len(e.cuts) > 0 && e.cuts[0].to <= key {
		e.cuts = e.cuts[1:]
	}
	return len(e.cuts) > 0 && e.cuts[0].from <= key
}

// atBorder reports whether the builder stands between two nodes of a level, and of all below it.
func (t *treeBuilder) atBorder(level int) bool {
	for i := 0; i <= level && i < len(t.levels); i++ {
		if t.levels[i].count > 0 {
			return false
		}
	}
	return true
}

// refer takes a node that is stored already, at a border of its level.
func (t *treeBuilder) refer(level int, last string, id seal.ChunkID, size int64) error {
	for len(t.levels) <= level {
		t.levels = append(t.levels, &nodeBuilder{})
	}
	t.last = last
	return t.putRef(level+1, last, id, size)
}
