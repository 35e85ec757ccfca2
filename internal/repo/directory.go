package repo

import (
	"context"
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/seal"
	"github.com/holdfast-dr/holdfast/internal/store"
)

// readDirectory reads what a pack of size bytes says of itself: all that an index object says of it.
func (r *Repository) readDirectory(ctx context.Context, k packKey, size int64) (*packRef, []chunkPlace, error) {
	return r.directory(k, size, func(at int64, dst []byte) error { return r.store.GetRange(ctx, k.name(), at, dst) })
}

// directory is readDirectory of a pack whose bytes get gives.
func (r *Repository) directory(k packKey, size int64, get func(at int64, dst []byte) error) (*packRef, []chunkPlace, error) {
	name := k.name()
	damaged := func(at int64, reason string) error { return &seal.DamagedError{Name: name, Offset: at, Reason: reason} }
	if size < packFrame || size > maxPack {
		return nil, nil, damaged(0, fmt.Sprintf("%d bytes are no pack", size))
	}
	head := make([]byte, seal.HeaderSize)
	if err := get(0, head); err != nil {
		return nil, nil, err
	}
	h, err := seal.ParseHeader(name, head)
	if err != nil {
		return nil, nil, err
	}
	if h.Kind != seal.KindPack {
		return nil, nil, damaged(4, fmt.Sprintf("it is of kind %d", h.Kind))
	}
	trailer := make([]byte, packTrailerSize)
	if err := get(size-packTrailerSize, trailer); err != nil {
		return nil, nil, err
	}
	n := int64(binary.LittleEndian.Uint32(trailer))
	limit := size - packTrailerSize - n
	if string(trailer[4:]) != packTrailerMagic || n < seal.Overhead || limit < seal.HeaderSize {
		return nil, nil, damaged(size-packTrailerSize, "its trailer is not that of a pack")
	}
	sealed := make([]byte, n)
	if err := get(limit, sealed); err != nil {
		return nil, nil, err
	}
	o, err := r.keys.Object(h, name)
	if err != nil {
		return nil, nil, err
	}
	plain, err := o.Open(sealed[:0], sealed, limit+seal.Directory)
	if err != nil {
		return nil, nil, err
	}
	places, err := parseDirectory(name, plain, limit)
	return &packRef{group: k.group, id: k.id, header: h, size: uint32(size)}, places, err
}

// recoverIndex adds what packs say of themselves that no readable index object names, where index objects are
// damaged: a reader then finds everything all the same, only later. It reports whether there was anything to do.
func (r *Repository) recoverIndex(ctx context.Context) (again bool, err error) {
	if !r.index.beginRecovery() {
		return false, nil
	}
	defer func() {
		if err != nil {
			r.index.endRecovery() // the next one who misses a chunk tries it again
		}
	}()
	packs, err := r.listPacks(ctx)
	if err != nil {
		return false, err
	}
	for _, p := range r.index.packs() {
		delete(packs, packKey{p.group, p.id})
	}
	for _, k := range sortedPacks(packs) {
		ref, places, err := r.readDirectory(ctx, k, packs[k])
		if err != nil && !lost(err) {
			return false, err
		}
		if err == nil {
			var d indexData
			d.add(ref, places)
			r.index.lend(&d)
		}
	}
	return true, nil
}

// RepairReport says what RebuildIndex did.
type RepairReport struct {
	Objects  []string `json:"objects"`  // index objects that were written anew
	Packs    int      `json:"packs"`    // whose directories were read, since no index object named them
	Dropped  []string `json:"dropped"`  // packs that are missing or cut off: what they held is stored again by the next snapshots
	Problems []string `json:"problems"` // packs whose directories cannot be read
}

