package repo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/holdfast-dr/holdfast/internal/seal"
	"github.com/holdfast-dr/holdfast/internal/store"
)

// earlier is a store that keeps versions, for whoever reads. What a name stands for now may have been put there by a thief, who
// can replace and hide, but not make, what is sealed under that name: where it does not prove to be that, or is not there
// although nothing ever removes it, the newest version that does is taken.
type earlier struct {
	store.Store
	vault store.Vault
	r     *Repository

	mu     sync.Mutex // guards pinned
	pinned map[string]store.Version
}

// sealedKinds are what objects are sealed as, by the beginning of their names.
var sealedKinds = map[string]seal.Kind{
	prefixPacks: seal.KindPack, prefixIndex: seal.KindIndex, prefixBase: seal.KindIndex, prefixSnapshots: seal.KindSnapshot,
	prefixSystems: seal.KindSystem, prefixIntents: seal.KindIntent, prefixCollect: seal.KindCollection, prefixGraves: seal.KindCollection,
	prefixLog: seal.KindLogExtent, prefixLogFiles: seal.KindLogFile, prefixMarks: seal.KindMark, prefixSummaries: seal.KindSummary,
	prefixSigners: seal.KindSigner, prefixPlaces: seal.KindPlace, prefixRolls: seal.KindRoll,
	prefixEvidence: seal.KindEvidence,
}

func sealedAs(name string) (seal.Kind, bool) {
	if name == replicaName || name == lockedName || name == scrubName {
		return seal.KindReplica, true
	}
	prefix, _, _ := strings.Cut(name, "/")
	kind, ok := sealedKinds[prefix+"/"]
	return kind, ok
}

// stays tells whether an object that was listed, or is named by another, is never removed while somebody may ask for it; or
// whether, where it was removed, no decision hangs on that. Whoever decides by what is gone must see that it is.
func stays(name string) bool {
	if name == markerName || name == lockedName {
		return true
	}
	for _, p := range []string{prefixSystems, prefixSigners, prefixPlaces, prefixLogFiles, prefixLog, prefixEvidence} {
		if strings.HasPrefix(name, p) {
			return true
		}
	}
	return false
}

// authentic tells whether bytes are what was stored under a name at some time, by somebody who holds the keys.
func (r *Repository) authentic(name string, b []byte) bool {
	if name == markerName {
		var m marker
		return json.Unmarshal(b, &m) == nil && m.ID == r.id && m.Format == markerFormat && m.Version == FormatVersion
	}
	if strings.HasPrefix(name, prefixEpochs) {
		o, ok := parseEpoch(b)
		return ok && genuine(r.keys, name, o)
	}
	if strings.HasPrefix(name, prefixKeys) {
		s, err := seal.ParseSlot(b)
		return err == nil && r.keys.Authentic(s)
	}
	kind, ok := sealedAs(name)
	if !ok {
		return true // of nobody's making: nothing is known of it
	}
	if g, id, ok := parsePackName(name); kind == seal.KindPack {
		if !ok {
			return false
		}
		_, _, err := r.openPack(packKey{g, id}, b)
		return err == nil
	}
	// What opens it works in place.
	_, err := r.keys.OpenWhole(kind, name, append([]byte(nil), b...))
	return err == nil || errors.Is(err, seal.ErrUnknownEpoch)
}

// pin returns the version that is read instead of what is there now.
func (e *earlier) pin(name string) (store.Version, bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	v, ok := e.pinned[name]
	return v, ok
}

// find looks for the version that counts, and reads that from now on.
func (e *earlier) find(ctx context.Context, name string) ([]byte, error) {
	all, err := store.VersionsOf(ctx, e.vault, name)
	if err != nil {
		return nil, err
	}
	v, b, err := e.choose(ctx, all)
	if err != nil {
		return nil, err
	}
	if v.Name == "" {
		return nil, fmt.Errorf("none of %d versions of %s is what was stored: %w", len(all), name, store.ErrNotExist)
	}
	e.mu.Lock()
	e.pinned[name] = v
	e.mu.Unlock()
	return b, nil
}

// choose returns which of the versions of a name counts, with its bytes; one without a name where none does. That is the newest that is
// authentic. Epochs and slots are only in part under what proves them: there a thief can change the rest of one that is there, and
// so the oldest counts of those that have the same proof.
func (e *earlier) choose(ctx context.Context, all []store.Version) (chosen store.Version, body []byte, err error) {
	plain := len(all) > 0 && isPlain(all[0].Name)
	if plain {
		all = slices.Clone(all)
		slices.Reverse(all)
	}
	proofs := map[string]bool{}
	for _, v := range all {
		if v.Deleted {
			continue
		}
		b, err := store.Whole(ctx, e.vault, v, maxIndexObject)
		switch {
		case err != nil && !lost(err):
			return store.Version{}, nil, err
		case err != nil || !e.r.authentic(v.Name, b):
		case !plain:
			return v, b, nil
		default:
			if proof := proofOf(v.Name, b); !proofs[proof] {
				proofs[proof], chosen, body = true, v, b
			}
		}
	}
	return chosen, body, nil
}

