package record

import (
	"encoding/binary"
	"fmt"

	"github.com/holdfast-dr/holdfast/internal/pg/wal"
)

// Config says which log is read, and from where.
type Config struct {
	Start       wal.LSN         // where a record starts, or a page: then the first record that starts on it or later
	Timeline    wal.TimelineID  // whose log it is; pages of its ancestors may come first
	SegmentSize wal.SegmentSize // of the cluster
	SystemID    uint64          // of the cluster; zero: any
	PageSize    uint32          // of the relations' pages (BLCKSZ); zero: 8192
}

// Reader finds the records in a log. It keeps about a record, at most some megabytes of it unless a single
// transaction drops more relations than that. It is used by one goroutine.
type Reader struct {
	cfg Config
	fn  func(*Record)

	pos     wal.LSN // of the next byte
	from    wal.LSN // the first record starts here or later
	begin   wal.LSN // where it starts; zero while that is not known
	end     wal.LSN // of the last record
	prev    wal.LSN // start of the last record, zero where it is not known
	skipTo  wal.LSN // bytes before it are passed over, page headers too: the rest of a segment after a switch
	version int     // of the log; zero before the first page
	tl      wal.TimelineID

	header []byte // of the page, as far as it has come
	skip   uint64 // bytes of a record that started before from

	start     wal.LSN // of the record that is being read
	body      []byte  // what is kept of it, where it crosses pages; empty between records
	left      uint32  // what is still to come of it, known once its header is here
	large     bool    // only the first keptOfLarge bytes are kept
	crc       uint32  // where large: of what has come after the header
	abandoned wal.LSN // start of a record that was given up, until the next record confirms it

	rec  Record
	stop *StopError
}

// NewReader returns a reader that calls fn for each record. Its first byte is that at Next.
func NewReader(c Config, fn func(*Record)) (*Reader, error) {
	if c.PageSize == 0 {
		c.PageSize = 8192
	}
	if err := c.SegmentSize.Check(); err != nil {
		return nil, err
	}
	if c.Timeline == 0 || c.Start == 0 || c.Start%8 != 0 || c.PageSize > 1<<15 {
		return nil, fmt.Errorf("no log of timeline %d with pages of %d bytes can be read from %s", c.Timeline, c.PageSize, c.Start)
	}
	r := &Reader{cfg: c, fn: fn, pos: c.Start - c.Start%wal.PageSize, from: c.Start}
	if off := c.Start % wal.PageSize; off != 0 && off <= wal.LSN(r.headerSize()) {
		r.from = r.pos // behind the page's header and before it are the same place
	}
	r.begin = r.from
	return r, nil
}

// Next returns the position of the first byte that Write expects.
func (r *Reader) Next() wal.LSN { return r.pos }

// Begin returns where the first record starts that was or will be read; right behind a page's header, that is the
// page's start. It is later than Config.Start where that is a page which continues a record, and zero until the
// end of that record has come.
func (r *Reader) Begin() wal.LSN { return r.begin }

// End returns where the last valid record ends; Begin before the first.
func (r *Reader) End() wal.LSN { return max(r.end, r.begin) }

// Write takes the next bytes of the log. Its error is a *StopError, and the same one again after the first.
func (r *Reader) Write(b []byte) (int, error) {
	if r.stop != nil {
		return 0, r.stop
	}
	n := len(b)
	for len(b) > 0 && r.stop == nil {
		took := r.step(b[:min(len(b), int(wal.PageSize-r.pos%wal.PageSize))])
		b = b[took:]
	}
	if r.stop != nil {
		r.lookBeyond(b)
		return n - len(b), r.stop
	}
	return n, nil
}

// step takes bytes of one page, at least one.
func (r *Reader) step(b []byte) int {
	if r.pos < r.skipTo {
		n := int(min(r.skipTo-r.pos, wal.LSN(len(b))))
		r.pos += wal.LSN(n)
		return n
	}
	if off, size := int(r.pos%wal.PageSize), r.headerSize(); off < size {
		n := min(len(b), size-off)
		r.header = append(r.header[:off], b[:n]...)
		r.pos += wal.LSN(n)
		if off+n == size {
			r.newPage(r.pos - wal.LSN(size))
		}
		return n
	}
	return r.records(b)
}

func (r *Reader) headerSize() int { return r.cfg.SegmentSize.HeaderSize(r.pos) }

