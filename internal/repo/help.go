package repo

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/holdfast-dr/holdfast/internal/seal"
	"github.com/holdfast-dr/holdfast/internal/store"
)

// Helpers open what else has the objects of a replica, when it is needed for the first time. Either may be nil.
type Helpers struct {
	Others  func(context.Context) []*Repository // the other replicas that can be reached
	Rebuilt func(context.Context) *Repository   // a view of this replica's store that rebuilds what is damaged there, or nil
}

// help is where a replica's readers look for what is damaged, missing or out of reach here. Chunks are asked for by their IDs,
// since replicas gather them in packs of their own.
type help struct {
	open Helpers

	mu   sync.Mutex // guards from, view and when they are to be tried again
	from []*Repository
	view *Repository
	next struct{ others, view time.Time } // while there is none

	given atomic.Int64        // chunks, and parts of packs and logs, that came from them
	away  atomic.Int64        // until then, in microseconds since 1970, this replica is asked last: it did not answer
	usual [sizes]atomic.Int64 // how long an answer of so many bytes takes, in nanoseconds; 0: nobody knows
	late  atomic.Int64        // answers in a row that came sooner from others
	gone  atomic.Bool         // this replica has failed to answer, and has not since: it is not asked at all
	dead  atomic.Bool         // it is gone, and has not answered for as long as listFor: others say what there is
	looks singleflight.Group  // whether it is gone

	listFor time.Duration // see told
	lent    sync.Map      // of the stores whose word has been taken for that of this replica

	ended  chan struct{}  // nobody reads any more
	asking sync.WaitGroup // requests to others, and who looks whether this one is back
}

// errAway is the error of a request that is not made.
var errAway = errors.New("this replica does not answer")

const (
	// awayFor is how long a replica that is slow is asked last, and how often one that is gone is looked after. Whoever reads does not
	// try that by itself: each try takes what store.Retry spends.
	awayFor = time.Minute
	// openFor is how long others are waited for, who may be gone for ever.
	openFor = 10 * time.Second
)

// Help lets readers ask others. It is called before anything is read. end ends it, and returns how many chunks, and parts of packs and
// logs, came from there; then the others may be closed.
func (r *Repository) Help(open Helpers) (end func() int64) {
	h := &help{open: open, ended: make(chan struct{}), listFor: listPatience}
	r.help.Store(h)
	return func() int64 {
		r.help.Store(nil)
		close(h.ended)
		h.asking.Wait()
		return h.given.Load()
	}
}

func (h *help) others(ctx context.Context) []*Repository {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.from) == 0 && h.open.Others != nil && time.Now().After(h.next.others) {
		ctx, stop := context.WithTimeout(context.WithoutCancel(ctx), openFor) // of whoever asks first
		h.from = h.open.Others(ctx)
		stop()
		slices.SortStableFunc(h.from, func(a, b *Repository) int { return cmp.Compare(a.nanos.Load(), b.nanos.Load()) }) // the nearest first
		h.next.others = time.Now().Add(awayFor)
	}
	return h.from
}

// rebuilt returns the view that rebuilds what is damaged, and nil where that is not why something cannot be had.
func (h *help) rebuilt(ctx context.Context, cause error) *Repository {
	if h.open.Rebuilt == nil || h.isAway() || cause == nil || store.KindOf(cause) == store.Busy {
		return nil
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.view == nil && time.Now().After(h.next.view) {
		ctx, stop := context.WithTimeout(context.WithoutCancel(ctx), openFor)
		h.view = h.open.Rebuilt(ctx)
		stop()
		h.next.view = time.Now().Add(awayFor)
	}
	return h.view
}

// note remembers that this replica does not answer, until it does.
func (h *help) note(ctx context.Context, r *Repository, err error) {
	if err == nil || store.KindOf(err) != store.Busy || !h.gone.CompareAndSwap(false, true) {
		return
	}
	h.dead.Store(h.listFor == 0)
	ctx, stop := h.lasting(ctx)
	h.asking.Go(func() {
		defer stop()
		for began := time.Now(); h.gone.Load(); {
			wait := lookEvery
			if h.dead.Load() {
				wait = awayFor
			}
			select {
			case <-time.After(wait):
			case <-ctx.Done():
				return
			}
			if err := answers(ctx, r); err == nil || store.KindOf(err) != store.Busy {
				h.dead.Store(false)
				h.gone.Store(false)
			} else if time.Since(began) >= h.listFor {
				h.dead.Store(true)
			}
		}
	})
}

// isDead tells whether what others list stands in for what this replica does.
func (h *help) isDead() bool { return h.gone.Load() && h.dead.Load() }

// leave has others be asked first for a while.
func (h *help) leave() { h.away.Store(time.Now().Add(awayFor).UnixMicro()) }

func (h *help) isAway() bool {
	return h != nil && (h.gone.Load() || time.Now().UnixMicro() < h.away.Load())
}

// answered asks a log here and, where this replica does not answer, at all others, whose answers are united: any of them may be
// behind, or never have had this system. All of them together may still know of less, so that one that is only slow is waited for. Whoever reads a log knows from when this one still answered how far it goes, and
// misses what is not there.
func answered[T any](ctx context.Context, l *Log, ask func(context.Context, *Log) (T, error), unite func(a, b T) T) (T, error) {
	h := l.r.help.Load()
	var answer T
	err := errAway
	if h == nil || !h.isDead() {
		err = l.r.told(ctx, func(ctx context.Context) (err error) {
			answer, err = ask(ctx, l)
			return err
		})
		if h == nil || err == nil || store.KindOf(err) != store.Busy && !errors.Is(err, errAway) || ctx.Err() != nil {
			return answer, err
		}
		h.note(ctx, l.r, err)
		h.dead.Store(true) // store.Retry has spent all its tries, or it is
	}
	var (
		mu     sync.Mutex // guards what follows
		all    T
		none   error // it is not there, says who answers
		having int
		failed bool
		whose  []string
		asked  sync.WaitGroup
	)
	for _, other := range h.others(ctx) {
		asked.Go(func() {
			theirs, err := ask(ctx, other.Log(l.system))
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil && having == 0:
				all, having = theirs, 1
			case err == nil:
				all, having = unite(all, theirs), having+1
			case errors.Is(err, store.ErrNotExist):
				none = err
			default:
				failed = true
				return
			}
			whose = append(whose, other.store.String())
		})
	}
	asked.Wait()
	nothing := having == 0 || reflect.ValueOf(&all).Elem().IsZero()
	if (having > 0 || none != nil) && !(nothing && failed) { // who failed may have it
		for _, name := range whose {
			h.lent.Store(name, true)
		}
		if having > 0 {
			none = nil
		}
		return all, none
	}
	if errors.Is(err, errAway) {
		return ask(ctx, l)
	}
	return answer, err
}

