package points

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/internal/pg"
	"github.com/holdfast-dr/holdfast/internal/pg/wal"
	"github.com/holdfast-dr/holdfast/internal/repo"
)

// Of the snapshots read (full), b and c (what changed) and found (full again), b and c may lack what found has found.
func TestPlanAvoidsDoubtfulSnapshots(t *testing.T) {
	whole, gap := [][2]uint64{{0, 40}}, [][2]uint64{{0, 12}, {16, 40}}
	for _, c := range []struct {
		log       [][2]uint64
		target    Target
		loss      Loss
		left      string // a snapshot that was forgotten
		want      string
		noted     bool // another one was passed over
		uncertain bool
	}{
		{log: whole, target: Target{Kind: Latest}, want: "found"},
		{log: whole, target: Target{Kind: AtLSN, LSN: 26 * mib}, want: "read", noted: true},
		{log: whole, target: Target{Kind: AtLSN, LSN: 6 * mib}, want: "read"},
		{log: whole, target: Target{Kind: AtTime, Time: time.Unix(26, 0)}, want: "read", noted: true},
		{log: whole, target: Target{Kind: AtLSN, LSN: 26 * mib}, left: "read", want: "c", uncertain: true},
		{log: gap, target: Target{Kind: AtLSN, LSN: 26 * mib}, want: "c", uncertain: true},
		{log: whole, target: Target{Kind: Immediate}, want: "found"},
		// Whoever accepts a loss does not accept more of it for the sake of a doubt.
		{log: gap, target: Target{Kind: Latest}, loss: AllowLoss, want: "found"},
	} {
		v, _ := view(c.log, nil)
		v.clocks = map[repo.Extent]time.Time{}
		for _, e := range v.streams[1].extents {
			v.clocks[e] = time.Unix(int64(e.End/mib), 0)
		}
		alarm := &pg.Alarm{Snapshot: "found", Since: time.Unix(4, 0), Found: time.Unix(30, 0)}
		for _, s := range []struct {
			id  repo.SnapshotID
			at  int64
			why string
			a   *pg.Alarm
		}{{"read", 4, "the first", nil}, {"b", 17, "", nil}, {"c", 24, "", nil}, {"found", 30, "a sample", alarm}} {
			if string(s.id) == c.left {
				continue
			}
			v.Snapshots = append(v.Snapshots, Snapshot{
				&repo.Manifest{ID: s.id, Started: time.Unix(s.at, 0), Finished: time.Unix(s.at, 0)},
				&pg.Facts{Timeline: 1, StartLSN: wal.LSN(s.at * mib), StopLSN: wal.LSN(s.at*mib + 100), SegmentSize: mib, Audit: &pg.Audit{FullScan: s.why, Alarm: s.a}},
			})
		}
		what := fmt.Sprintf("%v, %v, without %q", c.log, c.target, c.left)
		p, err := v.Plan(t.Context(), c.target, Timeline{Number: 1}, c.loss)
		if err != nil {
			t.Errorf("%s: %v", what, err)
			continue
		}
		if string(p.Snapshot.Manifest.ID) != c.want || p.Range.Snapshot != p.Snapshot.Manifest.ID || (len(p.Notes) > 0) != c.noted || (p.Doubt != "") != c.uncertain {
			t.Errorf("%s: snapshot %s, notes %q, doubt %q", what, p.Snapshot.Manifest.ID, p.Notes, p.Doubt)
		}
		if c.uncertain && !strings.Contains(p.Doubt, "snapshot c may lack changes") || c.noted && !strings.Contains(p.Notes[0], "snapshot c may lack changes") {
			t.Errorf("%s: notes %q, doubt %q", what, p.Notes, p.Doubt)
		}
	}
	// Where the newest is one of them, its own moment is what was asked for.
	v, _ := view(whole, nil)
	v.clocks = map[repo.Extent]time.Time{v.streams[1].extents[0]: time.Unix(40, 0)}
	alarm := &pg.Alarm{Snapshot: "found", Found: time.Unix(30, 0)}
	for i, s := range []repo.SnapshotID{"read", "b"} {
		a := &pg.Audit{Alarm: alarm}
		if i == 0 {
			a.FullScan = "the first"
		}
		v.Snapshots = append(v.Snapshots, Snapshot{&repo.Manifest{ID: s, Started: time.Unix(int64(i), 0)}, &pg.Facts{Timeline: 1, StartLSN: wal.LSN(i+1) * mib, StopLSN: wal.LSN(i+1) * mib, SegmentSize: mib, Audit: a}})
	}
	for kind, want := range map[Kind]repo.SnapshotID{Immediate: "b", Latest: "read"} {
		p, err := v.Plan(t.Context(), Target{Kind: kind}, Timeline{Number: 1}, RefuseLoss)
		if err != nil || p.Snapshot.Manifest.ID != want || (p.Doubt != "") != (want == "b") {
			t.Errorf("%v: %+v, %v", kind, p, err)
		}
	}
}
