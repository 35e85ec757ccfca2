package wal

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"slices"
	"time"
)

// EventKind sorts the records that a Scanner tells of.
type EventKind uint8

// The kinds of events.
const (
	Commit           EventKind = iota + 1
	Abort                      // of a transaction that had written something
	RestorePoint               // pg_create_restore_point
	TablespaceCreate           // CREATE TABLESPACE: its replay touches a directory outside of the cluster
)

// Event is a record that somebody outside of PostgreSQL has to know: those that carry a time, of which recovery
// targets are made, and those whose replay reaches out of the data directory.
type Event struct {
	Kind  EventKind
	Start LSN
	End   LSN       // the byte after the record: a log that reaches here holds the event
	Time  time.Time // by the server's clock; zero for a TablespaceCreate, whose record has none
	Name  string    // of a RestorePoint; the location of a TablespaceCreate
	OID   uint32    // of a TablespaceCreate
}

// Scanner reads a log as it arrives, in pieces of any size, and finds the events in it and its valid end. It
// begins at any page's start, and reads from the first record that begins after it. It checks each record's CRC;
// what is not a valid record is passed over up to the next page that says where a record begins, so that
// broken bytes give no event, but no error either: whoever needs to know looks at End. It keeps about a kilobyte.
//
// One that looks for some kinds only believes the length of the records of other resource managers: to check them
// would be most of its work. PostgreSQL's replay ends at a record that is broken, and with it everything that an event
// could warn of.
type Scanner struct {
	size SegmentSize
	fn   func(Event)
	only []uint8 // the resource managers whose records are looked at; none: all

	pos    LSN // next byte
	end    LSN // end of the last valid record
	synced bool
	resume LSN // bytes before it are passed over: the rest of a segment after a switch

	page []byte // the page header, as far as it has come
	cont uint64 // bytes of a record that began before, to be passed over

	start LSN    // of the record that is being read
	head  []byte // its first bytes, up to headKept
	left  uint64 // its bytes that are still to come; zero: between records, or its length is not known yet
	crc   uint32
}

const (
	recordHeader  = 24   // XLogRecord: xl_tot_len, xl_xid, xl_prev, xl_info, xl_rmid, padding, xl_crc
	headKept      = 1100 // a tablespace needs most: headers, OID and a path of 1024 bytes
	maxRecord     = 1 << 30
	shortHeader   = 24
	firstIsCont   = 0x0001 // XLP_FIRST_IS_CONTRECORD
	rmgrXLOG      = 0
	rmgrXact      = 1
	rmgrSpace     = 5    // RM_TBLSPC_ID
	infoCreate    = 0x00 // XLOG_TBLSPC_CREATE
	infoSwitch    = 0x40 // XLOG_SWITCH
	infoRestore   = 0x70 // XLOG_RESTORE_POINT
	infoMask      = 0xF0
	xactMask      = 0x70
	xactCommit    = 0x00
	xactAbort     = 0x20
	xactCommit2PC = 0x30
	xactAbort2PC  = 0x40
)

// managers tells whose records an event is read from.
var managers = [...]uint8{Commit: rmgrXact, Abort: rmgrXact, RestorePoint: rmgrXLOG, TablespaceCreate: rmgrSpace}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// NewScanner returns a scanner whose first byte will be the one at lsn; fn gets each event, or those of some kinds.
func NewScanner(lsn LSN, size SegmentSize, fn func(Event), only ...EventKind) *Scanner {
	s := &Scanner{size: size, fn: fn}
	for _, k := range only {
		s.only = append(s.only, managers[k])
	}
	s.Reset(lsn)
	return s
}

// Reset goes on at another position.
func (s *Scanner) Reset(lsn LSN) {
	*s = Scanner{size: s.size, fn: s.fn, only: s.only, pos: lsn, page: s.page[:0], head: s.head[:0]}
	// Within a page nobody says where a record begins.
	s.resume = (lsn + PageSize - 1) / PageSize * PageSize
}

// Pending tells whether the last byte lies within a record that is not complete, and may become an event.
func (s *Scanner) Pending() bool { return (s.left > 0 || len(s.head) > 0) && !s.passed() }

