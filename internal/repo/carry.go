package repo

import (
	"context"
	"errors"
	"slices"

	"github.com/holdfast-dr/holdfast/internal/store"
)

// A writer that saves every chunk through a lane never refers to what a collection is about to delete: Save looks where the
// chunk lies. One that carries over what an earlier snapshot refers to, a part of a file or a piece of the tree, looks at
// nothing. It relies on the earlier snapshot's chunks staying, also if that is forgotten meanwhile.

// MayCarry reports whether this writer may carry over what the snapshot m refers to: by PatchPart, by EditTree, or by giving
// an entry as it is. No means that every chunk has to be saved again, since a collection may be about to delete some.
//
// Where no collection was under way when the writer began, a later one waits for it, and then marks its snapshot. Where one
// was, it does not know this writer. It keeps what the snapshots need that it has considered. It also keeps what a writer
// stored that began after its publication, as this one did: that has shared nothing that was condemned, nor carried over
// from other snapshots than these.
func (w *Writer) MayCarry(ctx context.Context, m *Manifest) (bool, error) {
	name := w.r.snapshotName(m.System, m.ID)
	if m.Group != w.group {
		return false, nil
	}
	here := m.Generation >= w.generation && m.Replica == w.replica
	if w.known != nil && !here && !slices.Contains(w.considered, name) {
		return false, nil
	}
	// After the intent, or what the snapshot needs may have been condemned between its end and our beginning.
	now, err := w.r.manifestObject(ctx, name)
	switch {
	case errors.Is(err, store.ErrNotExist):
		return false, nil
	case err != nil:
		return false, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.carried == nil {
		w.carried = map[string]bool{}
	}
	w.carried[now.Root] = true
	return true, nil
}

// errNoCarry is returned where a writer would carry over what it must not.
var errNoCarry = errors.New("MayCarry has not allowed the snapshot whose tree is edited")

// mayCarry reports whether a tree may be carried over.
func (w *Writer) mayCarry(root string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.carried[root]
}
