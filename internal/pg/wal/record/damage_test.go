package record

import (
	"errors"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/holdfast-dr/holdfast/internal/pg/pgtest"
	"github.com/holdfast-dr/holdfast/internal/pg/wal"
)

const testStart = uint64(5 << 20)

// testLog is a log with records of many sizes, over page and segment borders.
func testLog(t testing.TB, n int) *pgtest.Log {
	t.Helper()
	l := pgtest.NewLog(t, testStart, uint64(oneMiB), 7)
	r := rand.New(rand.NewPCG(1, 2))
	for range n {
		l.Record(LogicalMessage, 0, randomBytes(r, r.IntN(300)))
		if r.IntN(10) == 0 {
			l.Record(LogicalMessage, 0, randomBytes(r, r.IntN(30_000)))
		}
	}
	return l
}

func randomBytes(r *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

// read returns the starts of all records and how reading ended.
func read(t testing.TB, log []byte, c Config, piece int) ([]wal.LSN, *Reader, *StopError) {
	t.Helper()
	c.SegmentSize = oneMiB
	if c.Timeline == 0 {
		c.Timeline = 1
	}
	if c.Start == 0 {
		c.Start = wal.LSN(testStart)
	}
	var starts []wal.LSN
	r, err := NewReader(c, func(r *Record) { starts = append(starts, r.Start) })
	if err != nil {
		t.Fatal(err)
	}
	var stop *StopError
	for b := range slices.Chunk(log[r.Next()-wal.LSN(testStart):], piece) {
		if _, err := r.Write(b); err != nil && !errors.As(err, &stop) {
			t.Fatalf("an error that is no *StopError: %v", err)
		}
	}
	return starts, r, stop
}

// Whatever bit is flipped, the records before it come, those behind it don't, and it is never called the end of
// the log where the log goes on.
func TestFlippedBitIsDamage(t *testing.T) {
	l := testLog(t, 1500)
	want, _, stop := read(t, l.Bytes, Config{}, 1<<20)
	if stop != nil || len(want) < 1600 {
		t.Fatalf("%d records, then %v", len(want), stop)
	}
	r := rand.New(rand.NewPCG(3, 4))
	harmless := 0
	for range 2000 {
		at := r.IntN(len(l.Bytes) - 3*wal.PageSize)
		bit := byte(1) << r.IntN(8)
		l.Bytes[at] ^= bit
		got, reader, stop := read(t, l.Bytes, Config{SystemID: 7}, 1<<30)
		l.Bytes[at] ^= bit
		if len(got) > len(want) || !slices.Equal(got, want[:len(got)]) {
			t.Fatalf("bit %02X of byte %d flipped: other records come than were written", bit, at)
		}
		if len(got) == len(want) {
			harmless++ // padding, or what a page header has for others
			continue
		}
		position := wal.LSN(testStart) + wal.LSN(at)
		switch {
		case stop == nil || stop.Ended:
			t.Fatalf("bit %02X of byte %d flipped: reading ended with %v", bit, at, stop)
		case reader.End() > position || stop.At > position+8, want[len(got)] < reader.End():
			t.Fatalf("bit %02X at %s flipped: %v; the last record ends at %s", bit, position, stop, reader.End())
		}
	}
	t.Logf("%d of 2000 bits are of no record", harmless)
	if harmless > 100 {
		t.Errorf("%d of 2000 flipped bits were not noticed", harmless)
	}
}

func TestEndOfLog(t *testing.T) {
	l := testLog(t, 200)
	end := len(l.Bytes) + int(-l.End()&7)
	page := (len(l.Bytes) + wal.PageSize - 1) / wal.PageSize * wal.PageSize
	zeros := make([]byte, 3*wal.PageSize)
	older := testLog(t, 2000).Bytes[page : page+3*wal.PageSize] // as if these pages had been written a segment ago
	for i := 0; i < len(older); i += wal.PageSize {
		older[i+8+2] -= 0x10
	}
	for _, c := range []struct {
		name  string
		log   []byte
		ended bool
		none  bool
	}{
		{name: "nothing follows", log: l.Bytes, none: true},
		{name: "zeros", log: append(slices.Clone(l.Bytes), zeros...), ended: true},
		{name: "zeros, then a recycled segment", log: append(append(slices.Clone(l.Bytes), zeros[:page-len(l.Bytes)]...), older...), ended: true},
		{name: "zeros, then a page of this log", log: append(append(slices.Clone(l.Bytes), zeros[:page-len(l.Bytes)+wal.PageSize]...), testLog(t, 2000).Bytes[page+wal.PageSize:page+2*wal.PageSize]...)},
		{name: "zeros, then something", log: append(append(slices.Clone(l.Bytes), zeros[:16]...), 1)},
		{name: "something", log: append(append(slices.Clone(l.Bytes), zeros[:end-len(l.Bytes)]...), "what is this?"...)},
	} {
		_, r, stop := read(t, c.log, Config{}, 1<<30)
		if int(r.End()-wal.LSN(testStart)) != end {
			t.Errorf("%s: the log ends at %s, want %X", c.name, r.End(), int(testStart)+end)
		}
		if (stop == nil) != c.none || stop != nil && stop.Ended != c.ended {
			t.Errorf("%s: %v, want ended=%v", c.name, stop, c.ended)
		}
	}
}

// After a crash a record's beginning may be all that there is of it: the next page says so, and a record does.
func TestOverwrittenRecord(t *testing.T) {
	build := func(named func(lost uint64) uint64) (*pgtest.Log, uint64) {
		l := testLog(t, 100)
		lost, _ := l.Record(LogicalMessage, 0, make([]byte, 3*wal.PageSize))
		page := (lost/wal.PageSize + 1) * wal.PageSize
		l.Bytes = l.Bytes[:page-l.Start]
		l.Record(XLOG, infoOverwrite, append(le64(named(lost)), make([]byte, 8)...))
		l.Bytes[page-l.Start+2] |= 8 // XLP_FIRST_IS_OVERWRITE_CONTRECORD
		l.Record(LogicalMessage, 0, nil)
		return fixLinks(l, lost), lost
	}
	l, lost := build(func(lost uint64) uint64 { return lost })
	starts, _, stop := read(t, l.Bytes, Config{}, 1000)
	if stop != nil || slices.Contains(starts, wal.LSN(lost)) || uint64(starts[len(starts)-1]) < lost {
		t.Errorf("reading over a record that was given up: %v", stop)
	}
	l, lost = build(func(lost uint64) uint64 { return lost + 8 })
	if _, _, stop = read(t, l.Bytes, Config{}, 1000); stop == nil || uint64(stop.At) != lost || stop.Ended {
		t.Errorf("a record that nobody gave up is missing: %v", stop)
	}
}

// A page in the middle of a record can be where reading begins: then it begins behind that record.
func TestBeginAtAnyPage(t *testing.T) {
	l := testLog(t, 400)
	all, _, _ := read(t, l.Bytes, Config{}, 1<<30)
	for at := wal.LSN(testStart); at < wal.LSN(l.End())-5*wal.PageSize; at += wal.PageSize {
		got, r, stop := read(t, l.Bytes, Config{Start: at}, 5000)
		i, _ := slices.BinarySearch(all, at)
		if stop != nil || !slices.Equal(got, all[i:]) {
			t.Fatalf("begin at %s: %d records, then %v; want %d", at, len(got), stop, len(all)-i)
		}
		if begin := r.Begin(); begin < at || begin > all[i] || all[i]-begin > wal.LongHeaderSize {
			t.Fatalf("begin at %s: Begin is %s, the first record is at %s", at, begin, all[i])
		}
	}
	for _, at := range all[:300] {
		got, _, stop := read(t, l.Bytes, Config{Start: at}, 100)
		i, _ := slices.BinarySearch(all, at)
		if stop != nil || !slices.Equal(got, all[i:]) {
			t.Fatalf("begin at the record at %s: %d records, then %v", at, len(got), stop)
		}
	}
}

func TestForeignLogIsRefused(t *testing.T) {
	l := testLog(t, 10)
	for name, c := range map[string]Config{"another cluster": {SystemID: 8}, "page size": {PageSize: 1 << 20}} {
		c.SegmentSize, c.Timeline, c.Start = oneMiB, 1, wal.LSN(testStart)
		r, err := NewReader(c, func(*Record) { t.Errorf("%s: a record came", name) })
		if err == nil {
			_, err = r.Write(l.Bytes)
		}
		if err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	b := slices.Clone(l.Bytes)
	b[4] = 2
	if _, _, stop := read(t, b, Config{}, 1<<30); stop == nil || stop.Ended {
		t.Errorf("a page of timeline 2 in the log of timeline 1: %v", stop)
	}
}
