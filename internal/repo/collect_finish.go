package repo

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/holdfast-dr/holdfast/internal/seal"
	"github.com/holdfast-dr/holdfast/internal/store"
)

// finish brings the published collection n to its end, or as far as it can go without waiting; decided is false
// where writers have to be waited for. Everything it does may be done by several collectors at once, and again.
func (c *collector) finish(ctx context.Context, n uint32) (decided bool, err error) {
	c.report.Number = n
	var p published
	if err := c.r.readJSON(ctx, seal.KindCollection, collectionName(n), &p); err != nil {
		if _, damaged := c.r.readSoundView(ctx); damaged != nil {
			return false, damaged // it says what to do
		}
		return false, c.unlessPast(ctx, n, err)
	}
	intents, err := c.waitsOf(ctx, n)
	if err != nil {
		return false, c.unlessPast(ctx, n, err)
	}
	if decided, err = c.await(ctx, intents); err != nil || !decided {
		return false, err
	}
	d, err := c.conclude(ctx, &p)
	if errors.Is(err, errDoubt) {
		return false, err
	}
	if errors.Is(err, errOutrun) {
		return true, nil // a later collection is under way: it finds what we leave
	}
	if err != nil {
		return false, c.unlessPast(ctx, n, err)
	}
	return true, c.sweep(ctx, &p, d, intents)
}

// unlessPast turns an error into nil where n was finished, and its objects removed, under our feet.
func (c *collector) unlessPast(ctx context.Context, n uint32, err error) error {
	if !errors.Is(err, store.ErrNotExist) {
		return err
	}
	_, finished, _, listErr := c.r.numbers(ctx)
	if listErr == nil && finished > n {
		return nil
	}
	return errors.Join(err, listErr)
}

// waitsOf returns the intents that the collection waits for: one listing, made after the publication by whoever
// came first. Later writers know what is condemned.
func (c *collector) waitsOf(ctx context.Context, n uint32) ([]string, error) {
	var w waits
	err := c.r.readJSON(ctx, seal.KindCollection, waitsName(n), &w)
	if err == nil || !lost(err) {
		return w.Intents, err
	}
	damaged := !errors.Is(err, store.ErrNotExist)
	w.Intents = nil
	err = c.r.store.List(ctx, prefixIntents, "", func(i store.Info) error {
		w.Intents = append(w.Intents, i.Name)
		return nil
	})
	if err != nil || damaged {
		return w.Intents, err // every undecided writer of the first listing is in a later one too
	}
	err = c.create(ctx, waitsName(n), w)
	if errors.Is(err, store.ErrExists) {
		return w.Intents, c.r.readJSON(ctx, seal.KindCollection, waitsName(n), &w)
	}
	return w.Intents, err
}

// await settles the intents, waiting as long as it may.
func (c *collector) await(ctx context.Context, intents []string) (bool, error) {
	begin := time.Now()
	for {
		c.report.Pending = nil
		for _, name := range intents {
			if err := c.settle(ctx, name); err != nil {
				return false, err
			}
		}
		left := c.opts.Wait - time.Since(begin)
		if len(c.report.Pending) == 0 || left <= 0 {
			return len(c.report.Pending) == 0, nil
		}
		c.progress(fmt.Sprintf("waiting for %d writers that began earlier", len(c.report.Pending)))
		t := time.NewTimer(min(pollEvery, left))
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return false, ctx.Err()
		}
	}
}

// settle looks at one intent, and aborts its writer where patience has ended.
func (c *collector) settle(ctx context.Context, name string) error {
	snapshot := outcomeOf(name)
	// The intent first: a writer creates the snapshot before it removes the intent.
	intent, err := c.r.exists(ctx, name)
	if err != nil {
		return err
	}
	outcome, err := c.r.exists(ctx, snapshot)
	if err != nil {
		return err
	}
	switch settle(outcome, intent, c.r.seen.longer(name, c.opts.Patience)) {
	case wait:
		c.report.Pending = append(c.report.Pending, c.r.describe(ctx, name))
	case abort:
		body, err := c.r.tombstone(snapshot, "aborted")
		if err != nil {
			return err
		}
		who := c.r.describe(ctx, name)
		if err := c.r.store.Create(ctx, snapshot, body); err != nil && !errors.Is(err, store.ErrExists) {
			return err
		} else if err == nil {
			c.report.Aborted = append(c.report.Aborted, who)
		}
	case settled:
		c.r.seen.forget(name)
	}
	return nil
}

