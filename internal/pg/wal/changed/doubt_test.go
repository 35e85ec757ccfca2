package changed

import (
	"encoding/binary"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/holdfast-dr/holdfast/internal/pg/cluster"
	"github.com/holdfast-dr/holdfast/internal/pg/control"
	"github.com/holdfast-dr/holdfast/internal/pg/pgtest"
	"github.com/holdfast-dr/holdfast/internal/pg/pgtest/workload"
	"github.com/holdfast-dr/holdfast/internal/pg/wal"
	"github.com/holdfast-dr/holdfast/internal/pg/wal/record"
)

func u32s(vs ...uint32) []byte {
	var b []byte
	for _, v := range vs {
		b = binary.LittleEndian.AppendUint32(b, v)
	}
	return b
}

// What a record says becomes limits, blocks or a doubt; never nothing where something may have changed.
func TestRecordsAndTheirMeaning(t *testing.T) {
	heap := record.Block{Tablespace: 1663, Database: 5, Relation: 9, Number: 40_000}
	fsm := heap
	fsm.Fork = uint8(cluster.FSM)
	odd := heap
	odd.Fork = 7
	commit := func(flags uint32, more ...uint32) []byte {
		return append(make([]byte, 8), u32s(append([]uint32{flags}, more...)...)...)
	}
	for _, c := range []struct {
		name string
		rec  record.Record
		want string // of text, without its first line; "?": a doubt
	}{
		{"a reference", record.Record{Version: 15, Rmgr: record.Btree, Blocks: []record.Block{heap}}, "{1663 5 9 main} no limit: 40000+1"},
		{"free space map", record.Record{Version: 15, Rmgr: record.XLOG, Info: 0xB0, Blocks: []record.Block{fsm}}, ""},
		{"a fork that is none", record.Record{Version: 15, Rmgr: record.XLOG, Info: 0xB0, Blocks: []record.Block{odd}}, "?"},
		{"insert clears", record.Record{Version: 13, Rmgr: record.Heap, Data: []byte{0, 0, 1}, Blocks: []record.Block{heap}}, "{1663 5 9 main} no limit: 40000+1 {1663 5 9 vm} no limit: 1+1"},
		{"insert without data", record.Record{Version: 13, Rmgr: record.Heap, Data: []byte{0, 0}, Blocks: []record.Block{heap}}, "?"},
		{"insert without block", record.Record{Version: 13, Rmgr: record.Heap, Data: []byte{0, 0, 1}}, "?"},
		{"delete cut", record.Record{Version: 18, Rmgr: record.Heap, Info: 0x10, Cut: true, Blocks: []record.Block{heap}}, "?"},
		{"message cut", record.Record{Version: 18, Rmgr: record.LogicalMessage, Cut: true}, ""},
		{"create", record.Record{Version: 15, Rmgr: record.Storage, Info: 0x11, Data: u32s(1663, 5, 9, 3)}, "{1663 5 9 init} limit 0:"},
		{"create fsm", record.Record{Version: 15, Rmgr: record.Storage, Info: 0x11, Data: u32s(1663, 5, 9, 1)}, ""},
		{"create of fork 4", record.Record{Version: 15, Rmgr: record.Storage, Info: 0x11, Data: u32s(1663, 5, 9, 4)}, "?"},
		{"truncate", record.Record{Version: 15, Rmgr: record.Storage, Info: 0x21, Data: u32s(32_672, 1663, 5, 9, 7)}, "{1663 5 9 main} limit 32672: {1663 5 9 vm} limit 1:"},
		{"truncate map only", record.Record{Version: 15, Rmgr: record.Storage, Info: 0x21, Data: u32s(32_673, 1663, 5, 9, 2)}, "{1663 5 9 vm} limit 2: 1+1"},
		{"truncate with new flags", record.Record{Version: 15, Rmgr: record.Storage, Info: 0x21, Data: u32s(1, 1663, 5, 9, 8)}, "?"},
		{"truncate too short", record.Record{Version: 15, Rmgr: record.Storage, Info: 0x21, Data: u32s(1, 1663, 5, 9)}, "?"},
		{"create database 14", record.Record{Version: 14, Rmgr: record.Database, Info: 0x01, Data: u32s(77, 1663, 1, 1663)}, "{1663 77 0 main} limit 0:"},
		{"drop database 14", record.Record{Version: 14, Rmgr: record.Database, Info: 0x11, Data: u32s(77, 2, 1663, 900)}, "{900 77 0 main} limit 0: {1663 77 0 main} limit 0:"},
		{"drop as in 15 in 14", record.Record{Version: 14, Rmgr: record.Database, Info: 0x21, Data: u32s(77, 1, 1663)}, "?"},
		{"log-copied database 15", record.Record{Version: 15, Rmgr: record.Database, Info: 0x10, Data: u32s(77, 1663)}, "{1663 77 0 main} limit 0:"},
		{"drop database 15", record.Record{Version: 15, Rmgr: record.Database, Info: 0x21, Data: u32s(77, 1, 1663)}, "{1663 77 0 main} limit 0:"},
		{"drop database in fewer tablespaces", record.Record{Version: 15, Rmgr: record.Database, Info: 0x21, Data: u32s(77, 3, 1663)}, "?"},
		{"commit", record.Record{Version: 15, Rmgr: record.Transaction, Data: make([]byte, 8)}, ""},
		{"commit that drops", record.Record{Version: 15, Rmgr: record.Transaction, Info: 0x81, Data: commit(7, 5, 1663, 2, 100, 101, 1, 1663, 5, 9)}, "{1663 5 9 main} limit 0: {1663 5 9 vm} limit 0: {1663 5 9 init} limit 0:"},
		{"prepared abort that drops", record.Record{Version: 15, Rmgr: record.Transaction, Info: 0xC1, Data: commit(4, 1, 1663, 5, 9)}, "{1663 5 9 main} limit 0: {1663 5 9 vm} limit 0: {1663 5 9 init} limit 0:"},
		{"commit that says drops and has none", record.Record{Version: 15, Rmgr: record.Transaction, Info: 0x81, Data: commit(1, 5, 1663)}, "?"},
		{"commit with half a relation", record.Record{Version: 15, Rmgr: record.Transaction, Info: 0x81, Data: commit(4, 1, 1663, 5)}, "?"},
		{"an extension", record.Record{Version: 15, Rmgr: 128, Blocks: []record.Block{heap}}, "?"},
		{"a resource manager to come", record.Record{Version: 18, Rmgr: 22}, "?"},
		{"a kind to come", record.Record{Version: 18, Rmgr: record.XLOG, Info: 0xF0}, "?"},
		{"a kind of 17 in 16", record.Record{Version: 16, Rmgr: record.XLOG, Info: 0xE0, Data: u32s(1)}, "?"},
		{"a special update by whom it is not known", record.Record{Version: 18, Rmgr: record.Heap, Info: 0x21, Data: make([]byte, 14), Blocks: []record.Block{heap}}, "?"},
		{"an unknown bit", record.Record{Version: 18, Rmgr: record.Heap, Info: 0x24, Data: make([]byte, 14), Blocks: []record.Block{heap}}, "?"},
		{"minimal, told by a parameter", record.Record{Version: 13, Rmgr: record.XLOG, Info: 0x60, Data: u32s(1, 2, 3, 4, 5, 0, 0)}, "?"},
		{"replica, told by a parameter", record.Record{Version: 13, Rmgr: record.XLOG, Info: 0x60, Data: u32s(1, 2, 3, 4, 5, 1, 0)}, ""},
		{"minimal, told by a redo", record.Record{Version: 17, Rmgr: record.XLOG, Info: 0xE0, Data: u32s(0)}, "?"},
		{"no full pages", record.Record{Version: 17, Rmgr: record.XLOG, Info: 0x80, Data: []byte{0}}, "?"},
		{"a checkpoint that is too short", record.Record{Version: 17, Rmgr: record.XLOG, Info: 0x10, Data: make([]byte, 16)}, "?"},
	} {
		d := newTestDecoder(t, control.Data{Timeline: 1, WALSegmentSize: 1 << 20}, 1<<24)
		d.record(&c.rec)
		m := d.Cut()
		_, got, _ := strings.Cut(text(m), "\n")
		got = strings.ReplaceAll(strings.TrimSpace(strings.ReplaceAll(got, "\n", " ")), "limit 4294967295:", "no limit:")
		if doubted := len(m.Doubts) > 0; doubted != (c.want == "?") || !doubted && got != c.want {
			t.Errorf("%s:\n got %s, doubts %v\nwant %s", c.name, got, m.Doubts, c.want)
		}
	}
}

