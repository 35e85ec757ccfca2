package repo

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/holdfast-dr/holdfast/internal/seal"
	"github.com/holdfast-dr/holdfast/internal/store"
)

// maxRead is how many adjacent stored bytes are fetched by one request.
const maxRead = 4 << 20

// ChunkError says that a chunk cannot be read. Pack is empty where no index names the chunk.
type ChunkError struct {
	ID   seal.ChunkID
	Pack string // object name
	Err  error
}

func (e *ChunkError) Error() string {
	if e.Pack == "" {
		return fmt.Sprintf("chunk %s is in no pack that the index knows", e.ID)
	}
	return fmt.Sprintf("chunk %s in %s: %v", e.ID, e.Pack, e.Err)
}

// Unwrap returns the cause.
func (e *ChunkError) Unwrap() error { return e.Err }

// Reader reads chunks for one goroutine.
type Reader struct {
	r      *Repository
	coder  *coder
	sealed []byte
	opened []byte
	plain  []byte

	gathered []byte    // pages of units, for Part and Pages
	way      []wayNode // to the path that was looked up last
}

// Reader returns a new reader.
func (r *Repository) Reader() *Reader { return &Reader{r: r, coder: newDecoder()} }

// Into makes the reader decode chunks into b where they fit. b belongs to the reader until it is no longer used.
func (rd *Reader) Into(b []byte) { rd.plain = b[:0] }

// Chunks reads chunks and calls fn for each, in order; plain dies with the call. Neighbours in one pack are
// fetched together. Each chunk's bytes are proven to be what its ID names. Errors are of fn, of the context,
// or a *ChunkError; with skip, which may be nil, a broken chunk is handed to skip and passed over.
func (rd *Reader) Chunks(ctx context.Context, ids []seal.ChunkID, fn func(i int, plain []byte) error, skip func(i int, err error) error) error {
	for i := 0; i < len(ids); {
		run, err := rd.r.locate(ctx, ids[i:])
		if err == nil {
			i, err = rd.run(ctx, i, run, fn)
		}
		var ce *ChunkError
		switch {
		case err == nil:
		case errors.As(err, &ce) && skip != nil:
			if err := skip(i, err); err != nil {
				return err
			}
			i++
		default:
			return err
		}
	}
	return nil
}

// Chunk returns one chunk, valid until the next call.
func (rd *Reader) Chunk(ctx context.Context, id seal.ChunkID) ([]byte, error) {
	var out []byte
	err := rd.Chunks(ctx, []seal.ChunkID{id}, func(_ int, plain []byte) error { out = plain; return nil }, nil)
	return out, err
}

// locate finds the longest run of ids from the first on that lies in one piece.
func (r *Repository) locate(ctx context.Context, ids []seal.ChunkID) ([]location, error) {
	first, err := r.find(ctx, ids[0])
	if err != nil {
		return nil, err
	}
	run := []location{first}
	size := first.stored
	for _, id := range ids[1:] {
		l, ok, err := r.index.find(id)
		last := run[len(run)-1]
		if err != nil || !ok || l.pack.id != last.pack.id || l.offset != last.offset+last.stored || size+l.stored > maxRead {
			break
		}
		run, size = append(run, l), size+l.stored
	}
	return run, nil
}

// find looks a chunk up, and again in a fresh index: another process may have written it, or a collection may have
// replaced the index objects while they were listed. Two readings of one state are proof that it is not there.
func (r *Repository) find(ctx context.Context, id seal.ChunkID) (location, error) {
	var before *view
	for {
		l, ok, err := r.index.find(id)
		if err != nil || ok {
			return l, err
		}
		v, err := r.loadIndex(ctx)
		if err != nil {
			return l, err
		}
		if v.same(before) {
			again, err := r.index.distrust()
			if err == nil && !again {
				again, err = r.recoverIndex(ctx)
			}
			if err != nil {
				return l, err
			}
			if !again {
				return l, &ChunkError{ID: id}
			}
		}
		before = v
	}
}