func (r *Repository) exists(ctx context.Context, name string) (bool, error) {
	_, err := r.store.Stat(ctx, name)
	if errors.Is(err, store.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// describe reads an intent for people; what cannot be read stays empty.
func (r *Repository) describe(ctx context.Context, name string) Intent {
	var i intent
	_ = r.readJSON(ctx, seal.KindIntent, name, &i)
	return Intent{Object: name, System: i.System, ID: i.Snapshot, Host: i.Host, Started: i.Started}
}

// conclude writes the index as it will be and makes it count. Every older writer is decided by now. What it
// returns is what the fastest collector has decided.
func (c *collector) conclude(ctx context.Context, p *published) (*done, error) {
	d, err := c.concluded(ctx, p.Number)
	if err != nil || d != nil {
		return d, err
	}
	// Whoever is not the first finds the end, or goes on with a repair. If he ended the collection too, and the first end
	// was lost, he would list of the index what the sweep has left.
	err = c.create(ctx, endingName(p.Number), struct{}{})
	if errors.Is(err, store.ErrExists) {
		if d, err = c.concluded(ctx, p.Number); err == nil && d == nil {
			err = errDoubt
		}
		return d, err
	}
	if err != nil {
		return nil, err
	}
	if d, err = c.end(ctx, p); err == nil {
		return d, nil
	}
	// Somebody else may have been faster, and index objects vanished while we read them.
	d, readErr := c.concluded(ctx, p.Number)
	if readErr == nil && d != nil {
		return d, nil
	}
	highest, _, _, listErr := c.r.numbers(ctx)
	if listErr == nil && highest != p.Number {
		return nil, errOutrun
	}
	return nil, errors.Join(err, readErr, listErr)
}

// end decides what becomes of the condemned packs, and creates the object that says so.
func (c *collector) end(ctx context.Context, p *published) (*done, error) {
	d := &done{}
	var copies []string
	var err error
	if p.Repairs {
		copies, err = c.copyLate(ctx, p)
	} else {
		d.Rescued, err = c.rescue(ctx, p)
	}
	if err == nil {
		d.Index, err = c.mergeIndex(ctx, p, copies, d.doomed(p))
	}
	if err == nil {
		err = c.create(ctx, doneName(p.Number), d)
	}
	return d, err
}

// concluded returns what is decided of collection n, or nil.
func (c *collector) concluded(ctx context.Context, n uint32) (*done, error) {
	var d done
	err := c.r.readJSON(ctx, seal.KindCollection, doneName(n), &d)
	if errors.Is(err, store.ErrNotExist) {
		return nil, nil
	}
	return &d, err
}

// late returns the snapshots that were committed after the marking.
func (c *collector) late(ctx context.Context, p *published) ([]string, error) {
	all, err := c.r.listSnapshots(ctx)
	considered := map[string]bool{}
	for _, n := range p.Considered {
		considered[n] = true
	}
	return slices.DeleteFunc(all, func(n string) bool { return considered[n] }), err
}

// countingFor returns the index objects that count while collection n is under way; errOutrun where it is no more.
func (c *collector) countingFor(ctx context.Context, n uint32) (map[string]bool, error) {
	v, err := c.r.readSoundView(ctx)
	if err != nil {
		return nil, err
	}
	if v.done >= n {
		return nil, errOutrun
	}
	return c.r.indexNames(ctx, v)
}

// rescue returns the condemned packs that snapshots need which were committed after the marking.
func (c *collector) rescue(ctx context.Context, p *published) ([]string, error) {
	late, err := c.late(ctx, p)
	if err != nil || len(late) == 0 {
		return nil, err
	}
	c.progress("marking what newer snapshots need")
	names, err := c.countingFor(ctx, p.Number)
	if err != nil {
		return nil, err
	}
	condemned := map[PackID]bool{}
	for id := range doomed(p.Condemned, nil) {
		condemned[id] = true
	}
	// A chunk that lies elsewhere too is found there: only what lies in condemned packs alone rescues them.
	private, err := c.r.privateIndex(ctx, sorted(names), condemned)
	if err != nil {
		return nil, err
	}
	keep := map[string]bool{}
	m, _, err := private.mark(ctx, late)
	if err == nil {
		err = m.each(func(l location, _ bool) error {
			if condemned[l.pack.id] {
				keep[packKey{l.pack.group, l.pack.id}.String()] = true
			}
			return nil
		})
	}
	return sorted(keep), errors.Join(err, private.Close())
}

// sweep deletes what the finished collection has made superfluous. A crash leaves packs that no index names and
// index objects that do not count: the next collection finds both.
func (c *collector) sweep(ctx context.Context, p *published, d *done, intents []string) error {
	c.progress("removing what nobody needs")
	if err := c.sweepIndex(ctx, p.Number); err != nil {
		return err
	}
	highest, _, all, err := c.r.numbers(ctx)
	if err != nil {
		return err
	}
	if highest != p.Number {
		return nil
	}
	dead := d.doomed(p)
	if err := c.bury(ctx, p.Number, dead); err != nil {
		return err
	}
	for _, k := range slices.SortedFunc(maps.Values(dead), func(a, b packKey) int { return cmp.Compare(a.String(), b.String()) }) {
		i, err := c.r.store.Stat(ctx, k.name())
		if errors.Is(err, store.ErrNotExist) {
			continue
		}
		if err == nil {
			err = c.r.store.Delete(ctx, k.name())
		}
		if err != nil {
			return err
		}
		c.report.RemovedPacks, c.report.RemovedBytes = c.report.RemovedPacks+1, c.report.RemovedBytes+i.Size
	}
	if err := c.sweepIntents(ctx, intents); err != nil {
		return err
	}
	keep := max(p.Number, 3) - 2
	if p.Repairs {
		keep = p.Number // what is damaged goes: nobody reads it any more
	}
	for _, name := range all {
		if name < collectionName(keep) {
			if err := c.r.store.Delete(ctx, name); err != nil {
				return err
			}
		}
	}
	return nil
}

// sweepIndex deletes index objects that do not count any longer, now that n is done.
func (c *collector) sweepIndex(ctx context.Context, n uint32) error {
	highest, finished, _, err := c.r.numbers(ctx)
	if err != nil || n == 0 || highest != n || finished != n {
		return err // whoever works on the higher one sweeps
	}
	var d done
	err = c.r.readJSON(ctx, seal.KindCollection, doneName(n), &d)
	if errors.Is(err, store.ErrNotExist) {
		return errDoubt // it was lost since it was listed
	}
	if err != nil {
		return err
	}
	counts := map[string]bool{}
	for _, name := range d.Index {
		counts[name] = true
	}
	var old []string
	collect := func(i store.Info) error {
		_, generation, ok := parseIndexName(i.Name)
		if !ok || counts[i.Name] {
			return nil
		}
		// A prepared object of n+1 is somebody's who works on it; a writer's of n is valid.
		if strings.HasPrefix(i.Name, prefixBase) && generation <= n || generation < n {
			old = append(old, i.Name)
		}
		return nil
	}
	for _, prefix := range []string{prefixIndex, prefixBase} {
		if err := c.r.store.List(ctx, prefix, "", collect); err != nil {
			return err
		}
	}
	for _, name := range old {
		if err := c.r.store.Delete(ctx, name); err != nil {
			return err
		}
	}
	return nil
}

// sweepIntents deletes intents whose snapshot's name a tombstone holds for ever. While a snapshot is there, the
// intent stays: Forget must see that the writer may still repeat its Commit.
func (c *collector) sweepIntents(ctx context.Context, intents []string) error {
	for _, name := range intents {
		there, err := c.r.exists(ctx, name)
		if err != nil {
			return err
		}
		if !there {
			continue
		}
		snapshot := outcomeOf(name)
		body, err := c.r.store.Get(ctx, snapshot, maxSmall)
		if err != nil {
			continue // what cannot be read now is left to a later collection
		}
		if m, err := c.r.openManifest(ctx, snapshot, body); err != nil || m != nil {
			continue
		}
		if err := c.r.store.Delete(ctx, name); err != nil {
			return err
		}
	}
	return nil
}
