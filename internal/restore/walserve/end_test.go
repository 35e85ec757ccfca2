package walserve

import (
	"testing"

	"github.com/holdfast-dr/holdfast/internal/pg/wal"
)

// What was planned as the end of what came is the end as long as it is as it was then.
func TestTheEndBeforeAGap(t *testing.T) {
	a := newArchive(t)
	a.put(1, 0, 3)
	a.put(1, 4, 6)
	a.mark(1, 3)
	end := 3 * wal.LSN(size) / 2
	planned := Policy{SystemID: id, Timeline: 1, Reached: end, End: end}
	strict := planned
	strict.End = 0
	want := func(why string, p Policy, n wal.SegmentNumber, o Outcome) []byte {
		t.Helper()
		r, b := a.fetch(p, wal.SegmentName(1, n, size))
		if r.Outcome != o {
			t.Errorf("%s: %+v, want %s", why, r, o)
		}
		return b
	}
	want("nothing was planned", strict, 1, Gap)
	if b := want("the end", planned, 1, Served); len(b) != int(size) || b[size/2-1] != 1 || b[size/2] != 0 {
		t.Error("the last segment is not padded")
	}
	a.mark(1, 4)
	want("more was stored, says a mark", planned, 1, BelowMark)
	a.put(1, 3, 4)
	if b := want("it came after all", planned, 1, Served); b[size/2] != 1 {
		t.Error("what came is not served")
	}
	a.put(1, 8, 9)
	want("another gap", planned, 3, Gap)
}

// Where a segment ends with what came, the next one is the end.
func TestTheEndBetweenSegments(t *testing.T) {
	a := newArchive(t)
	a.put(1, 0, 4)
	a.put(1, 5, 6)
	end := 2 * wal.LSN(size)
	for _, c := range []struct {
		end  wal.LSN
		want Outcome
	}{{end, EndOfLog}, {0, Gap}} {
		if r, _ := a.fetch(Policy{SystemID: id, Timeline: 1, Reached: end, End: c.end}, wal.SegmentName(1, 2, size)); r.Outcome != c.want {
			t.Errorf("planned to %s: %+v, want %s", c.end, r, c.want)
		}
	}
}
