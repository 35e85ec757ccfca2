package repo

import (
	"context"
	"errors"

	"golang.org/x/sync/errgroup"

	"github.com/holdfast-dr/holdfast/internal/seal"
)

// What a file consists of that was changed often lies in as many packs as there were snapshots. To ask for one thing after
// the other would wait for the store as often; so some requests are on their way while the answers of earlier ones are
// decoded.
const (
	requestsAhead = 8
	aheadRead     = 1 << 20 // stored bytes of one of them: all buffers together have 8 MiB
)

// aheadRequest is chunks that are being fetched together.
type aheadRequest struct {
	first  int // of the chunks, the number of the first one
	run    []location
	sealed []byte
	err    error
	done   chan struct{}
}

// scattered is Chunks for chunks that lie in many places, and of which some groups are wanted: wants has a bit for each.
// Those that cannot be fetched together with others at the first try are read as Chunks reads them, as a whole, which knows
// what to do about it. skip is needed.
func (rd *Reader) scattered(ctx context.Context, ids []seal.ChunkID, wants []uint64, fn func(i int, d decoded) error, skip func(i int, err error) error) error {
	fetching, stop := context.WithCancel(ctx)
	var eg errgroup.Group
	err := rd.fetchAhead(fetching, &eg, ids, wants, fn, skip)
	stop()
	return errors.Join(err, eg.Wait()) // the buffers are used again: nobody may write into them any more
}

func (rd *Reader) fetchAhead(ctx context.Context, eg *errgroup.Group, ids []seal.ChunkID, wants []uint64, fn func(int, decoded) error, skip func(int, error) error) error {
	var queue []*aheadRequest
	begun := 0
	for next := 0; next < len(ids) || len(queue) > 0; {
		for next < len(ids) && len(queue) < requestsAhead {
			q := rd.ask(ctx, eg, ids[next:], wants[next], begun%requestsAhead)
			q.first, begun = next, begun+1
			queue, next = append(queue, q), next+len(q.run)
		}
		q := queue[0]
		queue = queue[1:]
		<-q.done
		if err := rd.arrived(ctx, q, ids, wants, fn, skip); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// ask begins to fetch the first of the chunks, with those that are fetched by the same request, into the memory of a slot.
func (rd *Reader) ask(ctx context.Context, eg *errgroup.Group, ids []seal.ChunkID, want uint64, slot int) *aheadRequest {
	q := &aheadRequest{done: make(chan struct{})}
	away := rd.r.help.Load().isAway()
	if _, known, err := rd.place(ids[0]); away && (!known || err != nil) {
		q.err = errAway // the index is not asked for again
	} else {
		q.run, q.err = rd.locate(ctx, ids, aheadRead)
	}
	if q.err != nil {
		q.run = make([]location, 1)
		close(q.done)
		return q
	}
	apart := !away && rd.r.apart(q.run[0], want)
	if apart {
		q.run = q.run[:1]
	}
	rd.ahead[slot] = grow(rd.ahead[slot], spanOf(q.run))
	q.sealed = rd.ahead[slot]
	eg.Go(func() error {
		defer close(q.done)
		if apart {
			q.err = rd.r.fetchApart(ctx, q.run[0], want, q.sealed)
		} else {
			_, q.err = rd.r.hedged(ctx, q.run[0].pack.name(), int64(q.run[0].offset), q.sealed)
		}
		return nil
	})
	return q
}

// arrived hands over the chunks of an answer.
func (rd *Reader) arrived(ctx context.Context, q *aheadRequest, ids []seal.ChunkID, wants []uint64, fn func(int, decoded) error, skip func(int, error) error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	again := func(from, n int) error {
		clear(rd.places)
		return rd.Chunks(ctx, ids[from:from+n], func(i int, plain []byte) error {
			return fn(from+i, decoded{plain, everyGroup, len(plain)})
		}, func(i int, err error) error { return skip(from+i, err) })
	}
	if q.err != nil {
		return again(q.first, len(q.run))
	}
	object, err := rd.r.opens.get(rd.r.keys, q.run[0].pack)
	if err != nil {
		return again(q.first, len(q.run))
	}
	for i, l := range q.run {
		d, err := rd.one(object, l, q.sealed[l.offset-q.run[0].offset:][:l.stored], wants[q.first+i])
		if err != nil {
			if err := again(q.first+i, 1); err != nil {
				return err
			}
			continue
		}
		if err := fn(q.first+i, d); err != nil {
			return err
		}
	}
	return nil
}

// spanOf returns how many bytes one request for a run fetches.
func spanOf(run []location) int {
	last := run[len(run)-1]
	return int(last.offset+last.stored) - int(run[0].offset)
}
