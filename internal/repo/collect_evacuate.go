package repo

import (
	"context"
	"errors"
	"maps"
)

// copyLate copies what snapshots need of the condemned packs that were committed after the publication was prepared.
func (c *collector) copyLate(ctx context.Context, p *published) ([]string, error) {
	late, err := c.late(ctx, p)
	if err != nil || len(late) == 0 {
		return nil, err
	}
	names, err := c.countingFor(ctx, p.Number)
	if err != nil {
		return nil, err
	}
	copies, _, err := c.evacuate(ctx, p, sorted(names), late)
	return copies, err
}

// evacuate copies the chunks that snapshots need and that lie in condemned packs alone, as the index objects called
// names say, and returns the index objects of the copies. A pack that cannot be read, or vanishes, is tried last; what
// is nowhere else is reported as lost. gone are snapshots that were not there any more.
func (c *collector) evacuate(ctx context.Context, p *published, names, snapshots []string) (copies, gone []string, err error) {
	c.progress("copying what snapshots need of the condemned packs")
	condemned, bad := map[PackID]bool{}, map[PackID]bool{}
	for id := range doomed(p.Condemned, nil) {
		condemned[id] = true
	}
	for {
		private, err := c.r.privateIndex(ctx, names, bad, condemned)
		if err != nil {
			return nil, nil, err
		}
		e := evacuation{condemned: condemned, failed: map[PackID]bool{}}
		err = errors.Join(e.run(ctx, c, private, snapshots, p.Number), private.Close())
		if err != nil {
			return nil, nil, err
		}
		gone = append(gone, e.gone...)
		known := len(bad)
		maps.Copy(bad, e.failed)
		if len(bad) == known {
			c.report.Problems = append(c.report.Problems, e.problems...)
			return e.copies, gone, nil
		}
		if err := c.discard(ctx, e.copies); err != nil {
			return nil, nil, err
		}
	}
}

// evacuation is one try of evacuate.
type evacuation struct {
	condemned map[PackID]bool
	failed    map[PackID]bool
	problems  []string
	copies    []string
	gone      []string // snapshots
}

func (e *evacuation) run(ctx context.Context, c *collector, private *Repository, snapshots []string, number uint32) error {
	m, n, err := private.mark(ctx, snapshots)
	if err != nil && unreadable(err) {
		e.problems = append(e.problems, err.Error()) // nobody knows what it needs: everything is copied
		m, err = private.everything(), nil
	}
	if err != nil {
		return err
	}
	c.report.Snapshots, e.gone = max(c.report.Snapshots, n), m.gone
	places, refs := map[packKey][]metaPlace{}, map[packKey]*packRef{}
	err = m.each(func(l location, meta bool) error {
		if k := (packKey{l.pack.group, l.pack.id}); e.condemned[k.id] {
			places[k], refs[k] = append(places[k], metaPlace{l.chunkPlace, meta}), l.pack
		}
		return nil
	})
	if err != nil {
		return err
	}
	w := c.newRewriter(m, number)
	for _, k := range sortedPacks(refs) {
		err := w.pack(ctx, refs[k], places[k], func(_ metaPlace, err error) error {
			if !unreadable(err) {
				return err
			}
			e.failed[k.id] = true
			e.problems = append(e.problems, "lost: "+err.Error())
			return nil
		})
		if err != nil {
			return err
		}
	}
	e.copies, err = w.finish(ctx)
	return err
}

// unreadable reports whether err says that something is damaged or gone, so that repeating is useless.
func unreadable(err error) bool {
	var ce *ChunkError
	return lost(err) || errors.As(err, &ce) && ce.Err == nil
}
