package pgtest

import (
	"encoding/binary"
	"hash/crc32"
	"testing"
)

// Log writes a log of PostgreSQL 15 record by record, for tests that need one to lie at an exact place. It begins at a
// segment's start.
type Log struct {
	Start       uint64
	SegmentSize uint64
	SystemID    uint64
	Bytes       []byte

	t    testing.TB
	prev uint64
}

const (
	logPage        = 8192
	logMagic       = 0xD110
	logShortHeader = 24
	logLongHeader  = 40
	recordHeader   = 24
)

// NewLog returns an empty log.
func NewLog(t testing.TB, start, segmentSize, systemID uint64) *Log {
	t.Helper()
	if start%segmentSize != 0 {
		t.Fatalf("%X is within a segment of %d bytes", start, segmentSize)
	}
	return &Log{Start: start, SegmentSize: segmentSize, SystemID: systemID, t: t}
}

// End returns the position behind what was written.
func (l *Log) End() uint64 { return l.Start + uint64(len(l.Bytes)) }

// Record writes one with data of its own and no blocks, and returns where it begins and ends.
func (l *Log) Record(rmgr, info uint8, data []byte) (start, end uint64) {
	l.t.Helper()
	body := []byte{255, byte(len(data))}
	if len(data) > 255 {
		body = binary.LittleEndian.AppendUint32([]byte{254}, uint32(len(data)))
	}
	body = append(body, data...)
	b := make([]byte, recordHeader, recordHeader+len(body))
	binary.LittleEndian.PutUint32(b, uint32(recordHeader+len(body)))
	binary.LittleEndian.PutUint64(b[8:], l.prev)
	b[16], b[17] = info, rmgr
	table := crc32.MakeTable(crc32.Castagnoli)
	crc := crc32.Update(crc32.Checksum(body, table), table, b[:recordHeader-4])
	binary.LittleEndian.PutUint32(b[recordHeader-4:], crc)
	b = append(b, body...)

	l.Bytes = append(l.Bytes, make([]byte, -l.End()&7)...)
	if l.End()%logPage == 0 {
		l.header(0)
	}
	start = l.End()
	for first := true; len(b) > 0; first = false {
		if l.End()%logPage == 0 {
			if first {
				l.t.Fatal("a page without room for a record")
			}
			l.header(len(b))
		}
		n := min(len(b), int(logPage-l.End()%logPage))
		l.Bytes, b = append(l.Bytes, b[:n]...), b[n:]
	}
	l.prev = start
	return start, l.End()
}

// FillTo writes records that say nothing, so that the next one begins at a position.
func (l *Log) FillTo(at uint64) {
	l.t.Helper()
	const least = recordHeader + 2
	for {
		l.Bytes = append(l.Bytes, make([]byte, -l.End()&7)...)
		if l.End()%logPage == 0 {
			l.header(0)
		}
		room := logPage - l.End()%logPage
		switch left := at - l.End(); {
		case left == 0:
			return
		case at < l.End() || left < least+6:
			l.t.Fatalf("the next record cannot begin at %X: the log ends at %X", at, l.End())
		case left <= 200:
			l.Record(0, 0x20, make([]byte, left-least)) // XLOG_NOOP
		case room < 300:
			l.Record(0, 0x20, make([]byte, min(room+16, left-100)-least)) // over the border
		default:
			l.Record(0, 0x20, make([]byte, 100))
		}
	}
}

// header begins a page; rest is what is still to come of a record that began before.
func (l *Log) header(rest int) {
	n, info := logShortHeader, uint16(0)
	if l.End()%l.SegmentSize == 0 {
		n, info = logLongHeader, 2
	}
	if rest > 0 {
		info |= 1
	}
	b := make([]byte, n)
	binary.LittleEndian.PutUint16(b, logMagic)
	binary.LittleEndian.PutUint16(b[2:], info)
	binary.LittleEndian.PutUint32(b[4:], 1)
	binary.LittleEndian.PutUint64(b[8:], l.End())
	binary.LittleEndian.PutUint32(b[16:], uint32(rest))
	if n == logLongHeader {
		binary.LittleEndian.PutUint64(b[24:], l.SystemID)
		binary.LittleEndian.PutUint32(b[32:], uint32(l.SegmentSize))
		binary.LittleEndian.PutUint32(b[36:], logPage)
	}
	l.Bytes = append(l.Bytes, b...)
}

// CreateTablespace writes the record of CREATE TABLESPACE.
func (l *Log) CreateTablespace(oid uint32, location string) (start, end uint64) {
	l.t.Helper()
	return l.Record(5, 0, append(append(binary.LittleEndian.AppendUint32(nil, oid), location...), 0))
}
