package page_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"testing"

	"github.com/klauspost/compress/huff0"
)

// reader is a second decoder, written from docs/format/page-codec.md alone, slow and plain: it shows that the
// document says enough. It trusts its input and panics where that is broken; decodeByDocument recovers.
type reader struct {
	src     []byte
	streams [14][]byte
	cols    []int // predicted
	noise   [32]bool
	known   [32]bool     // predicted or noise
	h, s, i rowPredictor // of headers, special spaces, items
	mask    uint32
	run     uint64
}

type rowPredictor struct {
	last, stride, delta [32]uint64
	before              uint32
}

func decodeByDocument(src []byte, size int) (out []byte, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("broken: %v", r)
		}
	}()
	masks, rest := src[1:9], src[9:]
	if src[0] != 3 {
		return nil, errors.New("version")
	}
	directory := cut(&rest, (size+4*8192-1)/(4*8192)*4)
	tables := map[int]*huff0.Decoder{}
	present := binary.LittleEndian.Uint64(cut(&rest, 8))
	for i := range 64 {
		if present>>i&1 != 0 {
			t, after, err := huff0.ReadTable(rest, nil) // RFC 8878 describes it
			if err != nil {
				return nil, err
			}
			tables[i], rest = t.Decoder(), after
		}
	}
	for len(out) < size {
		pages, err := group(masks, tables, cut(&rest, little(cut(&directory, 4))), min(size-len(out), 4*8192))
		if err != nil {
			return nil, err
		}
		out = append(out, pages...)
	}
	if len(rest) > 0 {
		return nil, errors.New("bytes after the last group")
	}
	return out, nil
}

func group(masks []byte, tables map[int]*huff0.Decoder, src []byte, size int) (out []byte, err error) {
	r := &reader{src: src}
	predicted, noise := binary.LittleEndian.Uint32(masks), binary.LittleEndian.Uint32(masks[4:])
	for k := range 32 {
		if predicted>>k&1 == 1 {
			r.cols = append(r.cols, k)
		} else {
			r.noise[k] = noise>>k&1 == 1
		}
		r.known[k] = (predicted|noise)>>k&1 == 1
	}
	for i := range r.streams {
		r.streams[i] = unpack(&r.src, tables, 4*i)
	}
	if len(r.src) > 0 {
		return nil, errors.New("bytes after the last stream")
	}
	for len(out) < size {
		out = append(out, r.page()...)
	}
	for i, s := range r.streams {
		if len(s) > 0 || r.run > 0 {
			return nil, fmt.Errorf("stream %d is not used up", i)
		}
	}
	return out, nil
}

func cut(s *[]byte, n int) []byte {
	b := (*s)[:n:n]
	*s = (*s)[n:]
	return b
}

func number(s *[]byte) uint64 {
	v, n := binary.Uvarint(*s)
	cut(s, n)
	return v
}

func little(b []byte) (v int) {
	for i := range b {
		v |= int(b[i]) << (8 * i)
	}
	return v
}

func unpack(src *[]byte, tables map[int]*huff0.Decoder, table int) []byte {
	v := number(src)
	length := int(v >> 2)
	switch v & 3 {
	case 0:
		return cut(src, length)
	case 1:
		decode := tables[table].Decompress1X
		if length >= 1024 {
			decode = tables[table].Decompress4X
		}
		out, err := decode(make([]byte, 0, length), cut(src, int(number(src))))
		if err != nil || len(out) != length {
			panic("coded")
		}
		return out
	case 2:
		return unmatch(unpack(src, tables, table), unpack(src, tables, table+1), unpack(src, tables, table+2), unpack(src, tables, table+3), length)
	}
	return bytes.Repeat(cut(src, 1), length)
}

func unmatch(literals, tags, low, high []byte, length int) (out []byte) {
	last := 0
	for len(tags) > 0 {
		t := cut(&tags, 1)[0]
		n := int(t >> 2)
		if t&3 == 0 {
			if n >= 60 {
				n = little(cut(&tags, n-59))
			}
			out = append(out, cut(&literals, n+1)...)
			continue
		}
		offset := int(cut(&low, 1)[0])
		n++
		switch t & 3 {
		case 1:
			offset |= int(t>>5) << 8
			code := int(t>>2) & 7
			n = 4 + code
			if offset == 0 && code >= 5 {
				n = little(cut(&tags, code-4)) + []int{4, 256, 65536}[code-5] + 4
			}
			if offset == 0 {
				offset = last
			}
		case 2:
			offset |= little(cut(&high, 1)) << 8
		case 3:
			offset |= little(cut(&high, 3)) << 8
		}
		for range n {
			out = append(out, out[len(out)-offset])
		}
		last = offset
	}
	if len(out) != length || len(literals)+len(low)+len(high) > 0 {
		panic("matches")
	}
	return out
}

