package repo

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/seal"
	"github.com/holdfast-dr/holdfast/internal/store"
)

// Collections are numbered 1, 2, 3 …; number n+1 begins when n is done. Four objects describe one
// (docs/format/repository-v1.md, section 9), each created exclusively, so that of several collectors that work on one
// collection, one decides and the others follow:
//
//	collections/<n>        what is condemned: published
//	collections/<n>.waits  the intents that were there after the publication: whom the collection waits for
//	collections/<n>.ending somebody is about to create the next: where that is not there, it may have been lost
//	collections/<n>.done   the index without what is doomed: from now on nobody finds it, and it is deleted
//
// The number is also the generation of index objects. A writer puts its own under the highest number that was
// published when it began; when a later collection is done, those of lower generations count no more. So an
// index object that arrives late, from a writer that was aborted or a collector that was taken over, names
// deleted packs to nobody.

// published is the content of collections/<n>.
type published struct {
	Number     uint32    `json:"number"`
	Host       string    `json:"host,omitempty"`
	At         time.Time `json:"at"`
	Condemned  []string  `json:"condemned"`  // packs, as group/id
	Known      []string  `json:"known"`      // index objects that were read; the new index has what they name
	Prepared   []string  `json:"prepared"`   // index objects of the packs into which chunks were copied
	Considered []string  `json:"considered"` // snapshot objects that were marked, and tombstones
	// Repairs says that the collection takes the place of one whose end nobody knows: which of the condemned packs
	// that one keeps is unknown, so none is rescued. What later snapshots need of them is copied.
	Repairs bool `json:"repairs,omitempty"`
}

// waits is the content of collections/<n>.waits.
type waits struct {
	Intents []string `json:"intents"`
}

// done is the content of collections/<n>.done.
type done struct {
	Index   []string `json:"index"`         // the index objects that replace all of lower generations
	Rescued []string `json:"rescued"`       // condemned packs that stay after all, as group/id
	All     bool     `json:"all,omitempty"` // every condemned pack stays: the list of them was lost
}

// doomed returns the packs that are deleted when d has ended p.
func (d *done) doomed(p *published) map[PackID]packKey {
	if d.All {
		return nil
	}
	return doomed(p.Condemned, d.Rescued)
}

func collectionName(n uint32) string { return fmt.Sprintf("%s%08x", prefixCollect, n) }
func waitsName(n uint32) string      { return collectionName(n) + ".waits" }
func endingName(n uint32) string     { return collectionName(n) + ".ending" }
func doneName(n uint32) string       { return collectionName(n) + ".done" }

// packKey names a pack.
type packKey struct {
	group ResidencyGroup
	id    PackID
}

func (k packKey) String() string { return string(k.group) + "/" + k.id.String() }
func (k packKey) name() string   { return packName(k.group, k.id) }

// sortedPacks returns the keys in one order: what is done with packs can be repeated.
func sortedPacks[V any](packs map[packKey]V) []packKey {
	return slices.SortedFunc(maps.Keys(packs), func(a, b packKey) int { return cmp.Compare(a.String(), b.String()) })
}

func parsePackKey(s string) (packKey, bool) {
	group, id, found := strings.Cut(s, "/")
	if !found || len(id) != 32 {
		return packKey{}, false
	}
	g, pack, ok := parsePackName(prefixPacks + group + "/" + id[:2] + "/" + id)
	return packKey{g, pack}, ok
}

// An index object's name says its group and its generation.
func newIndexName(prefix string, g ResidencyGroup, generation uint32) string {
	return fmt.Sprintf("%s%s/%08x-%s", prefix, g, generation, randomHex(16))
}

func parseIndexName(name string) (g ResidencyGroup, generation uint32, ok bool) {
	parts := strings.Split(name, "/")
	if len(parts) != 3 || len(parts[2]) != 8+1+32 || parts[2][8] != '-' {
		return "", 0, false
	}
	n, err := strconv.ParseUint(parts[2][:8], 16, 32)
	return ResidencyGroup(parts[1]), uint32(n), err == nil
}

// view is what the collections' objects say at one moment.
type view struct {
	highest   uint32          // published
	done      uint32          // at most highest
	condemned map[PackID]bool // by the collection that is published and not done, or that has the damaged end
	repairs   bool            // the collection under way takes the place of one whose end nobody knows
	doubt     bool            // somebody was about to end the collection under way: the object that says so may be lost
	known     map[string]bool // index objects that the collection under way keeps; nil where none is
	// considered are the snapshot objects that the collection under way has marked.
	considered []string
	named      []string // index objects that count by their name: of the last done, and known and prepared ones
	damaged    error    // an object of the collections cannot be read: all that may count does, for readers only
}

// same reports whether two views are of one state of the collections.
func (v *view) same(w *view) bool {
	return w != nil && v.highest == w.highest && v.done == w.done
}

// floor is the lowest generation of writers' index objects that count. A collection that is published says that the one
// before it has ended, even where the object that said so was lost since; or that it takes its place, and has what older
// ones name in its own index. They may name packs that are gone.
func (v *view) floor() uint32 {
	if v.highest > v.done {
		return v.highest - 1
	}
	return v.done
}

// viewTries bounds how often a state is read again that changed under our eyes.
const viewTries = 20

