package page

import (
	"encoding/binary"
	"math/bits"
)

// maxCols bounds the columns of a row: the first 256 bytes of an item. Longer ones end in the body stream.
const maxCols = 32

// predictor guesses each word of a row from the rows before: the last value plus a stride. A stride is adopted
// when the same difference was seen twice running, so that one jump (a new page, a gap in a sequence) does not
// throw it away. Encoder and decoder run the same predictor.
type predictor struct {
	cells  [maxCols]cell
	missed uint32 // the words that the row before missed
}

type cell struct{ last, stride, delta uint64 }

// learn takes in a missed word.
func (p *predictor) learn(j int, w uint64) {
	c := &p.cells[j&(maxCols-1)]
	d := w - c.last
	if p.missed>>j&1 != 0 && d == c.delta {
		c.stride = d
	}
	c.delta, c.last = d, w
}

// encode writes the differences of a row, whose word j stands at row[8*cols[j]], and returns the mask of misses.
func (p *predictor) encode(row []byte, cols []uint8, s *[streamCount][]byte) uint32 {
	var miss uint32
	cells := p.cells[:len(cols)]
	for j, k := range cols {
		c := &cells[j]
		w := binary.LittleEndian.Uint64(row[int(k)*8:])
		if w == c.last+c.stride {
			c.last = w
			continue
		}
		miss |= 1 << j
		putWord(s, difference(w, c.last))
		p.learn(j, w)
	}
	p.missed = miss
	return miss
}

// encodeWhole is encode for a row whose columns are its first words, all of them: it saves the detour by cols.
func (p *predictor) encodeWhole(row []byte, n int, s *[streamCount][]byte) uint32 {
	var miss uint32
	cells := p.cells[:n]
	for j := range cells {
		c := &cells[j]
		if len(row) < 8 {
			break
		}
		w := binary.LittleEndian.Uint64(row)
		row = row[8:]
		if w == c.last+c.stride {
			c.last = w
			continue
		}
		miss |= 1 << j
		putWord(s, difference(w, c.last))
		p.learn(j, w)
	}
	p.missed = miss
	return miss
}

// decode is encode's inverse: it writes the words of a row.
func (p *predictor) decode(row []byte, cols []uint8, miss uint32, c *cursors) {
	cells := p.cells[:len(cols)]
	for j, k := range cols {
		l := &cells[j]
		w := l.last + l.stride
		if miss>>j&1 != 0 {
			w = apply(c.word(), l.last)
			p.learn(j, w)
		}
		l.last = w
		binary.LittleEndian.PutUint64(row[int(k)*8:], w)
	}
	p.missed = miss
}

// decodeHits is decode for a row without a miss whose columns are its first n words.
func (p *predictor) decodeHits(row []byte, n int) {
	cells := p.cells[:n]
	for j := range cells {
		if len(row) < 8 {
			break
		}
		l := &cells[j]
		l.last += l.stride
		binary.LittleEndian.PutUint64(row, l.last)
		row = row[8:]
	}
	p.missed = 0
}

// A difference is taken in two lanes of 32 bits, without a carry between them, and folded so that small
// negative numbers have few bytes too: a word often holds two fields.
const (
	laneTops = 0x8000000080000000
	laneOnes = 0x0000000100000001
)

func difference(a, b uint64) uint64 {
	d := ((a | laneTops) - (b &^ laneTops)) ^ ((a ^ ^b) & laneTops)
	sign := (d & laneTops) >> 31 * 0xFFFFFFFF
	return d<<1&^laneOnes ^ sign
}

func apply(z, b uint64) uint64 {
	d := z>>1&^laneTops ^ (z&laneOnes)*0xFFFFFFFF
	return (d&^laneTops + b&^laneTops) ^ ((d ^ b) & laneTops)
}

// putWord writes a byte that says which bytes of z are not zero, and these bytes.
func putWord(s *[streamCount][]byte, z uint64) {
	m := occupied(z)
	s[sWidth] = append(s[sWidth], m)
	b := s[sBytes]
	for ; m != 0; m &= m - 1 {
		b = append(b, byte(z>>(bits.TrailingZeros8(m)*8)))
	}
	s[sBytes] = b
}

func (c *cursors) word() uint64 {
	m := c.byte(sWidth)
	b := c.take(sBytes, bits.OnesCount8(m))
	var z uint64
	for _, v := range b {
		z |= uint64(v) << (bits.TrailingZeros8(m) * 8)
		m &= m - 1
	}
	return z
}

// occupied returns a bit for each byte of z that is not zero.
func occupied(z uint64) uint8 {
	z |= z >> 4
	z |= z >> 2
	z |= z >> 1
	return uint8(z & 0x0101010101010101 * 0x0102040810204080 >> 56)
}
