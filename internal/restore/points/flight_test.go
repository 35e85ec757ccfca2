package points

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-dr/holdfast/internal/pg"
	"github.com/holdfast-dr/holdfast/internal/pg/wal"
	"github.com/holdfast-dr/holdfast/internal/repo"
	"github.com/holdfast-dr/holdfast/internal/repo/repotest"
	"github.com/holdfast-dr/holdfast/internal/store/storetest"
)

// part is a part of a log in MiB, with what was known when it was made: up to where this replica, and another one, had everything.
type part struct {
	stream     repo.StreamID
	start, end uint64
	had, other uint64 // 0: nothing was known of it
}

func TestGapAtTheEnd(t *testing.T) {
	t.Parallel()
	whole := []part{{1, 0, 16, 1, 1}, {1, 16, 20, 16, 16}}
	other := strings.Repeat("0b", 16)
	for _, c := range []struct {
		name   string
		behind []part
		mark   uint64 // of timeline 1
		left   uint64 // where timeline 2 leaves it
		loss   Loss
		flight *Flight
		refuse string
	}{
		{
			name: "never whole", behind: []part{{1, 23, 24, 18, 23}, {1, 21, 22, 20, 20}}, mark: 20,
			flight: &Flight{From: 21 * mib, To: 24 * mib, Bytes: 2 * mib, Held: []repo.Holder{{Site: "lost", Replica: other, Upto: 23 * mib}}},
		},
		{name: "nobody else", behind: []part{{1, 21, 22, 20, 0}}, flight: &Flight{From: 21 * mib, To: 22 * mib, Bytes: mib}},
		{name: "it was acknowledged", behind: []part{{1, 21, 22, 21, 20}}, refuse: "had everything up to 0/1500000"},
		{name: "as the last part says", behind: []part{{1, 21, 22, 20, 20}, {1, 22, 23, 20, 20}, {1, 25, 26, 22, 22}}, refuse: "had everything up to 0/1600000"},
		{name: "as the first part says", behind: []part{{1, 21, 22, 22, 20}, {1, 25, 26, 20, 22}}, refuse: "had everything up to 0/1600000"},
		{name: "by the mark", behind: []part{{1, 21, 22, 20, 20}}, mark: 21, refuse: "no log from 0/1400000 to 0/1500000; the high-water mark says that it was stored up to 0/1500000"},
		{name: "parts of before", behind: []part{{1, 21, 22, 0, 0}}, refuse: "no log from 0/1400000 to 0/1500000"},
		{name: "one part of before", behind: []part{{1, 21, 22, 20, 20}, {1, 22, 23, 0, 0}}, refuse: "no log from"},
		{name: "another replica's", behind: []part{{1, 21, 22, 0, 20}}, refuse: "where it is being filled"},
		{name: "accepted", behind: []part{{1, 21, 22, 21, 20}}, loss: AllowLoss},
		{name: "before a newer timeline", behind: []part{{2, 21, 22, 20, 20}}, left: 21, refuse: "timeline 1 has no log from 0/1400000 to 0/1500000"},
		{
			name: "of a newer timeline", behind: []part{{1, 20, 24, 20, 20}, {2, 22, 23, 21, 22}}, left: 21,
			flight: &Flight{From: 22 * mib, To: 23 * mib, Bytes: mib, Held: []repo.Holder{{Site: "lost", Replica: other, Upto: 22 * mib}}},
		},
		{name: "lost of a newer timeline", behind: []part{{1, 20, 24, 20, 20}, {2, 22, 23, 22, 22}}, left: 21, refuse: "timeline 2 has no log from 0/1500000 to 0/1600000; this replica had"},
	} {
		r := repotest.Init(t, storetest.NewMemory(), repo.Options{})
		own, err := r.Replica(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		log := r.Log("orders-db")
		if err := log.Register(t.Context(), repo.DefaultGroup); err != nil {
			t.Fatal(err)
		}
		for _, p := range append(whole[:2:2], c.behind...) {
			known := repo.NewHolders()
			if p.had > 0 {
				known.Join("here", own, map[repo.StreamID]uint64{p.stream: p.had * mib})
			}
			if p.other > 0 {
				known.Join("lost", other, map[repo.StreamID]uint64{p.stream: p.other * mib})
			}
			log.Tell(known, "")
			clock := repo.ExtentClock{Source: time.Unix(int64(p.end), 0)}
			if err := log.Encoder().Put(t.Context(), p.stream, p.start*mib, make([]byte, (p.end-p.start)*mib), clock, repo.Fast); err != nil {
				t.Fatal(err)
			}
		}
		if c.mark > 0 {
			if err := log.PutMark(t.Context(), repo.Mark{Stream: 1, LSN: c.mark * mib}); err != nil {
				t.Fatal(err)
			}
		}
		v := newView(r, "orders-db")
		v.Snapshots = []Snapshot{{&repo.Manifest{ID: "only"}, &pg.Facts{Timeline: 1, StartLSN: mib, StopLSN: 2 * mib, SegmentSize: mib}}}
		if c.left > 0 {
			v.ways[2] = &wal.Timelines{Timeline: 2, Ancestors: []wal.Switch{{Timeline: 1, End: wal.LSN(c.left * mib)}}}
		}
		if err := v.loadLog(t.Context(), 0); err != nil {
			t.Fatal(err)
		}
		p, err := v.Plan(t.Context(), Target{Kind: Latest}, Timeline{}, c.loss)
		if c.refuse != "" {
			if err == nil || !strings.Contains(err.Error(), c.refuse) {
				t.Errorf("%s: %v, want %q", c.name, err, c.refuse)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		want := wal.LSN(20 * mib)
		if c.left > 0 {
			want = wal.LSN(c.left * mib)
		}
		if f := c.flight; f != nil {
			f.First, f.Last = time.Unix(int64(f.From/mib+1), 0).UTC(), time.Unix(int64(f.To/mib), 0).UTC()
		}
		if d := cmp.Diff(c.flight, p.Flight()); d != "" || p.Range.To != want || (len(p.Notes) > 0) != (c.flight != nil) {
			t.Errorf("%s: to %s, notes %q, -want +got\n%s", c.name, p.Range.To, p.Notes, d)
		}
		if c.name == "never whole" && p.Notes[0] != "the log ends at 0/1400000: what follows, up to 0/1500000, was on its way to this replica when whoever wrote it was lost, and never came. "+
			"2.0 MiB of log from 0/1500000 to 0/1800000, written from 1970-01-01 00:00:22 UTC to 1970-01-01 00:00:24 UTC, came behind it and cannot be used; site \"lost\" had acknowledged everything up to 0/1700000" {
			t.Errorf("the note is %q", p.Notes[0])
		}
		if p, err := v.Plan(t.Context(), Target{Kind: AtLSN, LSN: 10 * mib}, Timeline{}, RefuseLoss); err != nil || p.Flight() != nil || len(p.Notes) > 0 {
			t.Errorf("%s: to a target: %+v, %v", c.name, p, err)
		}
	}
}

// Without anything behind it nothing says that a gap was never whole.
func TestNothingBehindAGapIsNoFlight(t *testing.T) {
	t.Parallel()
	log := repotest.Init(t, storetest.NewMemory(), repo.Options{}).Log("orders-db")
	if f, lost, err := Judge(t.Context(), log, mib, nil); f != nil || lost == "" || err != nil {
		t.Errorf("%+v, %q, %v", f, lost, err)
	}
}
