package page

import "encoding/binary"

// Line pointers (ItemIdData of storage/itemid.h): offset 15 bits, flags 2, length 15. PostgreSQL places items
// from the special space downwards, so the length of an item usually implies its offset.
const (
	ptrSize    = 4
	ptrNormal  = 1 // LP_NORMAL
	maxItems   = (Size - headerSize) / ptrSize
	ptrMask    = 1<<15 - 1
	ptrFlagPos = 15
	ptrLenPos  = 17
)

type item struct{ off, len uint16 }

// layout is what the line pointers of one page say.
type layout struct {
	items   [maxItems]item
	n       int
	odd     [maxItems]uint16 // items whose line pointer is not implied by the length
	odds    int
	uniform bool // all others have one length
	padded  bool // bytes between an item's end and the next multiple of 8 are not all zero
}

func align8(n int) int { return (n + 7) &^ 7 }

func splitPtr(v uint32) (off, flags, length int) {
	return int(v & ptrMask), int(v >> ptrFlagPos & 3), int(v >> ptrLenPos)
}

func joinPtr(off, length int) uint32 {
	return uint32(off) | ptrNormal<<ptrFlagPos | uint32(length)<<ptrLenPos
}

// read fills l from the line pointers of page and reports whether everything between upper and special is
// items and zeros, each byte in one item at most: then the items hold all there is to keep.
func (l *layout) read(page []byte, h Header) bool {
	upper, special := int(h.Upper), int(h.Special)
	if (h.Lower-headerSize)%ptrSize != 0 {
		return false
	}
	l.n, l.odds, l.uniform, l.padded = int(h.Lower-headerSize)/ptrSize, 0, true, false
	prev, first := special, -1
	ptrs := page[headerSize:h.Lower]
	for i := range l.n {
		v := binary.LittleEndian.Uint32(ptrs[i*ptrSize:])
		off, flags, length := splitPtr(v)
		end := off + align8(length)
		l.items[i] = item{uint16(off), uint16(length)}
		if length > 0 && (off%8 != 0 || off < upper || end > special) {
			return false
		}
		if flags == ptrNormal && length > 0 && end == prev {
			if first < 0 {
				first = length
			}
			l.uniform = l.uniform && length == first
		} else {
			l.odd[l.odds] = uint16(i)
			l.odds++
		}
		if length > 0 {
			prev = off
			if pad := length % 8; pad != 0 && binary.LittleEndian.Uint64(page[end-8:])>>(8*pad) != 0 {
				l.padded = true
			}
		}
	}
	if l.odds == 0 {
		return zero(page[upper:prev])
	}
	return l.disjoint(page, upper, special)
}

// disjoint looks at items that lie in any order: none may overlap another, and what lies between must be zero.
func (l *layout) disjoint(page []byte, upper, special int) bool {
	var used [Size / 8 / 64]uint64
	total := 0
	for _, it := range l.items[:l.n] {
		if it.len == 0 {
			continue
		}
		w, n := int(it.off)/8, align8(int(it.len))/8
		total += n
		for n > 0 {
			bit := w % 64
			k := min(n, 64-bit)
			m := ^uint64(0) >> (64 - k) << bit
			if used[w/64]&m != 0 {
				return false
			}
			used[w/64] |= m
			w, n = w+k, n-k
		}
	}
	if upper%8 != 0 {
		return false
	}
	if total == (special-upper)/8 {
		return true
	}
	for w := upper / 8; w < special/8; w++ {
		if used[w/64]>>(w%64)&1 == 0 && binary.LittleEndian.Uint64(page[w*8:]) != 0 {
			return false
		}
	}
	return true
}

// write appends the lengths and the line pointers that they do not imply, and returns flags for the page's kind.
func (l *layout) write(page []byte, s *[streamCount][]byte) byte {
	if l.odds*3 > l.n {
		s[sPtr] = append(s[sPtr], page[headerSize:headerSize+l.n*ptrSize]...)
		return kindExplicit
	}
	var kind byte
	if l.odds > 0 {
		kind |= kindOdd
		s[sPtr] = binary.LittleEndian.AppendUint16(s[sPtr], uint16(l.odds))
		for _, i := range l.odd[:l.odds] {
			s[sPtr] = binary.LittleEndian.AppendUint16(s[sPtr], i)
			s[sPtr] = append(s[sPtr], page[headerSize+int(i)*ptrSize:headerSize+int(i)*ptrSize+ptrSize]...)
		}
	}
	lo, hi := s[sLenLo], s[sLenHi]
	odd := l.odd[:l.odds]
	for i, it := range l.items[:l.n] {
		if len(odd) > 0 && int(odd[0]) == i {
			odd = odd[1:]
			continue
		}
		lo, hi = append(lo, byte(it.len)), append(hi, byte(it.len>>8))
		if l.uniform {
			kind |= kindUniform
			break
		}
	}
	s[sLenLo], s[sLenHi] = lo, hi
	return kind
}

// rebuild is write's inverse: it fills l and the line pointers of page, whose header stands already. Items of a
// hostile chunk may overlap, but never leave the page.
func (l *layout) rebuild(page []byte, h Header, kind byte, c *cursors) bool {
	if (h.Lower-headerSize)%ptrSize != 0 || kind&kindExplicit != 0 && kind&(kindOdd|kindUniform) != 0 {
		return false
	}
	l.n = int(h.Lower-headerSize) / ptrSize
	ptrs := page[headerSize:h.Lower]
	if !l.readOdd(ptrs, kind, c) {
		return false
	}
	prev, length := int(h.Special), 0
	odd := l.odd[:l.odds]
	for i := range l.n {
		if len(odd) > 0 && int(odd[0]) == i {
			odd = odd[1:]
			off, _, n := splitPtr(binary.LittleEndian.Uint32(ptrs[i*ptrSize:]))
			if n > 0 {
				if off%8 != 0 || off+align8(n) > Size {
					return false
				}
				prev = off
			}
			l.items[i] = item{uint16(off), uint16(n)}
			continue
		}
		if length == 0 || kind&kindUniform == 0 {
			length = int(c.byte(sLenLo)) | int(c.byte(sLenHi))<<8
		}
		off := prev - align8(length)
		if length == 0 || off < 0 {
			return false
		}
		prev = off
		l.items[i] = item{uint16(off), uint16(length)}
		binary.LittleEndian.PutUint32(ptrs[i*ptrSize:], joinPtr(off, length))
	}
	return true
}

// readOdd fills l.odd, ascending, and those line pointers.
func (l *layout) readOdd(ptrs []byte, kind byte, c *cursors) bool {
	l.odds = 0
	if kind&kindExplicit != 0 {
		c.into(ptrs, sPtr)
		for l.odds < l.n {
			l.odd[l.odds] = uint16(l.odds)
			l.odds++
		}
		return true
	}
	if kind&kindOdd == 0 {
		return true
	}
	count := c.uint16(sPtr)
	for next := 0; l.odds < count; {
		i := c.uint16(sPtr)
		if i < next || i >= l.n {
			return false
		}
		c.into(ptrs[i*ptrSize:i*ptrSize+ptrSize], sPtr)
		l.odd[l.odds] = uint16(i)
		l.odds++
		next = i + 1
	}
	return true
}

func zero(b []byte) bool {
	for len(b) >= 8 {
		if binary.LittleEndian.Uint64(b) != 0 {
			return false
		}
		b = b[8:]
	}
	for _, v := range b {
		if v != 0 {
			return false
		}
	}
	return true
}
