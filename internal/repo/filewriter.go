package repo

import (
	"context"
	"errors"

	"github.com/holdfast-dr/holdfast/internal/seal"
)

// Tree collects a snapshot's entries. Add must be called in ascending order of paths, from one goroutine.
type Tree struct {
	b     treeBuilder
	files int64
	bytes int64
}

// NewTree begins the snapshot's tree.
func (w *Writer) NewTree(ctx context.Context) *Tree {
	return &Tree{b: treeBuilder{split: theSplit, save: func(plain []byte) (seal.ChunkID, error) { return w.saveMeta(ctx, plain) }}}
}

// Add puts an entry under path.
func (t *Tree) Add(path string, e *Entry) error {
	if e.Type == TypeFile {
		t.files, t.bytes = t.files+1, t.bytes+e.Size
	}
	return t.b.add(path, e.marshal())
}

// Finish stores the rest of the tree and fills Root, Files and Bytes of the manifest.
func (t *Tree) Finish(m *Manifest) error {
	root, err := t.b.finish()
	m.Root, m.Files, m.Bytes = root.String(), t.files, t.bytes
	return err
}

// SaveList stores the IDs of up to ListLen consecutive chunks of a file whose whole size is size. It may be
// called from several goroutines.
func (w *Writer) SaveList(ctx context.Context, ids []seal.ChunkID, size int64) (FileList, error) {
	if len(ids) > ListLen {
		return FileList{}, errors.New("a list of chunks is too long")
	}
	return w.saveList(ids, size, func(plain []byte) (seal.ChunkID, error) { return w.saveMeta(ctx, plain) })
}

// SetContent gives the entry the content of lists, one for every ListLen chunks, in order.
func (e *Entry) SetContent(size int64, lists []FileList) {
	e.Size = size
	if len(lists) > 0 {
		e.Chunks, e.Lists = newFile(lists)
	}
}
