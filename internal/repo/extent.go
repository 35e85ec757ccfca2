package repo

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/klauspost/compress/s2"

	"github.com/holdfast-dr/holdfast/internal/seal"
	"github.com/holdfast-dr/holdfast/internal/store"
)

// Encodings of a log extent.
const (
	extentRaw        byte = 0
	extentZstd       byte = 1 // as a whole: nobody writes it any more
	extentS2         byte = 2 // in blocks
	extentZstdBlocks byte = 3
)

// s2Block is how many plain bytes one block of S2 stands for: what a processor's own cache holds beside the encoded ones,
// so that a reader hands each on while it is there. A block of zstd is as long as its window: shorter ones compress
// less, and of a longer one nothing can be left out.
const (
	s2Block   = 256 << 10
	zstdBlock = 1 << 20
)

// s2Piece is how many plain bytes a reader hands on at once, some blocks: what is then written costs less for each byte
// the more of it comes at once, as long as it is in the cache.
const s2Piece = 2 * s2Block

// Compression says how hard an extent is compressed.
type Compression byte

// Small is for what will be kept, Fast for what is soon replaced or must not fall behind.
const (
	Small Compression = iota
	Fast
)

func (c Compression) block() int {
	if c == Small {
		return zstdBlock
	}
	return s2Block
}

func (c Compression) encoding() byte {
	if c == Small {
		return extentZstdBlocks
	}
	return extentS2
}

// ExtentEncoder makes extents for one goroutine.
type ExtentEncoder struct {
	log   *Log
	coder *coder
	block []byte // what was read
	buf   []byte // the object that was made last: extents are large, and one is made after the other
}

// Encoder returns a new encoder.
func (l *Log) Encoder() *ExtentEncoder { return &ExtentEncoder{log: l, coder: newEncoder()} }

const extentHead = 4 + 8 + 8 + 8 + 8

// Put stores the bytes of the stream from start on, at most MaxExtent. When it returns nil they are durable.
// It may be repeated, and another writer may store the same bytes: all copies are equal in content. data is
// lent.
func (e *ExtentEncoder) Put(ctx context.Context, s StreamID, start uint64, data []byte, clock ExtentClock, c Compression) error {
	b, err := e.begin(s, start, len(data), clock, c)
	if err != nil {
		return err
	}
	for block := range slices.Chunk(data, c.block()) {
		b.add(block)
	}
	return e.give(ctx, e.log.r.store.Put, b)
}

// Add reads size bytes of the stream from start on, and stores them as Put does, where nobody has stored an extent of
// these bounds. Otherwise store.ErrExists is in the error, and what is there may have other bytes: two sources may write
// to one log.
func (e *ExtentEncoder) Add(ctx context.Context, s StreamID, start uint64, from io.Reader, size int, clock ExtentClock, c Compression) error {
	b, err := e.begin(s, start, size, clock, c)
	if err != nil {
		return err
	}
	e.block = grow(e.block, c.block())
	for size > 0 {
		block := e.block[:min(size, c.block())]
		if _, err := io.ReadFull(from, block); err != nil {
			return err
		}
		b.add(block)
		size -= len(block)
	}
	return e.give(ctx, e.log.r.store.Create, b)
}

// extentBuilder is an extent that is being made.
type extentBuilder struct {
	name   string
	object *seal.Object
	coder  *coder // nil: blocks of S2
	buf    []byte // the object's header, and its plain text as far as it has come
}

// begin begins an extent of size bytes.
func (e *ExtentEncoder) begin(s StreamID, start uint64, size int, clock ExtentClock, c Compression) (*extentBuilder, error) {
	if size == 0 || size > MaxExtent {
		return nil, fmt.Errorf("a log extent of %d bytes is not within 1 and %d", size, MaxExtent)
	}
	end := start + uint64(size)
	name := e.log.r.extentName(e.log.system, s, start, end)
	object := e.log.r.keys.NewObject(seal.KindLogExtent, name)
	b := append(object.AppendHeader(e.buf[:0]), 1, c.encoding(), 0, 0)
	b = binary.LittleEndian.AppendUint64(b, start)
	b = binary.LittleEndian.AppendUint64(b, end)
	b = binary.LittleEndian.AppendUint64(b, uint64(micros(clock.Source)))
	b = binary.LittleEndian.AppendUint64(b, uint64(micros(clock.Writer)))
	e.buf = nil
	built := &extentBuilder{name: name, object: object, buf: b}
	if c == Small {
		built.coder = e.coder
	}
	return built, nil
}

