package page

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"
)

// ErrFormat is what Decode wraps when the input is not what Encode writes.
var ErrFormat = errors.New("not a page-codec chunk")

// CodecID is the byte by which a repository's index names this package's encoding.
const CodecID byte = 18

const (
	version   = 3
	frameHead = 9 // version, two masks of columns

	// groupSize is of how many plain bytes the pages are encoded together, and cannot be had apart. Fewer cost bytes, more
	// cost time where single pages are wanted: docs/decisions/0018. The repository proves as many together.
	groupSize = 4 * Size
	groupHead = 4 // its length
	maxGroup  = 4 * groupSize

	maxChunk = 64 * groupSize
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

// Encode appends the compressed form of src to dst: a head, whose length it returns, and the groups. It returns dst as it was
// and false where src is not a number of whole pages, more than 2 MiB, or holds no page that it could use: compress it in
// another way then. src is not modified.
func (c *Codec) Encode(dst, src []byte) (out []byte, head int, ok bool) {
	if len(src) == 0 || len(src)%Size != 0 || len(src) > maxChunk {
		return dst, 0, false
	}
	w := c.take()
	defer c.give(w)
	return w.compress(dst, src)
}

// Groups appends the lengths of the encoded groups of size bytes of pages to lengths, as the head says them.
func (c *Codec) Groups(lengths []int, head []byte, size int) ([]int, error) {
	if size > maxChunk || len(head) < frameHead+directorySize(size) || head[0] != version {
		return nil, fmt.Errorf("%w: it has another head", ErrFormat)
	}
	for d := head[frameHead:][:directorySize(size)]; len(d) > 0; d = d[groupHead:] {
		n := binary.LittleEndian.Uint32(d)
		if n > maxGroup {
			return nil, fmt.Errorf("%w: a group of %d bytes", ErrFormat, n)
		}
		lengths = append(lengths, int(n))
	}
	return lengths, nil
}

// Decode appends to dst groups of the size bytes that were encoded: of 32 KiB each, those whose bits are set in want, bit g for
// the bytes from 32 KiB × g on, one behind the other. src is the head and these encoded groups. Errors wrap ErrFormat,
// and dst is then returned as it was; memory stays within a small multiple of size, whatever src holds.
func (c *Codec) Decode(dst, src []byte, size int, want uint64) ([]byte, error) {
	if size <= 0 || size%Size != 0 || size > maxChunk || len(src) < frameHead {
		return dst, fmt.Errorf("%w: %d bytes for %d", ErrFormat, len(src), size)
	}
	w := c.take()
	defer c.give(w)
	return w.decompress(dst, src, size, want)
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
// four chunks each way.
type worker struct {
	enc encoder
	dec decoder
	out packer
	in  unpacker
}

func newWorker() *worker { return &worker{} }

func (w *worker) compress(dst, src []byte) (out []byte, head int, ok bool) {
	if !w.enc.choose(src) {
		return dst, 0, false
	}
	w.out.begin()
	for group := range slices.Chunk(src, groupSize) {
		w.enc.encode(group)
		w.out.add(&w.enc.s)
	}
	before := len(dst)
	dst = append(dst, version)
	dst = binary.LittleEndian.AppendUint32(dst, w.enc.columns.predicted)
	dst = binary.LittleEndian.AppendUint32(dst, w.enc.columns.noise)
	directory := len(dst)
	dst = w.out.appendTables(append(dst, make([]byte, directorySize(len(src)))...))
	head = len(dst) - before
	for at := 0; at < len(src); at += groupSize {
		from := len(dst)
		dst = w.out.appendGroup(dst)
		binary.LittleEndian.PutUint32(dst[directory:], uint32(len(dst)-from))
		directory += groupHead
	}
	return dst, head, true
}

// directorySize returns how long the directory of so many bytes of pages is.
func directorySize(size int) int { return (size + groupSize - 1) / groupSize * groupHead }

func (w *worker) decompress(dst, src []byte, size int, want uint64) ([]byte, error) {
	if src[0] != version {
		return dst, fmt.Errorf("%w: version %d", ErrFormat, src[0])
	}
	if len(src) < frameHead+directorySize(size) {
		return dst, fmt.Errorf("%w: the directory is cut off", ErrFormat)
	}
	w.dec.columns.set(binary.LittleEndian.Uint32(src[1:]), binary.LittleEndian.Uint32(src[5:]))
	directory, src := src[frameHead:][:directorySize(size)], src[frameHead+directorySize(size):]
	src, ok := w.in.readTables(src)
	if !ok {
		return dst, fmt.Errorf("%w: a table is cut off", ErrFormat)
	}
	out := dst
	for ; size > 0; size -= groupSize {
		if want&1 != 0 {
			length := int64(binary.LittleEndian.Uint32(directory))
			if length > int64(len(src)) {
				return dst, fmt.Errorf("%w: a group is cut off", ErrFormat)
			}
			n, pages := len(out), min(size, groupSize)
			out = slices.Grow(out, pages)[:n+pages]
			if err := w.group(out[n:], src[:length]); err != nil {
				return dst, err
			}
			src = src[length:]
		}
		want, directory = want>>1, directory[groupHead:]
	}
	if len(src) != 0 {
		return dst, fmt.Errorf("%w: %d bytes after its end", ErrFormat, len(src))
	}
	return out, nil
}

// group decodes one group, of which src is all.
func (w *worker) group(dst, src []byte) error {
	cur := &w.dec.c
	*cur = cursors{}
	for id := range streamCount {
		var ok bool
		if cur.s[id], src, ok = w.in.next(src, id, 2*len(dst)); !ok {
			return fmt.Errorf("%w: stream %d is damaged", ErrFormat, id)
		}
	}
	if len(src) != 0 {
		return fmt.Errorf("%w: %d bytes after a group's end", ErrFormat, len(src))
	}
	if !w.dec.decode(dst) {
		return fmt.Errorf("%w: streams do not fit the pages", ErrFormat)
	}
	return nil
}
