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
	extentRaw  byte = 0
	extentZstd byte = 1
	extentS2   byte = 2 // in blocks
)

// extentBlock is how many plain bytes one block of S2 stands for: what a processor's own cache holds beside the
// encoded ones, so that a reader hands each on while it is there.
const extentBlock = 256 << 10

// logPiece is how many plain bytes a reader hands on at once, some blocks: what is then written costs less for each byte
// the more of it comes at once, as long as it is in the cache.
const logPiece = 2 * extentBlock

// Compression says how hard an extent is compressed.
type Compression byte

// Small is for what will be kept, Fast for what is soon replaced or must not fall behind.
const (
	Small Compression = iota
	Fast
)

// ExtentEncoder makes extents for one goroutine.
type ExtentEncoder struct {
	log   *Log
	coder *coder
	plain []byte // what was read, where it is compressed as a whole
	block []byte // or in blocks
	buf   []byte // the object that was made last: extents are large, and one is made after the other
}

// Encoder returns a new encoder.
func (l *Log) Encoder() *ExtentEncoder { return &ExtentEncoder{log: l, coder: newEncoder()} }

const extentHead = 4 + 8 + 8 + 8 + 8

// Put stores the bytes of the stream from start on, at most MaxExtent. When it returns nil they are durable.
// It may be repeated, and another writer may store the same bytes: all copies are equal in content. data is
// lent.
func (e *ExtentEncoder) Put(ctx context.Context, s StreamID, start uint64, data []byte, clock ExtentClock, c Compression) error {
	b, err := e.begin(s, start, len(data), clock)
	if err != nil {
		return err
	}
	if c == Small {
		b.small(e.coder, data)
	} else {
		for block := range slices.Chunk(data, extentBlock) {
			b.add(block)
		}
	}
	return e.give(ctx, e.log.r.store.Put, b)
}

// Add reads size bytes of the stream from start on, and stores them as Put does, where nobody has stored an extent of
// these bounds. Otherwise store.ErrExists is in the error, and what is there may have other bytes: two sources may write
// to one log.
func (e *ExtentEncoder) Add(ctx context.Context, s StreamID, start uint64, from io.Reader, size int, clock ExtentClock, c Compression) error {
	b, err := e.begin(s, start, size, clock)
	if err != nil {
		return err
	}
	if c == Small {
		e.plain = grow(e.plain, size)
		if _, err := io.ReadFull(from, e.plain); err != nil {
			return err
		}
		b.small(e.coder, e.plain)
	} else {
		e.block = grow(e.block, extentBlock)
		for size > 0 {
			block := e.block[:min(size, extentBlock)]
			if _, err := io.ReadFull(from, block); err != nil {
				return err
			}
			b.add(block)
			size -= len(block)
		}
	}
	return e.give(ctx, e.log.r.store.Create, b)
}

// extentBuilder is an extent that is being made.
type extentBuilder struct {
	name   string
	object *seal.Object
	buf    []byte // the object's header, and its plain text as far as it has come
}

// begin begins an extent of size bytes.
func (e *ExtentEncoder) begin(s StreamID, start uint64, size int, clock ExtentClock) (*extentBuilder, error) {
	if size == 0 || size > MaxExtent {
		return nil, fmt.Errorf("a log extent of %d bytes is not within 1 and %d", size, MaxExtent)
	}
	end := start + uint64(size)
	name := e.log.r.extentName(e.log.system, s, start, end)
	object := e.log.r.keys.NewObject(seal.KindLogExtent, name)
	b := append(object.AppendHeader(e.buf[:0]), 1, extentRaw, 0, 0)
	b = binary.LittleEndian.AppendUint64(b, start)
	b = binary.LittleEndian.AppendUint64(b, end)
	b = binary.LittleEndian.AppendUint64(b, uint64(micros(clock.Source)))
	b = binary.LittleEndian.AppendUint64(b, uint64(micros(clock.Writer)))
	e.buf = nil
	return &extentBuilder{name, object, b}, nil
}

// small compresses all of the extent's bytes as one frame.
func (b *extentBuilder) small(c *coder, data []byte) {
	b.buf[seal.HeaderSize+1] = extentZstd
	b.buf = c.enc.EncodeAll(data, b.buf)
}

