package repo

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/holdfast-dr/holdfast/internal/seal"
	"github.com/holdfast-dr/holdfast/internal/store"
)

// index finds chunks. New entries are held in memory (recent), older ones in a sorted file on disk (base), so
// that memory does not grow with the repository: about 100 bytes for each of at most maxRecent entries, and 100
// bytes a pack.
type index struct {
	dir       string // of the cache; a temporary one is removed by close
	temp      bool
	mu        sync.RWMutex // guards what follows, but for frozen and refresh. Not held while objects are fetched
	recent    map[seal.ChunkID]location
	base      *baseFile
	loaded    map[string]bool  // names of index objects that recent and base hold
	unsaved   int              // of these, in recent only
	damaged   map[string]error // index objects that cannot be read; the others are used
	recovered int              // of damaged, how many were made up for by recoverIndex; doubt is one more
	doubt     int              // 1 where the view said so: index objects may be missing of which nobody knows
	frozen    bool             // it holds what it was given, and never asks the store
	cached    bool             // base was left by an earlier process
	last      map[PackID]bool  // packs that are gone or may be: each loses against every other that has its chunks
	gone      map[PackID]bool  // of last, those that were missing when the index was read anew because of them
	refresh   sync.Mutex       // one load at a time
}

// maxRecent is the number of entries at which recent is merged into base.
const maxRecent = 1 << 17

// What a process learned is kept for the next one when it is much: keeping it writes the whole of base, and each index object
// that is not kept costs the next one a request. So that snapshots do not pay for what the repository has, a base is
// written again when what came has grown with it.
const (
	maxUnsaved     = 32      // index objects at least
	basePerUnsaved = 1 << 14 // entries of base for each
	basePerRecent  = 16      // entries of base for each of recent
)

func newIndex(cacheDir, repository string) (*index, error) {
	ix := &index{
		recent: map[seal.ChunkID]location{}, loaded: map[string]bool{}, damaged: map[string]error{},
		last: map[PackID]bool{}, gone: map[PackID]bool{},
	}
	if cacheDir == "" {
		dir, err := os.MkdirTemp("", "holdfast-index-")
		if err != nil {
			return nil, fmt.Errorf("make a place for the index: %w", err)
		}
		ix.dir, ix.temp = dir, true
		return ix, nil
	}
	ix.dir = filepath.Join(cacheDir, repository)
	if err := os.MkdirAll(ix.dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the cache directory: %w", err)
	}
	return ix, nil
}

func (ix *index) close() error {
	ix.mu.Lock()
	defer ix.mu.Unlock()
	err := ix.base.close()
	ix.base = nil
	if ix.temp {
		err = errors.Join(err, os.RemoveAll(ix.dir))
	}
	return err
}

// find returns the chunk's location.
func (ix *index) find(id seal.ChunkID) (location, bool, error) {
	ix.mu.RLock()
	defer ix.mu.RUnlock()
	return ix.findLocked(id)
}

func (ix *index) findLocked(id seal.ChunkID) (location, bool, error) {
	if l, ok := ix.recent[id]; ok {
		return l, true, nil
	}
	return ix.base.find(id)
}

// add makes the entries of an index object known that this process wrote, or read. In whatever order objects are added, in
// one go or not: a pack in last never hides another.
func (ix *index) add(name string, d *indexData) error {
	ix.mu.Lock()
	defer ix.mu.Unlock()
	for _, e := range d.entries {
		l := location{d.packs[e.pack], e.chunkPlace}
		if ix.last[l.pack.id] {
			known, ok, err := ix.findLocked(l.id)
			if err != nil {
				return err
			}
			if ok && !ix.last[known.pack.id] {
				continue
			}
		}
		ix.recent[e.id] = l
	}
	ix.loaded[name] = true
	ix.unsaved++
	if len(ix.recent) < maxRecent {
		return nil
	}
	return ix.mergeLocked()
}

// settle brings everything into base.
func (ix *index) settle() error {
	ix.mu.Lock()
	defer ix.mu.Unlock()
	return ix.mergeLocked()
}

// mergeLocked moves recent into a new base file.
func (ix *index) mergeLocked() error {
	next, err := mergeBase(ix.dir, ix.base, ix.recent, ix.loaded)
	if err != nil {
		return fmt.Errorf("write the index cache: %w", err)
	}
	err = ix.base.close()
	ix.base, ix.recent, ix.unsaved = next, map[seal.ChunkID]location{}, 0
	return err
}

