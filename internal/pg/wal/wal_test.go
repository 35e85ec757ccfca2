package wal

import (
	"bytes"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestLSN(t *testing.T) {
	for _, s := range []string{"0/0", "2/9A000028", "FFFFFFFF/FFFFFFFF", "0/1000000"} {
		l, err := ParseLSN(s)
		if err != nil || l.String() != s {
			t.Errorf("ParseLSN(%q) = %s, %v", s, l, err)
		}
	}
	if l, err := ParseLSN("0/0A00002b"); err != nil || l != 0xA00002B {
		t.Errorf("leading zeros and lower case: %s, %v", l, err)
	}
	for _, s := range []string{"", "/", "0", "0/", "/0", "-1/0", "0x1/0", "1/2/3", "1/123456789", "1_0/0", " 1/0"} {
		if l, err := ParseLSN(s); err == nil {
			t.Errorf("ParseLSN(%q) = %s, want an error", s, l)
		}
	}
}

func TestNames(t *testing.T) {
	lsn, _ := ParseLSN("2/9A000028")
	tests := []struct {
		size SegmentSize
		name string
		want Name
	}{
		{16 << 20, "00000001000000020000009A", Name{Segment, 1, 0x29A, lsn &^ 0xFFFFFF}},
		{1 << 20, "0000000A00000002000009A0", Name{Segment, 10, 0x29A0, lsn &^ 0xFFFFF}},
		{1 << 30, "000000010000000200000002", Name{Segment, 1, 10, 0x280000000}},
		{16 << 20, "00000001000000020000009A.partial", Name{Partial, 1, 0x29A, lsn &^ 0xFFFFFF}},
		{16 << 20, "00000001000000020000009A.00000028.backup", Name{Backup, 1, 0x29A, lsn}},
		{16 << 20, "0000000A.history", Name{Kind: History, Timeline: 10}},
	}
	for _, tt := range tests {
		got, err := ParseName(tt.name, tt.size)
		if err != nil || got != tt.want {
			t.Errorf("ParseName(%q, %d) = %+v, %v; want %+v", tt.name, tt.size, got, err, tt.want)
		}
		if back := got.FileName(tt.size); back != tt.name {
			t.Errorf("%q became %q", tt.name, back)
		}
	}
	for _, name := range []string{
		"", "00000001000000020000009a", "00000000000000020000009A", "000000010000000200000100",
		"00000001000000020000009A.", "00000001000000020000009A.partial.partial", "00000001000000020000009A.backup",
		"00000001000000020000009A.01000000.backup", "00000001000000020000009A.+0000028.backup", "00000000.history",
		"1.history", "0000000A.history.tmp", "archive_status", "+0000001000000020000009A", "../00000001.history",
	} {
		if got, err := ParseName(name, DefaultSegmentSize); err == nil {
			t.Errorf("ParseName(%q) = %+v, want an error", name, got)
		}
	}
	if _, err := ParseName("00000001000000020000009A", 12<<20); err == nil {
		t.Error("a segment size that is no power of two was accepted")
	}
}

func TestHistory(t *testing.T) {
	h, err := ParseHistory(4, []byte("1\t0/3000000\tno recovery target specified\n\n# a comment\n  2\t0/5000028\tbefore 2026-11-23\n3\t0/9000000\n"))
	if err != nil {
		t.Fatal(err)
	}
	for lsn, want := range map[LSN]TimelineID{0: 1, 0x2FFFFFF: 1, 0x3000000: 2, 0x5000027: 2, 0x5000028: 3, 0x8FFFFFF: 3, 0x9000000: 4, MaxLSN: 4} {
		if got := h.At(lsn); got != want {
			t.Errorf("At(%s) = %d, want %d", lsn, got, want)
		}
	}
	if b, e, ok := h.Range(2); b != 0x3000000 || e != 0x5000028 || !ok {
		t.Errorf("Range(2) = %s, %s, %v", b, e, ok)
	}
	if b, e, ok := h.Range(4); b != 0x9000000 || e != MaxLSN || !ok {
		t.Errorf("Range(4) = %s, %s, %v", b, e, ok)
	}
	if _, _, ok := h.Range(5); ok {
		t.Error("timeline 5 is not on the way")
	}
	if p, ok := h.SwitchPoint(3); p != 0x9000000 || !ok {
		t.Errorf("SwitchPoint(3) = %s, %v", p, ok)
	}
	if _, ok := h.SwitchPoint(4); ok {
		t.Error("the way ends in timeline 4, it has no switch point")
	}
	if !h.IsAncestor(1, 0x3000000) || h.IsAncestor(1, 0x3000001) || !h.IsAncestor(4, MaxLSN) {
		t.Error("IsAncestor is wrong at the switch points")
	}
	if n, ok := h.Next(3); n != 4 || !ok {
		t.Errorf("Next(3) = %d, %v", n, ok)
	}
	again, err := ParseHistory(4, h.Format())
	if err != nil || !cmp.Equal(h, again) {
		t.Errorf("round trip: %v\n%s", err, cmp.Diff(h, again))
	}
}

// A recovery to a point on timeline 1, with timeline 3 as its target, writes the whole way of 3 and then its own
// switch, which lies before the others: the later line wins (PostgreSQL, tliOfPointInHistory).
func TestHistoryOfRecoveryBeforeAnOlderSwitch(t *testing.T) {
	h, err := ParseHistory(4, []byte("1\t0/3000000\ta\n2\t0/5000000\tb\n3\t0/2000000\tc\n"))
	if err != nil {
		t.Fatal(err)
	}
	for lsn, want := range map[LSN]TimelineID{0x1000000: 1, 0x1FFFFFF: 1, 0x2000000: 4, 0x3000000: 4, 0x6000000: 4} {
		if got := h.At(lsn); got != want {
			t.Errorf("At(%s) = %d, want %d", lsn, got, want)
		}
	}
	if b, e, ok := h.Range(1); b != 0 || e != 0x2000000 || !ok {
		t.Errorf("Range(1) = %s, %s, %v", b, e, ok)
	}
	if _, _, ok := h.Range(2); ok {
		t.Error("no byte of timeline 2 is on the way")
	}
}

func TestBrokenHistories(t *testing.T) {
	for _, s := range []string{
		"x\t0/1", "1", "1\t", "1\tzero", "0\t0/1", "4\t0/1", "5\t0/1", "2\t0/1\n1\t0/2", "2\t0/1\n2\t0/2", "4294967296\t0/1",
	} {
		if h, err := ParseHistory(4, []byte(s)); err == nil {
			t.Errorf("ParseHistory(%q) = %+v, want an error", s, h)
		}
	}
	if _, err := ParseHistory(4, bytes.Repeat([]byte("\n"), maxHistory+1)); err == nil {
		t.Error("a history file without end was accepted")
	}
}

const label = `START WAL LOCATION: 0/2000028 (file 000000010000000000000002)
CHECKPOINT LOCATION: 0/2000060
BACKUP METHOD: streamed
BACKUP FROM: primary
START TIME: 2026-11-23 20:47:00 UTC
LABEL: holdfast orders-db: hourly
START TIMELINE: 1
`

func TestLabel(t *testing.T) {
	want := Label{
		StartLSN: 0x2000028, StartFile: "000000010000000000000002", CheckpointLSN: 0x2000060, Method: "streamed",
		From: "primary", StartTime: "2026-11-23 20:47:00 UTC", Label: "holdfast orders-db: hourly", Timeline: 1,
	}
	got, err := ParseLabel([]byte(label))
	if err != nil || got != want {
		t.Fatalf("got %+v, %v; want %+v", got, err, want)
	}
	if string(got.Format()) != label {
		t.Errorf("formatted again: %s", got.Format())
	}
	inc, err := ParseLabel([]byte(label + "INCREMENTAL FROM LSN: 0/1000028\nINCREMENTAL FROM TLI: 1\n"))
	if err != nil || inc.IncrementalFrom != 0x1000028 {
		t.Errorf("label of an incremental backup: %+v, %v", inc, err)
	}
	for _, bad := range []string{
		"", strings.Replace(label, "START TIMELINE: 1\n", "", 1), strings.Replace(label, "0/2000060", "nowhere", 1),
		label + "START TIMELINE: 2\n", strings.Replace(label, "LINE: 1", "LINE: 0", 1), strings.Replace(label, " (file", "", 1),
	} {
		if got, err := ParseLabel([]byte(bad)); err == nil {
			t.Errorf("ParseLabel(%q) = %+v, want an error", bad, got)
		}
	}
}

func TestTablespaceMap(t *testing.T) {
	want := []Tablespace{{16384, "/srv/fast disk"}, {16385, "/srv/a\nb\\c\rd"}}
	text := FormatTablespaceMap(want)
	got, err := ParseTablespaceMap(text)
	if err != nil || !cmp.Equal(got, want) {
		t.Fatalf("%q became %v, %v", text, got, err)
	}
	if got, err := ParseTablespaceMap(nil); err != nil || len(got) != 0 {
		t.Errorf("empty map: %v, %v", got, err)
	}
	for _, bad := range []string{"x /a\n", "1\n", "1 relative\n", "0 /a\n", "1 /a\n1 /b\n", "1 /a\x00\n", "1 /a\\"} {
		if got, err := ParseTablespaceMap([]byte(bad)); err == nil {
			t.Errorf("ParseTablespaceMap(%q) = %v, want an error", bad, got)
		}
	}
}