// RebuildIndex makes every index object readable again: what a damaged or missing one named is taken from the
// packs' own directories, and packs that are gone are no longer named, so that later snapshots store their chunks
// again. It may run beside writers and collections.
func (r *Repository) RebuildIndex(ctx context.Context) (*RepairReport, error) {
	report := &RepairReport{}
	v, err := r.readSoundView(ctx)
	if err != nil {
		return report, err
	}
	names, err := r.indexNames(ctx, v)
	if err != nil {
		return report, err
	}
	packs, err := r.listPacks(ctx)
	if err != nil {
		return report, err
	}
	unnamed, err := r.withoutDoomed(ctx, v, packs)
	if err != nil {
		return report, err
	}
	write := map[string]*indexData{}
	for _, name := range sorted(names) {
		d, err := r.readIndex(ctx, name)
		switch {
		case err != nil && lost(err):
			write[name] = &indexData{}
			continue
		case err != nil:
			return report, err
		}
		whole := d.only(func(p *packRef) bool {
			delete(unnamed, packKey{p.group, p.id})
			return packs[packKey{p.group, p.id}] == int64(p.size)
		})
		if len(whole.packs) < len(d.packs) {
			for _, p := range d.packs {
				if packs[packKey{p.group, p.id}] != int64(p.size) {
					report.Dropped = append(report.Dropped, p.name())
				}
			}
			write[name] = whole
		}
	}
	if len(write) == 0 && len(unnamed) == 0 {
		return report, nil
	}
	return report, r.writeRepaired(ctx, v, unnamed, write, report)
}

// withoutDoomed returns the packs that the last finished collection is not about to delete. Where its end is lost, the
// collection that repairs this does not rely on any of its packs.
func (r *Repository) withoutDoomed(ctx context.Context, v *view, packs map[packKey]int64) (map[packKey]int64, error) {
	left := make(map[packKey]int64, len(packs))
	for k, size := range packs {
		left[k] = size
	}
	if v.done == 0 || v.repairs {
		return left, nil
	}
	var p published
	var d done
	if err := r.readJSON(ctx, seal.KindCollection, doneName(v.done), &d); err != nil {
		return nil, err
	}
	if d.All {
		return left, nil // the list of condemned packs may be damaged: nobody deletes any of them
	}
	if err := r.readJSON(ctx, seal.KindCollection, collectionName(v.done), &p); err != nil {
		return nil, err
	}
	for _, k := range d.doomed(&p) {
		delete(left, k)
	}
	return left, nil
}

func (r *Repository) writeRepaired(ctx context.Context, v *view, unnamed map[packKey]int64, write map[string]*indexData, report *RepairReport) error {
	for _, k := range sortedPacks(unnamed) {
		ref, places, err := r.readDirectory(ctx, k, unnamed[k])
		if err != nil {
			if !lost(err) {
				return err
			}
			report.Problems = append(report.Problems, err.Error())
			continue
		}
		if into := repairTarget(write, k.group, v, v.condemned[k.id]); into != nil {
			report.Packs++
			into.add(ref, places)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(write)) {
		if err := r.writeIndexObject(ctx, name, write[name]); err != nil {
			return dr.Advise(err, "run it again")
		}
		report.Objects = append(report.Objects, name)
	}
	// What this process has in memory and in its cache is older than what was written.
	return r.index.forgetAll()
}

// repairTarget returns the index object of the group that takes a pack: a damaged one of its own, or a new one. A new
// one has the generation that a writer of this moment would use, so that it ceases to count with the next collection.
// A pack that the collection under way has condemned is taken by objects that cease to count with that one, or by
// none: one that counts longer would name it when it is deleted.
func repairTarget(write map[string]*indexData, g ResidencyGroup, v *view, condemned bool) *indexData {
	for _, name := range slices.Sorted(maps.Keys(write)) {
		group, generation, ok := parseIndexName(name)
		if ok && group == g && (!condemned || strings.HasPrefix(name, prefixBase) || generation < v.highest) {
			return write[name]
		}
	}
	if condemned {
		return nil
	}
	d := &indexData{}
	write[newIndexName(prefixIndex, g, v.highest)] = d
	return d
}

func (r *Repository) listPacks(ctx context.Context) (map[packKey]int64, error) {
	packs := map[packKey]int64{}
	err := r.store.List(ctx, prefixPacks, "", func(i store.Info) error {
		if g, id, ok := parsePackName(i.Name); ok {
			packs[packKey{g, id}] = i.Size
		}
		return nil
	})
	return packs, err
}

// IndexDamage returns the index objects that could not be read, after the index was used. Snapshots stay readable.
func (r *Repository) IndexDamage() []error { return r.index.damage() }
