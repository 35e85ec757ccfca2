package wal

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// MaxLSN is the end of a timeline that was not left.
const MaxLSN LSN = math.MaxUint64

// Switch says where a timeline was left for the next one.
type Switch struct {
	Timeline TimelineID
	End      LSN    // the first byte that is not of this timeline
	Reason   string // for people
}

// Timelines is the way from the first timeline to one: what a history file holds. The way of timeline 1, which
// has no file, is Timelines{Timeline: 1}.
type Timelines struct {
	Timeline  TimelineID // where the way ends
	Ancestors []Switch   // ascending by timeline
}

// maxHistory bounds a history file: a line has some 60 bytes, so these are thousands of promotions.
const maxHistory = 1 << 20

// ParseHistory reads the history file of timeline tl. Comments and empty lines are skipped. PostgreSQL's rules
// hold (timeline.c, readTimeLineHistory): timelines ascend and are below tl. The points where they were left
// need not ascend: a recovery that stopped before an older switch writes a file in which the later line wins.
func ParseHistory(tl TimelineID, content []byte) (*Timelines, error) {
	if tl == 0 {
		return nil, fmt.Errorf("timeline 0 does not exist")
	}
	if len(content) > maxHistory {
		return nil, fmt.Errorf("%s has %d bytes; at most %d make sense", HistoryName(tl), len(content), maxHistory)
	}
	h := &Timelines{Timeline: tl}
	last := TimelineID(0)
	for i, line := range strings.Split(string(content), "\n") {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		s, err := parseSwitch(line)
		if err == nil && (s.Timeline <= last || s.Timeline >= tl) {
			err = fmt.Errorf("timeline %d is out of order", s.Timeline)
		}
		if err != nil {
			return nil, fmt.Errorf("%s, line %d: %w", HistoryName(tl), i+1, err)
		}
		last = s.Timeline
		h.Ancestors = append(h.Ancestors, s)
	}
	return h, nil
}

func parseSwitch(line string) (Switch, error) {
	id, rest := cutSpace(line)
	pos, reason := cutSpace(rest)
	tl, err := strconv.ParseUint(id, 10, 32)
	if err != nil || tl == 0 {
		return Switch{}, fmt.Errorf("%q is no timeline", id)
	}
	end, err := ParseLSN(pos)
	if err != nil {
		return Switch{}, err
	}
	return Switch{Timeline: TimelineID(tl), End: end, Reason: reason}, nil
}

func cutSpace(s string) (field, rest string) {
	i := strings.IndexAny(s, " \t")
	if i < 0 {
		return s, ""
	}
	return s[:i], strings.TrimLeft(s[i:], " \t")
}

// Format returns the history file, which ParseHistory reads back.
func (h *Timelines) Format() []byte {
	var b strings.Builder
	for _, s := range h.Ancestors {
		fmt.Fprintf(&b, "%d\t%s\t%s\n", s.Timeline, s.End, s.Reason)
	}
	return []byte(b.String())
}

// At returns the timeline whose log holds the byte at lsn on this way.
func (h *Timelines) At(lsn LSN) TimelineID {
	for i := len(h.Ancestors) - 1; i >= 0; i-- {
		if lsn >= h.Ancestors[i].End {
			if i == len(h.Ancestors)-1 {
				return h.Timeline
			}
			return h.Ancestors[i+1].Timeline
		}
	}
	if len(h.Ancestors) == 0 {
		return h.Timeline
	}
	return h.Ancestors[0].Timeline
}

// Range returns the part of a timeline's log that lies on this way: from its beginning to where it was left,
// MaxLSN for the last. It is false where the way does not pass the timeline, or passes none of its bytes.
func (h *Timelines) Range(tl TimelineID) (begin, end LSN, ok bool) {
	end = MaxLSN
	if tl == h.Timeline {
		if n := len(h.Ancestors); n > 0 {
			begin = h.Ancestors[n-1].End
		}
		return begin, end, true
	}
	for i := len(h.Ancestors) - 1; i >= 0; i-- {
		end = min(end, h.Ancestors[i].End) // a later switch before an earlier one wins
		if h.Ancestors[i].Timeline != tl {
			continue
		}
		if i > 0 {
			begin = h.Ancestors[i-1].End
		}
		return begin, end, begin < end
	}
	return 0, 0, false
}

// SwitchPoint returns where the way leaves tl; false where it does not pass tl or ends in it.
func (h *Timelines) SwitchPoint(tl TimelineID) (LSN, bool) {
	_, end, ok := h.Range(tl)
	return end, ok && end != MaxLSN
}

// IsAncestor tells whether the way passes tl at lsn or later: a server whose log on tl ends at lsn can follow
// this way.
func (h *Timelines) IsAncestor(tl TimelineID, lsn LSN) bool {
	_, end, ok := h.Range(tl)
	return ok && lsn <= end
}

// Next returns the timeline after tl on this way; false where tl is the last or not on it.
func (h *Timelines) Next(tl TimelineID) (TimelineID, bool) {
	for i, s := range h.Ancestors {
		if s.Timeline != tl {
			continue
		}
		if i+1 < len(h.Ancestors) {
			return h.Ancestors[i+1].Timeline, true
		}
		return h.Timeline, true
	}
	return 0, false
}
