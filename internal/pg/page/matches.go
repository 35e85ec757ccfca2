package page

import (
	"encoding/binary"
	"slices"
)

// S2 (github.com/klauspost/compress/s2, an extension of Snappy) finds matches three times as fast as zstd's
// fastest level, but codes nothing by frequency. So a block of S2 is taken apart into its literals, its tags
// (with the length bytes that follow them), and the low and high bytes of its offsets, and each part is coded
// by Huffman: nearly the bytes of zstd in half the time.
const (
	pLiterals = iota
	pTags
	pLow
	pHigh
	partCount
)

// The tags of an S2 block, in the low two bits.
const (
	tagLiteral = 0
	tagCopy1   = 1
	tagCopy2   = 2
	tagCopy4   = 3
)

type parts [partCount][]byte

// split takes a block of S2, without its length prefix, apart. The block must be one that the encoder made.
func (p *parts) split(b []byte) {
	// Room for the largest part and for the eight bytes that short copies write beyond theirs.
	for i := range p {
		p[i] = slices.Grow(p[i][:0], len(b)+16)[:len(b)+16]
	}
	literals, tags, low, high := p[pLiterals], p[pTags], p[pLow], p[pHigh]
	var nl, nt, no, nh int
	for i := 0; i < len(b); {
		t := b[i]
		tags[nt] = t
		nt++
		i++
		switch t & 3 {
		case tagLiteral:
			n := int(t >> 2)
			if n >= 60 {
				extra := n - 59
				n = 0
				for k := range extra {
					tags[nt] = b[i]
					n |= int(b[i]) << (8 * k)
					nt++
					i++
				}
			}
			n++
			if n <= 16 && i+16 <= len(b) {
				binary.LittleEndian.PutUint64(literals[nl:], binary.LittleEndian.Uint64(b[i:]))
				binary.LittleEndian.PutUint64(literals[nl+8:], binary.LittleEndian.Uint64(b[i+8:]))
			} else {
				copy(literals[nl:], b[i:i+n])
			}
			nl += n
			i += n
		case tagCopy1:
			low[no] = b[i]
			no++
			for k := range repeatExtra(t, b[i]) {
				tags[nt] = b[i+1+k]
				nt++
			}
			i += 1 + repeatExtra(t, b[i])
		case tagCopy2:
			low[no], high[nh] = b[i], b[i+1]
			no, nh = no+1, nh+1
			i += 2
		case tagCopy4:
			low[no] = b[i]
			high[nh], high[nh+1], high[nh+2] = b[i+1], b[i+2], b[i+3]
			no, nh = no+1, nh+3
			i += 4
		}
	}
	p[pLiterals], p[pTags], p[pLow], p[pHigh] = literals[:nl], tags[:nt], low[:no], high[:nh]
}

// repeatExtra returns how many length bytes follow a copy with a one-byte offset. Offset zero means the last
// one again, and then the lengths 5 to 7 are extended.
func repeatExtra(tag, low byte) int {
	if low != 0 || tag>>5 != 0 {
		return 0
	}
	return max(0, int(tag>>2)-4)
}