func (r *reader) page() []byte {
	p := make([]byte, 8192)
	kind := cut(&r.streams[0], 1)[0]
	switch kind & 3 {
	case 0:
		return p
	case 1:
		return cut(&r.streams[13], 8192)
	}
	r.row(&r.h, p, []int{0, 1, 2}, uint32(cut(&r.streams[1], 1)[0]))
	lower, upper, special := little(p[12:14]), little(p[14:16]), little(p[16:18])
	body := func(from, to int) { copy(p[from:to], cut(&r.streams[13], to-from)) }
	if kind&4 != 0 {
		body(lower, upper)
	}
	if kind&3 == 2 {
		body(24, lower)
		body(upper, 8192)
		return p
	}
	r.linePointers(p, kind, (lower-24)/4, special)
	for at := 24; at < lower; at += 4 {
		v := little(p[at : at+4])
		if length := v >> 17; length > 0 {
			r.oneItem(p[v&0x7FFF:][:(length+7)/8*8], length, kind)
		}
	}
	if n := 8192 - special; n > 32 {
		body(special, 8192)
	} else if n > 0 {
		r.row(&r.s, p[special:], []int{0, 1, 2, 3}[:n/8], uint32(cut(&r.streams[1], 1)[0]))
	}
	return p
}

func (r *reader) linePointers(p []byte, kind byte, n, e int) {
	stored := map[int][]byte{}
	if kind&64 != 0 {
		for i := range n {
			stored[i] = cut(&r.streams[4], 4)
		}
	} else if kind&32 != 0 {
		for range little(cut(&r.streams[4], 2)) {
			i := little(cut(&r.streams[4], 2))
			stored[i] = cut(&r.streams[4], 4)
		}
	}
	length := 0
	for i := range n {
		ptr := p[24+4*i:][:4]
		if b, ok := stored[i]; ok {
			copy(ptr, b)
			if v := little(b); v>>17 > 0 {
				e = v & 0x7FFF
			}
			continue
		}
		if length == 0 || kind&16 == 0 {
			length = little(cut(&r.streams[2], 1)) | little(cut(&r.streams[3], 1))<<8
		}
		e -= (length + 7) / 8 * 8
		binary.LittleEndian.PutUint32(ptr, uint32(e|1<<15|length<<17))
	}
}

func (r *reader) oneItem(b []byte, stored int, kind byte) {
	if kind&8 != 0 {
		stored = len(b)
	}
	if r.run == 0 {
		r.run, r.mask = number(&r.streams[5]), 0
		for i := range (len(r.cols) + 7) / 8 {
			r.mask |= uint32(cut(&r.streams[6+i], 1)[0]) << (8 * i)
		}
	}
	r.run--
	n := 0
	for n < len(r.cols) && r.cols[n] < len(b)/8 {
		n++
	}
	r.row(&r.i, b, r.cols[:n], r.mask)
	for k := 0; k < 32 && 8*k+8 <= stored; k++ {
		if r.noise[k] {
			copy(b[8*k:], cut(&r.streams[12], 8))
		}
	}
	for at := range stored {
		if at >= 256 || !r.known[at/8] {
			b[at] = cut(&r.streams[13], 1)[0]
		}
	}
	if k := stored / 8; stored%8 != 0 && k < 32 && r.noise[k] {
		copy(b[8*k:stored], cut(&r.streams[13], stored-8*k))
	}
}

func (r *reader) row(p *rowPredictor, b []byte, cols []int, mask uint32) {
	for j, k := range cols {
		w := p.last[j] + p.stride[j]
		if mask>>j&1 == 1 {
			m := cut(&r.streams[10], 1)[0]
			var z uint64
			for i, v := range cut(&r.streams[11], bits.OnesCount8(m)) {
				rest := m
				for range i {
					rest &= rest - 1
				}
				z |= uint64(v) << (8 * bits.TrailingZeros8(rest))
			}
			lane := func(z, last uint32) uint64 { return uint64(last + (z>>1 ^ -(z & 1))) }
			w = lane(uint32(z), uint32(p.last[j])) | lane(uint32(z>>32), uint32(p.last[j]>>32))<<32
			d := w - p.last[j]
			if p.before>>j&1 == 1 && d == p.delta[j] {
				p.stride[j] = d
			}
			p.delta[j] = d
		}
		p.last[j] = w
		binary.LittleEndian.PutUint64(b[8*k:], w)
	}
	p.before = mask
}

func checkByDocument(t *testing.T, z, want []byte) {
	t.Helper()
	got, err := decodeByDocument(z, len(want))
	if err != nil || !bytes.Equal(got, want) {
		t.Fatalf("a reader that follows docs/format/page-codec.md disagrees: %v", err)
	}
}
