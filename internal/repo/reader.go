package repo

import (
	"context"
	"errors"
	"fmt"
	"math/bits"
	"slices"
	"sync"

	"github.com/holdfast-dr/holdfast/internal/seal"
	"github.com/holdfast-dr/holdfast/internal/store"
)

const (
	// maxRead is how many stored bytes are fetched by one request.
	maxRead = 4 << 20
	// maxGap is how many bytes between two chunks are fetched and thrown away, instead of asking twice: as many as cross a
	// network while the answer to another request begins. All gaps of a request together are at most half of it.
	maxGap = 128 << 10
)

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
	frames []int // lengths of all frames of the chunk that was opened last
	plain  []byte

	gathered gathered // pages of units, for Part and Pages
	window   int      // how many of them at most
	ahead    [requestsAhead][]byte
	joined   []byte                    // a chunk that was put together
	way      []wayNode                 // to the path that was looked up last
	places   map[seal.ChunkID]location // of the part that is read; nil: they are not remembered
	others   []*Reader                 // of other replicas
	rebuilt  *Reader                   // of the view that rebuilds
}

// Reader returns a new reader.
func (r *Repository) Reader() *Reader { return &Reader{r: r, coder: newDecoder(), window: windowPages} }

// Into makes the reader decode chunks into b where they fit. b belongs to the reader until it is no longer used.
func (rd *Reader) Into(b []byte) { rd.plain = b[:0] }

