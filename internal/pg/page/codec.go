package page

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/klauspost/compress/zstd"
)

// ErrFormat is what Decode wraps when the input is not what Encode writes.
var ErrFormat = errors.New("not a page-codec chunk")

// CodecID is the byte by which a repository's index names this package's encoding.
const CodecID byte = 16

const (
	version   = 1
	frameHead = 9 // version, two masks of columns

	storedStream = 0
	zstdStream   = 1

	minZstd = 48 // shorter streams are stored: a zstd frame's own bytes would eat the gain
)

// Codec encodes chunks of whole pages for the repository (repo.Codec). It may be used from several goroutines;
// each call takes a worker that no other has, and workers are kept: as many as ever ran at once.
type Codec struct {
	// mu guards free. Not held during the work.
	mu   sync.Mutex
	free []*worker
}

// NewCodec returns a Codec ready for use.
func NewCodec() *Codec { return &Codec{} }

// ID names this encoding in the repository's index.
func (c *Codec) ID() byte { return CodecID }

// Encode appends the compressed form of src to dst. It returns dst as it was and false where src is not a
// number of whole pages or holds none that it could use: compress it in another way then. src is not modified.
func (c *Codec) Encode(dst, src []byte) ([]byte, bool) {
	if len(src) == 0 || len(src)%Size != 0 {
		return dst, false
	}
	w := c.take()
	defer c.give(w)
	return w.compress(dst, src)
}

// Decode appends the size bytes that src stands for to dst. Errors wrap ErrFormat, and dst is then returned as
// it was; memory stays within a small multiple of size, whatever src holds.
func (c *Codec) Decode(dst, src []byte, size int) ([]byte, error) {
	if size <= 0 || size%Size != 0 || len(src) < frameHead {
		return dst, fmt.Errorf("%w: %d bytes for %d", ErrFormat, len(src), size)
	}
	w := c.take()
	defer c.give(w)
	return w.decompress(dst, src, size)
}

func (c *Codec) take() *worker {
	c.mu.Lock()
	defer c.mu.Unlock()
	if n := len(c.free); n > 0 {
		w := c.free[n-1]
		c.free = c.free[:n-1]
		return w
	}
	return newWorker()
}

func (c *Codec) give(w *worker) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.free = append(c.free, w)
}

// worker is what one call needs: the state of both directions, and their scratch memory, which grows to about
// three chunks each way.
type worker struct {
	enc  encoder
	dec  decoder
	zenc *zstd.Encoder
	zdec *zstd.Decoder
	buf  [streamCount][]byte // streams compressed, or decompressed
}

func newWorker() *worker {
	// Literals are coded even where no match was found: pages of TOAST are such streams.
	zenc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1),
		zstd.WithEncoderCRC(false), zstd.WithLowerEncoderMem(true), zstd.WithAllLitEntropyCompression(true))
	if err != nil {
		panic("page: zstd refuses constant options: " + err.Error())
	}
	zdec, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecodeAllCapLimit(true))
	if err != nil {
		panic("page: zstd refuses constant options: " + err.Error())
	}
	return &worker{zenc: zenc, zdec: zdec}
}

func (c *worker) compress(dst, src []byte) ([]byte, bool) {
	if !c.enc.encode(src) {
		return dst, false
	}
	dst = append(dst, version)
	dst = binary.LittleEndian.AppendUint32(dst, c.enc.columns.predicted)
	dst = binary.LittleEndian.AppendUint32(dst, c.enc.columns.noise)
	for id, s := range c.enc.s {
		dst = c.putStream(dst, id, s)
	}
	return dst, true
}

// putStream appends one stream: its length with the method in the lowest bit, for zstd the frame's length, and
// the bytes.
func (c *worker) putStream(dst []byte, id int, s []byte) []byte {
	if id != sNoise && len(s) >= minZstd {
		c.buf[id] = c.zenc.EncodeAll(s, c.buf[id][:0])
		if z := c.buf[id]; len(z)+8 < len(s)-len(s)/64 {
			dst = binary.AppendUvarint(dst, uint64(len(s))<<1|zstdStream)
			dst = binary.AppendUvarint(dst, uint64(len(z)))
			return append(dst, z...)
		}
	}
	dst = binary.AppendUvarint(dst, uint64(len(s))<<1|storedStream)
	return append(dst, s...)
}

func (c *worker) decompress(dst, src []byte, size int) ([]byte, error) {
	if src[0] != version {
		return dst, fmt.Errorf("%w: version %d", ErrFormat, src[0])
	}
	predicted, noise := binary.LittleEndian.Uint32(src[1:]), binary.LittleEndian.Uint32(src[5:])
	src = src[frameHead:]
	cur := &c.dec.c
	*cur = cursors{}
	for id := range streamCount {
		var err error
		if cur.s[id], src, err = c.getStream(src, id, 2*size); err != nil {
			return dst, err
		}
	}
	if len(src) != 0 {
		return dst, fmt.Errorf("%w: %d bytes after its end", ErrFormat, len(src))
	}
	n := len(dst)
	out := append(dst, make([]byte, size)...)
	if !c.dec.decode(out[n:], predicted, noise) {
		return dst, fmt.Errorf("%w: streams do not fit the pages", ErrFormat)
	}
	return out, nil
}

// getStream reads one stream and returns what follows it.
func (c *worker) getStream(src []byte, id, limit int) (s, rest []byte, err error) {
	bad := fmt.Errorf("%w: stream %d is cut off or too long", ErrFormat, id)
	v, n := binary.Uvarint(src)
	if n <= 0 || v>>1 > uint64(limit) {
		return nil, nil, bad
	}
	length := int(v >> 1)
	src = src[n:]
	if v&1 == storedStream {
		if length > len(src) {
			return nil, nil, bad
		}
		return src[:length], src[length:], nil
	}
	z, n := binary.Uvarint(src)
	if n <= 0 || z > uint64(len(src)-n) {
		return nil, nil, bad
	}
	src = src[n:]
	// The decoder stops at the buffer's capacity (WithDecodeAllCapLimit), so a frame cannot grow beyond its word.
	buf := slices.Grow(c.buf[id][:0], length)
	c.buf[id], err = c.zdec.DecodeAll(src[:z], buf[:0:length])
	if err != nil || len(c.buf[id]) != length {
		return nil, nil, fmt.Errorf("%w: stream %d: %w", ErrFormat, id, errors.Join(err))
	}
	return c.buf[id], src[z:], nil
}
