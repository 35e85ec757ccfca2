package changed

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/holdfast-dr/holdfast/internal/pg/cluster"
	"github.com/holdfast-dr/holdfast/internal/pg/wal"
)

// The encoding, version 1; numbers are unsigned varints (encoding/binary) unless said otherwise:
//
//	"HFchg" version(1 byte) timeline start end-start
//	doubts: count, each: kind(1 byte) at-start length reason
//	forks:  count, ascending by tablespace, database, relation, fork, each:
//	        tablespace database relation   as difference to the fork before; behind a difference that is not
//	                                       zero the others are themselves, not differences
//	        fork(1 byte) limit             0: none; n+1: n blocks
//	        chunks: count, ascending, each:
//	                index                  first: itself; others: difference to the one before
//	                runs: count, each: gap length
//	                      gap: blocks since the run before, or the chunk's start; length: less one
//	                count 0: a bitmap follows, 8192 bytes, block n is bit n%8 of byte n/8
//
// A chunk is runs where these take fewer bytes than the bitmap. Equal maps have equal bytes, whatever the order in
// which their blocks came. A reader rejects what a writer does not write, except for the choice between runs and
// bitmap and the order of doubts.
const (
	magic       = "HFchg"
	version     = 1
	bitmapBytes = 8192
)

// Encode returns the map's bytes, which Decode reads.
func (m *Map) Encode() []byte {
	b := append([]byte(magic), version)
	b = binary.AppendUvarint(b, uint64(m.Timeline))
	b = binary.AppendUvarint(b, uint64(m.Start))
	b = binary.AppendUvarint(b, uint64(m.End-m.Start))
	b = binary.AppendUvarint(b, uint64(len(m.Doubts)))
	for _, d := range m.Doubts {
		b = append(b, byte(d.Kind))
		b = binary.AppendUvarint(b, uint64(d.At-m.Start))
		b = binary.AppendUvarint(b, uint64(len(d.Reason)))
		b = append(b, d.Reason...)
	}
	keys := m.keys()
	b = binary.AppendUvarint(b, uint64(len(keys)))
	var last Fork
	for _, k := range keys {
		f := k.fork()
		b = appendFork(b, last, f)
		b = m.forks[k].append(b)
		last = f
	}
	return b
}

func appendFork(b []byte, last, f Fork) []byte {
	if f.Tablespace != last.Tablespace {
		last.Database, last.Relation = 0, 0
	} else if f.Database != last.Database {
		last.Relation = 0
	}
	b = binary.AppendUvarint(b, uint64(f.Tablespace-last.Tablespace))
	b = binary.AppendUvarint(b, uint64(f.Database-last.Database))
	b = binary.AppendUvarint(b, uint64(f.Relation-last.Relation))
	return append(b, byte(f.Fork))
}

func (e *fork) append(b []byte) []byte {
	b = binary.AppendUvarint(b, uint64(e.limit+1)) // no limit: 0
	b = binary.AppendUvarint(b, uint64(len(e.blocks.chunks)))
	last := uint16(0)
	for i := range e.blocks.chunks {
		c := &e.blocks.chunks[i]
		b = binary.AppendUvarint(b, uint64(c.index-last))
		b = c.append(b)
		last = c.index
	}
	return b
}

func (c *chunk) append(b []byte) []byte {
	var runs []byte
	count, next := uint64(0), uint32(0)
	for r := range c.each() {
		runs = binary.AppendUvarint(runs, uint64(uint32(r.first)-next))
		runs = binary.AppendUvarint(runs, uint64(r.last-r.first))
		next = uint32(r.last) + 1
		count++
	}
	if len(runs) < bitmapBytes {
		return append(binary.AppendUvarint(b, count), runs...)
	}
	b = append(b, 0)
	for _, w := range c.bitmap { // more than maxRuns
		b = binary.LittleEndian.AppendUint64(b, w)
	}
	return b
}

// Decode reads the bytes of Encode. It needs no more memory than a small multiple of them, whatever they say.
func Decode(b []byte) (*Map, error) {
	d := decoder{b: b}
	m := d.mapOf()
	if d.err == nil && len(d.b) > 0 {
		d.err = fmt.Errorf("%d bytes follow", len(d.b))
	}
	if d.err != nil {
		return nil, fmt.Errorf("read a map of changed blocks, near byte %d of %d: %w", len(b)-len(d.b), len(b), d.err)
	}
	return m, nil
}

// decoder keeps its first error; behind it all numbers are zero.
type decoder struct {
	b   []byte
	err error
}

func (d *decoder) fail(format string, args ...any) {
	if d.err == nil {
		d.err = fmt.Errorf(format, args...)
	}
}

