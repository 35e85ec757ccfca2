package repo

import (
	"context"
	"errors"
	"fmt"
	"maps"

	"github.com/holdfast-dr/holdfast/internal/seal"
	"github.com/holdfast-dr/holdfast/internal/store"
)

// A copier gives a pack the name that it has in the other replica. So a name may come back here that a collection has
// deleted, and a collector that was paused in the middle of its deletions would delete it again, under the snapshots that
// need it by then. Two lists tell which names must never come back: the newest collection condemns whatever earlier ones have
// left to delete, and graves/<n>-<random> has what was deleted up to collection n.

// grave is the content of graves/<n>-<random>.
type grave struct {
	Packs []string `json:"packs"` // as group/id
}

// A name is never used twice: one that is damaged must not look whole again.
func newGraveName(n uint32) string { return fmt.Sprintf("%s%08x-%s", prefixGraves, n, randomHex(4)) }

// bury notes packs before collection n deletes them, with all that is noted already.
func (c *collector) bury(ctx context.Context, n uint32, dead map[PackID]packKey) error {
	if len(dead) == 0 {
		return nil
	}
	before, err := c.r.graves(ctx)
	if err != nil {
		return err
	}
	known := len(before.packs)
	if maps.Copy(before.packs, dead); len(before.packs) == known && len(before.names) == 1 {
		return nil // another collector was here
	}
	all := map[packKey]bool{}
	for _, k := range before.packs {
		all[k] = true
	}
	var g grave
	for _, k := range sortedPacks(all) {
		g.Packs = append(g.Packs, k.String())
	}
	name := newGraveName(n)
	body, err := c.r.sealJSON(seal.KindCollection, name, g)
	if err != nil {
		return err
	}
	if err := c.r.store.Put(ctx, name, body); err != nil {
		return err
	}
	for _, name := range before.names {
		if err := c.r.store.Delete(ctx, name); err != nil {
			return err
		}
	}
	return nil
}

// graveyard is what collections have deleted.
type graveyard struct {
	packs   map[PackID]packKey
	names   []string // the objects that say so, as far as they can be read
	damaged bool     // an object cannot be read: others may have been deleted too
}

func (r *Repository) graves(ctx context.Context) (*graveyard, error) {
	var listed []string
	err := r.store.List(ctx, prefixGraves, "", func(i store.Info) error {
		listed = append(listed, i.Name)
		return nil
	})
	if err != nil {
		return nil, err
	}
	y := &graveyard{packs: map[PackID]packKey{}}
	for _, name := range listed {
		var g grave
		err := r.readJSON(ctx, seal.KindCollection, name, &g)
		switch {
		case errors.Is(err, store.ErrNotExist):
			return r.graves(ctx) // a later one has it all
		case err != nil && lost(err):
			y.damaged = true // it stays, so that this is not forgotten
			continue
		case err != nil:
			return nil, err
		}
		y.names = append(y.names, name)
		maps.Copy(y.packs, doomed(g.Packs, nil))
	}
	return y, nil
}

// spent returns the packs whose names must not come back: whatever the newest collection condemned, and what is deleted. Where
// an object that says so is damaged, nobody knows them all.
func (r *Repository) spent(ctx context.Context) (*graveyard, error) {
	highest, _, _, err := r.numbers(ctx)
	if err != nil {
		return nil, err
	}
	y, err := r.graves(ctx)
	if err != nil || highest == 0 {
		return y, err
	}
	var p published
	if err = r.readJSON(ctx, seal.KindCollection, collectionName(highest), &p); err != nil && lost(err) {
		y.damaged, err = true, nil
	}
	maps.Copy(y.packs, doomed(p.Condemned, nil))
	return y, err
}
