package repo

import (
	"errors"
	"fmt"
	"math/bits"
	"slices"

	"github.com/klauspost/compress/zstd"

	"github.com/holdfast-dr/holdfast/internal/seal"
)

// Encodings of a chunk's stored bytes. Codecs have IDs from 16 on.
const (
	encodingRaw  byte = 0
	encodingZstd byte = 1
	firstCodec   byte = 16
)

// MaxChunk is the largest chunk in plain bytes. A reader allocates no more than this for one.
const MaxChunk = 4 << 20

// Codec encodes chunks of a form that only an engine knows. A codec's ID belongs to its encoding for ever.
// Its methods may be called from several goroutines.
type Codec interface {
	// ID returns the byte by which the index names the encoding: 16 or more.
	ID() byte
	// Encode appends the encoded form of src, of 64 groups (seal.GroupSize) at most, to dst: a head, which has a length, and each
	// group, one behind the other. ok is false where src has not the form; dst then comes back as it was.
	Encode(dst, src []byte) (out []byte, head int, ok bool)
	// Groups appends the lengths of the encoded groups to lengths, as the head says them, which is hostile.
	Groups(lengths []int, head []byte, size int) ([]int, error)
	// Decode appends to dst groups of the size plain bytes that were encoded: those whose bits are set in want, bit g for group
	// g, one behind the other. src is the head and these encoded groups. It is hostile: an error, never a panic, and
	// never more memory than size asks for.
	Decode(dst, src []byte, size int, want uint64) ([]byte, error)
}

// everyGroup wants all of a chunk.
const everyGroup = ^uint64(0)

const pagesOfGroup = seal.GroupSize / PageSize

// groupOf returns the bit of the group in which a page of a chunk lies.
func groupOf(page int) uint64 { return 1 << (page / pagesOfGroup) }

// bytesIn returns how many bytes the groups in have are, of a chunk of so many.
func bytesIn(have uint64, size int) int {
	if have == everyGroup {
		return size
	}
	last := (size - 1) / seal.GroupSize
	n := bits.OnesCount64(have&(2<<last-1)) * seal.GroupSize
	if have>>last&1 != 0 {
		n -= (last+1)*seal.GroupSize - size
	}
	return n
}

// pagesIn returns how many pages the groups in want have, of a chunk with so many pages.
func pagesIn(want uint64, pages int) (n int) {
	for from := 0; from < pages; from += pagesOfGroup {
		if want&groupOf(from) != 0 {
			n += min(pagesOfGroup, pages-from)
		}
	}
	return n
}

// wanted returns what of a chunk is to be decoded for the groups in want: all of it, unless it can be opened, decoded and
// proven in parts. Its size is proven by the whole chunk only, so a group that is not there does not prove itself.
func (e chunkPlace) wanted(want uint64) uint64 {
	n := seal.Groups(int(e.plain))
	if all := uint64(1)<<n - 1; e.head == 0 || n > seal.MaxGroups || want&all == all || want&^all != 0 {
		return everyGroup
	}
	return want
}

// coder compresses and decompresses for one goroutine.
type coder struct {
	enc *zstd.Encoder
	dec *zstd.Decoder
}

func newEncoder() *coder {
	// Level and window are a measured choice: docs/decisions/0003-compression.md.
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1),
		zstd.WithEncoderCRC(false), zstd.WithSingleSegment(true), zstd.WithWindowSize(1<<20))
	if err != nil {
		panic("repo: zstd refuses constant options: " + err.Error())
	}
	return &coder{enc: enc}
}

func newDecoder() *coder {
	dec, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(MaxChunk*16), zstd.IgnoreChecksum(true),
		zstd.WithDecodeAllCapLimit(true))
	if err != nil {
		panic("repo: zstd refuses constant options: " + err.Error())
	}
	return &coder{dec: dec}
}

// encodedChunk is the stored form of a chunk, before it is sealed. Its frames are the lengths of the pieces that are sealed on
// their own, so that they can be opened on their own: the values of the groups with the codec's head, and each group. A chunk
// without groups, or that no codec encoded, is one piece.
type encodedChunk struct {
	bytes    []byte
	frames   []int
	encoding byte
}

// encode makes e the smallest form of plain that is found quickly. In front of what codec makes of it stand the values of
// its groups.
func (c *coder) encode(e *encodedChunk, plain []byte, codec Codec, values []byte) (err error) {
	if codec != nil {
		if out, head, ok := codec.Encode(append(e.bytes[:0], values...), plain); ok {
			e.bytes, e.encoding, e.frames = out, codec.ID(), append(e.frames[:0], len(out))
			if len(values) > 0 {
				e.frames, err = frames(e.frames, out[:len(values)+head], codec, len(plain))
			}
			return err
		}
	}
	seen(plain)
	e.bytes, e.encoding = c.enc.EncodeAll(plain, e.bytes[:0]), encodingZstd
	made(e.bytes)
	if len(e.bytes) >= len(plain) {
		e.bytes, e.encoding = append(e.bytes[:0], plain...), encodingRaw
	}
	e.frames = append(e.frames[:0], len(e.bytes))
	return nil
}

// frames makes lengths those of the frames of a chunk in groups, which begins with these values and this head.
func frames(lengths []int, head []byte, codec Codec, size int) ([]int, error) {
	return codec.Groups(append(lengths[:0], len(head)), head[seal.Groups(size)*seal.ValueSize:], size)
}

func unknownEncoding(encoding byte) error {
	return fmt.Errorf("its encoding %d is unknown to this holdfast", encoding)
}

// decode appends to dst what encoded stands for, which are size plain bytes: of these the groups in want, and of encoded
// no other groups.
func (c *coder) decode(dst, encoded []byte, encoding byte, size int, want uint64, codecs map[byte]Codec) ([]byte, error) {
	if size > MaxChunk {
		return nil, fmt.Errorf("a chunk of %d bytes is larger than %d", size, MaxChunk)
	}
	before, length := len(dst), bytesIn(want, size)
	dst = slices.Grow(dst, length) // a frame that says more than it may ends at the capacity
	var err error
	switch encoding {
	case encodingRaw:
		dst = append(dst, encoded...)
	case encodingZstd:
		seen(encoded)
		if dst, err = c.dec.DecodeAll(encoded, dst); err == nil {
			made(dst[before:])
		}
	default:
		codec, ok := codecs[encoding]
		if !ok {
			return nil, unknownEncoding(encoding)
		}
		values := seal.Groups(size) * seal.ValueSize
		if len(encoded) < values {
			return nil, errors.New("it ends within the values of its groups")
		}
		dst, err = codec.Decode(dst, encoded[values:], size, want)
	}
	if err != nil {
		return nil, fmt.Errorf("decode: %w", err)
	}
	if len(dst)-before != length {
		return nil, fmt.Errorf("it decodes to %d bytes, not %d", len(dst)-before, length)
	}
	return dst, nil
}
