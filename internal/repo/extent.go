package repo

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/klauspost/compress/s2"

	"github.com/holdfast-dr/holdfast/internal/seal"
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

// Versions of a log extent.
const (
	extentPlain  byte = 1
	extentListed byte = 2 // with a list of replicas behind the head
)

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
	list := appendHolders(nil, e.log.holders(s))
	version := extentPlain
	if len(list) > 0 {
		version = extentListed
	}
	b := append(object.AppendHeader(e.buf[:0]), version, c.encoding())
	b = binary.LittleEndian.AppendUint16(b, uint16(len(list)))
	b = binary.LittleEndian.AppendUint64(b, start)
	b = binary.LittleEndian.AppendUint64(b, end)
	b = binary.LittleEndian.AppendUint64(b, uint64(micros(clock.Source)))
	b = binary.LittleEndian.AppendUint64(b, uint64(micros(clock.Writer)))
	b = append(b, list...)
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
	seen(block)
	n := len(s2.Encode(b[at:len(b)+need], block))
	made(b[at : at+n])
	return binary.LittleEndian.AppendUint32(b, uint32(n))[:at+n]
}

func (c *coder) appendZstdBlock(b, block []byte) []byte {
	at := len(b)
	seen(block)
	b = c.enc.EncodeAll(block, append(b, 0, 0, 0, 0))
	made(b[at:])
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
	e.log.stored(b.name)
	return nil
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
