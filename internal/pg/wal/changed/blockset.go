package changed

import (
	"iter"
	"math/bits"
	"slices"
	"sort"
)

// blockSet is a set of block numbers: chunks of 65,536 of them, ascending, each a few runs or a bitmap. It needs at
// most 8 KiB for the 512 MiB of relation that a chunk stands for.
type blockSet struct {
	chunks []chunk
}

// chunk holds the blocks index<<16 … index<<16|65535. Runs do not touch.
type chunk struct {
	index  uint16
	runs   []run   // ascending; nil where bitmap is used
	bitmap *bitmap // bit i is block index<<16|i
}

// run is the blocks first … last of a chunk.
type run struct{ first, last uint16 }

type bitmap [1024]uint64

// maxRuns bounds the runs of a chunk, so that adding to them stays cheap.
const maxRuns = 128

// find returns the chunk with an index, and makes it.
func (s *blockSet) find(index uint16) *chunk {
	n := len(s.chunks)
	i := n
	switch {
	case n > 0 && s.chunks[n-1].index == index:
		return &s.chunks[n-1]
	case n > 0 && s.chunks[n-1].index > index:
		i = sort.Search(n, func(i int) bool { return s.chunks[i].index >= index })
	}
	if i == n || s.chunks[i].index != index {
		s.chunks = slices.Insert(s.chunks, i, chunk{index: index})
	}
	return &s.chunks[i]
}

func (s *blockSet) add(block uint32) { s.find(uint16(block>>16)).add(uint16(block), uint16(block)) }

// has tells whether a block is in the set.
func (s *blockSet) has(block uint32) bool {
	i := sort.Search(len(s.chunks), func(i int) bool { return s.chunks[i].index >= uint16(block>>16) })
	return i < len(s.chunks) && s.chunks[i].index == uint16(block>>16) && s.chunks[i].has(uint16(block))
}

// cutAt removes all blocks from limit on.
func (s *blockSet) cutAt(limit uint32) {
	index := uint16(limit >> 16)
	i := sort.Search(len(s.chunks), func(i int) bool { return s.chunks[i].index >= index })
	if i < len(s.chunks) && s.chunks[i].index == index {
		if s.chunks[i].cutAt(uint16(limit)); !s.chunks[i].empty() {
			i++
		}
	}
	s.chunks = s.chunks[:i]
}

// union adds all blocks of other, which stays as it is.
func (s *blockSet) union(other *blockSet) {
	for i := range other.chunks {
		o := &other.chunks[i]
		c := s.find(o.index)
		for r := range o.each() {
			c.add(r.first, r.last)
		}
	}
}

func (s *blockSet) clone() blockSet {
	var c blockSet
	c.union(s)
	return c
}

func (c *chunk) empty() bool { return c.bitmap == nil && len(c.runs) == 0 }

// add adds the blocks first … last.
func (c *chunk) add(first, last uint16) {
	if c.bitmap != nil {
		c.bitmap.set(first, last)
		return
	}
	// The runs i … j-1 touch or overlap the new one, and become part of it.
	i := len(c.runs)
	if i > 0 && int(c.runs[i-1].last)+1 >= int(first) { // most often the new one comes last
		i = sort.Search(i, func(i int) bool { return int(c.runs[i].last)+1 >= int(first) })
	}
	j := i
	for ; j < len(c.runs) && int(c.runs[j].first) <= int(last)+1; j++ {
		first, last = min(first, c.runs[j].first), max(last, c.runs[j].last)
	}
	if j > i {
		c.runs[i] = run{first, last}
		c.runs = slices.Delete(c.runs, i+1, j)
		return
	}
	c.runs = slices.Insert(c.runs, i, run{first, last})
	if len(c.runs) > maxRuns {
		c.bitmap = new(bitmap)
		for _, r := range c.runs {
			c.bitmap.set(r.first, r.last)
		}
		c.runs = nil
	}
}

func (c *chunk) has(block uint16) bool {
	if c.bitmap != nil {
		return c.bitmap[block>>6]>>(block&63)&1 != 0
	}
	i := sort.Search(len(c.runs), func(i int) bool { return c.runs[i].last >= block })
	return i < len(c.runs) && c.runs[i].first <= block
}

// cutAt removes the blocks from limit on.
func (c *chunk) cutAt(limit uint16) {
	kept := chunk{index: c.index}
	for r := range c.each() {
		if r.first >= limit {
			break
		}
		kept.add(r.first, min(r.last, limit-1))
	}
	*c = kept
}

// each yields the runs, ascending.
func (c *chunk) each() iter.Seq[run] {
	if c.bitmap != nil {
		return c.bitmap.each()
	}
	return slices.Values(c.runs)
}

func (b *bitmap) set(first, last uint16) {
	for w := int(first >> 6); w <= int(last>>6); w++ {
		mask := ^uint64(0)
		if w == int(first>>6) {
			mask &= ^uint64(0) << (first & 63)
		}
		if w == int(last>>6) {
			mask &= ^uint64(0) >> (63 - last&63)
		}
		b[w] |= mask
	}
}

func (b *bitmap) each() iter.Seq[run] {
	return func(yield func(run) bool) {
		for at := 0; at < 1<<16; {
			first := b.next(at, 0)
			if first == 1<<16 {
				return
			}
			at = b.next(first, ^uint64(0))
			if !yield(run{uint16(first), uint16(at - 1)}) {
				return
			}
		}
	}
}

// next returns the first bit from at on that is set in b^flip; 65,536 where there is none.
func (b *bitmap) next(at int, flip uint64) int {
	for w := at >> 6; w < len(b); w++ {
		word := b[w] ^ flip
		if w == at>>6 {
			word &= ^uint64(0) << (at & 63)
		}
		if word != 0 {
			return w<<6 + bits.TrailingZeros64(word)
		}
	}
	return 1 << 16
}
