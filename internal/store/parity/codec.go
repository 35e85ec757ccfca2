package parity

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"sync"

	"github.com/klauspost/reedsolomon"
	"github.com/zeebo/blake3"
)

// An object of n blocks (the last one may be shorter, and counts as if zeros followed) is dealt to ceil(n/128) stripes in turn, so that
// neighbours are in different ones and a damaged stretch takes little of each. A stripe of k blocks has m parity blocks, and any m of
// the k+m may be lost. A parity object, integers little endian:
//
//	magic    8  "HFPARITY"
//	version  4  1
//	block    4  bytes of a block
//	size     8  of the object
//	percent  4  m is ceil(k*percent/100), at least 2, at most 255-k; at most k where that is less
//	whole   32  BLAKE3 of the object
//	hashes      16 bytes of BLAKE3 for each block of the object, in order, and for each parity block, stripe by stripe
//	head    32  BLAKE3 of all before
//	parity      the parity blocks, stripe by stripe
const (
	magic       = "HFPARITY"
	version     = 1
	headFixed   = 8 + 4 + 4 + 8 + 4 + 32
	blockSize   = 4096
	stripeMost  = 128
	hashSize    = 16
	maxPercent  = 90
	leastParity = 2
)

// layout is how an object of a size is cut.
type layout struct {
	size    int
	block   int
	percent int
	blocks  int
	stripes int
}

func layoutOf(size, block, percent int) layout {
	l := layout{size: size, block: block, percent: percent}
	l.blocks = (size + block - 1) / block
	l.stripes = (l.blocks + stripeMost - 1) / stripeMost
	return l
}

// data returns how many blocks a stripe has: s, s+stripes, s+2*stripes, and so on.
func (l layout) data(s int) int { return (l.blocks - s + l.stripes - 1) / l.stripes }

// parity returns how many parity blocks a stripe has.
func (l layout) parity(s int) int {
	k := l.data(s)
	m := max(int(math.Ceil(float64(k)*float64(l.percent)/100)), leastParity)
	return min(m, k, 255-k)
}

func (l layout) parities() (n int) {
	for s := range l.stripes {
		n += l.parity(s)
	}
	return n
}

func (l layout) head() int { return headFixed + (l.blocks+l.parities())*hashSize + 32 }

// Length returns how long the parity of an object is.
func (l layout) length() int { return l.head() + l.parities()*l.block }

// shards cuts an object into the blocks of a stripe. The last block is copied where it is short.
func (l layout) shards(s int, object []byte) [][]byte {
	out := make([][]byte, 0, l.data(s)+l.parity(s))
	for i := s; i < l.blocks; i += l.stripes {
		b := object[min(i*l.block, len(object)):min((i+1)*l.block, len(object))]
		if len(b) < l.block {
			b = append(make([]byte, 0, l.block), b...)[:l.block]
		}
		out = append(out, b)
	}
	return out
}

var coders sync.Map // from [2]int to reedsolomon.Encoder

func coder(k, m int) (reedsolomon.Encoder, error) {
	if c, ok := coders.Load([2]int{k, m}); ok {
		return c.(reedsolomon.Encoder), nil
	}
	c, err := reedsolomon.New(k, m, reedsolomon.WithMaxGoroutines(1))
	if err == nil {
		coders.Store([2]int{k, m}, c)
	}
	return c, err
}

func hashOf(b []byte) (h [hashSize]byte) {
	sum := blake3.Sum256(b)
	return [hashSize]byte(sum[:])
}

// encode returns the parity of an object.
func encode(object []byte, percent int) ([]byte, error) {
	l := layoutOf(len(object), blockSize, percent)
	out := make([]byte, l.length())
	head := append(out[:0], magic...)
	head = binary.LittleEndian.AppendUint32(head, version)
	head = binary.LittleEndian.AppendUint32(head, uint32(l.block))
	head = binary.LittleEndian.AppendUint64(head, uint64(l.size))
	head = binary.LittleEndian.AppendUint32(head, uint32(l.percent))
	whole := blake3.Sum256(object)
	head = append(head, whole[:]...)
	blocks, parities := make([][hashSize]byte, l.blocks), make([][hashSize]byte, 0, l.parities())
	rest := out[l.head():]
	for s := range l.stripes {
		shards := l.shards(s, object)
		for n, b := range shards {
			blocks[s+n*l.stripes] = hashOf(b)
		}
		k, m := len(shards), l.parity(s)
		for range m {
			shards, rest = append(shards, rest[:l.block:l.block]), rest[l.block:]
		}
		c, err := coder(k, m)
		if err == nil {
			err = c.Encode(shards)
		}
		if err != nil {
			return nil, err
		}
		for _, b := range shards[k:] {
			parities = append(parities, hashOf(b))
		}
	}
	for _, h := range append(blocks, parities...) {
		head = append(head, h[:]...)
	}
	sum := blake3.Sum256(head)
	copy(out[len(head):], sum[:])
	return out, nil
}

