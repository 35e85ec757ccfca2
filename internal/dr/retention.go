package dr

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

// Retention says how many snapshots are kept. Each rule keeps the newest snapshot of each of the last N hours,
// days, … that have a snapshot at all, so that a month without snapshots does not eat up "monthly: 12".
// Periods are those of UTC; a week is an ISO week and begins on Monday. The zero value keeps everything.
type Retention struct {
	KeepLast int // the newest N, whatever their time
	Hourly   int
	Daily    int
	Weekly   int
	Monthly  int
	Yearly   int
}

// Reasons says why a snapshot is kept: "last", "hourly", …, "newest" or "no rule". An empty one means that no
// rule keeps it.
type Reasons []string

// Select decides which of the snapshots taken at these times are kept. The result has one element for each, in
// the same order. The newest is always kept, and of equal times the later element counts as newer. The time of
// day plays no part: rules count periods that have snapshots, so a clock that jumps ahead forgets nothing.
func (r Retention) Select(taken []time.Time) []Reasons {
	kept := make([]Reasons, len(taken))
	if r == (Retention{}) {
		for i := range kept {
			kept[i] = Reasons{"no rule"}
		}
		return kept
	}
	order := newestFirst(taken)
	for _, rule := range r.rules() {
		left, last := rule.count, ""
		for n, i := range order {
			if left <= 0 {
				break
			}
			// Snapshots come newest first, so that the first of each period is the one to keep.
			period := rule.period(taken[i].UTC(), n)
			if n > 0 && period == last {
				continue
			}
			kept[i] = append(kept[i], rule.reason)
			last, left = period, left-1
		}
	}
	if len(order) > 0 && len(kept[order[0]]) == 0 {
		kept[order[0]] = Reasons{"newest"}
	}
	return kept
}

// rule keeps count snapshots, one of each period. n is the snapshot's place in the order of age.
type rule struct {
	reason string
	count  int
	period func(t time.Time, n int) string
}

func (r Retention) rules() []rule {
	layout := func(l string) func(time.Time, int) string {
		return func(t time.Time, _ int) string { return t.Format(l) }
	}
	return []rule{
		{"last", r.KeepLast, func(_ time.Time, n int) string { return fmt.Sprint(n) }},
		{"hourly", r.Hourly, layout("2006-01-02 15")},
		{"daily", r.Daily, layout("2006-01-02")},
		{"weekly", r.Weekly, func(t time.Time, _ int) string {
			year, week := t.ISOWeek()
			return fmt.Sprint(year, week)
		}},
		{"monthly", r.Monthly, layout("2006-01")},
		{"yearly", r.Yearly, layout("2006")},
	}
}

// newestFirst returns the indices of taken, the newest first.
func newestFirst(taken []time.Time) []int {
	order := make([]int, len(taken))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(a, b int) int {
		if c := taken[b].Compare(taken[a]); c != 0 {
			return c
		}
		return cmp.Compare(b, a)
	})
	return order
}
