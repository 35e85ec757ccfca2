package repo

import (
	"context"
	"fmt"

	"github.com/holdfast-dr/holdfast/internal/seal"
)

// Lane saves chunks for one goroutine: it compresses and seals on that goroutine and fills its own pack, so
// that chunks which are saved one after the other lie one after the other.
type Lane struct {
	w       *Writer
	coder   *coder
	encoded encodedChunk // as the next
	values  []byte       // of groups
	pack    packBuilder
	active  bool // pack has a buffer
}

// Lane returns a new lane. It may not be called at the same time as Commit or Close.
func (w *Writer) Lane() *Lane {
	w.metaM.Lock()
	defer w.metaM.Unlock()
	return w.newLane()
}

func (w *Writer) newLane() *Lane {
	l := &Lane{w: w, coder: newEncoder()}
	w.lanes = append(w.lanes, l)
	select {
	case w.bufs <- nil:
	default: // more lanes than the machine has use for: they share the buffers that there are
	}
	return l
}

// Save stores a chunk, unless the repository has it, and returns its ID. It is durable when Commit returns.
// plain is lent. codec, where it is not nil, is tried first.
func (l *Lane) Save(ctx context.Context, plain []byte, codec Codec) (seal.ChunkID, error) {
	if len(plain) > MaxChunk {
		return seal.ChunkID{}, fmt.Errorf("a chunk of %d bytes is larger than %d", len(plain), MaxChunk)
	}
	if seal.Groups(len(plain)) > seal.MaxGroups {
		codec = nil
	}
	id := l.id(plain, codec)
	mine, err := l.w.claim(id, len(plain))
	if err != nil || !mine {
		return id, err
	}
	if err := l.coder.encode(&l.encoded, plain, codec, l.values); err != nil {
		return id, fmt.Errorf("encode chunk %s: %w", id, err)
	}
	return id, l.append(ctx, id, &l.encoded, len(plain))
}

// id returns a chunk's ID, and leaves the values of its groups in l.values where codec may make use of them.
func (l *Lane) id(plain []byte, codec Codec) (id seal.ChunkID) {
	keys, group := l.w.r.keys, string(l.w.group)
	if l.values = l.values[:0]; codec == nil || seal.Groups(len(plain)) == 0 {
		return keys.ChunkID(group, plain)
	}
	id, l.values = keys.ChunkTree(l.values, group, plain)
	return id
}

func (l *Lane) append(ctx context.Context, id seal.ChunkID, e *encodedChunk, size int) error {
	limit := l.w.r.opts.PackBytes
	if l.active && len(l.pack.buf)+e.sealed() > limit {
		if err := l.flush(ctx); err != nil {
			return err
		}
	}
	if !l.active {
		select {
		case buf := <-l.w.bufs:
			if buf == nil {
				// One size for ever: growing buffers would leave garbage of their own size behind.
				buf = make([]byte, 0, limit+MaxChunk/4)
			}
			l.pack.begin(l.w.r.keys, l.w.group, buf)
			l.active = true
		case <-l.w.ctx.Done():
			return context.Cause(l.w.ctx)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	l.pack.add(id, e, size)
	return nil
}

// flush hands the pack to the uploaders.
func (l *Lane) flush(ctx context.Context) error {
	if !l.active {
		return nil
	}
	l.pack.finish()
	full := l.pack
	select {
	case l.w.uploads <- &full:
		l.pack, l.active = packBuilder{}, false
		return nil
	case <-l.w.ctx.Done():
		return context.Cause(l.w.ctx)
	case <-ctx.Done():
		return ctx.Err()
	}
}
