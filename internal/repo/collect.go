package repo

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/seal"
	"github.com/holdfast-dr/holdfast/internal/store"
)

// CollectOptions say how patient and how thorough a collection is. The zero value is good for an unattended run
// on a store that has exclusive creation: it never blocks, and leaves what has to wait to the next run.
type CollectOptions struct {
	// Wait is how long Collect waits for writers that began before the publication, before it returns with
	// Pending set.
	Wait time.Duration
	// Patience is how long an undecided writer is seen by this process before it is aborted. It is measured by
	// this process's own clock from when it first saw the writer. Zero is DefaultPatience; NoPatience aborts at
	// once.
	Patience time.Duration
	// NoExclusiveCreate and ListsLate say what store.Probe saw: no exclusive creation, listings that do not show at once what was
	// written. Collect then refuses without Alone.
	NoExclusiveCreate, ListsLate bool
	// Alone is a person's word that nobody else writes to this replica or collects in it.
	Alone bool
	// DryRun reports what would be removed, and changes nothing.
	DryRun bool
	// MinLive is the share of live bytes below which a pack is rewritten; zero is 0.5.
	MinLive float64
	// MaxRewrite bounds the bytes that are copied out of such packs in one run; zero is 4 GiB.
	MaxRewrite int64
	// Progress is told what is being done.
	Progress dr.ProgressFunc
}

// DefaultPatience is how long an undecided writer may keep a collection waiting.
const DefaultPatience = 24 * time.Hour

// NoPatience aborts undecided writers at once.
const NoPatience time.Duration = -1

// pollEvery is how often a waiting collection looks again.
const pollEvery = 10 * time.Second

// CollectReport says what a collection did, or would do.
type CollectReport struct {
	Number       uint32   `json:"number"`    // of the collection that was worked on last; 0 where there was nothing to do
	Pending      []Intent `json:"pending"`   // writers that must be decided before anything is deleted; run again later
	Aborted      []Intent `json:"aborted"`   // writers for which nobody waits any longer
	Snapshots    int      `json:"snapshots"` // that were marked
	Packs        int      `json:"packs"`     // that were there
	RemovedPacks int      `json:"removedPacks"`
	RemovedBytes int64    `json:"removedBytes"`
	CopiedBytes  int64    `json:"copiedBytes"` // live bytes that were copied into new packs
	Problems     []string `json:"problems"`    // packs that should have been rewritten and could not be read
}

// Intent is a writer that has announced itself and is not decided, as far as it can be read.
type Intent struct {
	Object  string     `json:"object"`
	System  string     `json:"system"`
	ID      SnapshotID `json:"id"`
	Host    string     `json:"host"`
	Started time.Time  `json:"started"` // by the writer's clock
}

// collector is one run of Collect.
type collector struct {
	r      *Repository
	opts   CollectOptions
	report CollectReport
}

// Collect removes what no snapshot needs: packs, and index objects that others replace. It may run beside any
// number of writers, readers and other collections, may be interrupted anywhere, and is finished by the next run.
// Whatever it cannot read it does not judge: a damaged snapshot or index object ends it with an error.
func (r *Repository) Collect(ctx context.Context, opts CollectOptions) (*CollectReport, error) {
	c, err := r.collector(ctx, opts)
	if err != nil {
		return nil, err
	}
	err = c.run(ctx)
	return &c.report, err
}

// MayCollect returns why nothing may be removed from a store that was seen to do so little.
func (r *Repository) MayCollect(opts CollectOptions) error {
	what := fmt.Sprintf("collect in %s", r.store)
	switch {
	case opts.Alone:
		return nil
	case opts.NoExclusiveCreate:
		return dr.Fail(what, errors.New("the store has no exclusive creation, so writers and collections cannot be told apart"),
			"stop every writer, then run it again and say so: holdfast repo prune --alone")
	case opts.ListsLate:
		return dr.Fail(what, errors.New("the store does not list at once what was written, so what a writer needs may look like what nobody needs"),
			"stop every writer, wait until the store lists everything, then run it again and say so: holdfast repo prune --alone")
	}
	return nil
}

