package wal

import (
	"bytes"
	"encoding/hex"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func FuzzName(f *testing.F) {
	for _, s := range []string{"00000001000000020000009A", "00000001000000020000009A.partial", "0000000A.history", "00000001000000020000009A.00000028.backup"} {
		f.Add(s, uint32(DefaultSegmentSize))
	}
	f.Fuzz(func(t *testing.T, s string, size uint32) {
		n, err := ParseName(s, SegmentSize(size))
		if err != nil {
			return
		}
		if back := n.FileName(SegmentSize(size)); back != s {
			t.Fatalf("%q became %q", s, back)
		}
	})
}

func FuzzHistory(f *testing.F) {
	f.Add(uint32(4), []byte("1\t0/3000000\tno recovery target specified\n2\t0/5000028\tbefore\n"), uint64(0x4000000))
	f.Add(uint32(4), []byte("1\t0/3000000\ta\n2\t0/5000000\tb\n3\t0/2000000\tc\n"), uint64(0))
	f.Fuzz(func(t *testing.T, tl uint32, b []byte, at uint64) {
		h, err := ParseHistory(TimelineID(tl), b)
		if err != nil {
			return
		}
		again, err := ParseHistory(TimelineID(tl), h.Format())
		if err != nil || !cmp.Equal(h, again) {
			t.Fatalf("round trip of %q: %v\n%s", b, err, cmp.Diff(h, again))
		}
		// At and Range tell the same story.
		begin, end, ok := h.Range(h.At(LSN(at)))
		if !ok || LSN(at) < begin || (LSN(at) >= end && end != MaxLSN) {
			t.Fatalf("%s is on timeline %d, whose range is %s to %s (%v)", LSN(at), h.At(LSN(at)), begin, end, ok)
		}
	})
}

func FuzzLabel(f *testing.F) {
	f.Add([]byte(label))
	f.Fuzz(func(t *testing.T, b []byte) {
		l, err := ParseLabel(b)
		if err != nil {
			return
		}
		if again, err := ParseLabel(l.Format()); err != nil || again != l {
			t.Fatalf("round trip of %q: %+v became %+v, %v", b, l, again, err)
		}
	})
}

func FuzzTablespaceMap(f *testing.F) {
	f.Add([]byte("16384 /srv/fast disk\n16385 /srv/a\\\nb\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		ts, err := ParseTablespaceMap(b)
		if err != nil {
			return
		}
		if again, err := ParseTablespaceMap(FormatTablespaceMap(ts)); err != nil || !cmp.Equal(again, ts) {
			t.Fatalf("round trip of %q: %v became %v, %v", b, ts, again, err)
		}
	})
}

func FuzzHeader(f *testing.F) {
	b, err := hex.DecodeString("10d1020001000000000000020000000000000000000000009a0b9c2f1d3e4f6500000001002000000000")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := ParseHeader(b)
		if err == nil && (h.Version == 0 || h.Timeline == 0 || h.SegmentSize.Check() != nil) {
			t.Fatalf("% x gives %+v", bytes.Clone(b[:LongHeaderSize]), h)
		}
	})
}
