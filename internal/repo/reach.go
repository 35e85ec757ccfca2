package repo

import (
	"context"
	"errors"
	"time"

	"github.com/holdfast-dr/holdfast/internal/store"
)

// A replica that does not answer at all is told from one that is slow by its marker, a small object, which is asked for when a request
// has waited for a while. Where that has no answer either, and another replica has given its own, all requests that wait here are given
// up, and others are asked first. Nobody spends on that what store.Retry does, which has only one replica to ask.
const (
	doubtAfter = time.Second     // without an answer; doubled each time that the replica turns out to be slow
	probeFor   = 5 * time.Second // that a marker may take
	probeTries = 3

	listPatience = 20 * time.Second // without any answer before what others list stands in
	lookEvery    = 2 * time.Second  // until then
	forEver      = time.Hour
)

// here runs a request for content to this replica. It ends with errAway when the replica turns out to be gone meanwhile, and others are
// there. One that is known to be gone is asked all the same: nobody else has answered.
func (r *Repository) here(ctx context.Context, ask func(context.Context) error) error {
	h := r.help.Load()
	if h == nil || h.gone.Load() {
		return ask(ctx)
	}
	return r.until(ctx, h, ask, forEver, func(ctx context.Context) bool { return h.lost(ctx, r) })
}

// told is here for what only says what there is. Others may know of less, so that this one is given up only when it has not answered for
// as long as h.listFor: an outage of seconds must not hide the end of a log.
func (r *Repository) told(ctx context.Context, ask func(context.Context) error) error {
	h := r.help.Load()
	if h == nil {
		return ask(ctx)
	}
	return r.until(ctx, h, ask, lookEvery, func(ctx context.Context) bool {
		_ = h.lost(ctx, r) // begins to look after it
		return h.isDead()
	})
}

// until runs a request, and ends it with errAway when gone says so, which is asked in growing intervals.
func (r *Repository) until(ctx context.Context, h *help, ask func(context.Context) error, longest time.Duration, gone func(context.Context) bool) error {
	if h.open.Others == nil {
		return ask(ctx)
	}
	own, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	h.asking.Add(1)
	timer := time.AfterFunc(doubtAfter, func() {
		defer h.asking.Done()
		for wait := doubtAfter; !gone(own); wait = min(2*wait, longest) {
			select {
			case <-time.After(wait):
			case <-own.Done():
				return
			}
		}
		stop(errAway)
	})
	err := ask(own)
	if timer.Stop() {
		h.asking.Done()
	}
	if err != nil && ctx.Err() == nil && errors.Is(context.Cause(own), errAway) {
		return errAway
	}
	return err
}

// lost tells whether this replica is gone while others answer. Of many who ask at once one looks.
func (h *help) lost(ctx context.Context, r *Repository) bool {
	if h.gone.Load() {
		return true
	}
	_, _, _ = h.looks.Do("", func() (any, error) {
		ctx, stop := h.lasting(ctx)
		defer stop()
		err := answers(ctx, r)
		if err == nil || store.KindOf(err) != store.Busy {
			return nil, nil
		}
		for _, other := range h.others(ctx) {
			if answers(ctx, other) == nil {
				h.note(ctx, r, err)
				break
			}
		}
		return nil, nil
	})
	return h.gone.Load()
}

// lasting returns a context for what others wait for, too: it ends with the help. The caller is counted in asking.
func (h *help) lasting(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, stop := context.WithCancel(context.WithoutCancel(ctx))
	h.asking.Go(func() {
		defer stop()
		select {
		case <-ctx.Done():
		case <-h.ended:
		}
	})
	return ctx, stop
}

// answers returns why a replica does not give its marker soon.
func answers(ctx context.Context, r *Repository) error {
	ctx, stop := context.WithTimeout(store.WithTries(ctx, probeTries), probeFor)
	defer stop()
	_, err := readMarker(ctx, r.store)
	if err != nil && ctx.Err() != nil {
		return &store.Error{Op: "get", Name: markerName, Store: r.store.String(), Kind: store.Busy, Err: err}
	}
	return err
}