// reset forgets everything but last and gone: index objects that were known are gone, so locations may be wrong.
func (ix *index) reset() error {
	ix.mu.Lock()
	defer ix.mu.Unlock()
	err := ix.base.close()
	ix.base, ix.recent, ix.loaded = nil, map[seal.ChunkID]location{}, map[string]bool{}
	ix.damaged, ix.recovered, ix.doubt, ix.cached = map[string]error{}, 0, 0, false
	return err
}

// loadIndex brings the index up to what the store lists, and returns the state of the collections that it was
// read in. It is called again where a chunk is not found, and by every writer after it has made its intent.
func (r *Repository) loadIndex(ctx context.Context) (*view, error) {
	ix := r.index
	if ix.frozen {
		return &view{}, nil
	}
	ix.refresh.Lock()
	defer ix.refresh.Unlock()
	if err := ix.openCache(); err != nil {
		return nil, err
	}
	for try := 0; ; try++ {
		before := ix.names()
		v, err := r.readView(ctx)
		if err != nil {
			return nil, err
		}
		listed, err := r.indexNames(ctx, v)
		if err != nil {
			return nil, err
		}
		if !within(before, listed) {
			if err := ix.reset(); err != nil {
				return nil, err
			}
		}
		ix.doubted(v.doubt)
		if v.damaged != nil || v.repairs {
			ix.demote(v.condemned) // some of them are gone
		}
		again, err := r.loadMissing(ctx, listed, try < viewTries)
		if err != nil || !again {
			return v, err
		}
	}
}

// loadMissing reads the listed objects that are not known. again is true where one vanished meanwhile and
// mayVanish is true: a collection replaced it, and the list is old. An object that is damaged is noted and passed
// over: what the others name stays readable.
func (r *Repository) loadMissing(ctx context.Context, listed map[string]bool, mayVanish bool) (again bool, err error) {
	for _, name := range sorted(listed) {
		if r.index.knows(name) {
			continue
		}
		d, err := r.readIndex(ctx, name)
		switch {
		case errors.Is(err, store.ErrNotExist) && mayVanish:
			return true, nil
		case err != nil && lost(err):
			r.index.note(name, err)
			continue
		case err != nil:
			return false, err
		}
		if err := r.index.add(name, d); err != nil {
			return false, err
		}
	}
	return false, r.index.save()
}

func (ix *index) demote(packs map[PackID]bool) {
	ix.mu.Lock()
	defer ix.mu.Unlock()
	maps.Copy(ix.last, packs)
}

// withoutGone prepares the index for being read anew, where a pack turned out to be gone: packs that are not there lose
// against every other that has their chunks. It reports whether that may make a difference.
func (r *Repository) withoutGone(ctx context.Context, gone PackID) (bool, error) {
	ix := r.index
	ix.refresh.Lock()
	defer ix.refresh.Unlock()
	ix.mu.RLock()
	again := !ix.frozen && !ix.gone[gone]
	ix.mu.RUnlock()
	if !again {
		return false, nil
	}
	missing := map[PackID]bool{gone: true}
	for _, p := range ix.packs() {
		missing[p.id] = true
	}
	there, err := r.listPacks(ctx) // after the index: a pack is there before an index object names it
	if err != nil {
		return false, err
	}
	for k := range there {
		delete(missing, k.id)
	}
	ix.mu.Lock()
	maps.Copy(ix.last, missing)
	maps.Copy(ix.gone, missing)
	ix.gone[gone] = true // whatever the listing says: once is enough
	ix.mu.Unlock()
	return true, ix.forgetAll()
}

func (ix *index) doubted(doubt bool) {
	ix.mu.Lock()
	defer ix.mu.Unlock()
	if doubt {
		ix.doubt = 1
	}
}

// lost reports whether err says that an object is not, or no longer, what was stored: repeating is useless.
func lost(err error) bool {
	var d *seal.DamagedError
	return errors.As(err, &d) || errors.Is(err, store.ErrNotExist) || errors.Is(err, seal.ErrUnknownEpoch) || store.KindOf(err) == store.Damaged
}

func (r *Repository) readIndex(ctx context.Context, name string) (*indexData, error) {
	b, err := r.store.Get(ctx, name, maxIndexObject)
	if err != nil {
		return nil, err
	}
	plain, err := r.keys.OpenWhole(seal.KindIndex, name, b)
	if err != nil {
		return nil, err
	}
	d, err := parseIndex(name, plain)
	if err != nil {
		return nil, &seal.DamagedError{Name: name, Offset: seal.HeaderSize, Reason: err.Error()}
	}
	return d, nil
}