// add compresses the next bytes as a block of S2 behind its length: extentBlock of them, or the last ones.
func (b *extentBuilder) add(block []byte) {
	b.buf[seal.HeaderSize+1] = extentS2
	b.buf = appendBlock(b.buf, block)
}

func appendBlock(b, block []byte) []byte {
	need := 4 + s2.MaxEncodedLen(len(block))
	b = slices.Grow(b, need)
	at := len(b) + 4
	n := len(s2.Encode(b[at:len(b)+need], block))
	return binary.LittleEndian.AppendUint32(b, uint32(n))[:at+n]
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
	sealed []byte // of the last extent
	plain  []byte // where it was asked for as a whole or came as one
	piece  []byte // the one that was decoded last
}

// Reader returns a new reader.
func (l *Log) Reader() *LogReader { return &LogReader{log: l, coder: newDecoder()} }

// Read returns the plain bytes of one extent, valid until the next call, and its clock.
func (lr *LogReader) Read(ctx context.Context, e Extent) ([]byte, ExtentClock, error) {
	return lr.readObject(ctx, lr.log.r.extentName(lr.log.system, e.Stream, e.Start, e.End), e)
}

func (lr *LogReader) readObject(ctx context.Context, name string, e Extent) (data []byte, clock ExtentClock, err error) {
	clock, err = lr.eachBlock(ctx, name, e, func(block []byte) error {
		if data == nil && len(block) == int(e.End-e.Start) {
			data = block
			return nil
		}
		if data == nil {
			lr.plain = grow(lr.plain, int(e.End-e.Start))
			data = lr.plain[:0]
		}
		data = append(data, block...)
		return nil
	})
	return data, clock, err
}

// Each calls fn for the plain bytes of one extent, in order and in pieces, which are valid until fn returns. The object
// was authenticated before the first one. An error of fn ends it and is returned.
func (lr *LogReader) Each(ctx context.Context, e Extent, fn func(piece []byte) error) error {
	_, err := lr.eachBlock(ctx, lr.log.r.extentName(lr.log.system, e.Stream, e.Start, e.End), e, fn)
	return err
}

func (lr *LogReader) eachBlock(ctx context.Context, name string, e Extent, fn func([]byte) error) (clock ExtentClock, err error) {
	plain, err := lr.open(ctx, name, e.Stored)
	if err != nil {
		return clock, err
	}
	var failed error
	clock, err = lr.parse(plain, e, func(block []byte) error {
		failed = fn(block)
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

// parse calls fn for what an extent holds, piece by piece.
func (lr *LogReader) parse(b []byte, e Extent, fn func([]byte) error) (clock ExtentClock, err error) {
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
	switch b[1] {
	case extentRaw:
	case extentZstd:
		data, err = lr.coder.dec.DecodeAll(data, grow(lr.plain, size)[:0])
		lr.plain = data[:0]
	case extentS2:
		return clock, lr.blocks(data, size, fn)
	default:
		return clock, fmt.Errorf("its encoding %d is unknown to this holdfast", b[1])
	}
	if err == nil && len(data) != size {
		err = fmt.Errorf("it decodes to %d bytes, not %d", len(data), size)
	}
	if err != nil {
		return clock, err
	}
	return clock, fn(data)
}

// blocks is the inverse of add, for size plain bytes.
func (lr *LogReader) blocks(b []byte, size int, fn func([]byte) error) error {
	lr.piece = grow(lr.piece, logPiece)
	for size > 0 {
		piece := lr.piece[:min(size, logPiece)]
		for block := range slices.Chunk(piece, extentBlock) {
			var err error
			if b, err = decodeBlock(block, b); err != nil {
				return err
			}
		}
		if err := fn(piece); err != nil {
			return err
		}
		size -= len(piece)
	}
	if len(b) > 0 {
		return errors.New("something follows its last block")
	}
	return nil
}

// decodeBlock fills block from the encoded one that b begins with, and returns what follows that.
func decodeBlock(block, b []byte) ([]byte, error) {
	if len(b) < 4 || uint64(len(b)-4) < uint64(binary.LittleEndian.Uint32(b)) {
		return nil, errors.New("a block is cut off")
	}
	encoded := b[4:][:binary.LittleEndian.Uint32(b)]
	if n, err := s2.DecodedLen(encoded); err != nil || n != len(block) {
		return nil, errors.New("a block decodes to another length")
	}
	_, err := s2.Decode(block, encoded)
	return b[4+len(encoded):], err
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
