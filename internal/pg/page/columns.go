package page

import (
	"encoding/binary"
	"math/bits"
)

// columns says what becomes of each of the first maxCols words of an item: a predicted column is coded row by
// row, noise goes to its own stream; the others are body. One choice serves all pages of a chunk.
type columns struct {
	predicted, noise uint32

	cols   []uint8            // the predicted ones, ascending
	upTo   [maxCols + 1]uint8 // how many of them an item of so many words has
	noisy  []uint8
	runs   []run // what is body, in bytes of an item; the last run has no end
	planes int   // bytes of a hit mask
	whole  bool  // the predicted columns are the first words, without a gap, and none is noise

	colBuf, noisyBuf [maxCols]uint8
	runBuf           [maxCols + 1]run
}

type run struct{ from, to int }

// set derives the lists from the two masks.
func (c *columns) set(predicted, noise uint32) {
	c.predicted, c.noise = predicted, noise&^predicted
	c.cols, c.noisy, c.runs = c.colBuf[:0], c.noisyBuf[:0], c.runBuf[:0]
	body := 0
	for k := range maxCols {
		c.upTo[k] = uint8(len(c.cols))
		bit := uint32(1) << k
		if (c.predicted|c.noise)&bit == 0 {
			continue
		}
		if body < k*8 {
			c.runs = append(c.runs, run{body, k * 8})
		}
		body = k*8 + 8
		if c.predicted&bit != 0 {
			c.cols = append(c.cols, uint8(k))
		} else {
			c.noisy = append(c.noisy, uint8(k))
		}
	}
	c.upTo[maxCols] = uint8(len(c.cols))
	c.runs = append(c.runs, run{body, Size})
	c.planes = (len(c.cols) + 7) / 8
	c.whole = c.noise == 0 && c.predicted&(c.predicted+1) == 0
}

// sample gathers what choose needs about neighbouring items.
type sample struct {
	rows  int
	seen  [maxCols]int // pairs of neighbours that have this word
	bytes [maxCols]int // what predicting it would have cost
	tops  [maxCols]int // set top bits of its bytes: half of them in noise, few in text
	last  [maxCols]uint64
	delta [maxCols]uint64
}

// Limits of the choice, found by measuring: a column is predicted when it costs less than predictBelow bytes
// (of eight, the mask byte counted), and noise when it costs more than noiseAbove and its bits look random.
const (
	samplePages  = 4
	sampleItems  = 24
	predictBelow = 5.5
	noiseAbove   = 8.3
)

func (s *sample) page(page []byte, l *layout) {
	words := 0 // of the item before
	from := max(0, l.n/2-sampleItems/2)
	for _, it := range l.items[from:min(l.n, from+sampleItems)] {
		if it.len == 0 {
			continue
		}
		n := min(align8(int(it.len))/8, maxCols)
		for k := range n {
			w := binary.LittleEndian.Uint64(page[int(it.off)+k*8:])
			if k < words {
				d := w - s.last[k]
				if d != 0 && d != s.delta[k] {
					s.bytes[k] += 1 + bits.OnesCount8(occupied(difference(w, s.last[k])))
				}
				s.delta[k] = d
				s.seen[k]++
				s.tops[k] += bits.OnesCount64(w & 0x8080808080808080)
			}
			s.last[k] = w
		}
		words = n
		s.rows++
	}
}

func (s *sample) choose() (predicted, noise uint32) {
	for k := range maxCols {
		n := float64(s.seen[k])
		if s.seen[k] < 4 || s.seen[k]*4 < s.rows {
			continue
		}
		cost, tops := float64(s.bytes[k])/n, float64(s.tops[k])/n
		switch {
		case cost < predictBelow:
			predicted |= 1 << k
		case cost > noiseAbove && tops > 3.2 && tops < 4.8:
			noise |= 1 << k
		}
	}
	return predicted, noise
}
