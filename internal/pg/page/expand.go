package page

import "unsafe"

// expansion turns the parts of a block into what the block stood for. It is where restores spend their time, so there are
// two ways through it: token takes one tag and checks everything; several takes the common ones for as long as no check can
// fail, without a branch on what the processor cannot foresee.
type expansion struct {
	parts
	dst    []byte
	at     [partCount]int // what of each part is used up
	n      int            // bytes of dst that are done
	offset int            // of the copy before
}

// expand is the inverse of split and of S2's encoder: it fills dst with what the block stood for. The parts may be hostile;
// false means that they do not make exactly dst.
func (p *parts) expand(dst []byte) bool {
	x := expansion{parts: *p, dst: dst}
	for x.at[pTags] < len(p[pTags]) {
		x.several()
		if x.at[pTags] < len(p[pTags]) && !x.token() {
			return false
		}
	}
	return x.done()
}

// done tells whether everything was used up, and no more than that.
func (x *expansion) done() bool {
	for i, b := range x.parts {
		if x.at[i] != len(b) {
			return false
		}
	}
	return x.n == len(x.dst)
}

// token takes one tag and what belongs to it.
func (x *expansion) token() bool {
	t := x.parts[pTags][x.at[pTags]]
	x.at[pTags]++
	length := int(t >> 2)
	if t&3 == tagLiteral {
		if length >= shortLiteral {
			extra, ok := x.number(pTags, length-shortLiteral+1)
			if !ok {
				return false
			}
			length = extra
		}
		length++
		from := x.parts[pLiterals][x.at[pLiterals]:]
		if length <= 0 || length > len(from) || length > len(x.dst)-x.n {
			return false
		}
		copy(x.dst[x.n:], from[:length])
		x.at[pLiterals] += length
		x.n += length
		return true
	}
	offset, ok := x.number(pLow, 1)
	if !ok {
		return false
	}
	length++
	switch t & 3 {
	case tagCopy1:
		length = int(t>>2)&7 + 4
		extra := repeatExtra(t, byte(offset))
		if offset |= int(t>>5) << 8; offset == 0 {
			offset = x.offset
		}
		if extra > 0 {
			if length, ok = x.number(pTags, extra); !ok {
				return false
			}
			// The bases of the three extended lengths: 4, 256 and 65536.
			length += [...]int{4, 1 << 8, 1 << 16}[extra-1] + 4
		}
	default:
		high, ok := x.number(pHigh, int(t&3)*2-3) // one byte, or three
		if !ok {
			return false
		}
		offset |= high << 8
	}
	x.offset = offset
	if offset <= 0 || offset > x.n || length > len(x.dst)-x.n {
		return false
	}
	copyMatch(x.dst, x.n, offset, length)
	x.n += length
	return true
}

// number takes a number of so many bytes from a part. Of some parts several may have used more than there is.
func (x *expansion) number(part, bytes int) (v int, ok bool) {
	if bytes > len(x.parts[part])-x.at[part] {
		return 0, false
	}
	b := x.parts[part][x.at[part]:][:bytes]
	x.at[part] += bytes
	for i, c := range b {
		v |= int(c) << (8 * i)
	}
	return v, true
}

// What several has to know of a tag.
const (
	shortLiteral = 60 // literals above it have bytes for their length
	lengthBits   = 0x7F
	hasHigh      = 1 << 7
	highShift    = 8 // above it: bits 8 to 10 of the offset

	// What a literal and a copy write at most, one step of 16 bytes too many included.
	literalRoom = 64
	copyRoom    = 64 + 16
)

var (
	literalOf [256]uint8  // the length of a short literal; 0: no literal; 255: a long one
	copyOf    [256]uint16 // length, hasHigh and bits of the offset; 0: not a copy that several takes
)

func init() {
	for t := range 256 {
		switch n := t >> 2; t & 3 {
		case tagLiteral:
			literalOf[t] = 255
			if n < shortLiteral {
				literalOf[t] = uint8(n + 1)
			}
		case tagCopy1:
			copyOf[t] = uint16(n&7+4) | uint16(t>>5)<<highShift
		case tagCopy2:
			copyOf[t] = uint16(n+1) | hasHigh
		}
	}
}

type sixteen = [16]byte

// several takes tags from the next one on, until there is one that token has to look at. Here every index is within its
// part by the conditions of the loop and by clamping: a part that has too few bytes is read from its last byte, and expand
// sees in the end that more was used than there is.
func (x *expansion) several() {
	literals, tags, low, high, dst := x.parts[pLiterals], x.parts[pTags], x.parts[pLow], x.parts[pHigh], x.dst
	if len(literals) < literalRoom || len(low) == 0 {
		return
	}
	if len(high) == 0 {
		high = low[:1] // it is read, and masked away
	}
	l, i, lo, hi, n, offset := x.at[pLiterals], x.at[pTags], x.at[pLow], x.at[pHigh], x.n, x.offset
	lastLiterals, lastLow, lastHigh := len(literals)-literalRoom, len(low)-1, len(high)-1
	lits, out := unsafe.Pointer(unsafe.SliceData(literals)), unsafe.Pointer(unsafe.SliceData(dst))
	for i+2 <= len(tags) && n+literalRoom+copyRoom <= len(dst) {
		length := int(literalOf[tags[i]])
		if length > shortLiteral || l > lastLiterals {
			break
		}
		// Whether there is a literal is hard to foresee: 16 bytes are copied in any case, and then do not count.
		from, to := unsafe.Add(lits, l), unsafe.Add(out, n)
		*(*sixteen)(to) = *(*sixteen)(from)
		if length > 16 {
			*(*sixteen)(unsafe.Add(to, 16)) = *(*sixteen)(unsafe.Add(from, 16))
			*(*sixteen)(unsafe.Add(to, 32)) = *(*sixteen)(unsafe.Add(from, 32))
			*(*sixteen)(unsafe.Add(to, 48)) = *(*sixteen)(unsafe.Add(from, 48))
		}
		l += length
		n += length
		i += int(uint(length+63) >> 6) // 1 where there was one

		c := int(copyOf[tags[i]])
		o := int(low[min(lo, lastLow)]) | c>>highShift<<8
		far := c >> 7 & 1
		o |= int(high[min(hi, lastHigh)]) & -far << 8
		length = c & lengthBits
		if o == 0 {
			if far != 0 || length > 8 {
				break
			}
			o = offset
		}
		if length == 0 || o > n || o <= 0 {
			break
		}
		to = unsafe.Add(out, n)
		from = unsafe.Add(to, -o)
		switch {
		case o >= 16:
			*(*sixteen)(to) = *(*sixteen)(from)
			for k := 16; k < length; k += 16 {
				*(*sixteen)(unsafe.Add(to, k)) = *(*sixteen)(unsafe.Add(from, k))
			}
		default:
			copyMatch(dst, n, o, length)
		}
		i++
		lo++
		hi += far
		n += length
		offset = o
	}
	x.at = [partCount]int{l, i, lo, hi}
	x.n, x.offset = n, offset
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
