package repo

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/seal"
	"github.com/holdfast-dr/holdfast/internal/store"
)

// LockFor returns how long an object is retained from its writing, or its renewal, on, so that it is for at least d at every time
// although all are renewed only once in half of d.
func LockFor(d time.Duration) time.Duration { return d + d/2 }

// Lock returns how long objects are retained at least; 0 where they are not.
func (r *Repository) Lock() time.Duration { return r.opts.Lock }

// lockSlack is how much earlier than needed a renewal begins: whoever looks each day is then never late.
const lockSlack = 24 * time.Hour

const (
	lockRequests   = 16   // on their way at once
	lockCheckpoint = 2000 // objects after which it is noted how far a renewal has come
)

// locked is the content of the object "locked": what is known of retention in this replica. Where it is lost, or put back to an
// older state, a renewal is done too early, which costs its requests and nothing else.
type locked struct {
	Since time.Time      `json:"since"`          // from then on nothing was removed from snapshots/ without a tombstone under the deletion
	Until time.Time      `json:"until"`          // until then at least everything is retained that was there at the last whole renewal
	Begun time.Time      `json:"begun,omitzero"` // when that began; what was put since is retained from its writing on
	Mode  store.LockMode `json:"mode,omitempty"` // in which it was done
	Round *lockRound     `json:"round,omitempty"`
}

// due returns when everything is to be renewed. What came after the last renewal had began is retained for LockFor as it was then: where
// less was asked for since, that ends before what was there before does.
func (l *locked) due(o *Options) time.Time {
	slack := min(lockSlack, o.Lock/8)
	next := l.Until.Add(-o.Lock - slack)
	now := o.Now()
	switch sooner := l.Begun.Add(o.Lock/2 - slack); {
	case l.Begun.After(now.Add(slack)), l.Mode != o.LockMode: // by a clock that was ahead, which says nothing; by who may end it
		return now
	case sooner.Before(next):
		return sooner
	}
	return next
}

// lockRound is a renewal that is not done.
type lockRound struct {
	Begun time.Time      `json:"begun,omitzero"`
	Mode  store.LockMode `json:"mode,omitempty"`
	Until time.Time      `json:"until"`
	After string         `json:"after"` // everything up to this name is renewed
}

// done returns what is known when a round has ended.
func (r *lockRound) done(l *locked) *locked {
	return &locked{Since: l.Since, Begun: r.Begun, Mode: r.Mode, Until: r.Until}
}

// LockOptions say how RenewLock works.
type LockOptions struct {
	Now      bool // also where it is not due
	Progress dr.ProgressFunc
}

// LockReport says what RenewLock has done.
type LockReport struct {
	Due     bool      `json:"due"`     // it was, or was demanded
	Objects int       `json:"objects"` // that are current, as far as they were looked at
	Renewed int       `json:"renewed"` // requests that it took, beside those for listing: one for a thousand versions
	Until   time.Time `json:"until"`   // everything is retained until then at least
	Next    time.Time `json:"next"`    // when it is due again
	Hidden  []string  `json:"hidden"`  // objects that are never removed, and that somebody has hidden: renewed all the same, see Check
	Doubted []string  `json:"doubted"` // objects of which no version is what was stored: see Check
}

// ErrNoLock is the error of RenewLock where nothing is to be retained.
var ErrNoLock = errors.New("no lock is configured for this replica")

// RenewLock retains everything that is in the repository for LockFor more, where what was promised before would otherwise soon
// fall below Options.Lock. It may be interrupted, repeated, and run beside anything.
func (r *Repository) RenewLock(ctx context.Context, o LockOptions) (*LockReport, error) {
	report := &LockReport{Doubted: []string{}, Hidden: []string{}}
	if r.earlier == nil || r.opts.Lock <= 0 {
		return report, ErrNoLock
	}
	now := r.opts.Now()
	l, err := r.readLocked(ctx)
	if err != nil {
		return report, err
	}
	if l.Since.IsZero() {
		l.Since = now.UTC()
	}
	report.Until, report.Next = l.Until, l.due(&r.opts)
	if report.Due = o.Now || !report.Next.After(now); !report.Due {
		return report, nil
	}
	// One that was interrupted goes on, unless that was so long ago that what it has done does not suffice any more, or all is demanded.
	if o.Now || l.Round == nil || !l.Round.done(l).due(&r.opts).After(now) {
		l.Round = &lockRound{Begun: now.UTC(), Mode: r.opts.LockMode, Until: now.Add(LockFor(r.opts.Lock)).UTC().Truncate(time.Second)}
	}
	n := &renewal{r: r, l: l, report: report, progress: o.Progress}
	if err := n.all(ctx); err != nil {
		return report, fmt.Errorf("renew the lock: %w", err)
	}
	l = l.Round.done(l)
	report.Until, report.Next = l.Until, l.due(&r.opts)
	return report, r.putLocked(ctx, l)
}

