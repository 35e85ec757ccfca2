package page

import (
	"encoding/binary"
	"slices"

	"github.com/klauspost/compress/s2"
	"github.com/klauspost/compress/zstd"
)

// How a stream is packed: the low two bits of its first number.
const (
	packStored  = 0 // as it is
	packFrame   = 1 // one zstd frame
	packMatches = 2 // S2, its parts in zstd frames of literals
	packBits    = 2

	minPacked = 48 // shorter streams are stored: the parts' own bytes would eat the gain
)

// packer compresses streams.
type packer struct {
	huffman *huffmanCoder
	parts   parts
	block   []byte // scratch
	frame   []byte
}

func newPacker() packer { return packer{huffman: newHuffmanCoder()} }

// append writes stream s to dst: its length and packing in one number, then what the packing asks for.
func (p *packer) append(dst, s []byte) []byte {
	if len(s) < minPacked {
		return appendStored(dst, s)
	}
	p.block = s2.Encode(p.block[:cap(p.block)], s)
	_, n := binary.Uvarint(p.block)
	block := p.block[n:]
	if len(block) >= len(s) { // no matches
		return p.appendHuffman(dst, s)
	}
	p.parts.split(block)
	dst = binary.AppendUvarint(dst, uint64(len(s))<<packBits|packMatches)
	for _, part := range p.parts {
		dst = p.appendHuffman(dst, part)
	}
	return dst
}

// appendHuffman writes s as a frame of literals, or stored where that is no smaller.
func (p *packer) appendHuffman(dst, s []byte) []byte {
	if len(s) < minHuffman || level(s) {
		return appendStored(dst, s)
	}
	p.frame = p.huffman.append(p.frame[:0], s)
	if len(p.frame)+8 >= len(s)-len(s)/64 {
		return appendStored(dst, s)
	}
	dst = binary.AppendUvarint(dst, uint64(len(s))<<packBits|packFrame)
	dst = binary.AppendUvarint(dst, uint64(len(p.frame)))
	return append(dst, p.frame...)
}

// level reports whether the bytes of s seem to be equally frequent, by a sample: then Huffman wins nothing.
func level(s []byte) bool {
	const sample, limit = 1024, 20
	var count [256]uint8
	step := len(s) / sample
	for i := 0; i < sample*step; i += step {
		if count[s[i]]++; count[s[i]] > limit {
			return false
		}
	}
	return true
}

func appendStored(dst, s []byte) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(s))<<packBits|packStored)
	return append(dst, s...)
}

// unpacker is packer's inverse, for hostile input.
type unpacker struct {
	zstd    *zstd.Decoder
	streams [streamCount][]byte // each stream stays until the next group
	parts   [partCount][]byte
}

func newUnpacker() unpacker {
	// A frame is decoded into a buffer of the size that its stream says, and no further.
	dec, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecodeAllCapLimit(true))
	if err != nil {
		panic("page: zstd refuses constant options: " + err.Error())
	}
	return unpacker{zstd: dec}
}

// next reads stream id, of at most limit bytes, from the beginning of src and returns what follows it. The
// stream is part of src or of u, and valid until the next call with that id.
func (u *unpacker) next(src []byte, id, limit int) (s, rest []byte, ok bool) {
	v, n := binary.Uvarint(src)
	if n <= 0 || v>>packBits > uint64(limit) || v&(1<<packBits-1) != packMatches {
		return u.simple(src, &u.streams[id], limit)
	}
	length := int(v >> packBits)
	rest = src[n:]
	var p parts
	for i := range p {
		// An S2 block is never much longer than what it stands for.
		if p[i], rest, ok = u.simple(rest, &u.parts[i], length+length/64+64); !ok {
			return nil, nil, false
		}
	}
	u.streams[id] = slices.Grow(u.streams[id][:0], length)[:length]
	if !p.expand(u.streams[id]) {
		return nil, nil, false
	}
	return u.streams[id], rest, true
}

// simple reads a stream that is stored or one frame.
func (u *unpacker) simple(src []byte, buf *[]byte, limit int) (s, rest []byte, ok bool) {
	v, n := binary.Uvarint(src)
	if n <= 0 || v>>packBits > uint64(limit) {
		return nil, nil, false
	}
	length := int(v >> packBits)
	src = src[n:]
	switch v & (1<<packBits - 1) {
	case packStored:
		if length > len(src) {
			return nil, nil, false
		}
		return src[:length], src[length:], true
	case packFrame:
		size, n := binary.Uvarint(src)
		if n <= 0 || size > uint64(len(src)-n) {
			return nil, nil, false
		}
		src = src[n:]
		*buf = slices.Grow((*buf)[:0], length)
		s, err := u.zstd.DecodeAll(src[:size], (*buf)[:0:length])
		if err != nil || len(s) != length {
			return nil, nil, false
		}
		return s, src[size:], true
	}
	return nil, nil, false
}
