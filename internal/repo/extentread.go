package repo

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/klauspost/compress/s2"

	"github.com/holdfast-dr/holdfast/internal/seal"
	"github.com/holdfast-dr/holdfast/internal/store"
)

// LogReader reads extents for one goroutine.
type LogReader struct {
	log    *Log
	coder  *coder
	sealed []byte    // of the last extent
	plain  []byte    // where it was asked for as a whole or came as one
	pieces [2][]byte // those that were decoded last
}

// Reader returns a new reader.
func (l *Log) Reader() *LogReader { return &LogReader{log: l, coder: newDecoder()} }

// Read returns the plain bytes of one extent, valid until the next call, and its clock.
func (lr *LogReader) Read(ctx context.Context, e Extent) ([]byte, ExtentClock, error) {
	return lr.readObject(ctx, lr.log.r.extentName(lr.log.system, e.Stream, e.Start, e.End), e)
}

func (lr *LogReader) readObject(ctx context.Context, name string, e Extent) (data []byte, clock ExtentClock, err error) {
	clock, err = lr.each(ctx, name, e, e.Start, e.End, func(piece []byte) error {
		if data == nil && len(piece) == int(e.End-e.Start) {
			data = piece
			return nil
		}
		if data == nil {
			lr.plain = grow(lr.plain, int(e.End-e.Start))
			data = lr.plain[:0]
		}
		data = append(data, piece...)
		return nil
	})
	return data, clock, err
}

// Each calls fn for the plain bytes of one extent between two positions, in order and in pieces. A piece is valid until fn
// has returned for the one after it. The object was authenticated before the first one. An error of fn ends it and is
// returned.
func (lr *LogReader) Each(ctx context.Context, e Extent, from, to uint64, fn func(piece []byte) error) error {
	_, err := lr.each(ctx, lr.log.r.extentName(lr.log.system, e.Stream, e.Start, e.End), e, from, to, fn)
	return err
}

// Holders returns what an extent says of who had how much of its stream when it was made, and its clock. nil: it says nothing.
func (lr *LogReader) Holders(ctx context.Context, e Extent) ([]Holder, ExtentClock, error) {
	name := lr.log.r.extentName(lr.log.system, e.Stream, e.Start, e.End)
	plain, err := lr.plainOf(ctx, name, e.Stored)
	if err != nil {
		return nil, ExtentClock{}, err
	}
	var holders []Holder
	clock, list, _, err := parseHead(plain, e)
	if err == nil {
		holders, err = parseHolders(list)
	}
	if err != nil {
		err = &seal.DamagedError{Name: name, Offset: seal.HeaderSize, Reason: err.Error()}
	}
	return holders, clock, err
}

// plainOf returns an extent's plain text, valid until the next call, from wherever it can be had.
func (lr *LogReader) plainOf(ctx context.Context, name string, stored int64) (plain []byte, err error) {
	ok := false
	if lr.log.r.help.Load().isAway() {
		plain, ok = lr.elsewhere(ctx, name, nil)
	}
	if ok {
		return plain, nil
	}
	err = lr.log.r.here(ctx, func(ctx context.Context) (err error) {
		plain, err = lr.open(ctx, name, stored)
		return err
	})
	if err == nil {
		return plain, nil
	}
	if plain, ok = lr.elsewhere(ctx, name, err); ok {
		return plain, nil
	}
	if errors.Is(err, errAway) { // and nobody else has it
		return lr.open(ctx, name, stored)
	}
	return nil, err
}

func (lr *LogReader) each(ctx context.Context, name string, e Extent, from, to uint64, fn func([]byte) error) (clock ExtentClock, err error) {
	plain, err := lr.plainOf(ctx, name, e.Stored)
	if err != nil {
		return clock, err
	}
	var failed error
	clock, err = lr.parse(plain, e, max(from, e.Start), min(to, e.End), func(piece []byte) error {
		failed = fn(piece)
		return failed
	})
	if err != nil && failed == nil {
		err = &seal.DamagedError{Name: name, Offset: seal.HeaderSize, Reason: err.Error()}
	}
	return clock, err
}

// open returns the plain text of an extent's object, valid until the next call. One whose size was listed comes into the
// memory of the last one. It may have been stored again with another size since: what is shorter, or does not open, is
// read anew, however large it is.
func (lr *LogReader) open(ctx context.Context, name string, size int64) ([]byte, error) {
	r := lr.log.r
	if size > 0 && size <= 2*MaxExtent {
		const step = 1 << 20 // each is a little larger than some other
		lr.sealed = grow(lr.sealed, (int(size)+step-1)/step*step)[:size]
		err := r.store.GetRange(ctx, name, 0, lr.sealed)
		if err == nil {
			if plain, err := r.keys.OpenWhole(seal.KindLogExtent, name, lr.sealed); err == nil {
				return plain, nil
			}
		} else if store.KindOf(err) != store.Damaged {
			return nil, err
		}
	}
	b, err := r.store.Get(ctx, name, 2*MaxExtent)
	if err != nil {
		return nil, err
	}
	return r.keys.OpenWhole(seal.KindLogExtent, name, b)
}