func (r *Repository) readLocked(ctx context.Context) (*locked, error) {
	var l locked
	err := r.readJSON(ctx, seal.KindReplica, lockedName, &l)
	if err != nil && lost(err) {
		return &locked{}, nil
	}
	return &l, err
}

// isLocked tells whether what is removed from snapshots/ has to leave a tombstone under the deletion.
func (r *Repository) isLocked(ctx context.Context) (bool, error) {
	if r.opts.Lock > 0 || r.earlier == nil {
		return r.opts.Lock > 0, nil
	}
	l, err := r.readLocked(ctx)
	return err == nil && !l.Since.IsZero(), err
}

func (r *Repository) putLocked(ctx context.Context, l *locked) error {
	body, err := r.sealJSON(seal.KindReplica, lockedName, l)
	if err == nil {
		err = r.store.Put(ctx, lockedName, body)
	}
	return err
}

// renewal is one run of RenewLock.
type renewal struct {
	r        *Repository
	l        *locked
	report   *LockReport
	progress dr.ProgressFunc

	name  string // whose versions these are
	these []store.Version
	batch []store.Version
}

// all renews what is current, in the order of names.
func (n *renewal) all(ctx context.Context) error {
	err := n.r.earlier.vault.Versions(ctx, "", n.l.Round.After, func(v store.Version) error {
		if v.Name != n.name {
			if err := n.take(ctx); err != nil {
				return err
			}
			n.name = v.Name
		}
		n.these = append(n.these, v)
		return nil
	})
	if err == nil {
		err = n.take(ctx)
	}
	if err == nil {
		err = n.flush(ctx)
	}
	return err
}

// take chooses the version of a name that is renewed: what readers take.
func (n *renewal) take(ctx context.Context) error {
	all := n.these
	n.these = n.these[:0]
	if len(all) == 0 || store.Unlocked(all[0].Name) || all[0].Deleted && !neverRemoved(all[0].Name) {
		return nil
	}
	name, hidden := all[0].Name, all[0].Deleted
	v, data := all[0], 0
	for _, x := range all {
		if !x.Deleted {
			data++
		}
	}
	n.report.Objects++
	if data > 1 || hidden {
		var err error
		if v, _, err = n.r.earlier.choose(ctx, all); err != nil {
			return err
		}
	}
	switch {
	case v.Name != "":
		n.batch = append(n.batch, v)
		if hidden {
			n.report.Hidden = append(n.report.Hidden, name)
		}
	case hidden, strings.HasPrefix(name, prefixKeys): // garbage that was put away; slots from before a rotation, of which nobody can tell
	default:
		n.report.Doubted = append(n.report.Doubted, name)
	}
	if len(n.batch) < lockCheckpoint {
		return nil
	}
	after := n.batch[len(n.batch)-1].Name
	if err := n.flush(ctx); err != nil {
		return err
	}
	n.l.Round.After = after
	return n.r.putLocked(ctx, n.l)
}

// neverRemoved tells whether nothing of ours ever deletes an object of such a name, whatever it is.
func neverRemoved(name string) bool {
	return name == markerName || name == replicaName || isPlain(name) || slices.ContainsFunc(
		[]string{prefixSystems, prefixSigners, prefixPlaces, prefixLogFiles, prefixEvidence}, func(p string) bool { return strings.HasPrefix(name, p) })
}

// retain extends what a version has left. What came while a round was on its way, or was put by a host whose clock is ahead, or who locks
// for longer, may be retained for longer already: nobody may shorten that, and nobody needs to.
func (n *renewal) retain(ctx context.Context, v store.Version) error {
	until := n.r.opts.Now().Add(LockFor(n.r.opts.Lock))
	if until.Before(n.l.Round.Until) {
		until = n.l.Round.Until
	}
	vault := n.r.earlier.vault
	err := vault.Retain(ctx, v, until)
	if err == nil || store.KindOf(err) == store.Busy {
		return err
	}
	if errors.Is(err, store.ErrNotExist) {
		return nil // removed meanwhile
	}
	if has, hasErr := vault.Retained(ctx, v); hasErr == nil && !has.Before(n.l.Round.Until) {
		return nil
	}
	return err
}

func (n *renewal) flush(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(lockRequests)
	for _, v := range n.batch {
		g.Go(func() error {
			return n.retain(ctx, v)
		})
	}
	err := g.Wait()
	if err == nil {
		n.report.Renewed += len(n.batch)
		n.batch = n.batch[:0]
	}
	if n.progress != nil {
		n.progress(dr.Progress{Phase: fmt.Sprintf("renewing the lock: %d objects", n.report.Renewed)})
	}
	return err
}
