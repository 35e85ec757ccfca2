package stream

import (
	"bytes"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/internal/pg/wal"
)

func TestSettings(t *testing.T) {
	for s, want := range map[string]wal.SegmentSize{"1MB": 1 << 20, "16MB": 16 << 20, "1GB": 1 << 30} {
		if got, err := parseSegmentSize(s); err != nil || got != want {
			t.Errorf("%s: %d, %v", s, got, err)
		}
	}
	for _, s := range []string{"", "MB", "16", "3MB", "2GB", "65536MB", "-1MB", "16kB"} {
		if got, err := parseSegmentSize(s); err == nil {
			t.Errorf("%q: %d, want an error", s, got)
		}
	}
	for s, want := range map[string]time.Duration{"0": 0, "1min": time.Minute, "900ms": 900 * time.Millisecond, "60s": time.Minute, "2h": 2 * time.Hour, "1d": 24 * time.Hour} {
		if got, err := parseTimeout(s); err != nil || got != want {
			t.Errorf("%s: %v, %v", s, got, err)
		}
	}
	for _, s := range []string{"", "s", "5", "5 s", "5us", "99999999999s"} {
		if got, err := parseTimeout(s); err == nil {
			t.Errorf("%q: %v, want an error", s, got)
		}
	}
}

func TestSlotNames(t *testing.T) {
	for _, s := range []string{"", "Hf", "a-b", "a b", "a;drop", string(bytes.Repeat([]byte("a"), 64))} {
		if CheckSlotName(s) == nil {
			t.Errorf("%q was accepted", s)
		}
	}
}

func FuzzMessage(f *testing.F) {
	f.Add(append([]byte{'w', 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 3, 0, 2, 0xC0, 0, 0, 0, 0, 0}, "log"...))
	f.Add([]byte{'k', 0, 0, 0, 0, 1, 0, 0, 0, 0, 2, 0xC0, 0, 0, 0, 0, 0, 1})
	f.Add(status(0x1000028, epoch, true))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := parseMessage(b)
		if err != nil {
			return
		}
		if m.kind != 'w' && m.kind != 'k' || m.kind == 'w' && m.start+wal.LSN(len(m.data)) < m.start || len(m.data) > len(b) {
			t.Fatalf("% x gives %+v", b, m)
		}
	})
}
