package repo

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sort"
	"time"

	"github.com/klauspost/compress/s2"

	"github.com/holdfast-dr/holdfast/internal/seal"
	"github.com/holdfast-dr/holdfast/internal/store"
)

// MaxExtent is the largest piece of a log that one object holds, in plain bytes.
const MaxExtent = 16 << 20

// Encodings of a log extent.
const (
	extentRaw  byte = 0
	extentZstd byte = 1
	extentS2   byte = 2 // in blocks
)

// extentBlock is how many plain bytes one block of S2 stands for: what a processor's own cache holds beside the
// encoded ones, so that a reader hands each on while it is there.
const extentBlock = 256 << 10

// Extent is a part of a stream that one object holds.
type Extent struct {
	Stream StreamID
	Start  uint64
	End    uint64
	Stored int64 // bytes in the store
}

// ExtentClock tells when an extent's last byte was written, as far as anybody can know.
type ExtentClock struct {
	Source time.Time // the source's clock, from its protocol; zero where unknown
	Writer time.Time // the clock of the host that stored it
}

// Log is the change log of one system. Its methods may be called from several goroutines.
type Log struct {
	r      *Repository
	system string
}

// Log returns the log of a system. Reading needs nothing more; a writer registers the system first.
func (r *Repository) Log(system string) *Log { return &Log{r, system} }

// Register makes the system known under its residency group, and this process's signer.
func (l *Log) Register(ctx context.Context, group ResidencyGroup) error {
	if err := l.r.registerSystem(ctx, l.system, group); err != nil {
		return err
	}
	if l.r.opts.Signer == nil {
		return errors.New("a writer needs a signer")
	}
	return l.r.registerSigner(ctx)
}

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
	buf   []byte // the object that was made last: extents are large, and one is made after the other
}

// Encoder returns a new encoder.
func (l *Log) Encoder() *ExtentEncoder { return &ExtentEncoder{log: l, coder: newEncoder()} }

const extentHead = 4 + 8 + 8 + 8 + 8

// Put stores the bytes of the stream from start on, at most MaxExtent. When it returns nil they are durable.
// It may be repeated, and another writer may store the same bytes: all copies are equal in content. data is
// lent.
func (e *ExtentEncoder) Put(ctx context.Context, s StreamID, start uint64, data []byte, clock ExtentClock, c Compression) error {
	return e.put(ctx, e.log.r.store.Put, s, start, data, clock, c)
}

// Add is Put where nobody has stored an extent of these bounds. Otherwise store.ErrExists is in the error, and what
// is there may have other bytes: two sources may write to one log.
func (e *ExtentEncoder) Add(ctx context.Context, s StreamID, start uint64, data []byte, clock ExtentClock, c Compression) error {
	return e.put(ctx, e.log.r.store.Create, s, start, data, clock, c)
}

func (e *ExtentEncoder) put(ctx context.Context, give func(context.Context, string, []byte) error, s StreamID, start uint64, data []byte, clock ExtentClock, c Compression) error {
	if len(data) == 0 || len(data) > MaxExtent {
		return fmt.Errorf("a log extent of %d bytes is not within 1 and %d", len(data), MaxExtent)
	}
	end := start + uint64(len(data))
	name := e.log.r.extentName(e.log.system, s, start, end)
	object := e.log.r.keys.NewObject(seal.KindLogExtent, name)
	b := append(object.AppendHeader(e.buf[:0]), 1, extentRaw, 0, 0)
	b = binary.LittleEndian.AppendUint64(b, start)
	b = binary.LittleEndian.AppendUint64(b, end)
	b = binary.LittleEndian.AppendUint64(b, uint64(micros(clock.Source)))
	b = binary.LittleEndian.AppendUint64(b, uint64(micros(clock.Writer)))
	encoding := &b[seal.HeaderSize+1]
	if c == Small {
		*encoding = extentZstd
		b = e.coder.enc.EncodeAll(data, b)
	} else {
		*encoding = extentS2
		b = appendBlocks(b, data)
	}
	// Sealed in place: the frame begins where its plain bytes do.
	b = object.Seal(b[:seal.HeaderSize], b[seal.HeaderSize:], seal.HeaderSize)
	e.buf = nil // a request that was given up may still be reading it
	if err := give(ctx, name, b); err != nil {
		return fmt.Errorf("store the log: %w", err)
	}
	e.buf = b
	return nil
}

