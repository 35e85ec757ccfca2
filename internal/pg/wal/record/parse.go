package record

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// Sizes and bits of access/xlogrecord.h.
const (
	headerSize   = 24      // XLogRecord: xl_tot_len, xl_xid, xl_prev, xl_info, xl_rmid, padding, xl_crc
	crcOffset    = 20      // of xl_crc, which covers all but itself
	maxSize      = 1 << 30 // XLogRecordMaxSize is a little less
	maxBlockID   = 32      // XLR_MAX_BLOCK_ID
	idTopXid     = 252     // XLR_BLOCK_ID_TOPLEVEL_XID, since 14
	idOrigin     = 253
	idDataLong   = 254
	idDataShort  = 255
	forkMask     = 0x0F // BKPBLOCK_FORK_MASK
	hasImage     = 0x10 // BKPBLOCK_HAS_IMAGE
	hasData      = 0x20
	willInit     = 0x40
	sameRel      = 0x80
	imageHasHole = 0x01 // BKPIMAGE_HAS_HOLE
)

var errShort = errors.New("the record is shorter than its headers say")

// fields reads a record's headers in order.
type fields struct {
	b     []byte
	short bool
}

func (f *fields) take(n int) []byte {
	if len(f.b) < n {
		f.short = true
		return make([]byte, n)
	}
	b := f.b[:n]
	f.b = f.b[n:]
	return b
}

func (f *fields) u8() uint8   { return f.take(1)[0] }
func (f *fields) u16() uint16 { return binary.LittleEndian.Uint16(f.take(2)) }
func (f *fields) u32() uint32 { return binary.LittleEndian.Uint32(f.take(4)) }

// parse reads the headers behind XLogRecord, which has checked CRC. body is what was kept of the record after that
// header, and size how much there is of it: more than body where the record is cut. The checks are those of
// xlogreader.c, DecodeXLogRecord.
func (r *Record) parse(body []byte, size, pageSize uint32) error {
	r.Blocks, r.Data, r.Cut = r.Blocks[:0], nil, uint32(len(body)) < size
	f := fields{b: body}
	var payload, mainSize uint64 // bytes of blocks and of main data, which stand behind the headers
	last, complete := -1, false
	for consumed := uint64(0); !complete && consumed+payload < uint64(size); consumed = uint64(len(body) - len(f.b)) {
		switch id := f.u8(); {
		case id == idDataShort:
			mainSize, complete = uint64(f.u8()), true // this header is the last one
		case id == idDataLong:
			mainSize, complete = uint64(f.u32()), true
		case id == idOrigin:
			f.take(2)
		case id == idTopXid && r.Version >= 14:
			f.take(4)
		case id > maxBlockID || int(id) <= last:
			return fmt.Errorf("block reference %d follows %d", id, last)
		default:
			last = int(id)
			n, err := r.block(&f, pageSize)
			if err != nil {
				return fmt.Errorf("block reference %d: %w", id, err)
			}
			payload += n
		}
		if f.short {
			return errShort
		}
	}
	if consumed := uint64(len(body) - len(f.b)); consumed+payload+mainSize != uint64(size) {
		return fmt.Errorf("its parts have %d bytes, the record %d", consumed+payload+mainSize, size)
	}
	if !r.Cut {
		r.Data = body[uint64(size)-mainSize : size : size]
	}
	return nil
}

// block reads one XLogRecordBlockHeader and what belongs to it, and returns how many bytes of image and data the
// block has behind the headers.
func (r *Record) block(f *fields, pageSize uint32) (uint64, error) {
	flags, dataSize := f.u8(), uint64(f.u16())
	if (flags&hasData != 0) != (dataSize > 0) {
		return 0, fmt.Errorf("flags %02X with %d bytes of data", flags, dataSize)
	}
	imageSize := uint64(0)
	if flags&hasImage != 0 {
		n, err := image(f, r.Version, pageSize)
		if err != nil {
			return 0, err
		}
		imageSize = n
	}
	b := Block{Fork: flags & forkMask, Image: flags&hasImage != 0, Init: flags&willInit != 0}
	if flags&sameRel == 0 {
		b.Tablespace, b.Database, b.Relation = f.u32(), f.u32(), f.u32()
	} else {
		if len(r.Blocks) == 0 {
			return 0, errors.New("the same relation as none before")
		}
		p := &r.Blocks[len(r.Blocks)-1]
		b.Tablespace, b.Database, b.Relation = p.Tablespace, p.Database, p.Relation
	}
	b.Number = f.u32()
	r.Blocks = append(r.Blocks, b)
	return dataSize + imageSize, nil
}

// image reads XLogRecordBlockImageHeader and XLogRecordBlockCompressHeader. Until 14 bit 2 says compressed and bit
// 4 apply; since 15 bit 2 says apply, and 4, 8 and 16 are compressed by pglz, LZ4 and zstd.
func image(f *fields, version int, pageSize uint32) (uint64, error) {
	size, hole, info := uint32(f.u16()), uint32(f.u16()), f.u8()
	known, compressed := uint8(0x1F), info&0x1C != 0
	if version < 15 {
		known, compressed = 0x07, info&0x02 != 0
	}
	holeSize := uint32(0)
	switch {
	case f.short:
		return 0, errShort
	case info&^known != 0:
		return 0, fmt.Errorf("image flags %02X are not known", info)
	case compressed && info&imageHasHole != 0:
		holeSize = uint32(f.u16())
	case !compressed:
		holeSize = pageSize - min(size, pageSize)
	}
	whole := size == pageSize
	switch withHole := info&imageHasHole != 0; {
	case size > pageSize, withHole && (hole == 0 || holeSize == 0 || whole), !withHole && hole != 0,
		compressed && whole, !withHole && !compressed && !whole:
		return 0, fmt.Errorf("an image of %d bytes with a hole of %d at %d and flags %02X", size, holeSize, hole, info)
	}
	return uint64(size), nil
}
