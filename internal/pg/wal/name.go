package wal

import (
	"fmt"
	"strings"
)

// PageSize is the size of a page of the log (XLOG_BLCKSZ). Builds with another one are refused when their
// segments are checked.
const PageSize = 8192

// SegmentSize is the size of the files into which a cluster's log is cut (initdb --wal-segsize): a power of two
// from 1 MiB to 1 GiB.
type SegmentSize uint32

// DefaultSegmentSize is initdb's default.
const DefaultSegmentSize SegmentSize = 16 << 20

// Check returns an error where the size is none that PostgreSQL allows.
func (s SegmentSize) Check() error {
	if s < 1<<20 || s > 1<<30 || s&(s-1) != 0 {
		return fmt.Errorf("WAL segment size %d is not a power of two from 1 MiB to 1 GiB", uint32(s))
	}
	return nil
}

// SegmentNumber counts the segments of a log from its beginning.
type SegmentNumber uint64

// Segment returns the number of the segment that holds the byte at lsn.
func (s SegmentSize) Segment(lsn LSN) SegmentNumber { return SegmentNumber(lsn / LSN(s)) }

// Start returns the position of the first byte of a segment.
func (s SegmentSize) Start(n SegmentNumber) LSN { return LSN(n) * LSN(s) }

// Floor returns the start of the segment that holds the byte at lsn.
func (s SegmentSize) Floor(lsn LSN) LSN { return lsn &^ LSN(s-1) }

// HeaderSize returns the size of the header of the log page that holds lsn: a segment's first page has a longer one.
func (s SegmentSize) HeaderSize(lsn LSN) int {
	if lsn-lsn%PageSize == s.Floor(lsn) {
		return LongHeaderSize
	}
	return ShortHeaderSize
}

// BeforeHeader returns the page's start for a position right behind a page's header: it is the same place. Any other
// position is returned as it is.
func (s SegmentSize) BeforeHeader(lsn LSN) LSN {
	if off := lsn % PageSize; off == LSN(s.HeaderSize(lsn)) {
		return lsn - off
	}
	return lsn
}

// perID is how many segments share the middle eight digits of a name: 4 GiB worth.
func (s SegmentSize) perID() uint64 { return 1 << 32 / uint64(s) }

// SegmentName returns the name of a segment's file: "000000010000000200000012". The size must be valid.
func SegmentName(tl TimelineID, n SegmentNumber, size SegmentSize) string {
	return fmt.Sprintf("%08X%08X%08X", uint32(tl), uint64(n)/size.perID(), uint64(n)%size.perID())
}

// HistoryName returns the name of a timeline's history file: "00000002.history".
func HistoryName(tl TimelineID) string { return fmt.Sprintf("%08X.history", uint32(tl)) }

// Kind sorts the files of pg_wal and of an archive.
type Kind uint8

// The kinds of files.
const (
	Segment Kind = iota + 1 // 000000010000000200000012
	Partial                 // ….partial: the last, incomplete segment of a timeline that was left
	History                 // 00000002.history
	Backup                  // 000000010000000200000012.00000028.backup: written at the end of a backup
)

// Name is what a file's name says.
type Name struct {
	Kind     Kind
	Timeline TimelineID
	Segment  SegmentNumber // not for History
	Start    LSN           // the segment's first byte; for Backup the position where the backup began
}

// ParseName reads a file's name. Lower-case digits, a segment number that the size does not allow and timeline
// zero are errors, as every other name is.
func ParseName(name string, size SegmentSize) (Name, error) {
	if err := size.Check(); err != nil {
		return Name{}, err
	}
	n, ok := parseName(name, size)
	if !ok {
		return Name{}, fmt.Errorf("%q is no name of a WAL file with segments of %d MiB", name, size>>20)
	}
	return n, nil
}

func parseName(name string, size SegmentSize) (Name, bool) {
	base, ext, dotted := strings.Cut(name, ".")
	if dotted && ext == "history" {
		tl, ok := upperHex(base)
		return Name{Kind: History, Timeline: TimelineID(tl)}, ok && len(base) == 8 && tl != 0
	}
	if len(base) != 24 {
		return Name{}, false
	}
	tl, ok1 := upperHex(base[:8])
	high, ok2 := upperHex(base[8:16])
	low, ok3 := upperHex(base[16:])
	if !ok1 || !ok2 || !ok3 || tl == 0 || uint64(low) >= size.perID() {
		return Name{}, false
	}
	n := Name{Kind: Segment, Timeline: TimelineID(tl), Segment: SegmentNumber(uint64(high)*size.perID() + uint64(low))}
	n.Start = size.Start(n.Segment)
	switch {
	case !dotted:
		return n, true
	case ext == "partial":
		n.Kind = Partial
		return n, true
	}
	off, isBackup := strings.CutSuffix(ext, ".backup")
	at, ok := upperHex(off)
	if !isBackup || !ok || len(off) != 8 || at >= uint32(size) {
		return Name{}, false
	}
	n.Kind = Backup
	n.Start += LSN(at)
	return n, true
}

// upperHex reads up to eight digits as PostgreSQL prints them in names.
func upperHex(s string) (uint32, bool) {
	if strings.Trim(s, "0123456789ABCDEF") != "" {
		return 0, false
	}
	v, err := parseHex32(s)
	return v, err == nil
}

// FileName returns the name that ParseName reads.
func (n Name) FileName(size SegmentSize) string {
	switch n.Kind {
	case History:
		return HistoryName(n.Timeline)
	case Partial:
		return SegmentName(n.Timeline, n.Segment, size) + ".partial"
	case Backup:
		return fmt.Sprintf("%s.%08X.backup", SegmentName(n.Timeline, n.Segment, size), uint32(n.Start)&uint32(size-1))
	}
	return SegmentName(n.Timeline, n.Segment, size)
}
