package repo

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/holdfast-dr/holdfast/internal/store"
)

// indexMerger writes the index objects of a finished collection. It holds one object that it reads and one that it
// fills for each group.
type indexMerger struct {
	r      *Repository
	number uint32
	filled map[ResidencyGroup]*indexData
	have   map[PackID]bool
	names  []string
}

// mergeIndex writes the entries of all index objects that are older than p, without those in doomed packs, into
// new ones, and returns the names of all that count from then on. Large ones that lose nothing are kept. copies are
// index objects that count from then on too.
func (c *collector) mergeIndex(ctx context.Context, p *published, copies []string, doomed map[PackID]packKey) ([]string, error) {
	c.progress("merging the index")
	names, err := c.countingFor(ctx, p.Number)
	if err != nil {
		return nil, err
	}
	for _, n := range copies {
		names[n] = true
	}
	return c.merge(ctx, p.Number, names, doomed)
}

// merge is mergeIndex of the index objects called names.
func (c *collector) merge(ctx context.Context, number uint32, names map[string]bool, doomed map[PackID]packKey) ([]string, error) {
	m := newIndexMerger(c.r, number)
	for _, name := range sorted(names) {
		if _, generation, _ := parseIndexName(name); strings.HasPrefix(name, prefixIndex) && generation >= number {
			continue // of a writer that knows this collection: it goes on counting
		}
		d, err := c.r.readIndex(ctx, name)
		if err != nil {
			return nil, err
		}
		if err := m.merge(ctx, name, d, doomed); err != nil {
			return nil, err
		}
	}
	return m.finish(ctx)
}

func newIndexMerger(r *Repository, number uint32) *indexMerger {
	return &indexMerger{r: r, number: number, filled: map[ResidencyGroup]*indexData{}, have: map[PackID]bool{}}
}

// finish writes what is left, and returns the names of all objects.
func (m *indexMerger) finish(ctx context.Context) ([]string, error) {
	for _, g := range slices.Sorted(maps.Keys(m.filled)) {
		if err := m.put(ctx, g); err != nil {
			return nil, err
		}
	}
	return m.names, nil
}

func (m *indexMerger) merge(ctx context.Context, name string, d *indexData, doomed map[PackID]packKey) error {
	stays := d.only(func(p *packRef) bool {
		_, dead := doomed[p.id]
		return !dead && !m.have[p.id]
	})
	for _, p := range stays.packs {
		m.have[p.id] = true
	}
	switch {
	case len(stays.packs) == 0:
		return nil
	case strings.HasPrefix(name, prefixBase) && len(stays.packs) == len(d.packs) && len(d.entries) >= m.r.limits.mergeEntries/2:
		m.names = append(m.names, name)
		return nil
	}
	return m.take(ctx, stays)
}

// take adds packs of one group to what is written.
func (m *indexMerger) take(ctx context.Context, stays *indexData) error {
	g := stays.packs[0].group
	into := m.filled[g]
	if into == nil {
		into = &indexData{}
		m.filled[g] = into
	}
	first := uint32(len(into.packs))
	into.packs = append(into.packs, stays.packs...)
	for _, e := range stays.entries {
		into.entries = append(into.entries, indexEntry{e.chunkPlace, first + e.pack})
	}
	if len(into.entries) >= m.r.limits.mergeEntries {
		return m.put(ctx, g)
	}
	return nil
}

func (m *indexMerger) put(ctx context.Context, g ResidencyGroup) error {
	name := newIndexName(prefixBase, g, m.number)
	if err := m.r.writeIndexObject(ctx, name, m.filled[g]); err != nil {
		return err
	}
	delete(m.filled, g)
	m.names = append(m.names, name)
	return nil
}

// patience remembers since when this process has seen undecided writers. Clocks of other machines play no part.
type patience struct {
	mu    sync.Mutex // guards since
	since map[string]time.Time
}

// longer notes that the intent is seen, and reports whether it has been for as long as limit.
func (p *patience) longer(intent string, limit time.Duration) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.since == nil {
		p.since = map[string]time.Time{}
	}
	first, ok := p.since[intent]
	if !ok {
		first = time.Now()
		p.since[intent] = first
	}
	return time.Since(first) >= limit
}

func (p *patience) forget(intent string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.since, intent)
}

// AbortWriters settles what dead writers of a system left: an undecided intent gets the outcome "aborted". Whoever
// calls it knows that no writer of that system is alive; if one is, its Commit fails with ErrAborted, and nothing
// else happens. Copiers, of which there may be others, are left alone. It returns how many there were.
func (r *Repository) AbortWriters(ctx context.Context, system string) (int, error) {
	prefix := prefixIntents + r.keys.NameHash(system) + "/"
	var ids []SnapshotID
	err := r.store.List(ctx, prefix, "", func(i store.Info) error {
		if id := SnapshotID(i.Name[len(prefix):]); r.intentName(system, id) == i.Name && outcomeOf(i.Name) == r.snapshotName(system, id) {
			ids = append(ids, id)
		}
		return nil
	})
	if err != nil {
		return 0, err
	}
	aborted := 0
	for _, id := range ids {
		name := r.snapshotName(system, id)
		body, err := r.tombstone(name, "aborted")
		if err != nil {
			return aborted, err
		}
		switch err := r.store.Create(ctx, name, body); {
		case err == nil:
			aborted++
			err = r.store.Delete(ctx, r.intentName(system, id))
			if err != nil {
				return aborted, err
			}
		case !errors.Is(err, store.ErrExists):
			return aborted, err
		}
	}
	return aborted, nil
}