// beginRecovery reports whether index objects are damaged whose packs were not looked at yet.
func (ix *index) beginRecovery() bool {
	ix.mu.Lock()
	defer ix.mu.Unlock()
	all := len(ix.damaged) + ix.doubt
	if all == ix.recovered {
		return false
	}
	ix.recovered = all
	return true
}

// endRecovery forgets that a recovery was begun: it has failed, and some packs were not looked at.
func (ix *index) endRecovery() {
	ix.mu.Lock()
	defer ix.mu.Unlock()
	ix.recovered = 0
}

// lend makes entries findable that no index object holds. They are forgotten with the next reset.
func (ix *index) lend(d *indexData) {
	ix.mu.Lock()
	defer ix.mu.Unlock()
	for _, e := range d.entries {
		ix.recent[e.id] = location{d.packs[e.pack], e.chunkPlace}
	}
}

// packs returns every pack that is known.
func (ix *index) packs() []*packRef {
	ix.mu.RLock()
	defer ix.mu.RUnlock()
	seen := map[*packRef]bool{}
	for _, l := range ix.recent {
		seen[l.pack] = true
	}
	return append(slices.Collect(maps.Keys(seen)), ix.base.refs()...)
}

// each calls fn for every chunk, in no order. Nothing may be added meanwhile.
func (ix *index) each(fn func(location) error) error {
	ix.mu.RLock()
	defer ix.mu.RUnlock()
	for _, l := range ix.recent {
		if err := fn(l); err != nil {
			return err
		}
	}
	return ix.base.each(func(_ int64, l location) error {
		if _, newer := ix.recent[l.id]; newer {
			return nil
		}
		return fn(l)
	})
}

func (ix *index) damage() []error {
	ix.mu.RLock()
	defer ix.mu.RUnlock()
	var all []error
	for _, name := range slices.Sorted(maps.Keys(ix.damaged)) {
		all = append(all, fmt.Errorf("index object %s: %w", name, ix.damaged[name]))
	}
	return all
}

// forgetAll forgets what is known here and in the cache.
func (ix *index) forgetAll() error {
	if err := ix.reset(); err != nil {
		return err
	}
	if err := os.Remove(filepath.Join(ix.dir, baseName)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// distrust forgets a base that an earlier process left, once: it may be damaged, and the store is not.
func (ix *index) distrust() (bool, error) {
	ix.mu.RLock()
	cached := ix.cached
	ix.mu.RUnlock()
	if !cached {
		return false, nil
	}
	return true, ix.forgetAll()
}

// knows reports whether the object was read, or found damaged.
func (ix *index) knows(name string) bool {
	ix.mu.RLock()
	defer ix.mu.RUnlock()
	return ix.loaded[name] || ix.damaged[name] != nil
}

func (ix *index) note(name string, err error) {
	ix.mu.Lock()
	defer ix.mu.Unlock()
	ix.damaged[name] = err
}

// names returns what is known. Taken before a listing, since what this process adds while it lists may be missing
// in it.
func (ix *index) names() []string {
	ix.mu.RLock()
	defer ix.mu.RUnlock()
	names := make([]string, 0, len(ix.loaded))
	for n := range ix.loaded {
		names = append(names, n)
	}
	return names
}

func within(names []string, listed map[string]bool) bool {
	for _, n := range names {
		if !listed[n] {
			return false
		}
	}
	return true
}

// openCache takes over the base file that an earlier process left, once.
func (ix *index) openCache() error {
	ix.mu.Lock()
	defer ix.mu.Unlock()
	if ix.base != nil || len(ix.loaded) > 0 || ix.temp {
		return nil
	}
	base, names, err := openBase(ix.dir)
	if err != nil {
		return nil // a cache that cannot be read is rebuilt: it holds nothing that the store does not
	}
	ix.base, ix.loaded, ix.cached = base, names, true
	return nil
}

// save keeps what was learned for the next process, where there is much of it.
func (ix *index) save() error {
	ix.mu.Lock()
	defer ix.mu.Unlock()
	entries := ix.base.count()
	if ix.temp || int64(len(ix.recent)) < max(maxRecent/8, entries/basePerRecent) && int64(ix.unsaved) < max(maxUnsaved, entries/basePerUnsaved) {
		return nil
	}
	return ix.mergeLocked()
}