// run reads one run and hands it over; next is the number of the first chunk that was not handed over.
func (rd *Reader) run(ctx context.Context, i int, run []location, fn func(int, []byte) error) (next int, err error) {
	pack := run[0].pack
	last := run[len(run)-1]
	size := int(last.offset+last.stored) - int(run[0].offset)
	rd.sealed = grow(rd.sealed, size)
	err = rd.r.store.GetRange(ctx, pack.name(), int64(run[0].offset), rd.sealed)
	if err != nil {
		if ctx.Err() != nil {
			return i, ctx.Err()
		}
		moved, err := rd.r.moved(ctx, run[0], err)
		if err == nil {
			return rd.run(ctx, i, []location{moved}, fn)
		}
		if len(run) > 1 {
			return rd.run(ctx, i, run[:1], fn) // the fault may lie in a later part
		}
		return i, &ChunkError{run[0].id, pack.name(), err}
	}
	object, err := rd.r.opens.get(rd.r.keys, pack)
	if err != nil {
		return i, &ChunkError{run[0].id, pack.name(), err}
	}
	at := 0
	for _, l := range run {
		if err := rd.one(object, l, rd.sealed[at:at+int(l.stored)]); err != nil {
			return i, &ChunkError{l.id, pack.name(), err}
		}
		at += int(l.stored)
		if err := fn(i, rd.plain); err != nil {
			return i, err
		}
		i++
	}
	return i, ctx.Err()
}

// moved looks for a chunk whose pack vanished: a collection has put it elsewhere. The index may name both for a while, beside
// a repair even for long. cause is why the pack could not be read; it is returned, with what happened since, where the chunk
// is nowhere else.
func (r *Repository) moved(ctx context.Context, l location, cause error) (location, error) {
	if !errors.Is(cause, store.ErrNotExist) {
		return l, cause
	}
	var before *view
	for {
		v, err := r.loadIndex(ctx)
		if err != nil {
			return l, errors.Join(cause, err)
		}
		now, ok, err := r.index.find(l.id)
		if err != nil {
			return l, errors.Join(cause, err)
		}
		if ok && now.pack.id != l.pack.id {
			return now, nil
		}
		// Index objects may have been replaced while they were listed: two readings of one state are proof.
		if v.same(before) {
			again, err := r.withoutGone(ctx, l.pack.id)
			if err != nil {
				return l, errors.Join(cause, err)
			}
			if !again {
				return l, cause
			}
		}
		before = v
	}
}

// one opens, decodes and proves one chunk into rd.plain.
func (rd *Reader) one(object *seal.Object, l location, sealed []byte) error {
	var err error
	if rd.opened, err = object.Open(rd.opened[:0], sealed, int64(l.offset)); err != nil {
		return err
	}
	if cap(rd.plain) < int(l.plain) && l.plain <= MaxChunk {
		rd.plain = make([]byte, 0, l.plain)
	}
	plain, err := rd.coder.decode(rd.plain[:0], rd.opened, l.encoding, int(l.plain), rd.r.codecs)
	if err != nil {
		return &seal.DamagedError{Name: l.pack.name(), Offset: int64(l.offset), Reason: err.Error()}
	}
	rd.plain = plain
	if rd.r.keys.ChunkID(string(l.pack.group), plain) != l.id {
		return &seal.DamagedError{Name: l.pack.name(), Offset: int64(l.offset), Reason: "its bytes are not those of its ID"}
	}
	return nil
}

func grow(b []byte, n int) []byte {
	if cap(b) < n {
		return make([]byte, n)
	}
	return b[:n]
}

// objectCache keeps the openers of packs: deriving a key costs more than opening a small chunk.
type objectCache struct {
	mu      sync.Mutex // guards objects
	objects map[PackID]*seal.Object
}

const maxOpeners = 512

func (c *objectCache) get(keys *seal.Keyring, p *packRef) (*seal.Object, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if o, ok := c.objects[p.id]; ok {
		return o, nil
	}
	o, err := keys.Object(p.header, p.name())
	if err != nil {
		return nil, err
	}
	if c.objects == nil || len(c.objects) >= maxOpeners {
		c.objects = map[PackID]*seal.Object{}
	}
	c.objects[p.id] = o
	return o, nil
}