// isPlain tells whether a name is that of a slot or of an epoch.
func isPlain(name string) bool {
	return strings.HasPrefix(name, prefixKeys) || strings.HasPrefix(name, prefixEpochs)
}

// proofOf returns what of an authentic slot or epoch only somebody with the keys can make.
func proofOf(name string, b []byte) string {
	if strings.HasPrefix(name, prefixEpochs) {
		e, _ := parseEpoch(b)
		return e.Check
	}
	s, err := seal.ParseSlot(b)
	if err != nil {
		return ""
	}
	return s.MAC
}

// Get returns the object, or an earlier version where it is not what was stored.
func (e *earlier) Get(ctx context.Context, name string, max int64) ([]byte, error) {
	if v, ok := e.pin(name); ok {
		if b, err := store.Whole(ctx, e.vault, v, max); err == nil {
			return b, nil
		}
	}
	b, err := e.Store.Get(ctx, name, max)
	switch {
	case err == nil && e.r.authentic(name, b):
		return b, nil
	case err != nil && !e.replaceable(name, err):
		return nil, err
	}
	if b, findErr := e.find(ctx, name); findErr == nil && int64(len(b)) <= max {
		return b, nil
	}
	return b, err
}

// replaceable tells whether an error is one that an earlier version may not have.
func (e *earlier) replaceable(name string, err error) bool {
	return store.KindOf(err) == store.Damaged || errors.Is(err, store.ErrNotExist) && stays(name)
}

// GetRange is Get of a part, of which nobody can tell here whether it is authentic: see doubt.
func (e *earlier) GetRange(ctx context.Context, name string, off int64, dst []byte) error {
	if v, ok := e.pin(name); ok {
		if e.vault.GetVersion(ctx, v, off, dst) == nil {
			return nil
		}
	}
	err := e.Store.GetRange(ctx, name, off, dst)
	if err == nil || !e.replaceable(name, err) {
		return err
	}
	if b, findErr := e.find(ctx, name); findErr == nil && off >= 0 && off+int64(len(dst)) <= int64(len(b)) {
		copy(dst, b[off:])
		return nil
	}
	return err
}

// doubt is called when a pack's bytes are not what they must be, or it is not there. It reports whether there is an earlier version that
// is, which from now on is read.
func (e *earlier) doubt(ctx context.Context, cause error) bool {
	var ce *ChunkError
	if e == nil || ctx.Err() != nil || !errors.As(cause, &ce) || !lost(ce.Err) {
		return false
	}
	if _, _, ok := parsePackName(ce.Pack); !ok {
		return false
	}
	_, pinned := e.pin(ce.Pack)
	if !pinned {
		_, err := e.find(ctx, ce.Pack)
		pinned = err == nil
	}
	return pinned
}

// Put implements store.Store: what we write is what we read. So do the others.
func (e *earlier) Put(ctx context.Context, name string, body []byte) error {
	e.forget(name)
	return e.Store.Put(ctx, name, body)
}

// Create implements store.Store.
func (e *earlier) Create(ctx context.Context, name string, body []byte) error {
	e.forget(name)
	return e.Store.Create(ctx, name, body)
}

// Delete implements store.Store.
func (e *earlier) Delete(ctx context.Context, name string) error {
	e.forget(name)
	return e.Store.Delete(ctx, name)
}

// forget lets a name be read as it stands now.
func (e *earlier) forget(name string) {
	if e == nil {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.pinned, name)
}

// genesis is a store in which each name has what was first put there, also where it was deleted since: nobody who comes later
// changes that. It is for what opens a repository, before there are keys that could prove anything.
type genesis struct {
	store.Store
	vault store.Vault
}

func (g genesis) Get(ctx context.Context, name string, max int64) ([]byte, error) {
	all, err := store.VersionsOf(ctx, g.vault, name)
	if err != nil {
		return nil, err
	}
	for i := len(all) - 1; i >= 0; i-- {
		if !all[i].Deleted {
			return store.Whole(ctx, g.vault, all[i], max)
		}
	}
	return nil, &store.Error{Op: "get", Name: name, Store: g.String(), Kind: store.Gone, Err: store.ErrNotExist}
}

func (g genesis) List(ctx context.Context, prefix, after string, fn func(store.Info) error) error {
	name := ""
	return g.vault.Versions(ctx, prefix, after, func(v store.Version) error {
		if v.Name == name || v.Deleted {
			return nil
		}
		name = v.Name
		return fn(store.Info{Name: name, Size: v.Size})
	})
}
