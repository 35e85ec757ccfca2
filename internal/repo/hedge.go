package repo

import (
	"context"
	"errors"
	"math/bits"
	"time"
)

// A request that takes far longer than usual is made to another replica as well, and the first answer counts. That costs few
// requests, and one connection that hangs does not hold up a restore. Packs have the same bytes under the same name in all
// replicas that have them. Nothing is proven here: whoever opens what came does that, and asks this replica alone where it fails.
const (
	hedgeLeast = 250 * time.Millisecond
	hedgeFirst = time.Second // while nothing is known
	hedgeTimes = 4           // how many times as long as usual is far longer
	slowInARow = 3           // so many answers that came sooner from others, and those are asked first for a while

	sizes = 8 // classes of requests: up to 64 KiB, 128 KiB, and so on
)

func sizeClass(n int) int { return min(bits.Len(uint(n)>>16), sizes-1) }

// patience returns how long this replica is waited for, for an answer of n bytes.
func (h *help) patience(n int) time.Duration {
	usual := time.Duration(h.usual[sizeClass(n)].Load())
	if usual == 0 {
		return hedgeFirst
	}
	return max(hedgeLeast, hedgeTimes*usual)
}

// took remembers how long an answer of n bytes took.
func (h *help) took(n int, d time.Duration) {
	usual := &h.usual[sizeClass(n)]
	if was := usual.Load(); was != 0 {
		d = time.Duration(was) + (d-time.Duration(was))/8
	}
	usual.Store(max(int64(d), 1)) // one of several at once may be lost
	h.late.Store(0)
}

// hedged is getRange that does not wait for a replica that is slow, or away, if another has the object; theirs tells that the bytes
// are those of another.
func (r *Repository) hedged(ctx context.Context, name string, off int64, dst []byte) (theirs bool, err error) {
	h := r.help.Load()
	switch {
	case h == nil:
		return false, r.getRange(ctx, name, off, dst)
	case h.isAway():
		if b := h.rangeElsewhere(ctx, name, off, len(dst)); b != nil {
			copy(dst, b)
			return true, nil
		}
		return false, errAway
	}
	own, stop := context.WithCancel(ctx)
	defer stop()
	answer := make(chan []byte, 1)
	h.asking.Add(1)
	timer := time.AfterFunc(h.patience(len(dst)), func() {
		defer h.asking.Done()
		b := h.rangeElsewhere(own, name, off, len(dst))
		answer <- b
		if b != nil {
			stop() // the request that is waited for
		}
	})
	began := time.Now()
	err = r.getRange(own, name, off, dst)
	if timer.Stop() {
		h.asking.Done()
		if errors.Is(err, errAway) {
			if b := h.rangeElsewhere(ctx, name, off, len(dst)); b != nil {
				copy(dst, b)
				return true, nil
			}
		}
	} else if err != nil && ctx.Err() == nil {
		if b := <-answer; b != nil {
			copy(dst, b)
			// That it takes as long at least is all that is known of a request that was given up.
			h.usual[sizeClass(len(dst))].CompareAndSwap(0, int64(time.Since(began)))
			if h.late.Add(1) >= slowInARow {
				h.leave()
			}
			return true, nil
		}
	}
	if err == nil {
		h.took(len(dst), time.Since(began))
	}
	return false, err
}

// helpedRun is run that need not wait for this replica where another has the pack.
func (rd *Reader) helpedRun(ctx context.Context, i int, run []location, fn func(int, []byte) error) (next int, err error) {
	rd.sealed = grow(rd.sealed, spanOf(run))
	theirs, err := rd.r.hedged(ctx, run[0].pack.name(), int64(run[0].offset), rd.sealed)
	switch {
	case errors.Is(err, errAway):
		return rd.run(ctx, i, run, fn)
	case err != nil:
		return rd.unread(ctx, i, run, fn, err)
	}
	next, err = rd.handOver(ctx, i, run, fn)
	var broken *ChunkError
	if theirs && errors.As(err, &broken) {
		return rd.run(ctx, next, run[next-i:], fn)
	}
	return next, err
}

// rangeElsewhere returns a part of an object of another replica, or nil.
func (h *help) rangeElsewhere(ctx context.Context, name string, off int64, n int) []byte {
	b := make([]byte, n)
	for _, other := range h.others(ctx) {
		if other.getRange(ctx, name, off, b) == nil {
			h.given.Add(1)
			return b
		}
	}
	return nil
}
