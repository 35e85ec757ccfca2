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

// expand is the inverse of split and of S2's encoder: it fills dst with what the block stood for. The parts may
// be hostile; false means that they do not make exactly dst. One long loop: it is where restores spend their time.
func (p *parts) expand(dst []byte) bool {
	literals, tags, low, high := p[pLiterals], p[pTags], p[pLow], p[pHigh]
	n, offset := 0, 0
	for i := 0; i < len(tags); {
		t := tags[i]
		i++
		length := int(t >> 2)
		if t&3 == tagLiteral {
			if length >= 60 {
				extra := length - 59
				if extra > len(tags)-i {
					return false
				}
				length = littleEndian(tags[i : i+extra])
				i += extra
			}
			length++
			if length <= 0 || length > len(literals) || length > len(dst)-n {
				return false
			}
			if length <= 16 && len(literals) >= 16 && len(dst)-n >= 16 {
				// Two words, whatever the length: what is too much is overwritten by what follows.
				copy(dst[n:n+16], literals[:16])
			} else {
				copy(dst[n:n+length], literals)
			}
			literals = literals[length:]
			n += length
			continue
		}
		if len(low) == 0 {
			return false
		}
		o := int(low[0])
		low = low[1:]
		switch t & 3 {
		case tagCopy1:
			length &= 7
			extra := repeatExtra(t, byte(o))
			if extra > len(tags)-i {
				return false
			}
			if o |= int(t>>5) << 8; o == 0 {
				o = offset
			}
			if extra > 0 {
				// The bases of the three extended lengths: 4, 256 and 65536.
				length = littleEndian(tags[i:i+extra]) + [...]int{4, 1 << 8, 1 << 16}[extra-1]
				i += extra
			}
			length += 4
		case tagCopy2:
			if len(high) == 0 {
				return false
			}
			o |= int(high[0]) << 8
			high = high[1:]
			length++
		case tagCopy4:
			if len(high) < 3 {
				return false
			}
			o |= littleEndian(high[:3]) << 8
			high = high[3:]
			length++
		}
		offset = o
		if offset <= 0 || offset > n || length > len(dst)-n {
			return false
		}
		copyMatch(dst, n, offset, length)
		n += length
	}
	return n == len(dst) && len(literals) == 0 && len(low) == 0 && len(high) == 0
}

// copyMatch copies length bytes to dst[n:] from offset bytes before; the two may overlap, and then repeat.
func copyMatch(dst []byte, n, offset, length int) {
	switch {
	case offset >= 16 && length <= 16 && len(dst)-n >= 16:
		copy(dst[n:n+16], dst[n-offset:n-offset+16])
	case offset >= length:
		copy(dst[n:n+length], dst[n-offset:])
	default:
		for end := n + length; n < end; {
			n += copy(dst[n:end], dst[n-offset:n])
			offset *= 2 // what was copied repeats, so twice as much can be copied next
		}
	}
}

func littleEndian(b []byte) int {
	v := 0
	for i, x := range b {
		v |= int(x) << (8 * i)
	}
	return v
}