// Servers that write without the log, or without images, say so, and a custom log is not taken for ours.
func TestSettingsThatMakeDoubts(t *testing.T) {
	for _, v := range pgtest.Versions(t) {
		t.Run(v, func(t *testing.T) {
			t.Parallel()
			s := pgtest.Start(t, pgtest.Options{Version: v, Conf: workload.Conf(nil)})
			first := stopped(t, s)
			last := DoubtKind(0) // the log begins with the checkpoint at which the server before was stopped
			for _, c := range []struct {
				conf map[string]string
				want DoubtKind // zero: none
			}{
				{conf: map[string]string{}},
				{conf: map[string]string{"full_page_writes": "off"}, want: NoFullPageWrites},
				{conf: map[string]string{"wal_level": "minimal", "max_wal_senders": "0"}, want: Minimal},
				{conf: map[string]string{"wal_level": "logical"}},
				{conf: map[string]string{}},
			} {
				s = pgtest.Open(t, s.DataDir, pgtest.Options{Conf: workload.Conf(c.conf)})
				s.Start()
				s.Exec("", "CREATE TABLE x AS SELECT 1 AS i", "CHECKPOINT", "DROP TABLE x")
				next := stopped(t, s)
				m := mapBetween(t, s, first, next)
				kinds := map[DoubtKind]bool{}
				for _, d := range m.Doubts {
					kinds[d.Kind] = true
				}
				if c.want != 0 && !kinds[c.want] {
					t.Errorf("%v: doubts %v, want kind %v", c.conf, m.Doubts, c.want)
				}
				delete(kinds, c.want)
				delete(kinds, last)
				if len(kinds) > 0 {
					t.Errorf("%v: more doubts than kind %d: %v", c.conf, c.want, m.Doubts)
				}
				first, last = next, c.want
			}
		})
	}
}

