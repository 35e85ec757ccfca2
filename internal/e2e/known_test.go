package e2e

import (
	"fmt"
	"slices"

	"github.com/google/go-cmp/cmp"
)

// moment is what a snapshot and its rewriting have in common.
func (l listed) moment() string { return l.Manifest.Started }

// known is what snapshots hold, by their moments: the digest of a server that did nothing until they were taken. A snapshot
// of which it is not known has none.
type known map[string]map[string]string

// alone are the arguments that restore a snapshot to its own end, which may lie before a switch of timelines. One of a branch that
// was left before it needs its timeline.
func (l listed) alone(branches bool) []string {
	f := l.Manifest.Facts
	args := []string{"--start", "--at", f.StopLSN}
	if branches {
		args = append(args, "--timeline", fmt.Sprint(f.StopTimeline))
	}
	return args
}

// take takes a snapshot of a server that does nothing.
func (k known) take(w *world, sum *totals) {
	w.t.Helper()
	holds := digest(w.t, w.server.ConnString, true)
	c := w.snapshot()
	sum.count(c)
	for _, s := range w.snapshots() {
		if s.ID == c.Snapshot.ID {
			k[s.moment()] = holds
		}
	}
}

// compare restores every snapshot that is listed, and holds those that are known against what they hold. Fresh tells of each
// whether it goes into an empty directory, or over the cluster that came of the one before. It returns how many were known.
func (k known) compare(w *world, branches bool, fresh func() bool) int {
	w.t.Helper()
	n := 0
	var there *restored // stopped
	for _, s := range w.snapshots() {
		args := s.alone(branches)
		switch {
		case there == nil:
		case fresh():
			there.remove()
		default:
			args = append(args, "--delta=log")
		}
		there = w.restore("held", args...)
		// Of a server that does nothing several may end at one position, and one that was begun later may end sooner.
		same := func(o listed) bool {
			return o.ID == there.Snapshot && (o.Manifest.Facts == s.Manifest.Facts || o.moment() > s.moment())
		}
		if !slices.ContainsFunc(w.snapshots(), same) {
			w.t.Errorf("with %v snapshot %s was restored, want %s", args, there.Snapshot, s.ID)
		}
		holds := digest(w.t, there.connString, false)
		if want := k[s.moment()]; want != nil {
			n++
			if d := cmp.Diff(want, holds); d != "" {
				w.t.Errorf("snapshot %s, restored with %v, holds something else (-source +restored):\n%s", s.ID, args, d)
			}
		}
		there.stop()
	}
	if there != nil {
		there.remove()
	}
	return n
}
