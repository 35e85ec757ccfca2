package wal

import (
	"encoding/binary"
	"fmt"
)

// LongHeaderSize is how many bytes of a segment CheckSegment needs.
const LongHeaderSize = 40

// Header is the long page header at the start of every segment (access/xlog_internal.h,
// XLogLongPageHeaderData). PostgreSQL writes it in its host's byte order; little-endian hosts are supported.
type Header struct {
	Magic       uint16
	Version     int         // PostgreSQL's major version, from Magic
	Timeline    TimelineID  // of the first page: a segment in which the timeline changed keeps the old one here
	Start       LSN         // position of the first byte
	SystemID    uint64      // of the cluster
	SegmentSize SegmentSize // of the cluster
}

// magics maps the page magic (XLOG_PAGE_MAGIC) of each release to its major version.
var magics = map[uint16]int{0xD106: 13, 0xD10D: 14, 0xD110: 15, 0xD113: 16, 0xD116: 17, 0xD118: 18}

const (
	pageLongHeader = 0x0002 // XLP_LONG_HEADER
	pageAllFlags   = 0x000F // XLP_ALL_FLAGS
)

// ParseHeader reads a segment's first bytes. It needs LongHeaderSize of them.
func ParseHeader(b []byte) (Header, error) {
	if len(b) < LongHeaderSize {
		return Header{}, fmt.Errorf("a WAL segment of %d bytes has no page header", len(b))
	}
	le := binary.LittleEndian
	h := Header{
		Magic:       le.Uint16(b),
		Timeline:    TimelineID(le.Uint32(b[4:])),
		Start:       LSN(le.Uint64(b[8:])),
		SystemID:    le.Uint64(b[24:]),
		SegmentSize: SegmentSize(le.Uint32(b[32:])),
	}
	info, pageSize := le.Uint16(b[2:]), le.Uint32(b[36:])
	h.Version = magics[h.Magic]
	switch {
	case h.Version == 0:
		return Header{}, fmt.Errorf("WAL page magic %04X is of no supported version (13 to 18)", h.Magic)
	case info&pageLongHeader == 0 || info&^pageAllFlags != 0:
		return Header{}, fmt.Errorf("the first WAL page has flags %04X: it does not begin a segment", info)
	case pageSize != PageSize:
		return Header{}, fmt.Errorf("WAL pages of %d bytes are not supported, only of %d", pageSize, PageSize)
	case h.Timeline == 0:
		return Header{}, fmt.Errorf("the first WAL page names timeline 0")
	}
	if err := h.SegmentSize.Check(); err != nil {
		return Header{}, err
	}
	if h.Start != h.SegmentSize.Floor(h.Start) {
		return Header{}, fmt.Errorf("the first WAL page names position %s, which begins no segment", h.Start)
	}
	return h, nil
}

// CheckSegment tells whether bytes begin the segment that they are said to be: of this cluster, at this
// position, with this segment size. systemID zero means any. The page's timeline may be older than the name's.
func CheckSegment(first []byte, name Name, size SegmentSize, systemID uint64) (Header, error) {
	h, err := ParseHeader(first)
	if err != nil {
		return h, err
	}
	fileName := SegmentName(name.Timeline, name.Segment, size)
	switch {
	case systemID != 0 && h.SystemID != systemID:
		return h, fmt.Errorf("%s is of the cluster with system identifier %d, not of %d", fileName, h.SystemID, systemID)
	case h.SegmentSize != size:
		return h, fmt.Errorf("%s is of a cluster with segments of %d bytes, not of %d", fileName, h.SegmentSize, size)
	case h.Start != size.Start(name.Segment):
		return h, fmt.Errorf("%s holds the log from %s, not from %s", fileName, h.Start, size.Start(name.Segment))
	case h.Timeline > name.Timeline:
		return h, fmt.Errorf("%s holds the log of timeline %d", fileName, h.Timeline)
	}
	return h, nil
}
