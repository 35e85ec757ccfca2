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
	last, stride, delta [maxCols]uint64
	missed              uint32 // the words that the row before missed
}

// learn takes in a missed word; call it before last is set.
func (p *predictor) learn(j int, w uint64) {
	d := w - p.last[j]
	if p.missed>>j&1 != 0 && d == p.delta[j] {
		p.stride[j] = d
	}
	p.delta[j] = d
}

// encode writes the differences of a row, whose word j stands at row[8*cols[j]], and returns the mask of misses.
func (p *predictor) encode(row []byte, cols []uint8, s *[streamCount][]byte) uint32 {
	var miss uint32
	for j, k := range cols {
		w := binary.LittleEndian.Uint64(row[int(k)*8:])
		j &= maxCols - 1
		if w != p.last[j]+p.stride[j] {
			miss |= 1 << j
			p.learn(j, w)
			putWord(s, difference(w, p.last[j]))
		}
		p.last[j] = w
	}
	p.missed = miss
	return miss
}

// decode is encode's inverse: it writes the words of a row.
func (p *predictor) decode(row []byte, cols []uint8, miss uint32, c *cursors) {
	for j, k := range cols {
		j &= maxCols - 1
		w := p.last[j] + p.stride[j]
		if miss>>j&1 != 0 {
			w = apply(c.word(), p.last[j])
			p.learn(j, w)
		}
		p.last[j] = w
		binary.LittleEndian.PutUint64(row[int(k)*8:], w)
	}
	p.missed = miss
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
