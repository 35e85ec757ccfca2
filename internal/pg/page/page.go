package page

import (
	"bytes"
	"encoding/binary"
	"fmt"
)

const (
	// Size is the page size that this package knows: BLCKSZ of every packaged PostgreSQL.
	Size = 8192

	// SegmentBlocks is the number of blocks in a full relation segment of 1 GiB: block n of segment s is block
	// s × SegmentBlocks + n of its fork.
	SegmentBlocks = 131072

	headerSize    = 24     // SizeOfPageHeaderData (storage/bufpage.h)
	validFlagBits = 0x0007 // PD_VALID_FLAG_BITS
)

// Header is PageHeaderData of storage/bufpage.h.
type Header struct {
	LSN      uint64 // pd_lsn: the end of the last WAL record that changed the page
	Checksum uint16
	Flags    uint16
	Lower    uint16 // where the free space begins
	Upper    uint16 // where the free space ends
	Special  uint16 // where the access method's own space begins
	SizeVer  uint16 // pd_pagesize_version: size | layout version
	PruneXID uint32
}

// ReadHeader reads the header of page, which must have at least 24 bytes. Nothing is checked.
func ReadHeader(page []byte) Header {
	p := page[:headerSize]
	return Header{
		LSN:      LSN(p),
		Checksum: binary.LittleEndian.Uint16(p[8:]),
		Flags:    binary.LittleEndian.Uint16(p[10:]),
		Lower:    binary.LittleEndian.Uint16(p[12:]),
		Upper:    binary.LittleEndian.Uint16(p[14:]),
		Special:  binary.LittleEndian.Uint16(p[16:]),
		SizeVer:  binary.LittleEndian.Uint16(p[18:]),
		PruneXID: binary.LittleEndian.Uint32(p[20:]),
	}
}

// LSN returns pd_lsn of page: two 32-bit halves, the high one first (PageXLogRecPtr).
func LSN(page []byte) uint64 {
	return uint64(binary.LittleEndian.Uint32(page))<<32 | uint64(binary.LittleEndian.Uint32(page[4:]))
}

var zeros [Size]byte

// IsNew reports whether page is all zero: extended by PostgreSQL, not yet initialised.
func IsNew(page []byte) bool { return bytes.Equal(page, zeros[:len(page)]) }

// State is what Verify found.
type State uint8

// The states of a page.
const (
	OK          State = iota // header plausible, checksum right (or not asked for)
	New                      // all zero, which PostgreSQL accepts
	BadChecksum              // pd_checksum differs: torn while being written, or damaged
	BadHeader                // a header that PostgreSQL would refuse
)

// Error says why PostgreSQL would refuse a page.
type Error struct {
	Block  uint32 // of the fork, over all segments
	State  State  // BadChecksum or BadHeader
	Header Header
	Want   uint16 // the checksum that the content asks for
}

func (e *Error) Error() string {
	h := e.Header
	if e.State == BadChecksum {
		return fmt.Sprintf("page %d has checksum %04x, its content has %04x", e.Block, h.Checksum, e.Want)
	}
	return fmt.Sprintf("page %d has a broken header: flags %#x, lower %d, upper %d, special %d, size and version %#x",
		e.Block, h.Flags, h.Lower, h.Upper, h.Special, h.SizeVer)
}

// Verify looks at page as PostgreSQL does when it reads one from disk (PageIsVerified): checksum, then header;
// an all-zero page is New. block counts over all segments of the fork, as for Checksum. The error is an *Error
// exactly when the state is BadChecksum or BadHeader.
func Verify(page []byte, block uint32, checksums bool) (State, error) {
	h := ReadHeader(page)
	if h.Upper == 0 { // PageIsNew: no checksum is set on such a page, so all of it must be zero
		if IsNew(page) {
			return New, nil
		}
		return BadHeader, &Error{Block: block, State: BadHeader, Header: h}
	}
	if checksums {
		if want := Checksum(page, block); want != h.Checksum {
			return BadChecksum, &Error{Block: block, State: BadChecksum, Header: h, Want: want}
		}
	}
	if !h.plausible() {
		return BadHeader, &Error{Block: block, State: BadHeader, Header: h}
	}
	return OK, nil
}

// plausible is PostgreSQL's own test of a header; it does not look at pd_pagesize_version.
func (h Header) plausible() bool {
	return h.Flags&^validFlagBits == 0 && h.Lower <= h.Upper && h.Upper <= h.Special && h.Special <= Size && h.Special%8 == 0
}