var errTruncated = errors.New("it ends too early")

func (d *decoder) take(n uint64) []byte {
	if d.err != nil || n > uint64(len(d.b)) {
		d.fail("%w", errTruncated)
		return nil
	}
	b := d.b[:n:n]
	d.b = d.b[n:]
	return b
}

func (d *decoder) byte() byte {
	b := d.take(1)
	if b == nil {
		return 0
	}
	return b[0]
}

// number reads one up to limit.
func (d *decoder) number(limit uint64) uint64 {
	v, n := binary.Uvarint(d.b)
	switch {
	case d.err != nil:
		return 0
	case n <= 0:
		d.err = errTruncated
		return 0
	case n > 1 && d.b[n-1] == 0, v > limit:
		d.fail("number %d is out of range", v)
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *decoder) mapOf() *Map {
	if string(d.take(uint64(len(magic)))) != magic {
		d.fail("it is none")
		return nil
	}
	if v := d.byte(); v != version && d.err == nil {
		d.fail("version %d is not known", v)
		return nil
	}
	m := newMap(wal.TimelineID(d.number(1<<32-1)), wal.LSN(d.number(1<<63)))
	m.End = m.Start + wal.LSN(d.number(1<<63))
	for n := d.number(maxDoubts); n > 0 && d.err == nil; n-- {
		kind, at := DoubtKind(d.byte()), m.Start+wal.LSN(d.number(1<<63))
		m.Doubts = append(m.Doubts, Doubt{kind, at, string(d.take(d.number(1 << 16)))})
	}
	var last Fork
	for n := d.number(1 << 40); n > 0 && d.err == nil; n-- {
		f := d.fork(last)
		if m.forks[f.key()] != nil {
			d.fail("relation %d comes twice", f.Relation)
		}
		m.forks[f.key()] = d.change()
		last = f
	}
	return m
}

func (d *decoder) fork(last Fork) Fork {
	f := last
	if v := uint32(d.number(uint64(^last.Tablespace))); v != 0 {
		f = Fork{Tablespace: last.Tablespace + v}
	}
	if v := uint32(d.number(uint64(^f.Database))); v != 0 {
		f = Fork{Tablespace: f.Tablespace, Database: f.Database + v}
	}
	v := uint32(d.number(uint64(^f.Relation)))
	if v != 0 {
		f.Fork = 0
	}
	f.Relation += v
	before := f.Fork
	if f.Fork = cluster.Fork(d.byte()); f.Fork < before || f.Fork > cluster.Init {
		d.fail("fork %d of relation %d is out of order", uint8(f.Fork), f.Relation)
	}
	return f
}

func (d *decoder) change() *fork {
	e := &fork{limit: uint32(d.number(1<<32-1)) - 1, last: NoLimit}
	n := d.number(1 << 16)
	for i := uint64(0); i < n && d.err == nil; i++ {
		index := uint16(0)
		if i > 0 {
			index = e.blocks.chunks[i-1].index
		}
		step := uint16(d.number(uint64(^index)))
		if i > 0 && step == 0 {
			d.fail("chunk %d comes twice", index)
		}
		e.blocks.chunks = append(e.blocks.chunks, d.chunk(index+step))
	}
	if c := e.blocks.chunks; d.err == nil && n > 0 && uint64(c[n-1].index)<<16|uint64(c[n-1].max()) >= uint64(e.limit) {
		d.fail("blocks lie beyond the limit %d", e.limit)
	}
	return e
}

func (d *decoder) chunk(index uint16) chunk {
	c := chunk{index: index}
	n := d.number(1 << 15)
	if n == 0 {
		c.bitmap = new(bitmap)
		words := d.take(bitmapBytes)
		for i := 0; i < len(words)/8; i++ {
			c.bitmap[i] = binary.LittleEndian.Uint64(words[8*i:])
		}
		if d.err == nil && c.bitmap.next(0, 0) == 1<<16 {
			d.fail("chunk %d is empty", index)
		}
		return c
	}
	next := uint64(0)
	for i := uint64(0); i < n && d.err == nil; i++ {
		gap := d.number(1 << 16)
		first := next + gap
		last := first + d.number(1<<16)
		if last >= 1<<16 || i > 0 && gap == 0 {
			d.fail("a run of blocks ends at %d in its chunk", last)
			break
		}
		c.add(uint16(first), uint16(last))
		next = last + 1
	}
	return c
}

// max returns the last block of a chunk that is not empty.
func (c *chunk) max() uint16 {
	if c.bitmap == nil {
		return c.runs[len(c.runs)-1].last
	}
	runs := slices.Collect(c.bitmap.each())
	return runs[len(runs)-1].last
}