// parse calls fn for what an extent holds between two positions within it, piece by piece. Blocks that lie outside are
// not decoded.
func (lr *LogReader) parse(b []byte, e Extent, from, to uint64, fn func([]byte) error) (clock ExtentClock, err error) {
	clock, list, data, err := parseHead(b, e)
	if err == nil {
		_, err = parseHolders(list)
	}
	if err != nil {
		return clock, err
	}
	start := e.Start
	size := int(e.End - start)
	lo, hi := int(from-start), int(max(from, to)-start)
	switch b[1] {
	case extentRaw:
	case extentZstd:
		seen(data)
		data, err = lr.coder.dec.DecodeAll(data, grow(lr.plain, size)[:0])
		lr.plain = data[:0]
		made(data)
	case extentS2:
		return clock, lr.blocks(data, size, lo, hi, s2Block, decodeS2, fn)
	case extentZstdBlocks:
		return clock, lr.blocks(data, size, lo, hi, zstdBlock, lr.coder.decodeZstd, fn)
	default:
		return clock, fmt.Errorf("its encoding %d is unknown to this holdfast", b[1])
	}
	if err == nil && len(data) != size {
		err = fmt.Errorf("it decodes to %d bytes, not %d", len(data), size)
	}
	if err != nil || lo == hi {
		return clock, err
	}
	return clock, fn(data[lo:hi])
}

// parseHead returns what is before an extent's encoded bytes, and these.
func parseHead(b []byte, e Extent) (clock ExtentClock, list, data []byte, err error) {
	if len(b) < extentHead || b[0] != extentPlain && b[0] != extentListed {
		return clock, nil, nil, errors.New("a log extent has an unknown form")
	}
	start, end := binary.LittleEndian.Uint64(b[4:]), binary.LittleEndian.Uint64(b[12:])
	if start != e.Start || end != e.End || end <= start || end-start > MaxExtent {
		return clock, nil, nil, fmt.Errorf("it holds %x to %x", start, end)
	}
	clock = ExtentClock{fromMicros(binary.LittleEndian.Uint64(b[20:])), fromMicros(binary.LittleEndian.Uint64(b[28:]))}
	n := int(binary.LittleEndian.Uint16(b[2:]))
	data = b[extentHead:]
	if n > len(data) || n > maxHolders || (n > 0) != (b[0] == extentListed) {
		return clock, nil, nil, errHolders
	}
	return clock, data[:n], data[n:], nil
}

// blocks is the inverse of add, for size plain bytes of which those from lo to hi are wanted.
func (lr *LogReader) blocks(b []byte, size, lo, hi, length int, decode func(block, encoded []byte) error, fn func([]byte) error) error {
	piece := max(length, s2Piece)
	for at, turn := 0, 0; at < size; at += piece {
		end := min(at+piece, size)
		wanted := at < hi && lo < end
		if wanted {
			turn ^= 1
			lr.pieces[turn] = grow(lr.pieces[turn], zstdBlock)
		}
		for first := at; first < end; first += length {
			last := min(first+length, end)
			if len(b) < 4 || uint64(len(b)-4) < uint64(binary.LittleEndian.Uint32(b)) {
				return errors.New("a block is cut off")
			}
			encoded := b[4:][:binary.LittleEndian.Uint32(b)]
			b = b[4+len(encoded):]
			if first < hi && lo < last {
				if err := decode(lr.pieces[turn][first-at:last-at], encoded); err != nil {
					return err
				}
			}
		}
		if wanted {
			if err := fn(lr.pieces[turn][max(lo, at)-at : min(hi, end)-at]); err != nil {
				return err
			}
		}
	}
	if len(b) > 0 {
		return errors.New("something follows its last block")
	}
	return nil
}

var errBlockLength = errors.New("a block decodes to another length")

func decodeS2(block, encoded []byte) error {
	if n, err := s2.DecodedLen(encoded); err != nil || n != len(block) {
		return errBlockLength
	}
	seen(encoded)
	_, err := s2.Decode(block, encoded)
	made(block)
	return err
}

func (c *coder) decodeZstd(block, encoded []byte) error {
	seen(encoded)
	out, err := c.dec.DecodeAll(encoded, block[:0:len(block)])
	made(block)
	if err == nil && len(out) != len(block) {
		err = errBlockLength
	}
	return err
}