// errLost says that there is less left than it takes.
var errLost = errors.New("more of it is lost than its parity makes up for")

// decode returns the object whose parity this is, from what is left of it.
func decode(object, parity []byte) ([]byte, error) {
	l, hashes, whole, err := parse(parity)
	if err != nil {
		return nil, err
	}
	if len(object) == l.size && blake3.Sum256(object) == whole {
		return object, nil
	}
	out, rest, nth := make([]byte, l.blocks*l.block), parity[l.head():], l.blocks
	object = object[:min(len(object), l.size)]
	for s := range l.stripes {
		shards := l.shards(s, object)
		k, m := len(shards), l.parity(s)
		for n, b := range shards {
			if hashOf(b) != hashes[s+n*l.stripes] {
				shards[n] = nil
			}
		}
		for range m {
			b := rest[:min(l.block, len(rest))]
			if rest = rest[len(b):]; hashOf(b) != hashes[nth] {
				b = nil
			}
			shards, nth = append(shards, b), nth+1
		}
		c, err := coder(k, m)
		if err == nil {
			err = c.ReconstructData(shards)
		}
		if errors.Is(err, reedsolomon.ErrTooFewShards) {
			return nil, errLost
		} else if err != nil {
			return nil, err
		}
		for n, b := range shards[:k] {
			copy(out[(s+n*l.stripes)*l.block:], b)
		}
	}
	if out = out[:l.size]; blake3.Sum256(out) != whole {
		return nil, errors.New("what its parity gives is not what was stored")
	}
	return out, nil
}

// whole tells whether parity is undamaged, and that of these bytes.
func whole(parity, object []byte) bool {
	l, hashes, sum, err := parse(parity)
	if err != nil || l.size != len(object) || len(parity) != l.length() || blake3.Sum256(object) != sum {
		return false
	}
	for i, rest := 0, parity[l.head():]; i < l.parities(); i, rest = i+1, rest[l.block:] {
		if hashOf(rest[:l.block]) != hashes[l.blocks+i] {
			return false
		}
	}
	return true
}

// parse reads the head of a parity object.
func parse(b []byte) (l layout, hashes [][hashSize]byte, whole [32]byte, err error) {
	damaged := func(format string, args ...any) (layout, [][hashSize]byte, [32]byte, error) {
		return layout{}, nil, whole, fmt.Errorf("its parity is damaged: "+format, args...)
	}
	if len(b) < headFixed || !bytes.HasPrefix(b, []byte(magic)) {
		return damaged("no head")
	}
	if v := binary.LittleEndian.Uint32(b[8:]); v != version {
		return layout{}, nil, whole, fmt.Errorf("its parity has version %d: a newer Holdfast wrote it", v)
	}
	block, size, percent := binary.LittleEndian.Uint32(b[12:]), binary.LittleEndian.Uint64(b[16:]), binary.LittleEndian.Uint32(b[24:])
	if block != blockSize || size > math.MaxInt32 || percent > maxPercent {
		return damaged("blocks of %d bytes, %d bytes, %d percent", block, size, percent)
	}
	l = layoutOf(int(size), int(block), int(percent))
	if len(b) < l.head() {
		return damaged("%d bytes of a head of %d", len(b), l.head())
	}
	end := l.head() - 32
	if blake3.Sum256(b[:end]) != [32]byte(b[end:]) {
		return damaged("its head is not what was written")
	}
	copy(whole[:], b[28:])
	for at := headFixed; at < end; at += hashSize {
		hashes = append(hashes, [hashSize]byte(b[at:]))
	}
	return l, hashes, whole, nil
}
