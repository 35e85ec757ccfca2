package record

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"

	"github.com/holdfast-dr/holdfast/internal/pg/wal"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

const (
	keptWhole   = 1 << 20
	keptOfLarge = 4096 // headers of 33 block references need less
)

// records takes bytes of a page behind its header.
func (r *Reader) records(b []byte) int {
	i := 0
	for i < len(b) && r.stop == nil {
		rest := b[i:]
		took := 0
		switch {
		case r.skip > 0:
			took = int(min(r.skip, uint64(len(rest))))
			if r.skip -= uint64(took); r.skip == 0 {
				r.begin = (r.pos + wal.LSN(took) + 7) &^ 7
				r.from = r.begin
			}
		case r.pos < r.from:
			took = int(min(r.from-r.pos, wal.LSN(len(rest))))
		case len(r.body) > 0:
			took = r.more(rest)
		case r.pos%8 != 0: // the padding between records
			took = min(int(-r.pos&7), len(rest))
		default:
			took = r.next(rest)
		}
		i += took
		r.pos += wal.LSN(took)
		if r.pos < r.skipTo {
			break
		}
	}
	return i
}

// next takes a record that starts here: all of it where it lies on this page, and else its beginning.
func (r *Reader) next(b []byte) int {
	r.start = r.pos
	if len(b) >= headerSize {
		if total := binary.LittleEndian.Uint32(b); total >= headerSize && uint64(total) <= uint64(len(b)) {
			if r.checkHeader(b[:headerSize]) {
				r.finish(b[:total:total], total, r.pos+wal.LSN(total))
			}
			return int(total)
		}
	}
	r.body = r.body[:0]
	return r.more(b)
}

// more takes bytes of a record that is not complete.
func (r *Reader) more(b []byte) int {
	if len(r.body) < headerSize {
		n := min(len(b), headerSize-len(r.body))
		r.body = append(r.body, b[:n]...)
		switch {
		case len(r.body) >= 4 && binary.LittleEndian.Uint32(r.body)-headerSize > maxSize-headerSize:
			r.noRecord(b)
		case len(r.body) == headerSize && r.checkHeader(r.body):
			total := binary.LittleEndian.Uint32(r.body)
			r.left, r.crc = total-headerSize, 0
			r.large = total > keptWhole && r.body[17] != Transaction
			r.complete(r.pos + wal.LSN(n))
		}
		return n
	}
	n := int(min(uint64(len(b)), uint64(r.left)))
	keep := n
	if r.large {
		r.crc = crc32.Update(r.crc, castagnoli, b[:n])
		keep = min(n, max(0, keptOfLarge-len(r.body)))
	}
	r.body = append(r.body, b[:keep]...)
	r.left -= uint32(n)
	r.complete(r.pos + wal.LSN(n))
	return n
}

// complete ends a record that crossed pages or pieces, once all of it is here.
func (r *Reader) complete(end wal.LSN) {
	if r.left > 0 || r.stop != nil {
		return
	}
	r.finish(r.body, binary.LittleEndian.Uint32(r.body), end)
	if cap(r.body) > 4*keptWhole {
		r.body = nil
	}
	r.body, r.large = r.body[:0], false
}

// noRecord stops where a record's length is none. Behind the last record are zeros up to the page's end.
func (r *Reader) noRecord(b []byte) {
	switch {
	case !allZero(r.body):
		r.fail(r.start, fmt.Sprintf("a record of %d bytes", binary.LittleEndian.Uint32(r.body)))
	case !allZero(b):
		r.fail(r.start, "zeros, and then other bytes")
	default:
		r.ended(r.start, "zeros follow")
	}
}

// checkHeader checks what can be told of a record before all of it is here.
func (r *Reader) checkHeader(h []byte) bool {
	prev := wal.LSN(binary.LittleEndian.Uint64(h[8:]))
	if r.prev != 0 && prev != r.prev || prev >= r.start {
		// A torn write of a crashed server leaves such a record, but nobody was told that it was written.
		r.fail(r.start, fmt.Sprintf("the record's predecessor is said to be at %s, it is at %s", prev, r.prev))
	}
	return r.stop == nil
}

// finish checks a complete record and hands it over. kept is what is kept of it.
func (r *Reader) finish(kept []byte, total uint32, end wal.LSN) {
	le := binary.LittleEndian
	crc := r.crc
	if !r.large {
		crc = crc32.Update(0, castagnoli, kept[headerSize:])
	}
	if crc32.Update(crc, castagnoli, kept[:crcOffset]) != le.Uint32(kept[crcOffset:]) {
		r.fail(r.start, "the record's checksum is wrong")
		return
	}
	rec := &r.rec
	rec.Start, rec.End, rec.Version = r.start, (end+7)&^7, r.version
	rec.Info, rec.Rmgr = kept[16], kept[17]
	if err := rec.parse(kept[headerSize:], total-headerSize, r.cfg.PageSize); err != nil {
		r.fail(r.start, err.Error())
		return
	}
	if rec.Rmgr == XLOG && rec.Info&infoMask == infoSwitch {
		rec.End = r.cfg.SegmentSize.Floor(end + wal.LSN(r.cfg.SegmentSize) - 1)
		r.skipTo = rec.End
	}
	if !r.mendsAbandoned(rec) {
		return
	}
	r.end, r.prev = rec.End, rec.Start
	r.fn(rec)
}

// mendsAbandoned holds after a record that was given up: the first one behind it must name it, so that a page
// with the wrong flag cannot make a record disappear (xl_overwrite_contrecord).
func (r *Reader) mendsAbandoned(rec *Record) bool {
	if r.abandoned == 0 {
		return true
	}
	ok := rec.Rmgr == XLOG && rec.Info&infoMask == infoOverwrite && len(rec.Data) >= 8 &&
		wal.LSN(binary.LittleEndian.Uint64(rec.Data)) == r.abandoned
	if !ok {
		r.fail(r.abandoned, fmt.Sprintf("the record is not complete, and the one at %s does not say so", rec.Start))
		return false
	}
	r.abandoned = 0
	return true
}