// Lent returns the stores of the other replicas whose listings have been taken for this one's since Help, as it did not answer: it may
// have more. They are sorted; none where it always answered.
func (l *Log) Lent() (stores []string) {
	if h := l.r.help.Load(); h != nil {
		h.lent.Range(func(name, _ any) bool {
			stores = append(stores, fmt.Sprint(name))
			return true
		})
	}
	slices.Sort(stores)
	return stores
}

// elsewhere returns a chunk of another replica, valid until the next call. cause is why it cannot be had here.
func (rd *Reader) elsewhere(ctx context.Context, id seal.ChunkID, cause error) ([]byte, bool) {
	h := rd.r.help.Load()
	if h == nil || ctx.Err() != nil {
		return nil, false
	}
	h.note(ctx, rd.r, cause)
	if view := h.rebuilt(ctx, cause); view != nil {
		if rd.rebuilt == nil {
			rd.rebuilt = view.Reader()
		}
		if plain, err := rd.rebuilt.Chunk(ctx, id); err == nil {
			h.given.Add(1)
			return plain, true
		}
	}
	for i, other := range h.others(ctx) {
		if len(rd.others) == i {
			rd.others = append(rd.others, other.Reader())
		}
		if plain, err := rd.others[i].Chunk(ctx, id); err == nil {
			h.given.Add(1)
			return plain, true
		}
	}
	return nil, false
}

// elsewhere returns the plain text of a part of a log of another replica, which has it under the same name.
func (lr *LogReader) elsewhere(ctx context.Context, name string, cause error) ([]byte, bool) {
	h := lr.log.r.help.Load()
	if h == nil || ctx.Err() != nil {
		return nil, false
	}
	h.note(ctx, lr.log.r, cause)
	all := h.others(ctx)
	if view := h.rebuilt(ctx, cause); view != nil {
		all = append([]*Repository{view}, all...)
	}
	for _, other := range all {
		b, err := other.store.Get(ctx, name, 2*MaxExtent)
		if err != nil {
			continue
		}
		if plain, err := other.keys.OpenWhole(seal.KindLogExtent, name, b); err == nil {
			h.given.Add(1)
			return plain, true
		}
	}
	return nil, false
}

// extentsElsewhere adds what other replicas have of a stream that has gaps here.
func (l *Log) extentsElsewhere(ctx context.Context, s StreamID, from uint64, ours []Extent) []Extent {
	h := l.r.help.Load()
	if h == nil {
		return ours
	}
	have := Merge(ours)
	for _, other := range h.others(ctx) {
		theirs, err := other.Log(l.system).Extents(ctx, s, from)
		if err != nil {
			continue // the gap stays, and is told of
		}
		for _, e := range theirs {
			if !holds(have, e) {
				ours = append(ours, e)
			}
		}
	}
	return ours
}

// The ways in which answers of several replicas are one.

func uniteSorted[T cmp.Ordered](a, b []T) []T {
	return slices.Compact(slices.Sorted(slices.Values(slices.Concat(a, b))))
}

func uniteExtents(a, b []Extent) []Extent {
	for _, e := range b {
		if !slices.Contains(a, e) {
			a = append(a, e)
		}
	}
	return byStart(a)
}

func higher(a, b Mark) Mark {
	if b.LSN > a.LSN {
		return b
	}
	return a
}

func either(a, _ []byte) []byte { return a }