// A log with a hole gives what was before it and an error; nothing behind it is taken.
func TestDamagedLogStopsTheMap(t *testing.T) {
	l := pgtest.NewLog(t, 1<<24, 1<<20, 7)
	l.Record(record.Storage, 0x11, u32s(1663, 5, 1, 0))
	_, good := l.Record(record.Storage, 0x11, u32s(1663, 5, 2, 0))
	at, _ := l.Record(record.Storage, 0x11, u32s(1663, 5, 3, 0))
	l.Record(record.Storage, 0x11, u32s(1663, 5, 4, 0))
	l.Bytes[at-l.Start+26] ^= 1
	d, err := NewDecoder(record.Config{Start: 1 << 24, Timeline: 1, SegmentSize: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	_, err = d.Write(l.Bytes)
	var stop *record.StopError
	if !errors.As(err, &stop) || uint64(stop.At) != at || stop.Ended {
		t.Errorf("the error is %v, want damage at %X", err, at)
	}
	m := d.Cut()
	if m.End != wal.LSN(good+7)&^7 || m.Lookup(Fork{1663, 5, 2, 0}).Limit != 0 || m.Lookup(Fork{1663, 5, 3, 0}).Limit == 0 {
		t.Errorf("the map before the damage:\n%s", text(m))
	}
}

// A commit may drop more relations than are kept of other records.
func TestHugeCommit(t *testing.T) {
	const n = 200_000
	words := []uint32{0, 0, 4, n}
	for i := range uint32(n) {
		words = append(words, 1663, 5, 16384+i)
	}
	l := pgtest.NewLog(t, 1<<24, 1<<20, 7)
	l.Record(record.Transaction, 0x81, u32s(words...))
	l.Record(record.LogicalMessage, 0, make([]byte, 2<<20))
	d := newTestDecoder(t, control.Data{Timeline: 1, WALSegmentSize: 1 << 20}, 1<<24)
	for piece := range slices.Chunk(l.Bytes, 10_000) {
		if _, err := d.Write(piece); err != nil {
			t.Fatal(err)
		}
	}
	m := d.Cut()
	for _, number := range []uint32{16384, 16384 + n - 1} {
		if c := m.Lookup(Fork{1663, 5, number, cluster.VM}); c.Limit != 0 {
			t.Errorf("relation %d has the limit %d", number, c.Limit)
		}
	}
	if len(m.Doubts) > 0 || m.End != wal.LSN(l.End()+7)&^7 {
		t.Errorf("up to %s, doubts %v", m.End, m.Doubts)
	}
}

// Whatever a record says, there is no panic, and a record that refers to a block marks it or makes a doubt.
func FuzzRecord(f *testing.F) {
	f.Add(uint8(15), record.Transaction, uint8(0x81), append(make([]byte, 8), u32s(4, 1, 1663, 5, 9)...), uint32(3))
	f.Add(uint8(13), record.Storage, uint8(0x21), u32s(1, 1663, 5, 9, 7), uint32(4))
	f.Add(uint8(18), record.Heap, uint8(0x20), make([]byte, 14), uint32(5))
	f.Add(uint8(14), record.Database, uint8(0x11), u32s(77, 2, 1663, 900), uint32(0))
	f.Fuzz(func(t *testing.T, version, rmgr, info uint8, data []byte, block uint32) {
		d := newTestDecoder(t, control.Data{Timeline: 1, WALSegmentSize: 1 << 20}, 1<<24)
		b := record.Block{Tablespace: 1663, Database: 5, Relation: 7, Number: block}
		d.record(&record.Record{Start: 1 << 24, Version: 13 + int(version)%6, Rmgr: rmgr, Info: info, Data: data, Blocks: []record.Block{b}})
		m := d.Cut()
		if !m.Lookup(Fork{1663, 5, 7, cluster.Main}).Has(block) && len(m.Doubts) == 0 {
			t.Errorf("block %d is neither marked nor doubted:\n%s", block, text(m))
		}
		if _, err := Decode(m.Encode()); err != nil {
			t.Error(err)
		}
	})
}
