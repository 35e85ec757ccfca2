package points

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"

	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/pg/wal"
)

// The record that pg_create_restore_point writes (access/xlogrecord.h, catalog/pg_control.h, xlog.c
// xl_restore_point), equal in versions 13 to 18: a header of 24 bytes, a short data header, a time, a name.
const (
	recordHead       = 24
	restorePointSize = recordHead + 2 + 8 + 64
	restorePointInfo = 0x70 // XLOG_RESTORE_POINT; resource manager 0
	shortData        = 0xFF // XLR_BLOCK_ID_DATA_SHORT
)

// findName returns the position behind the last restore point of this name that can be reached. The log is
// read from the newest snapshot on, then from the one before it, and so on: most names are young.
func (v *View) findName(ctx context.Context, way *wal.Timelines, name string) (wal.LSN, error) {
	until := wal.MaxLSN
	for i := len(v.Snapshots) - 1; i >= 0; i-- {
		s := v.Snapshots[i]
		if !passes(way, s) || s.Facts.StartLSN >= until {
			continue
		}
		at, err := v.scanName(ctx, way, s, until, name)
		if err != nil || at != 0 {
			return at, err
		}
		until = s.Facts.StartLSN
	}
	return 0, &dr.Failure{
		What:   fmt.Sprintf("restore %s to name:%s: no restore point has that name", v.System, name),
		Reason: fmt.Sprintf("the log of timeline %d was searched from the oldest snapshot on", way.Timeline),
		Next:   "give a time instead: holdfast recovery-points " + v.System + " shows which can be restored",
	}
}

var errScanned = errors.New("scanned")

func (v *View) scanName(ctx context.Context, way *wal.Timelines, s Snapshot, until wal.LSN, name string) (wal.LSN, error) {
	size := wal.SegmentSize(s.Facts.SegmentSize)
	start := s.Facts.StartLSN &^ (wal.PageSize - 1)
	scan := nameScan{name: name, size: size, page: make([]byte, 0, wal.PageSize), at: start}
	err := v.follow(ctx, way, start, size, func(data []byte) error {
		scan.write(data)
		// A record of which a part lies before until is found with the part behind it.
		if until != wal.MaxLSN && scan.at > until+wal.LSN(size) {
			return errScanned
		}
		return nil
	})
	if errors.Is(err, errScanned) {
		err = nil
	}
	return scan.found, err
}

// follow calls fn for the bytes of unbroken log along way from a position on.
func (v *View) follow(ctx context.Context, way *wal.Timelines, from wal.LSN, size wal.SegmentSize, fn func([]byte) error) error {
	all := v.pieces(way, from, size)
	for at := from; ; {
		for len(all) > 0 && all[0].to <= at {
			all = all[1:]
		}
		var best *piece
		for i, p := range all {
			if p.from > at+wal.LSN(size) {
				break // they ascend, but for the copied beginning of a timeline's first segment
			}
			if p.from <= at && p.to > at && (best == nil || p.to > best.to) {
				best = &all[i]
			}
		}
		if best == nil {
			return nil
		}
		data, _, err := v.reader.Read(ctx, best.Extent)
		if err != nil {
			return fmt.Errorf("read the log of timeline %d at %s: %w", best.Stream, at, err)
		}
		if err := fn(data[at-wal.LSN(best.Start) : best.to-wal.LSN(best.Start)]); err != nil {
			return err
		}
		at = best.to
	}
}

// nameScan looks for restore points in the log without following it record by record: it takes the page
// headers out, and then every aligned position that looks like such a record and has its checksum is one.
type nameScan struct {
	name  string
	size  wal.SegmentSize
	at    wal.LSN // of the next byte
	page  []byte  // of the page that is being collected
	tail  []byte  // the end of what was searched before, without page headers
	found wal.LSN
}

func (s *nameScan) write(b []byte) {
	for len(b) > 0 {
		n := min(len(b), wal.PageSize-len(s.page))
		s.page = append(s.page, b[:n]...)
		s.at += wal.LSN(n)
		if b = b[n:]; len(s.page) == wal.PageSize {
			s.search(s.at - wal.PageSize)
			s.page = s.page[:0]
		}
	}
	if len(s.page) > wal.LongHeaderSize {
		// The unfinished page at the log's end is searched again when more of it comes.
		tail := bytes.Clone(s.tail)
		s.search(s.at - wal.LSN(len(s.page)))
		s.tail = tail
	}
}

func (s *nameScan) search(start wal.LSN) {
	head := recordHead // the short page header has the same 24 bytes
	if s.size.Floor(start) == start {
		head = wal.LongHeaderSize
	}
	buf := append(s.tail, s.page[head:]...)
	padded := (restorePointSize + 7) / 8 * 8
	for i := 0; i+restorePointSize <= len(buf); i += 8 {
		if isRestorePoint(buf[i:i+restorePointSize], s.name) {
			s.found = start + wal.LSN(head+i+padded-len(s.tail))
		}
	}
	keep := min(len(buf), restorePointSize/8*8)
	s.tail = bytes.Clone(buf[len(buf)-keep:])
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func isRestorePoint(b []byte, name string) bool {
	le := binary.LittleEndian
	if le.Uint32(b) != restorePointSize || b[16] != restorePointInfo || b[17] != 0 || b[24] != shortData || b[25] != restorePointSize-recordHead-2 {
		return false
	}
	field := b[recordHead+2+8:]
	if end := bytes.IndexByte(field, 0); end < 0 || string(field[:end]) != name {
		return false
	}
	// The checksum is over the data first, then over the header without it (xloginsert.c).
	return crc32.Update(crc32.Checksum(b[recordHead:], castagnoli), castagnoli, b[:20]) == le.Uint32(b[20:])
}
