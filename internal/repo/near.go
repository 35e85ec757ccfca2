package repo

import (
	"context"
	"math/bits"
	"sync/atomic"
	"time"

	"github.com/holdfast-dr/holdfast/internal/seal"
)

// distance is how long the store takes to begin an answer, in nanoseconds, by what it took lately. A store is near while
// requests cost less than the bytes that they spare.
type distance struct{ nanos atomic.Int64 } // 0: nobody knows

const (
	nearStore  = 300 * time.Microsecond
	farStore   = 5 * time.Millisecond
	nearGap    = 4 << 10 // as maxGap, in a near store
	apartFrom  = 40 << 10
	perByte    = 1  // nanoseconds that a byte takes, about
	slowToRise = 32 // so that a few answers that a busy machine held up do not count
)

// note counts in an answer.
func (d *distance) note(took time.Duration, bytes int) {
	now, was := max(int64(took)-int64(bytes)*perByte, 1), d.nanos.Load()
	if was != 0 && now > was {
		now = was + (now-was)/slowToRise
	}
	d.nanos.Store(now) // one of several at once may be lost
}

func (d *distance) near() bool {
	n := d.nanos.Load()
	return n != 0 && n < int64(nearStore)
}

// Far tells whether the store's answers take so long that many should be asked for at once. Nobody knows before something was read.
func (r *Repository) Far() bool { return r.nanos.Load() >= int64(farStore) }

// getRange is GetRange of the store, which is timed, and given up where the store is gone and others are there.
func (r *Repository) getRange(ctx context.Context, name string, off int64, dst []byte) error {
	began := time.Now()
	err := r.here(ctx, func(ctx context.Context) error { return r.store.GetRange(ctx, name, off, dst) })
	if err == nil {
		r.note(time.Since(began), len(dst))
	}
	return err
}

// gap returns how many bytes between two chunks are worth less than a request.
func (r *Repository) gap() int {
	if r.near() {
		return nearGap
	}
	return maxGap
}

// apart tells whether the wanted groups of a chunk are fetched by themselves: where the store is near, and that spares more than
// the second request costs.
func (r *Repository) apart(l location, want uint64) bool {
	if l.wanted(want) == everyGroup || !r.near() {
		return false
	}
	groups := seal.Groups(int(l.plain))
	return int(l.stored)*(groups-bits.OnesCount64(want))/groups > apartFrom
}

// fetchApart fetches the first frame of a chunk and the wanted groups to their places in sealed, the memory for all of them.
// It proves nothing: whoever opens them does.
func (r *Repository) fetchApart(ctx context.Context, l location, want uint64, sealed []byte) error {
	name, at := l.pack.name(), int(l.head)+seal.Overhead
	if err := r.getRange(ctx, name, int64(l.offset), sealed[:at]); err != nil {
		return err
	}
	object, err := r.opens.get(r.keys, l.pack)
	if err != nil {
		return err
	}
	head, err := object.Open(nil, sealed[:at], int64(l.offset))
	if err != nil {
		return err
	}
	lengths, err := r.frames(nil, head, l)
	if err != nil {
		return err
	}
	from := at
	for g, n := range lengths[1:] {
		if at += n + seal.Overhead; want>>g&1 == 0 {
			from = at
		} else if want>>(g+1)&1 == 0 { // the last of neighbours; behind the last group none is wanted
			if err := r.getRange(ctx, name, int64(l.offset)+int64(from), sealed[from:at]); err != nil {
				return err
			}
		}
	}
	return nil
}
