package record

import (
	"encoding/binary"
	"hash/crc32"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-dr/holdfast/internal/pg/pgtest"
	"github.com/holdfast-dr/holdfast/internal/pg/wal"
)

func le64(v uint64) []byte { return binary.LittleEndian.AppendUint64(nil, v) }

// fixLinks makes the first record behind lost name the one before lost as its predecessor, as PostgreSQL does.
func fixLinks(l *pgtest.Log, lost uint64) *pgtest.Log {
	before := binary.LittleEndian.Uint64(l.Bytes[lost-l.Start+8:])
	at := (lost/wal.PageSize+1)*wal.PageSize + wal.ShortHeaderSize - l.Start
	copy(l.Bytes[at+8:], le64(before))
	seal(l.Bytes[at:])
	return l
}

// seal gives the record at the beginning of b its checksum.
func seal(b []byte) {
	total := binary.LittleEndian.Uint32(b)
	crc := crc32.Update(crc32.Checksum(b[headerSize:total], castagnoli), castagnoli, b[:crcOffset])
	binary.LittleEndian.PutUint32(b[crcOffset:], crc)
}

// Any bytes may come: there is no panic, the pieces in which they come make no difference, and positions ascend.
func FuzzLog(f *testing.F) {
	f.Add(testLog(f, 8).Bytes, uint16(0), uint16(100))
	l := testLog(f, 3)
	l.Record(XLOG, infoSwitch, nil)
	f.Add(append(l.Bytes, make([]byte, 100)...), uint16(4), uint16(9000))
	f.Fuzz(func(t *testing.T, log []byte, offset, piece uint16) {
		if len(log) > 1<<16 {
			return
		}
		start := wal.LSN(testStart) + wal.LSN(offset)*8
		if int(offset)*8 > len(log) {
			return
		}
		whole, r1, stop1 := read(t, log, Config{Start: start}, 1<<30)
		parts, r2, stop2 := read(t, log, Config{Start: start}, int(piece)+1)
		if d := cmp.Diff(whole, parts); d != "" || r1.End() != r2.End() || (stop1 == nil) != (stop2 == nil) {
			t.Errorf("the log in pieces of %d bytes reads otherwise: %s, %v and %v", piece, d, stop1, stop2)
		}
		last := wal.LSN(0)
		for _, at := range whole {
			if at <= last || at < start && at%wal.PageSize > wal.LongHeaderSize || at%8 != 0 || at >= r1.End() {
				t.Errorf("a record at %s after %s", at, last)
			}
			last = at
		}
	})
}

// The headers of a record with a valid checksum may say anything: what is handed over lies within the record.
func FuzzHeaders(f *testing.F) {
	f.Add([]byte{0, 0x10, 0, 0, 4, 0, 8, 0, 5, 1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 4, 0, 0, 0, 'i', 'm', 'a', 'g'}, uint8(15))
	f.Add([]byte{0, 0x20, 3, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 4, 0, 0, 0, 1, 0x80, 0, 0, 5, 0, 0, 0, 255, 2, 'a', 'b', 'c', 'd', 'e'}, uint8(13))
	f.Add([]byte{253, 1, 2, 252, 1, 2, 3, 4, 254, 1, 0, 0, 0, 'x'}, uint8(18))
	f.Fuzz(func(t *testing.T, body []byte, version uint8) {
		r := Record{Version: 13 + int(version)%6}
		if r.parse(body, uint32(len(body)), 8192) == nil && len(r.Data)+21*min(1, len(r.Blocks)) > len(body)+1 {
			t.Errorf("%d bytes hold %d blocks and %d bytes of data", len(body), len(r.Blocks), len(r.Data))
		}
		if len(r.Blocks) > maxBlockID+1 {
			t.Errorf("%d block references", len(r.Blocks))
		}
		if len(body) > 40 { // a record of which only the beginning was kept
			_ = r.parse(body[:40], uint32(len(body)), 8192)
		}
	})
}