// add compresses the next bytes as a block behind its length: a whole one, or the last one.
func (b *extentBuilder) add(block []byte) {
	if b.coder != nil {
		b.buf = b.coder.appendZstdBlock(b.buf, block)
	} else {
		b.buf = appendS2Block(b.buf, block)
	}
}

func appendS2Block(b, block []byte) []byte {
	need := 4 + s2.MaxEncodedLen(len(block))
	b = slices.Grow(b, need)
	at := len(b) + 4
	n := len(s2.Encode(b[at:len(b)+need], block))
	return binary.LittleEndian.AppendUint32(b, uint32(n))[:at+n]
}

func (c *coder) appendZstdBlock(b, block []byte) []byte {
	at := len(b)
	b = c.enc.EncodeAll(block, append(b, 0, 0, 0, 0))
	binary.LittleEndian.PutUint32(b[at:], uint32(len(b)-at-4))
	return b
}

// give seals an extent and stores it.
func (e *ExtentEncoder) give(ctx context.Context, store func(context.Context, string, []byte) error, b *extentBuilder) error {
	// Sealed in place: the frame begins where its plain bytes do.
	sealed := b.object.Seal(b.buf[:seal.HeaderSize], b.buf[seal.HeaderSize:], seal.HeaderSize)
	if err := store(ctx, b.name, sealed); err != nil {
		return fmt.Errorf("store the log: %w", err) // and the buffer is lost: a request that was given up may still read it
	}
	e.buf = sealed
	return nil
}

// LogReader reads extents for one goroutine.
type LogReader struct {
	log    *Log
	coder  *coder
	sealed []byte    // of the last extent
	plain  []byte    // where it was asked for as a whole or came as one
	pieces [2][]byte // those that were decoded last
}

// Reader returns a new reader.
func (l *Log) Reader() *LogReader { return &LogReader{log: l, coder: newDecoder()} }

// Read returns the plain bytes of one extent, valid until the next call, and its clock.
func (lr *LogReader) Read(ctx context.Context, e Extent) ([]byte, ExtentClock, error) {
	return lr.readObject(ctx, lr.log.r.extentName(lr.log.system, e.Stream, e.Start, e.End), e)
}

func (lr *LogReader) readObject(ctx context.Context, name string, e Extent) (data []byte, clock ExtentClock, err error) {
	clock, err = lr.each(ctx, name, e, e.Start, e.End, func(piece []byte) error {
		if data == nil && len(piece) == int(e.End-e.Start) {
			data = piece
			return nil
		}
		if data == nil {
			lr.plain = grow(lr.plain, int(e.End-e.Start))
			data = lr.plain[:0]
		}
		data = append(data, piece...)
		return nil
	})
	return data, clock, err
}

// Each calls fn for the plain bytes of one extent between two positions, in order and in pieces. A piece is valid until fn
// has returned for the one after it. The object was authenticated before the first one. An error of fn ends it and is
// returned.
func (lr *LogReader) Each(ctx context.Context, e Extent, from, to uint64, fn func(piece []byte) error) error {
	_, err := lr.each(ctx, lr.log.r.extentName(lr.log.system, e.Stream, e.Start, e.End), e, from, to, fn)
	return err
}

func (lr *LogReader) each(ctx context.Context, name string, e Extent, from, to uint64, fn func([]byte) error) (clock ExtentClock, err error) {
	var plain []byte
	ok := false
	if lr.log.r.help.Load().isAway() {
		plain, ok = lr.elsewhere(ctx, name, nil)
	}
	if !ok {
		if plain, err = lr.open(ctx, name, e.Stored); err != nil {
			if plain, ok = lr.elsewhere(ctx, name, err); !ok {
				return clock, err
			}
		}
	}
	var failed error
	clock, err = lr.parse(plain, e, max(from, e.Start), min(to, e.End), func(piece []byte) error {
		failed = fn(piece)
		return failed
	})
	if err != nil && failed == nil {
		err = &seal.DamagedError{Name: name, Offset: seal.HeaderSize, Reason: err.Error()}
	}
	return clock, err
}