// appendBlocks appends data as blocks of S2, each behind its length.
func appendBlocks(b, data []byte) []byte {
	need := 4 + s2.MaxEncodedLen(extentBlock)
	for block := range slices.Chunk(data, extentBlock) {
		b = slices.Grow(b, need)
		at := len(b) + 4
		encoded := s2.Encode(b[at:at+need-4], block)
		b = binary.LittleEndian.AppendUint32(b, uint32(len(encoded)))
		b = b[:at+len(encoded)]
	}
	return b
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

// Extents returns what the store holds of a stream at or after from, sorted by start, the longer of two with
// one start first. Extents overlap where a finished one has superseded pieces that are still there.
func (l *Log) Extents(ctx context.Context, s StreamID, from uint64) ([]Extent, error) {
	// An extent that begins before from may reach beyond it, but by no more than its greatest length.
	prefix := l.r.logPrefix(l.system, s)
	after := ""
	if from > MaxExtent {
		after = fmt.Sprintf("%s%016x", prefix, from-MaxExtent)
	}
	var out []Extent
	err := l.r.store.List(ctx, prefix, after, func(i store.Info) error {
		if stream, start, end, ok := parseExtentName(i.Name); ok && stream == s && end > from {
			out = append(out, Extent{s, start, end, i.Size})
		}
		return nil
	})
	sort.Slice(out, func(i, j int) bool {
		return out[i].Start < out[j].Start || (out[i].Start == out[j].Start && out[i].End > out[j].End)
	})
	return out, err
}

// Streams returns the streams of which the store holds anything, ascending.
func (l *Log) Streams(ctx context.Context) ([]StreamID, error) {
	prefix := prefixLog + l.r.keys.NameHash(l.system) + "/"
	var out []StreamID
	after := ""
	for {
		// One name a request: jump from stream to stream instead of listing every extent.
		found := false
		stop := errors.New("stop")
		err := l.r.store.List(ctx, prefix, after, func(i store.Info) error {
			s, _, _, ok := parseExtentName(i.Name)
			if !ok {
				return nil
			}
			out, found = append(out, s), true
			after = fmt.Sprintf("%s~", l.r.logPrefix(l.system, s)[:len(prefix)+8])
			return stop
		})
		if err != nil && !errors.Is(err, stop) {
			return nil, err
		}
		if !found {
			return out, nil
		}
	}
}

// Range is a part of a stream without gaps, from Start to before End.
type Range struct{ Start, End uint64 }

// Merge joins extents that touch or overlap. The result ascends; between two of its ranges there is a gap.
func Merge(extents []Extent) []Range {
	var out []Range
	for _, e := range extents {
		if n := len(out); n > 0 && e.Start <= out[n-1].End {
			out[n-1].End = max(out[n-1].End, e.End)
			continue
		}
		out = append(out, Range{e.Start, e.End})
	}
	return out
}

// LogReader reads extents for one goroutine.
type LogReader struct {
	log   *Log
	coder *coder
	plain []byte // of the last extent, where it was asked for as a whole or came as one
	block []byte
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
	r := lr.log.r
	b, err := r.store.Get(ctx, name, 2*MaxExtent)
	if err != nil {
		return clock, err
	}
	plain, err := r.keys.OpenWhole(seal.KindLogExtent, name, b)
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

// blocks is the inverse of appendBlocks, for size plain bytes.
func (lr *LogReader) blocks(b []byte, size int, fn func([]byte) error) error {
	lr.block = grow(lr.block, extentBlock)
	for size > 0 {
		want := min(size, extentBlock)
		if len(b) < 4 || uint64(len(b)-4) < uint64(binary.LittleEndian.Uint32(b)) {
			return errors.New("a block is cut off")
		}
		encoded := b[4:][:binary.LittleEndian.Uint32(b)]
		b = b[4+len(encoded):]
		if n, err := s2.DecodedLen(encoded); err != nil || n != want {
			return errors.New("a block decodes to another length")
		}
		block, err := s2.Decode(lr.block[:want], encoded)
		if err != nil {
			return err
		}
		if err := fn(block); err != nil {
			return err
		}
		size -= want
	}
	if len(b) > 0 {
		return errors.New("something follows its last block")
	}
	return nil
}

// DropPieces removes extents of a stream that keep covers whole and that are not keep itself: the pieces of
// what is now finished. keep must be durable.
func (l *Log) DropPieces(ctx context.Context, keep Extent) error {
	all, err := l.Extents(ctx, keep.Stream, keep.Start)
	if err != nil {
		return err
	}
	for _, e := range all {
		if e.Start >= keep.Start && e.End <= keep.End && e.End-e.Start < keep.End-keep.Start {
			if err := l.r.store.Delete(ctx, l.r.extentName(l.system, e.Stream, e.Start, e.End)); err != nil {
				return err
			}
		}
	}
	return nil
}

// PutFile stores a small file that belongs to the log, such as a timeline's history, under a name of the
// characters [a-z0-9._-]. A file that is there already is replaced.
func (l *Log) PutFile(ctx context.Context, name string, data []byte) error {
	object := prefixLogFiles + l.r.keys.NameHash(l.system) + "/" + name
	if err := store.CheckName(object); err != nil {
		return err
	}
	return l.r.store.Put(ctx, object, l.r.keys.SealWhole(seal.KindLogFile, object, data))
}

// File returns what PutFile stored. store.ErrNotExist is in the error where there is none.
func (l *Log) File(ctx context.Context, name string) ([]byte, error) {
	object := prefixLogFiles + l.r.keys.NameHash(l.system) + "/" + name
	b, err := l.r.store.Get(ctx, object, maxSmall)
	if err != nil {
		return nil, err
	}
	return l.r.keys.OpenWhole(seal.KindLogFile, object, b)
}

// Files returns the names of the stored files, sorted.
func (l *Log) Files(ctx context.Context) ([]string, error) {
	prefix := prefixLogFiles + l.r.keys.NameHash(l.system) + "/"
	var out []string
	err := l.r.store.List(ctx, prefix, "", func(i store.Info) error { out = append(out, i.Name[len(prefix):]); return nil })
	return out, err
}
