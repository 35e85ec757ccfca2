package page

import (
	"bytes"
	"encoding/binary"
	"math/bits"
	"slices"

	"github.com/klauspost/compress/s2"
)

// How a stream, or a part of its matches, is packed: the low two bits of its first number.
const (
	packStored  = 0 // as it is
	packCoded   = 1 // by the chunk's table for it
	packMatches = 2 // S2, its parts packed in one of the other ways
	packRun     = 3 // one byte, again and again
	packBits    = 2

	minMatched = 48  // in shorter streams no matches are looked for: the parts' own bytes would eat the gain
	minCoded   = 512 // shorter ones are stored: whoever wants one group has to read the tables for it, too
	minRun     = 32
)

// packer compresses the streams of a chunk: it holds those of all groups until the tables are known that serve them all.
type packer struct {
	tables [tableCount]tableWriter
	held   []heldStream
	bytes  []byte // of the held streams
	next   int    // stream to be written
	at     int    // where its bytes are
	parts  parts
	block  []byte // scratch, as the next
	coded  []byte
}

// heldStream is a stream of a group.
type heldStream struct {
	length  int
	matched bool           // it is in four parts; else all of it is the first one
	parts   [partCount]int // their lengths
}

// begin forgets the chunk that was before.
func (p *packer) begin() {
	p.held, p.bytes, p.next, p.at = p.held[:0], p.bytes[:0], 0, 0
	for i := range p.tables {
		clear(p.tables[i].count[:])
	}
}

// add holds the streams of a group.
func (p *packer) add(streams *[streamCount][]byte) {
	for id, s := range streams {
		p.hold(id, s)
	}
}

func (p *packer) hold(id int, s []byte) {
	h := heldStream{length: len(s)}
	if id != sNoise && len(s) >= minMatched {
		p.block = s2.Encode(p.block[:cap(p.block)], s)
		_, n := binary.Uvarint(p.block)
		if block := p.block[n:]; len(block) < len(s) {
			p.parts.split(block)
			h.matched = true
			for i, part := range p.parts {
				h.parts[i] = len(part)
				p.bytes = append(p.bytes, part...)
				p.count(tableOf(id, i), part)
			}
		}
	}
	if !h.matched {
		h.parts[pLiterals] = len(s)
		p.bytes = append(p.bytes, s...)
		if id != sNoise {
			p.count(tableOf(id, pLiterals), s)
		}
	}
	p.held = append(p.held, h)
}

// count counts bytes that a table may code.
func (p *packer) count(table int, s []byte) {
	if len(s) >= minCoded {
		p.tables[table].count.add(s)
	}
}

// appendTables chooses the tables and writes them to dst: which there are, and each of them.
func (p *packer) appendTables(dst []byte) []byte {
	at, present := len(dst), uint64(0)
	dst = append(dst, make([]byte, tablesHead)...)
	for i := range p.tables {
		if dst = p.tables[i].choose(dst); p.tables[i].used {
			present |= 1 << i
		}
	}
	binary.LittleEndian.PutUint64(dst[at:], present)
	return dst
}

// appendGroup writes the streams of the next group that is held to dst.
func (p *packer) appendGroup(dst []byte) []byte {
	for id, h := range p.held[p.next:][:streamCount] {
		if h.matched {
			dst = binary.AppendUvarint(dst, uint64(h.length)<<packBits|packMatches)
		}
		for i, n := range h.parts {
			if h.matched || i == pLiterals {
				dst = p.appendPart(dst, p.bytes[p.at:][:n], &p.tables[tableOf(id, i)])
			}
			p.at += n
		}
	}
	p.next += streamCount
	return dst
}

// appendPart writes s in the shortest way that is quick to find.
func (p *packer) appendPart(dst, s []byte, t *tableWriter) []byte {
	if len(s) >= minRun && bytes.Equal(s[1:], s[:len(s)-1]) {
		return append(binary.AppendUvarint(dst, uint64(len(s))<<packBits|packRun), s[0])
	}
	if len(s) >= minCoded {
		if out, ok := t.code(s, &p.coded); ok {
			dst = binary.AppendUvarint(dst, uint64(len(s))<<packBits|packCoded)
			return append(binary.AppendUvarint(dst, uint64(len(out))), out...)
		}
	}
	return append(binary.AppendUvarint(dst, uint64(len(s))<<packBits|packStored), s...)
}

// unpacker is packer's inverse, for hostile input.
type unpacker struct {
	tables  [tableCount]tableReader
	streams [streamCount][]byte // each stream stays until the next group
	parts   [partCount][]byte
}

const tablesHead = 8 // a bit for each table that there is

// readTables finds the tables at the beginning of src and returns what follows them.
func (u *unpacker) readTables(src []byte) (rest []byte, ok bool) {
	if len(src) < tablesHead {
		return nil, false
	}
	present, src := binary.LittleEndian.Uint64(src), src[tablesHead:]
	for i := range u.tables {
		u.tables[i].stored, u.tables[i].decoder = nil, nil
	}
	for ; present != 0; present &= present - 1 {
		i, n := bits.TrailingZeros64(present), tableLength(src)
		if i >= tableCount || n > len(src) {
			return nil, false
		}
		u.tables[i].stored, src = src[:n:n], src[n:]
	}
	return src, true
}

// next reads stream id, of at most limit bytes, from the beginning of src and returns what follows it. The
// stream is part of src or of u, and valid until the next call with that id.
func (u *unpacker) next(src []byte, id, limit int) (s, rest []byte, ok bool) {
	v, n := binary.Uvarint(src)
	if n <= 0 || v>>packBits > uint64(limit) || v&(1<<packBits-1) != packMatches {
		return u.part(src, &u.streams[id], limit, &u.tables[tableOf(id, pLiterals)])
	}
	length := int(v >> packBits)
	rest = src[n:]
	var p parts
	for i := range p {
		// An S2 block is never much longer than what it stands for.
		if p[i], rest, ok = u.part(rest, &u.parts[i], length+length/64+64, &u.tables[tableOf(id, i)]); !ok {
			return nil, nil, false
		}
	}
	u.streams[id] = slices.Grow(u.streams[id][:0], length)[:length]
	if !p.expand(u.streams[id]) {
		return nil, nil, false
	}
	return u.streams[id], rest, true
}

// part reads a stream, or a part of one, that has no matches.
func (u *unpacker) part(src []byte, buf *[]byte, limit int, t *tableReader) (s, rest []byte, ok bool) {
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
	case packCoded:
		size, n := binary.Uvarint(src)
		if n <= 0 || size > uint64(len(src)-n) || length == 0 || length > maxCoded {
			return nil, nil, false
		}
		src = src[n:]
		*buf = slices.Grow((*buf)[:0], length)
		s, err := t.decode((*buf)[:0:length], src[:size])
		if err != nil || len(s) != length {
			return nil, nil, false
		}
		return s, src[size:], true
	case packRun:
		if len(src) == 0 {
			return nil, nil, false
		}
		*buf = slices.Grow((*buf)[:0], length)[:length]
		for i := range *buf {
			(*buf)[i] = src[0]
		}
		return *buf, src[1:], true
	}
	return nil, nil, false
}