// numbers returns the highest published and the highest done number. Both stay for ever, so numbers never repeat.
func (r *Repository) numbers(ctx context.Context) (highest, finished uint32, all []string, err error) {
	err = r.store.List(ctx, prefixCollect, "", func(i store.Info) error {
		base, suffix, _ := strings.Cut(i.Name[len(prefixCollect):], ".")
		n, err := strconv.ParseUint(base, 16, 32)
		if err != nil || len(base) != 8 {
			return nil
		}
		all = append(all, i.Name)
		switch suffix {
		case "", "waits": // where the first was lost, the second shows that there is a collection under way
			highest = max(highest, uint32(n))
		case "done":
			finished = max(finished, uint32(n))
		}
		return nil
	})
	return max(highest, finished), finished, all, err
}

// Collected returns when the last collection was begun, by the clock of whoever did. It is zero where there was none, and where the
// last one has not ended, or cannot be read.
func (r *Repository) Collected(ctx context.Context) (time.Time, error) {
	highest, finished, _, err := r.numbers(ctx)
	if err != nil || highest == 0 || highest != finished {
		return time.Time{}, err
	}
	var p published
	if err := r.readJSON(ctx, seal.KindCollection, collectionName(highest), &p); err != nil && !lost(err) {
		return time.Time{}, err
	}
	return p.At, nil
}

// readSoundView is readView for whoever writes: damaged is an error.
func (r *Repository) readSoundView(ctx context.Context) (*view, error) {
	v, err := r.readView(ctx)
	if err == nil {
		err = v.damaged
	}
	return v, err
}

// readView reads the state of the collections.
func (r *Repository) readView(ctx context.Context) (*view, error) {
	for try := 0; ; try++ {
		v, err := r.tryView(ctx)
		switch {
		case err == nil || !lost(err):
			return v, err
		case errors.Is(err, store.ErrNotExist) && try < viewTries:
			continue // removed since it was listed: there is a newer one
		}
		v.damaged = r.collectionDamaged(v, err)
		v.condemned = map[PackID]bool{}
		var p published
		if r.readJSON(ctx, seal.KindCollection, collectionName(v.highest), &p) == nil {
			v.condemn(p.Condemned)
		}
		return v, nil
	}
}

// collectionDamaged says what to do where the newest object of the collections cannot be read. Only it says which of the
// condemned packs were rescued. A collector that is late may still delete the others, and whoever took one of them for
// good would refer to what is about to vanish: RepairCollection copies what snapshots need of them all.
func (r *Repository) collectionDamaged(v *view, err error) error {
	object := collectionName(v.highest)
	if v.done == v.highest {
		object = doneName(v.done)
	}
	var d *seal.DamagedError
	if errors.As(err, &d) {
		object = d.Name
	}
	return &dr.Failure{
		What:   fmt.Sprintf("nothing can be written to the repository in %s: object %s is damaged", r.store, object),
		Reason: fmt.Sprintf("it says which packs still count after the last collection, and nothing else does (%v); every snapshot can be restored as before", err),
		Next: fmt.Sprintf("holdfast repo check --repair-index; or copy %s from another replica or an older version of the bucket: "+
			"its bytes are the same everywhere, and never change", object),
		Err: err,
	}
}

func (r *Repository) tryView(ctx context.Context) (*view, error) {
	v := &view{condemned: map[PackID]bool{}}
	var err error
	var all []string
	if v.highest, v.done, all, err = r.numbers(ctx); err != nil {
		return v, err
	}
	switch {
	case v.highest > v.done:
		// What was published repeats what the end of the collection before says: that need not be readable any more.
		var p published
		if err := r.readJSON(ctx, seal.KindCollection, collectionName(v.highest), &p); err != nil {
			return v, err
		}
		v.known = map[string]bool{}
		for _, n := range append(p.Known, p.Prepared...) {
			v.known[n] = true
			if strings.HasPrefix(n, prefixBase) {
				v.named = append(v.named, n)
			}
		}
		v.condemn(p.Condemned)
		v.repairs, v.considered = p.Repairs, p.Considered
		v.doubt = slices.Contains(all, endingName(v.highest))
		if v.repairs && v.done+1 == v.highest {
			return v, r.replacedEnd(ctx, v)
		}
	case v.done > 0:
		var d done
		if err := r.readJSON(ctx, seal.KindCollection, doneName(v.done), &d); err != nil {
			return v, err
		}
		v.named = d.Index
	}
	return v, nil
}

// replacedEnd adds what the collection lists that a repair takes the place of, where it has ended after all. It may have done
// so after the repair had looked, and before the repair was published: snapshots may need what only this index names.
func (r *Repository) replacedEnd(ctx context.Context, v *view) error {
	var d done
	err := r.readJSON(ctx, seal.KindCollection, doneName(v.done), &d)
	if err != nil && lost(err) {
		return nil // this is what is repaired
	}
	v.named = append(v.named, d.Index...)
	return err
}

func (v *view) condemn(packs []string) {
	for _, s := range packs {
		if k, ok := parsePackKey(s); ok {
			v.condemned[k.id] = true
		}
	}
}

// indexNames returns the index objects that count in v.
func (r *Repository) indexNames(ctx context.Context, v *view) (map[string]bool, error) {
	names := map[string]bool{}
	prefixes := []string{prefixIndex}
	if v.damaged != nil {
		prefixes = append(prefixes, prefixBase)
	}
	for _, prefix := range prefixes {
		err := r.store.List(ctx, prefix, "", func(i store.Info) error {
			_, generation, ok := parseIndexName(i.Name)
			// Of damaged views the objects in base/ count too, but for those that somebody prepares.
			if ok && (prefix == prefixIndex && generation >= v.floor() || prefix == prefixBase && generation <= v.highest) {
				names[i.Name] = true
			}
			return nil
		})
		if err != nil {
			return nil, fmt.Errorf("list the index: %w", err)
		}
	}
	for _, n := range v.named {
		names[n] = true
	}
	return names, nil
}
