package repo

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/seal"
	"github.com/holdfast-dr/holdfast/internal/store"
)

// Collections are numbered 1, 2, 3 …; number n+1 begins when n is done. Three objects describe one
// (docs/format/repository-v1.md, section 9), each created exclusively, so that of several collectors that work
// on one collection, one decides and the others follow:
//
//	collections/<n>        what is condemned: published
//	collections/<n>.waits  the intents that were there after the publication: whom the collection waits for
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
}

// waits is the content of collections/<n>.waits.
type waits struct {
	Intents []string `json:"intents"`
}

// done is the content of collections/<n>.done.
type done struct {
	Index   []string `json:"index"`   // the index objects that replace all of lower generations
	Rescued []string `json:"rescued"` // condemned packs that stay after all, as group/id
}

func collectionName(n uint32) string { return fmt.Sprintf("%s%08x", prefixCollect, n) }
func waitsName(n uint32) string      { return collectionName(n) + ".waits" }
func doneName(n uint32) string       { return collectionName(n) + ".done" }

// packKey names a pack.
type packKey struct {
	group ResidencyGroup
	id    PackID
}

func (k packKey) String() string { return string(k.group) + "/" + k.id.String() }
func (k packKey) name() string   { return packName(k.group, k.id) }

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
	condemned map[PackID]bool // by collections that are published and not done
	known     map[string]bool // index objects that the collection under way keeps; nil where none is
	named     []string        // index objects that count by their name: of the last done, and prepared ones
	damaged   error           // an object of the collections cannot be read: every index object counts, for readers only
}

// same reports whether two views are of one state of the collections.
func (v *view) same(w *view) bool {
	return w != nil && v.highest == w.highest && v.done == w.done
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
		case "":
			highest = max(highest, uint32(n))
		case "done":
			finished = max(finished, uint32(n))
		}
		return nil
	})
	return max(highest, finished), finished, all, err
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
		return v, nil
	}
}

// collectionDamaged says what to do where the newest object of the collections cannot be read. It is not made anew from
// what else is there: only it says which of the condemned packs were rescued. A collector that is late may still delete
// the others, and whoever took one of them for good would refer to what is about to vanish.
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
		Next: fmt.Sprintf("copy %s from another replica or an older version of the bucket: its bytes are the same everywhere, and never change. "+
			"Where there is none, keep this repository for its snapshots, and make a new one for those to come: holdfast repo init", object),
		Err: err,
	}
}

func (r *Repository) tryView(ctx context.Context) (*view, error) {
	v := &view{condemned: map[PackID]bool{}}
	var err error
	if v.highest, v.done, _, err = r.numbers(ctx); err != nil {
		return v, err
	}
	if v.done > 0 {
		var d done
		if err := r.readJSON(ctx, seal.KindCollection, doneName(v.done), &d); err != nil {
			return v, err
		}
		v.named = append(v.named, d.Index...)
	}
	if v.highest > v.done {
		var p published
		if err := r.readJSON(ctx, seal.KindCollection, collectionName(v.highest), &p); err != nil {
			return v, err
		}
		v.named = append(v.named, p.Prepared...)
		v.known = map[string]bool{}
		for _, n := range append(p.Known, p.Prepared...) {
			v.known[n] = true
		}
		for _, s := range p.Condemned {
			if k, ok := parsePackKey(s); ok {
				v.condemned[k.id] = true
			}
		}
	}
	return v, nil
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
			if _, generation, ok := parseIndexName(i.Name); ok && (generation >= v.done || v.damaged != nil) {
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
