package cli

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/internal/capture"
	"github.com/holdfast-dr/holdfast/internal/pg"
	"github.com/holdfast-dr/holdfast/internal/repo"
)

// telling is a snapshot that tells of what it read.
func telling(t *testing.T, a *pg.Audit) *repo.Manifest {
	t.Helper()
	facts, err := json.Marshal(pg.Facts{Version: 150018, Timeline: 1, SegmentSize: 16 << 20, Audit: a})
	if err != nil {
		t.Fatal(err)
	}
	return &repo.Manifest{System: "orders-db", ID: "20260302t140500z-00000000", Started: time.Date(2026, 3, 2, 14, 5, 0, 0, time.UTC), Engine: pg.Engine, Facts: facts}
}

// What a snapshot did not read, and what it found of which the log did not tell, is told when it is taken and whenever it
// is shown.
func TestSnapshotsTellHowSureTheyAre(t *testing.T) {
	sample := "of 1000 pages that the log did not name 64 were compared: had it missed one, that stayed unseen with a chance of 93.6 %; had it missed 1 % of them, 52.56 %; had it missed 0.1 %, 93.8 %"
	alarm := &pg.Alarm{Snapshot: "20260302t130500z-00000000", Missed: 2}
	for _, c := range []struct {
		name  string
		audit *pg.Audit
		want  []string
	}{
		{"an older holdfast's", nil, nil},
		{"of what changed", &pg.Audit{Unread: 1000, Compared: 64}, []string{"read        what changed; " + sample}},
		{"of everything", &pg.Audit{FullScan: "it is the first snapshot"}, []string{"read        everything: it is the first snapshot"}},
		{
			"that found pages", &pg.Audit{FullScan: "it was asked for", Compared: 9, Missed: 1, Pages: []string{"base/5/1: block 7"}, Alarm: &pg.Alarm{Snapshot: "20260302t140500z-00000000", Missed: 1}},
			[]string{"read        everything: it was asked for; 9 pages compared of which the log did not tell", "MISSED      base/5/1: block 7"},
		},
		{"after those", &pg.Audit{Unread: 1000, Compared: 64, Alarm: alarm}, []string{
			"read        what changed; " + sample, "alarm       snapshot 20260302t130500z-00000000 found 2 pages of which the log did not tell",
		}},
	} {
		var out strings.Builder
		if err := showSnapshot("orders-db", repo.Listed{ID: "20260302t140500z-00000000", Manifest: telling(t, c.audit)}).writeText(&out); err != nil {
			t.Fatal(err)
		}
		var got []string
		for line := range strings.Lines(out.String()) {
			if word, _, _ := strings.Cut(line, " "); word == "read" || word == "MISSED" || word == "alarm" {
				got = append(got, strings.TrimSpace(line))
			}
		}
		if strings.Join(got, "\n") != strings.Join(c.want, "\n") {
			t.Errorf("a snapshot %s is shown with %q, want %q", c.name, got, c.want)
		}
	}
	a := &pg.Audit{Unread: 1000, Compared: 64}
	var out strings.Builder
	err := createdSnapshot{&capture.SnapshotReport{Snapshot: telling(t, a), Unread: a.Unread, Compared: a.Compared, Unseen: a.Unseen()}}.writeText(&out)
	if err != nil || !strings.Contains(out.String(), "\n  "+sample+"\n") {
		t.Errorf("a snapshot is taken with %q, %v", out.String(), err)
	}
}

func TestChancesAreRoundedUp(t *testing.T) {
	for p, want := range map[float64]string{0: "0 %", 1: "100 %", 0.936: "93.6 %", 0.93601: "93.61 %", 0.9999999: "100 %", 1e-9: "0.01 %"} {
		if got := percent(p); got != want {
			t.Errorf("%v is said to be %s, want %s", p, got, want)
		}
	}
}