// newPage reads a complete page header: does it go on with what we are in?
func (r *Reader) newPage(at wal.LSN) {
	h, err := wal.ParsePageHeader(r.header)
	switch {
	case err != nil && allZero(r.header):
		r.ended(r.stopAt(at), "the page is empty")
	case err != nil:
		r.fail(at, err.Error())
	case h.Start < at && (at-h.Start)%wal.LSN(r.cfg.SegmentSize) == 0: // the segment was recycled
		r.ended(r.stopAt(at), fmt.Sprintf("the page holds the older log of %s", h.Start))
	case h.Start != at:
		r.fail(at, fmt.Sprintf("the page says that it is at %s", h.Start))
	case h.Long != (len(r.header) == wal.LongHeaderSize):
		r.fail(at, "the page's header has the wrong size")
	case r.version != 0 && h.Version != r.version:
		r.fail(at, fmt.Sprintf("the page is of PostgreSQL %d, the one before of %d", h.Version, r.version))
	case h.Timeline < r.tl || h.Timeline > r.cfg.Timeline:
		r.fail(at, fmt.Sprintf("the page is of timeline %d", h.Timeline))
	default:
		if h.Long {
			r.checkSegment(at)
		}
		r.continuation(h)
		r.version, r.tl = h.Version, h.Timeline
	}
}

// checkSegment checks what only the first page of a segment says.
func (r *Reader) checkSegment(at wal.LSN) {
	long, err := wal.ParseHeader(r.header)
	switch {
	case err != nil:
		r.fail(at, err.Error())
	case r.cfg.SystemID != 0 && long.SystemID != r.cfg.SystemID:
		r.fail(at, fmt.Sprintf("the segment is of the cluster with system identifier %d", long.SystemID))
	case long.SegmentSize != r.cfg.SegmentSize:
		r.fail(at, fmt.Sprintf("the segment says that segments have %d bytes", long.SegmentSize))
	}
}

// continuation compares the record that a page continues with the one that we are in.
func (r *Reader) continuation(h wal.PageHeader) {
	var missing uint64 // of the record that we are in
	switch {
	case r.skip > 0:
		missing = r.skip
	case len(r.body) >= headerSize:
		missing = uint64(r.left)
	case len(r.body) > 0:
		missing = uint64(binary.LittleEndian.Uint32(r.body)) - uint64(len(r.body))
	}
	switch {
	case h.Continues && h.Rest == 0:
		r.fail(h.Start, "the page continues a record of which nothing is missing")
	case r.version == 0 && h.Start < r.from:
		// Read for its header only: from lies further on in this page.
	case r.version == 0 && h.Continues:
		r.skip, r.begin = uint64(h.Rest), 0
	case missing == 0 && h.Continues:
		r.fail(h.Start, "the page continues a record, and none was begun")
	case missing == 0:
	case h.Overwrites && r.skip > 0:
		r.skip, r.begin, r.from = 0, h.Start, h.Start
	case h.Overwrites:
		r.abandoned, r.body, r.left, r.large = r.start, r.body[:0], 0, false
	case !h.Continues:
		r.fail(r.stopAt(h.Start), fmt.Sprintf("the record does not go on at %s", h.Start))
	case uint64(h.Rest) != missing:
		r.fail(r.stopAt(h.Start), fmt.Sprintf("%d bytes of the record are missing, the page at %s has %d", missing, h.Start, h.Rest))
	}
}

// stopAt returns the start of the record that we are in; else the page's.
func (r *Reader) stopAt(page wal.LSN) wal.LSN {
	if len(r.body) > 0 {
		return r.start
	}
	return page
}

func (r *Reader) fail(at wal.LSN, reason string) { r.stop = &StopError{At: at, Reason: reason} }
func (r *Reader) ended(at wal.LSN, reason string) {
	r.stop = &StopError{At: at, Ended: true, Reason: reason}
}

// lookBeyond looks at what else is at hand where the log seems to have ended: pages that belong there say that
// what lies before them is lost. b begins at pos.
func (r *Reader) lookBeyond(b []byte) {
	if !r.stop.Ended {
		return
	}
	for i := int(-r.pos & (wal.PageSize - 1)); i+wal.ShortHeaderSize <= len(b); i += wal.PageSize {
		at := r.pos + wal.LSN(i)
		if h, err := wal.ParsePageHeader(b[i:]); err == nil && h.Start == at && at > r.stop.At {
			r.fail(r.stop.At, fmt.Sprintf("%s, but the log goes on at %s", r.stop.Reason, at))
			return
		}
	}
}

func allZero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}