// passed tells whether the record that is being read is known to be none of those that are looked for.
func (s *Scanner) passed() bool {
	return len(s.head) >= recordHeader && !s.looksFor(s.head[17])
}

// looksFor tells whether a resource manager's records are looked at.
func (s *Scanner) looksFor(rmgr uint8) bool { return len(s.only) == 0 || slices.Contains(s.only, rmgr) }

// End returns the end of the last valid record; zero before the first.
func (s *Scanner) End() LSN { return s.end }

// Write takes the next bytes; it never fails.
func (s *Scanner) Write(b []byte) (int, error) {
	n := len(b)
	for len(b) > 0 {
		took := s.step(b[:min(len(b), int(PageSize-s.pos%PageSize))])
		b = b[took:]
	}
	return n, nil
}

// step takes some bytes of one page, at least one.
func (s *Scanner) step(b []byte) int {
	if s.pos < s.resume {
		n := min(len(b), int(min(s.resume-s.pos, PageSize)))
		s.pos += LSN(n)
		return n
	}
	if n := s.pageHeader(b); n > 0 {
		s.pos += LSN(n)
		return n
	}
	switch {
	case !s.synced:
		s.pos += LSN(len(b))
		return len(b)
	case s.cont > 0:
		n := int(min(uint64(len(b)), s.cont))
		s.cont -= uint64(n)
		s.pos += LSN(n)
		if s.cont == 0 {
			s.align()
		}
		return n
	case len(s.head) == 0 && s.left == 0 && s.pos%8 != 0:
		n := min(len(b), int(8-s.pos%8)) // the padding between records
		s.pos += LSN(n)
		return n
	}
	if n := s.passOver(b); n > 0 {
		return n
	}
	return s.record(b)
}

// passOver takes the records that b begins with, as far as they are whole and none that is looked for: to step through a
// log's many small records one by one would cost as much as decompressing them.
func (s *Scanner) passOver(b []byte) int {
	if len(s.only) == 0 || len(s.head) > 0 || s.left > 0 {
		return 0
	}
	n := 0
	for len(b)-n >= recordHeader {
		head := b[n:]
		total := binary.LittleEndian.Uint32(head)
		info, rmgr := head[16], head[17]
		if total < recordHeader || uint64(total) > uint64(len(head)) || s.looksFor(rmgr) || isSwitch(info, rmgr) {
			break
		}
		s.end = s.pos + LSN(n) + LSN(total)
		n = min(len(b), n+(int(total)+7)&^7)
	}
	s.pos += LSN(n)
	return n
}

func isSwitch(info, rmgr uint8) bool { return rmgr == rmgrXLOG && info&infoMask == infoSwitch }

// align leaves the padding after a record to step.
func (s *Scanner) align() { s.head, s.left = s.head[:0], 0 }

// pageHeader takes bytes of the page's header, if the position is in one; zero if not.
func (s *Scanner) pageHeader(b []byte) int {
	off, length := int(s.pos%PageSize), s.size.HeaderSize(s.pos)
	if off >= length {
		return 0
	}
	if off == 0 {
		s.page = s.page[:0]
	}
	n := min(len(b), length-off)
	s.page = append(s.page, b[:n]...)
	if off+n == length {
		s.newPage(s.pos - LSN(off))
	}
	return n
}

// newPage reads a complete page header: does it continue the record that we are in, and where does the next
// record begin?
func (s *Scanner) newPage(at LSN) {
	le := binary.LittleEndian
	valid := len(s.page) >= shortHeader && magics[le.Uint16(s.page)] != 0 && LSN(le.Uint64(s.page[8:])) == at
	if !valid {
		s.lost()
		return
	}
	isCont, rest := le.Uint16(s.page[2:])&firstIsCont != 0, uint64(le.Uint32(s.page[16:]))
	within := s.synced && (s.left > 0 || len(s.head) > 0)
	if within && isCont && (s.left == rest || s.left == 0) || s.synced && isCont && s.cont > 0 && s.cont == rest {
		return
	}
	// Another record than the one that was expected: after a crash its beginning was given up.
	s.lost()
	s.synced = true
	if isCont {
		s.cont = rest
	}
}