// open returns the plain text of an extent's object, valid until the next call. One whose size was listed comes into the
// memory of the last one. It may have been stored again with another size since: what is shorter, or does not open, is
// read anew, however large it is.
func (lr *LogReader) open(ctx context.Context, name string, size int64) ([]byte, error) {
	r := lr.log.r
	if size > 0 && size <= 2*MaxExtent {
		const step = 1 << 20 // each is a little larger than some other
		lr.sealed = grow(lr.sealed, (int(size)+step-1)/step*step)[:size]
		err := r.store.GetRange(ctx, name, 0, lr.sealed)
		if err == nil {
			if plain, err := r.keys.OpenWhole(seal.KindLogExtent, name, lr.sealed); err == nil {
				return plain, nil
			}
		} else if store.KindOf(err) != store.Damaged {
			return nil, err
		}
	}
	b, err := r.store.Get(ctx, name, 2*MaxExtent)
	if err != nil {
		return nil, err
	}
	return r.keys.OpenWhole(seal.KindLogExtent, name, b)
}

// parse calls fn for what an extent holds between two positions within it, piece by piece. Blocks that lie outside are
// not decoded.
func (lr *LogReader) parse(b []byte, e Extent, from, to uint64, fn func([]byte) error) (clock ExtentClock, err error) {
	if len(b) < extentHead || b[0] != 1 || b[2] != 0 || b[3] != 0 {
		return clock, errors.New("a log extent has an unknown form")
	}
	start, end := binary.LittleEndian.Uint64(b[4:]), binary.LittleEndian.Uint64(b[12:])
	if start != e.Start || end != e.End || end <= start || end-start > MaxExtent {
		return clock, fmt.Errorf("it holds %x to %x", start, end)
	}
	clock = ExtentClock{fromMicros(binary.LittleEndian.Uint64(b[20:])), fromMicros(binary.LittleEndian.Uint64(b[28:]))}
	size := int(end - start)
	data := b[extentHead:]
	lo, hi := int(from-start), int(max(from, to)-start)
	switch b[1] {
	case extentRaw:
	case extentZstd:
		data, err = lr.coder.dec.DecodeAll(data, grow(lr.plain, size)[:0])
		lr.plain = data[:0]
	case extentS2:
		return clock, lr.blocks(data, size, lo, hi, s2Block, decodeS2, fn)
	case extentZstdBlocks:
		return clock, lr.blocks(data, size, lo, hi, zstdBlock, lr.coder.decodeZstd, fn)
	default:
		return clock, fmt.Errorf("its encoding %d is unknown to this holdfast", b[1])
	}
	if err == nil && len(data) != size {
		err = fmt.Errorf("it decodes to %d bytes, not %d", len(data), size)
	}
	if err != nil || lo == hi {
		return clock, err
	}
	return clock, fn(data[lo:hi])
}

// blocks is the inverse of add, for size plain bytes of which those from lo to hi are wanted.
func (lr *LogReader) blocks(b []byte, size, lo, hi, length int, decode func(block, encoded []byte) error, fn func([]byte) error) error {
	piece := max(length, s2Piece)
	for at, turn := 0, 0; at < size; at += piece {
		end := min(at+piece, size)
		wanted := at < hi && lo < end
		if wanted {
			turn ^= 1
			lr.pieces[turn] = grow(lr.pieces[turn], zstdBlock)
		}
		for first := at; first < end; first += length {
			last := min(first+length, end)
			if len(b) < 4 || uint64(len(b)-4) < uint64(binary.LittleEndian.Uint32(b)) {
				return errors.New("a block is cut off")
			}
			encoded := b[4:][:binary.LittleEndian.Uint32(b)]
			b = b[4+len(encoded):]
			if first < hi && lo < last {
				if err := decode(lr.pieces[turn][first-at:last-at], encoded); err != nil {
					return err
				}
			}
		}
		if wanted {
			if err := fn(lr.pieces[turn][max(lo, at)-at : min(hi, end)-at]); err != nil {
				return err
			}
		}
	}
	if len(b) > 0 {
		return errors.New("something follows its last block")
	}
	return nil
}

var errBlockLength = errors.New("a block decodes to another length")

func decodeS2(block, encoded []byte) error {
	if n, err := s2.DecodedLen(encoded); err != nil || n != len(block) {
		return errBlockLength
	}
	_, err := s2.Decode(block, encoded)
	return err
}

func (c *coder) decodeZstd(block, encoded []byte) error {
	out, err := c.dec.DecodeAll(encoded, block[:0:len(block)])
	if err == nil && len(out) != len(block) {
		err = errBlockLength
	}
	return err
}

func micros(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMicro()
}

func fromMicros(us uint64) time.Time {
	if us == 0 {
		return time.Time{}
	}
	return time.UnixMicro(int64(us)).UTC()
}
