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
	blockHeader  = 4    // SizeOfXLogRecordBlockHeader: what every block's header has
	imageHeader  = 5    // SizeOfXLogRecordBlockImageHeader
)

var errShort = errors.New("the record is shorter than its headers say")

// parse reads the headers behind XLogRecord, which has checked CRC. body is what was kept of the record after that
// header, and size how much there is of it: more than body where the record is cut. The checks are those of
// xlogreader.c, DecodeXLogRecord.
func (r *Record) parse(body []byte, size, pageSize uint32) error {
	r.Blocks, r.Data, r.Cut = r.Blocks[:0], nil, uint32(len(body)) < size
	var payload, mainSize uint64 // bytes of blocks and of main data, which stand behind the headers
	at, last, complete := 0, -1, false
	for !complete && uint64(at)+payload < uint64(size) {
		if at >= len(body) {
			return errShort
		}
		h := body[at:]
		id := int(h[0])
		if id <= maxBlockID {
			if id <= last {
				return fmt.Errorf("block reference %d follows %d", id, last)
			}
			n, taken, err := r.block(h, pageSize)
			if err != nil {
				return fmt.Errorf("block reference %d: %w", id, err)
			}
			last, at, payload = id, at+taken, payload+n
			continue
		}
		need := headerNeeds(id, r.Version)
		switch {
		case need == 0:
			return fmt.Errorf("header %d is not known", id)
		case len(h) < need:
			return errShort
		case id == idDataShort:
			mainSize, complete = uint64(h[1]), true // this header is the last one
		case id == idDataLong:
			mainSize, complete = uint64(binary.LittleEndian.Uint32(h[1:])), true
		}
		at += need
	}
	if got := uint64(at) + payload + mainSize; got != uint64(size) {
		return fmt.Errorf("its parts have %d bytes, the record %d", got, size)
	}
	if !r.Cut {
		r.Data = body[uint64(size)-mainSize : size : size]
	}
	return nil
}

// headerNeeds returns the size of a header that is of no block, by its first byte; zero for an unknown one.
func headerNeeds(id, version int) int {
	switch {
	case id == idDataShort:
		return 2
	case id == idDataLong:
		return 5
	case id == idOrigin:
		return 3
	case id == idTopXid && version >= 14:
		return 5
	}
	return 0
}

// block reads one XLogRecordBlockHeader and what belongs to it. It returns how many bytes of image and data the
// block has behind the headers, and the header's size.
func (r *Record) block(h []byte, pageSize uint32) (payload uint64, taken int, err error) {
	if len(h) < blockHeader {
		return 0, 0, errShort
	}
	le := binary.LittleEndian
	flags, dataSize := h[1], le.Uint16(h[2:])
	if (flags&hasData != 0) != (dataSize > 0) {
		return 0, 0, fmt.Errorf("flags %02X with %d bytes of data", flags, dataSize)
	}
	payload = uint64(dataSize)
	h, taken = h[blockHeader:], blockHeader
	if flags&hasImage != 0 {
		size, n, err := image(h, r.Version, pageSize)
		if err != nil {
			return 0, 0, err
		}
		h, taken, payload = h[n:], taken+n, payload+uint64(size)
	}
	if len(r.Blocks) < cap(r.Blocks) {
		r.Blocks = r.Blocks[:len(r.Blocks)+1]
	} else {
		r.Blocks = append(r.Blocks, Block{})
	}
	b := &r.Blocks[len(r.Blocks)-1]
	if flags&sameRel == 0 {
		if len(h) < 16 {
			return 0, 0, errShort
		}
		b.Tablespace, b.Database, b.Relation = le.Uint32(h), le.Uint32(h[4:]), le.Uint32(h[8:])
		h, taken = h[12:], taken+12
	} else {
		if len(r.Blocks) == 1 {
			return 0, 0, errors.New("the same relation as none before")
		}
		p := &r.Blocks[len(r.Blocks)-2]
		b.Tablespace, b.Database, b.Relation = p.Tablespace, p.Database, p.Relation
	}
	if len(h) < 4 {
		return 0, 0, errShort
	}
	b.Number, b.Fork = le.Uint32(h), flags&forkMask
	b.Image, b.Init = flags&hasImage != 0, flags&willInit != 0
	return payload, taken + 4, nil
}

// image reads XLogRecordBlockImageHeader and XLogRecordBlockCompressHeader, and returns the image's size and the
// headers'. Until 14 bit 2 says compressed and bit 4 apply; since 15 bit 2 says apply, and 4, 8 and 16 are compressed
// by pglz, LZ4 and zstd.
func image(h []byte, version int, pageSize uint32) (size uint32, taken int, err error) {
	if len(h) < imageHeader+2 { // a block number follows in any case
		return 0, 0, errShort
	}
	le := binary.LittleEndian
	size, hole, info := uint32(le.Uint16(h)), uint32(le.Uint16(h[2:])), h[4]
	known, compressed := uint8(0x1F), info&0x1C != 0
	if version < 15 {
		known, compressed = 0x07, info&0x02 != 0
	}
	taken = imageHeader
	holeSize := uint32(0)
	switch {
	case info&^known != 0:
		return 0, 0, fmt.Errorf("image flags %02X are not known", info)
	case compressed && info&imageHasHole != 0:
		holeSize = uint32(le.Uint16(h[imageHeader:]))
		taken += 2
	case !compressed:
		holeSize = pageSize - min(size, pageSize)
	}
	whole := size == pageSize
	switch withHole := info&imageHasHole != 0; {
	case size > pageSize, withHole && (hole == 0 || holeSize == 0 || whole), !withHole && hole != 0,
		compressed && whole, !withHole && !compressed && !whole:
		return 0, 0, fmt.Errorf("an image of %d bytes with a hole of %d at %d and flags %02X", size, holeSize, hole, info)
	}
	return size, taken, nil
}