// Chunks reads chunks and calls fn for each, in order; plain dies with the call. What lies
// near to each other in one pack is fetched together. Each chunk's bytes are proven to be what its ID names. Errors are of fn, of the context,
// or a *ChunkError; with skip, which may be nil, a broken chunk is handed to skip and passed over.
func (rd *Reader) Chunks(ctx context.Context, ids []seal.ChunkID, fn func(i int, plain []byte) error, skip func(i int, err error) error) error {
	i, doubted := 0, -1
	helped := func(cause error) (bool, error) {
		plain, ok := rd.elsewhere(ctx, ids[i], cause)
		if !ok {
			return false, nil
		}
		i++
		return true, fn(i-1, plain)
	}
	for i < len(ids) {
		if rd.r.help.Load().isAway() {
			if ok, err := helped(nil); err != nil {
				return err
			} else if ok {
				continue
			}
		}
		run, err := rd.locate(ctx, ids[i:], maxRead)
		if errors.Is(err, errAway) {
			if ok, err := helped(err); err != nil {
				return err
			} else if ok {
				continue
			}
			// Nobody else has it: this replica is waited for, after all.
			var first location
			if first, err = rd.r.find(ctx, ids[i]); err == nil {
				run = []location{first}
			}
		}
		lost := err != nil // the index cannot be read, or does not know it
		if err == nil {
			i, err = rd.helpedRun(ctx, i, run, fn)
		}
		var ce *ChunkError
		if doubted < i && rd.r.earlier.doubt(ctx, err) {
			doubted = i
			continue
		}
		if errors.As(err, &ce) || lost {
			if ok, err := helped(err); err != nil {
				return err
			} else if ok {
				continue
			}
		}
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

// place looks a chunk up. Of those of a part that is being read it remembers where they are: they are asked for several times,
// and each time costs readings of the index. One that a collection has moved since is found by who cannot read it.
func (rd *Reader) place(id seal.ChunkID) (l location, ok bool, err error) {
	if l, ok = rd.places[id]; ok {
		return l, true, nil
	}
	if l, ok, err = rd.r.index.find(id); ok && err == nil && rd.places != nil {
		rd.places[id] = l
	}
	return l, ok, err
}

// locate finds the longest run of ids from the first on that is fetched by one request: in one pack, ascending, and near to
// each other; a run of several has at most so many stored bytes.
func (rd *Reader) locate(ctx context.Context, ids []seal.ChunkID, most int) ([]location, error) {
	first, ok, err := rd.place(ids[0])
	if err == nil && !ok {
		err = rd.r.here(ctx, func(ctx context.Context) (err error) {
			first, err = rd.r.find(ctx, ids[0])
			return err
		})
	}
	if err != nil {
		return nil, err
	}
	run, between := []location{first}, rd.r.gap()
	end, wanted, gaps := int(first.offset+first.stored), int(first.stored), 0
	for _, id := range ids[1:] {
		l, ok, err := rd.place(id)
		if err != nil || !ok || l.pack.id != first.pack.id {
			break
		}
		gap := int(l.offset) - end
		if gap < 0 || gap > between || gaps+gap > wanted+int(l.stored) || wanted+gaps+gap+int(l.stored) > most {
			break
		}
		run, end, wanted, gaps = append(run, l), end+gap+int(l.stored), wanted+int(l.stored), gaps+gap
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
	rd.sealed = grow(rd.sealed, spanOf(run))
	if err := rd.r.getRange(ctx, run[0].pack.name(), int64(run[0].offset), rd.sealed); err != nil {
		return rd.unread(ctx, i, run, fn, err)
	}
	return rd.handOver(ctx, i, run, fn)
}

// unread goes on where a run could not be read.
func (rd *Reader) unread(ctx context.Context, i int, run []location, fn func(int, []byte) error, cause error) (next int, err error) {
	if ctx.Err() != nil {
		return i, ctx.Err()
	}
	moved, err := rd.r.moved(ctx, run[0], cause)
	if err == nil {
		return rd.run(ctx, i, []location{moved}, fn)
	}
	if len(run) > 1 {
		return rd.run(ctx, i, run[:1], fn) // the fault may lie in a later part
	}
	return i, &ChunkError{run[0].id, run[0].pack.name(), err}
}

// handOver opens the chunks of a run that was read.
func (rd *Reader) handOver(ctx context.Context, i int, run []location, fn func(int, []byte) error) (next int, err error) {
	pack := run[0].pack
	object, err := rd.r.opens.get(rd.r.keys, pack)
	if err != nil {
		return i, &ChunkError{run[0].id, pack.name(), err}
	}
	for _, l := range run {
		if _, err := rd.one(object, l, rd.sealed[l.offset-run[0].offset:][:l.stored], everyGroup); err != nil {
			return i, &ChunkError{l.id, pack.name(), err}
		}
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

// decoded is a chunk of which some groups are there, one behind the other.
type decoded struct {
	plain []byte
	have  uint64 // a bit for each group
	size  int    // of the chunk
}

// offset returns where in plain a page begins, which lies in a group that is there.
func (d decoded) offset(slot int) int {
	return bits.OnesCount64(d.have&(groupOf(slot)-1))*seal.GroupSize + slot%pagesOfGroup*PageSize
}

// page returns a page of a group that is there: less of it at the chunk's end, nothing behind.
func (d decoded) page(slot int) []byte {
	at := d.offset(slot)
	return d.plain[min(at, len(d.plain)):min(at+PageSize, len(d.plain))]
}

// open opens the frames of a chunk into rd.opened, and of groups only those that are wanted.
func (rd *Reader) open(object *seal.Object, l location, sealed []byte, want uint64) (err error) {
	rd.opened = slices.Grow(rd.opened[:0], len(sealed))
	if l.head == 0 {
		rd.opened, err = object.Open(rd.opened, sealed, int64(l.offset))
		rd.frames = append(rd.frames[:0], len(rd.opened))
		return err
	}
	at := int(l.head) + seal.Overhead
	if rd.opened, err = object.Open(rd.opened, sealed[:at], int64(l.offset)); err != nil {
		return err
	}
	if rd.frames, err = rd.r.frames(rd.frames, rd.opened, l); err != nil {
		return &seal.DamagedError{Name: l.pack.name(), Offset: int64(l.offset), Reason: err.Error()}
	}
	for g, n := range rd.frames[1:] {
		from := at
		if at += n + seal.Overhead; want>>g&1 == 0 {
			continue
		}
		if rd.opened, err = object.Open(rd.opened, sealed[from:at], int64(l.offset)+int64(from)); err != nil {
			return err
		}
	}
	return nil
}

// frames makes lengths those of the frames of a chunk that begins with this one, and has no room for others.
func (r *Repository) frames(lengths []int, head []byte, l location) ([]int, error) {
	codec, ok := r.codecs[l.encoding]
	if !ok {
		return nil, unknownEncoding(l.encoding)
	}
	if len(head) < seal.Groups(int(l.plain))*seal.ValueSize {
		return nil, errors.New("it ends within the values of its groups")
	}
	lengths, err := frames(lengths, head, codec, int(l.plain))
	sealed := 0
	for _, n := range lengths {
		sealed += n + seal.Overhead
	}
	if err == nil && sealed != int(l.stored) {
		err = fmt.Errorf("its frames have %d bytes, and it has %d", sealed, l.stored)
	}
	return lengths, err
}

// one opens, decodes and proves one chunk into rd.plain, or at least the wanted groups of it.
func (rd *Reader) one(object *seal.Object, l location, sealed []byte, want uint64) (decoded, error) {
	want = l.wanted(want)
	err := rd.open(object, l, sealed, want)
	if err != nil {
		return decoded{}, err
	}
	d := decoded{have: want, size: int(l.plain)}
	if length := bytesIn(want, d.size); cap(rd.plain) < length && d.size <= MaxChunk {
		rd.plain = make([]byte, 0, length)
	}
	d.plain, err = rd.coder.decode(rd.plain[:0], rd.opened, l.encoding, d.size, want, rd.r.codecs)
	if err != nil {
		return d, &seal.DamagedError{Name: l.pack.name(), Offset: int64(l.offset), Reason: err.Error()}
	}
	rd.plain = d.plain
	var id seal.ChunkID
	if want == everyGroup {
		id = rd.r.keys.ChunkID(string(l.pack.group), d.plain)
	} else {
		id = rd.r.keys.PartialID(string(l.pack.group), d.plain, d.size, want, rd.opened)
	}
	if id != l.id {
		return d, &seal.DamagedError{Name: l.pack.name(), Offset: int64(l.offset), Reason: "its bytes are not those of its ID"}
	}
	return d, nil
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