// lost forgets the record that was being read.
func (s *Scanner) lost() {
	s.synced, s.cont, s.left, s.head = false, 0, 0, s.head[:0]
}

// record takes bytes of a record.
func (s *Scanner) record(b []byte) int {
	if len(s.head) == 0 && s.left == 0 {
		s.start, s.crc = s.pos, 0
	}
	n := len(b)
	if s.left == 0 { // its length is not known before the header's first four bytes
		n = min(n, 4-len(s.head))
		s.head = append(s.head, b[:n]...)
		s.pos += LSN(n)
		if len(s.head) == 4 {
			total := binary.LittleEndian.Uint32(s.head)
			if total < recordHeader || total > maxRecord {
				s.lost() // zeros: the end of the log
				return n
			}
			s.left = uint64(total) - 4
		}
		return n
	}
	n = int(min(uint64(n), s.left))
	passed := s.passed()
	if len(s.head) < recordHeader {
		n = min(n, recordHeader-len(s.head))
	} else if !passed {
		s.crc = crc32.Update(s.crc, castagnoli, b[:n])
	}
	if keep := min(n, headKept-len(s.head)); keep > 0 && !passed {
		s.head = append(s.head, b[:keep]...)
	}
	s.left -= uint64(n)
	s.pos += LSN(n)
	if s.left == 0 {
		s.complete()
	}
	return n
}

// complete checks a whole record and tells what it says.
func (s *Scanner) complete() {
	le := binary.LittleEndian
	if !s.passed() && crc32.Update(s.crc, castagnoli, s.head[:recordHeader-4]) != le.Uint32(s.head[recordHeader-4:]) {
		s.lost()
		return
	}
	s.end = s.pos
	info, rmgr := s.head[16], s.head[17]
	if isSwitch(info, rmgr) {
		s.resume = s.size.Floor(s.pos + LSN(s.size) - 1) // the rest of the segment is empty
	}
	if s.passed() {
		s.align()
		return
	}
	if e, ok := event(info, rmgr, mainData(s.head[recordHeader:])); ok {
		e.Start, e.End = s.start, s.pos
		s.fn(e)
	}
	s.align()
}

// mainData returns the beginning of a record's own data, where it has neither blocks nor anything else before
// it but an origin and a transaction id (access/xlogrecord.h).
func mainData(b []byte) []byte {
	for len(b) > 0 {
		switch b[0] {
		case 255: // short: one byte of length
			return b[min(2, len(b)):]
		case 254: // long: four
			return b[min(5, len(b)):]
		case 253: // origin
			b = b[min(3, len(b)):]
		case 252: // transaction id of the top level
			b = b[min(5, len(b)):]
		default:
			return nil
		}
	}
	return nil
}

// event reads xl_xact_commit, xl_xact_abort and xl_restore_point, in which the time comes first, and
// xl_tblspc_create_rec.
func event(info, rmgr uint8, data []byte) (Event, bool) {
	var e Event
	if rmgr == rmgrSpace && info&infoMask == infoCreate && len(data) > 4 {
		path, _, _ := bytes.Cut(data[4:], []byte{0})
		return Event{Kind: TablespaceCreate, OID: binary.LittleEndian.Uint32(data), Name: string(path)}, true
	}
	if len(data) < 8 {
		return e, false
	}
	switch {
	case rmgr == rmgrXLOG && info&infoMask == infoRestore:
		name, _, _ := bytes.Cut(data[8:], []byte{0})
		e.Kind, e.Name = RestorePoint, string(name)
	case rmgr != rmgrXact:
		return e, false
	case info&xactMask == xactCommit, info&xactMask == xactCommit2PC:
		e.Kind = Commit
	case info&xactMask == xactAbort, info&xactMask == xactAbort2PC:
		e.Kind = Abort
	default:
		return e, false
	}
	e.Time = postgresEpoch.Add(time.Duration(int64(binary.LittleEndian.Uint64(data))) * time.Microsecond)
	return e, true
}

var postgresEpoch = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)