func (r *Repository) collector(ctx context.Context, opts CollectOptions) (*collector, error) {
	if err := r.MayCollect(opts); err != nil {
		return nil, err
	}
	if r.opts.Signer == nil {
		return nil, errors.New("a collection needs a signer")
	}
	if err := r.Refresh(ctx); err != nil {
		return nil, err
	}
	if opts.MinLive == 0 {
		opts.MinLive = 0.5
	}
	if opts.MaxRewrite == 0 {
		opts.MaxRewrite = 4 << 30
	}
	switch {
	case opts.Alone:
		opts.Patience = 0
	case opts.Patience == 0:
		opts.Patience = DefaultPatience
	case opts.Patience < 0:
		opts.Patience = 0
	}
	return &collector{r: r, opts: opts}, nil
}

// run finishes what another run has published, then does a collection of its own. It starts over where somebody
// else published first.
func (c *collector) run(ctx context.Context) error {
	for {
		highest, finished, _, err := c.r.numbers(ctx)
		if err != nil {
			return err
		}
		if highest > finished && !c.opts.DryRun {
			decided, err := c.finish(ctx, highest)
			if errors.Is(err, errDoubt) {
				if err := c.supersede(ctx, highest); err != nil {
					return err
				}
				continue
			}
			if err != nil || !decided {
				return err
			}
		}
		next, err := c.prepare(ctx)
		if errors.Is(err, errOutrun) || errors.Is(err, errDoubt) && !c.opts.DryRun {
			continue // what was found above is no more
		}
		if err != nil || next == nil || c.opts.DryRun {
			return err
		}
		won, err := c.publishOrDiscard(ctx, next)
		if err != nil {
			return err
		}
		if !won {
			continue
		}
		if _, err = c.finish(ctx, next.Number); !errors.Is(err, errDoubt) {
			return err
		}
	}
}

// publishOrDiscard publishes p, and reports whether nobody was faster. What was prepared in vain is removed.
func (c *collector) publishOrDiscard(ctx context.Context, p *published) (bool, error) {
	switch err := c.publish(ctx, p); {
	case errors.Is(err, errOutrun):
		return false, c.discard(ctx, p.Prepared)
	case errors.Is(err, errPast):
		return false, nil // what was prepared may be in use since; the next collection sweeps it otherwise
	case err != nil:
		// It may be published all the same: nothing is discarded, and the next run goes on from what it finds.
		return false, fmt.Errorf("publish collection %d: %w", p.Number, err)
	}
	return true, nil
}

// errDoubt says that nobody knows whether the collection has ended: the object that would say so was not yet created,
// or was lost.
var errDoubt = errors.New("the end of the collection is in doubt")

// errOutrun says that another collector has done this step, so that ours counts for nothing.
var errOutrun = errors.New("another collection was faster")

// create is the store's Create, or the best that a store without it allows.
func (c *collector) create(ctx context.Context, name string, content any) error {
	body, err := c.r.sealJSON(seal.KindCollection, name, content)
	if err != nil {
		return err
	}
	if !c.opts.NoExclusiveCreate {
		return c.r.store.Create(ctx, name, body)
	}
	switch _, err := c.r.store.Stat(ctx, name); {
	case err == nil:
		return store.ErrExists
	case !errors.Is(err, store.ErrNotExist):
		return err
	}
	return c.r.store.Put(ctx, name, body)
}

// errPast says that a later collection was published when ours was: others may have ended ours meanwhile, or it came
// when its number was free again.
var errPast = errors.New("a later collection was published")

// publish makes the collection the highest, or returns errOutrun, or errPast.
func (c *collector) publish(ctx context.Context, p *published) error {
	err := c.create(ctx, collectionName(p.Number), p)
	if errors.Is(err, store.ErrExists) {
		return errOutrun
	}
	if err != nil {
		return err
	}
	// Numbers of long ago are free again, since their objects were removed: a collector that slept so long meets
	// a higher number here, which stays for ever.
	highest, _, _, err := c.r.numbers(ctx)
	switch {
	case err != nil:
		return err
	case highest > p.Number+2:
		return errors.Join(errPast, c.r.store.Delete(ctx, collectionName(p.Number)))
	case highest > p.Number:
		return errPast
	}
	return nil
}

// discard removes index objects that were prepared for a publication that lost. Their packs are left to the next
// collection: no pack is ever deleted but by one that has condemned it, on which a repair relies.
func (c *collector) discard(ctx context.Context, names []string) error {
	for _, name := range names {
		if err := c.r.store.Delete(ctx, name); err != nil {
			return err
		}
	}
	return nil
}

func (c *collector) progress(phase string) {
	if c.opts.Progress != nil {
		c.opts.Progress(dr.Progress{Phase: phase})
	}
}
