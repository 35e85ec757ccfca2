package points

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-dr/holdfast/internal/pg"
	"github.com/holdfast-dr/holdfast/internal/pg/wal"
	"github.com/holdfast-dr/holdfast/internal/repo"
)

func TestParseTarget(t *testing.T) {
	at := time.Date(2026, 3, 2, 14, 5, 0, 0, time.UTC)
	for s, want := range map[string]Target{
		"":                          {Kind: Latest},
		"latest":                    {Kind: Latest},
		"immediate":                 {Kind: Immediate},
		"2/9A000028":                {Kind: AtLSN, LSN: 0x29A000028},
		"2026-03-02T14:05:00Z":      {Kind: AtTime, Time: at},
		"2026-03-02 14:05:00":       {Kind: AtTime, Time: at},
		"2026-03-02 15:05:00+01:00": {Kind: AtTime, Time: at},
		"2026-03-02 14:05":          {Kind: AtTime, Time: at},
		"before-upgrade":            {Kind: AtName, Name: "before-upgrade"},
		"name:latest":               {Kind: AtName, Name: "latest"},
		"name:2026":                 {Kind: AtName, Name: "2026"},
	} {
		got, err := ParseTarget(s)
		if err != nil || !cmp.Equal(got, want) {
			t.Errorf("ParseTarget(%q) = %+v, %v; want %+v", s, got, err, want)
		}
		if again, err := ParseTarget(got.String()); err != nil || !cmp.Equal(again, got) {
			t.Errorf("%q became %q, which reads as %+v, %v", s, got, again, err)
		}
	}
	for _, s := range []string{"2026-13-01", "14:05", "2/", "name:", "12x"} {
		if got, err := ParseTarget(s); err == nil {
			t.Errorf("ParseTarget(%q) = %+v", s, got)
		}
	}
}

const mib = 1 << 20

// view has the log of two timelines in MiB: 1 from 0 to 40, left at 21 for 2, which goes on to 64.
func view(one, two [][2]uint64) (*View, *wal.Timelines) {
	extents := func(tl repo.StreamID, parts [][2]uint64) *stream {
		s := &stream{}
		for _, p := range parts {
			s.extents = append(s.extents, repo.Extent{Stream: tl, Start: p[0] * mib, End: p[1] * mib})
		}
		return s
	}
	way := &wal.Timelines{Timeline: 2, Ancestors: []wal.Switch{{Timeline: 1, End: 21 * mib}}}
	return &View{
		streams: map[wal.TimelineID]*stream{1: extents(1, one), 2: extents(2, two)},
		ways:    map[wal.TimelineID]*wal.Timelines{1: {Timeline: 1}, 2: way},
	}, way
}

func TestReachFollowsTheWay(t *testing.T) {
	for _, c := range []struct {
		name     string
		one, two [][2]uint64
		end      uint64
		gap      *Gap
	}{
		{"whole", [][2]uint64{{0, 16}, {16, 32}, {32, 40}}, [][2]uint64{{21, 32}, {32, 64}}, 64, nil},
		{"copied beginning", [][2]uint64{{0, 16}}, [][2]uint64{{16, 32}, {32, 64}}, 64, nil},
		{"pieces overlap", [][2]uint64{{0, 16}, {16, 18}, {16, 21}}, [][2]uint64{{21, 30}, {22, 23}, {30, 64}}, 64, nil},
		{"gap before the switch", [][2]uint64{{0, 16}, {16, 20}}, [][2]uint64{{21, 32}}, 20, &Gap{Timeline: 1, Start: 20 * mib, End: 21 * mib}},
		{"gap behind it", [][2]uint64{{0, 32}}, [][2]uint64{{22, 32}}, 21, &Gap{Timeline: 2, Start: 21 * mib, End: 22 * mib}},
		{"the other branch does not help", [][2]uint64{{0, 64}}, nil, 21, nil},
		{"nothing", nil, nil, 2, nil},
	} {
		v, way := view(c.one, c.two)
		got := v.reach(way, 2*mib, wal.DefaultSegmentSize)
		if got.end != wal.LSN(c.end*mib) || !cmp.Equal(got.gap, c.gap) {
			t.Errorf("%s: reaches %s, gap %v; want %d MiB, %v", c.name, got.end, got.gap, c.end, c.gap)
		}
	}
}

// A mark of the old timeline behind the switch is another branch's; the switch itself is a mark.
func TestMarkOfAWay(t *testing.T) {
	v, way := view([][2]uint64{{0, 40}}, nil)
	v.streams[1].mark = &repo.Mark{LSN: 40 * mib, Source: time.Unix(1, 0)}
	if lsn, source := v.mark(way); lsn != 21*mib || !source.IsZero() {
		t.Errorf("mark %s, %v; want 0/1500000 without a clock", lsn, source)
	}
	v.streams[2].mark = &repo.Mark{LSN: 50 * mib, Source: time.Unix(2, 0)}
	if lsn, source := v.mark(way); lsn != 50*mib || !source.Equal(time.Unix(2, 0)) {
		t.Errorf("mark %s, %v; want 0/3200000 with its clock", lsn, source)
	}
}

// A snapshot may begin on one timeline and end on the next: only ways that lead past both recover it.
func TestPasses(t *testing.T) {
	way := &wal.Timelines{Timeline: 3, Ancestors: []wal.Switch{{Timeline: 1, End: 100}, {Timeline: 2, End: 200}}}
	for _, c := range []struct {
		begin, end  wal.TimelineID
		start, stop wal.LSN
		want        bool
	}{
		{1, 1, 10, 100, true},
		{1, 0, 10, 100, true},   // of a manifest that does not tell the timeline of its end
		{1, 1, 10, 101, false},  // ends on the branch that was left
		{1, 2, 90, 150, true},   // followed the switch
		{1, 2, 101, 150, false}, // began behind it
		{2, 3, 150, 999, true},
		{2, 4, 150, 180, false},
	} {
		s := Snapshot{Facts: &pg.Facts{Timeline: c.begin, StopTimeline: c.end, StartLSN: c.start, StopLSN: c.stop}}
		if got := passes(way, s); got != c.want {
			t.Errorf("from %d on timeline %d to %d on %d: %v", c.start, c.begin, c.stop, c.end, got)
		}
	}
}

// A range begins with the segment in which its snapshot does.
func TestRangeNeedsWholeSegments(t *testing.T) {
	for begin, usable := range map[uint64]bool{16: true, 17: false} {
		v, way := view([][2]uint64{{begin, 21}}, [][2]uint64{{21, 40}})
		s := Snapshot{&repo.Manifest{}, &pg.Facts{Timeline: 1, StartLSN: 18 * mib, StopLSN: 19 * mib, SegmentSize: uint32(wal.DefaultSegmentSize)}}
		v.log, v.clocks = nil, map[repo.Extent]time.Time{{Stream: 2, Start: 21 * mib, End: 40 * mib}: time.Unix(1, 0)}
		if r, err := v.rangeOf(t.Context(), s, way); err != nil || r.Usable != usable {
			t.Errorf("log from %d MiB: %+v, %v", begin, r, err)
		}
	}
}
