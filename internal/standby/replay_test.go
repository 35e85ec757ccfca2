package standby

import (
	"errors"
	"strings"
	"testing"

	"github.com/holdfast-dr/holdfast/internal/pg/wal"
)

// A promotion that cannot come to the log's end says why, after a while in which nothing has moved; one that moves is waited for.
func TestWhatStandsBeforeTheEndOfALog(t *testing.T) {
	t.Parallel()
	const end = 1000
	one := &wal.Timelines{Timeline: 1}
	two := &wal.Timelines{Timeline: 2, Ancestors: []wal.Switch{{Timeline: 1, End: 800}}}
	for _, c := range []struct {
		name  string
		s     sample
		v     view
		looks int    // after which it is over
		want  string // in the reason; empty: the end is reached
	}{
		{"all is replayed", sample{replayed: end, received: end}, view{Way: one, Session: 1}, 1, ""},
		{"all is replayed, on the timeline before", sample{replayed: 800, received: 800}, view{Way: two, Session: 1, End: 800}, 1, ""},
		{"no repository has ever answered", sample{replayed: end}, view{}, 1, ""},
		{"the branch was left", sample{replayed: end, received: end}, view{Way: two, Session: 1}, fewLooks + 1, "does not lead past there"},
		{"the branch was left at what is not replayed yet", sample{replayed: 800, received: 900}, view{Way: two, Session: 1, End: 800}, hinderAfter + 1, "does not lead past there"},
		{"off the way", sample{replayed: 500, received: 500}, view{Way: two, Session: 1, Foreign: errors.New("foreign")}, hinderAfter + 1, "foreign"},
		{"a tablespace", sample{replayed: 500, received: 500}, view{Way: one, Session: 1, Refused: "taken"}, hinderAfter + 1, "taken"},
		{"a damaged extent", sample{replayed: 500, received: 500}, view{Way: one, Session: 1, Unread: errors.New("damaged")}, hinderAfter + 1, "damaged"},
		{"nobody knows its timeline", sample{replayed: end, received: end}, view{Way: one}, hinderAfter + 1, "has not asked"},
		{"a store that does not answer", sample{replayed: 500, received: 500}, view{Way: one, Session: 1}, stuckAfter + 1, "nothing has come"},
	} {
		r := replaying{end: end}
		if c.v.End != 0 {
			r.end = c.v.End
		}
		for look := 1; ; look++ {
			done, why := r.look(c.s, c.v)
			if !done && why == nil && look <= stuckAfter+1 {
				continue
			}
			if done != (c.want == "") || !done && (why == nil || !strings.Contains(why.Error(), c.want)) {
				t.Errorf("%s: done %v, %v", c.name, done, why)
			}
			if abs(look-c.looks) > 1 {
				t.Errorf("%s: over after %d looks, want %d", c.name, look, c.looks)
			}
			break
		}
	}
	r := replaying{end: end}
	for at := range wal.LSN(3 * stuckAfter) { // a slow one: once in a thousand looks
		if done, why := r.look(sample{replayed: 1 + at/1000, received: 100}, view{Way: one, Session: 1, Unread: errors.New("for a moment")}); done || why != nil {
			t.Fatalf("it moves, and is given up: %v, %v", done, why)
		}
	}
}

func abs(n int) int { return max(n, -n) }

// What is refused is not the end of the log, although all that was sent is replayed; and what the primary had more is told.
func TestRefusedLogIsNoEnd(t *testing.T) {
	t.Parallel()
	v := view{Way: &wal.Timelines{Timeline: 1}, Session: 1, End: 800, PrimaryEnd: 900, Refused: "it is damaged"}
	s := sample{recovering: true, waiting: true, replayed: 800, received: 800}
	r := replaying{end: 800}
	for range hinderAfter + 2 {
		done, why := r.look(s, v)
		if done {
			t.Fatal("it is done")
		}
		if why != nil {
			v.Refused = ""
			break
		}
	}
	if done, why := r.look(s, v); !done || v.Refused != "" {
		t.Errorf("done %t, %v", done, why)
	}
	if v.unsent() == "" {
		t.Error("nothing is told of the rest")
	}
	if v.PrimaryEnd = 800; v.unsent() != "" {
		t.Error(v.unsent())
	}
}
