package wal

import (
	"encoding/binary"
	"fmt"
)

// ShortHeaderSize is the size of the header of a page that begins no segment.
const ShortHeaderSize = shortHeader

// PageHeader is the header of any page of the log (access/xlog_internal.h, XLogPageHeaderData).
type PageHeader struct {
	Version    int        // PostgreSQL's major version, from the page's magic
	Timeline   TimelineID // on which the page was begun
	Start      LSN        // position of the page's first byte
	Rest       uint32     // where Continues: bytes of the record that are still to come, on this page and later ones
	Continues  bool       // the page begins within a record
	Overwrites bool       // after a crash: the record that would continue here is incomplete for ever
	Long       bool       // the page begins a segment and has LongHeaderSize bytes of header
}

// pageOverwrites is XLP_FIRST_IS_OVERWRITE_CONTRECORD.
const pageOverwrites = 0x0008

// ParsePageHeader reads the first ShortHeaderSize bytes of a page.
func ParsePageHeader(b []byte) (PageHeader, error) {
	if len(b) < ShortHeaderSize {
		return PageHeader{}, fmt.Errorf("%d bytes are no WAL page header", len(b))
	}
	le := binary.LittleEndian
	magic, info := le.Uint16(b), le.Uint16(b[2:])
	h := PageHeader{
		Version:    magics[magic],
		Timeline:   TimelineID(le.Uint32(b[4:])),
		Start:      LSN(le.Uint64(b[8:])),
		Rest:       le.Uint32(b[16:]),
		Continues:  info&firstIsCont != 0,
		Overwrites: info&pageOverwrites != 0,
		Long:       info&pageLongHeader != 0,
	}
	switch {
	case h.Version == 0:
		return PageHeader{}, fmt.Errorf("WAL page magic %04X is of no supported version (13 to 18)", magic)
	case info&^pageAllFlags != 0:
		return PageHeader{}, fmt.Errorf("WAL page flags %04X are not known", info)
	case h.Timeline == 0:
		return PageHeader{}, fmt.Errorf("the WAL page names timeline 0")
	case h.Continues && h.Overwrites:
		return PageHeader{}, fmt.Errorf("WAL page flags %04X contradict each other", info)
	}
	return h, nil
}
