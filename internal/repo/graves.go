package repo

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/holdfast-dr/holdfast/internal/seal"
	"github.com/holdfast-dr/holdfast/internal/store"
)

// A copier gives a pack the name that it has in the other replica. So a name may come back here that a collection has
// deleted, and a collector that was paused in the middle of its deletions would delete it again, under the snapshots that
// need it by then. Two lists tell which names must never come back: the newest collection condemns whatever earlier ones have
// left to delete, and graves/<n> has what was deleted up to collection n.

// grave is the content of graves/<n>.
type grave struct {
	Packs []string `json:"packs"` // as group/id
}

func graveName(n uint32) string { return fmt.Sprintf("%s%08x", prefixGraves, n) }

// bury notes packs before collection n deletes them, with all that earlier ones have deleted.
func (c *collector) bury(ctx context.Context, n uint32, dead map[PackID]packKey) error {
	if len(dead) == 0 {
		return nil
	}
	names, packs, err := c.r.graves(ctx)
	if err != nil {
		return err
	}
	for id, k := range dead {
		packs[id] = k
	}
	g := grave{Packs: make([]string, 0, len(packs))}
	all := map[packKey]bool{}
	for _, k := range packs {
		all[k] = true
	}
	for _, k := range sortedPacks(all) {
		g.Packs = append(g.Packs, k.String())
	}
	body, err := c.r.sealJSON(seal.KindCollection, graveName(n), g)
	if err != nil {
		return err
	}
	if err := c.r.store.Put(ctx, graveName(n), body); err != nil {
		return err
	}
	for _, name := range names {
		// Those of others that come later, of this collection or an earlier one, stay until the next.
		if name < graveName(n) {
			if err := c.r.store.Delete(ctx, name); err != nil {
				return err
			}
		}
	}
	return nil
}

// graves returns the packs that collections have deleted, and the objects that say so.
func (r *Repository) graves(ctx context.Context) (names []string, packs map[PackID]packKey, err error) {
	err = r.store.List(ctx, prefixGraves, "", func(i store.Info) error {
		if n, err := strconv.ParseUint(strings.TrimPrefix(i.Name, prefixGraves), 16, 32); err == nil && graveName(uint32(n)) == i.Name {
			names = append(names, i.Name)
		}
		return nil
	})
	if err != nil {
		return nil, nil, err
	}
	packs = map[PackID]packKey{}
	for _, name := range names {
		var g grave
		err := r.readJSON(ctx, seal.KindCollection, name, &g)
		if errors.Is(err, store.ErrNotExist) {
			return r.graves(ctx) // a later one has it all
		}
		if err != nil {
			return nil, nil, err
		}
		for id, k := range doomed(g.Packs, nil) {
			packs[id] = k
		}
	}
	return names, packs, nil
}

// spent returns the packs whose names must not come back: whatever the newest collection condemned, and what is deleted.
func (r *Repository) spent(ctx context.Context) (map[PackID]packKey, error) {
	highest, _, _, err := r.numbers(ctx)
	if err != nil {
		return nil, err
	}
	_, packs, err := r.graves(ctx)
	if err != nil || highest == 0 {
		return packs, err
	}
	var p published
	if err := r.readJSON(ctx, seal.KindCollection, collectionName(highest), &p); err != nil {
		return nil, err
	}
	for id, k := range doomed(p.Condemned, nil) {
		packs[id] = k
	}
	return packs, nil
}
