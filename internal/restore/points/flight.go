package points

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/pg/wal"
	"github.com/holdfast-dr/holdfast/internal/repo"
)

// Flight is log that came to a replica although what it follows never did: parts of a log are sent several at a time, and whoever sent
// them was lost. It cannot be used.
type Flight struct {
	From  wal.LSN   `json:"from"`
	To    wal.LSN   `json:"to"`
	Bytes dr.Bytes  `json:"bytes"`          // of log
	First time.Time `json:"first,omitzero"` // when the last byte of the oldest part was written, by the source's clock,
	Last  time.Time `json:"last,omitzero"`  // and that of the newest
	// Held is what other replicas had acknowledged of it, as the parts that came say.
	Held []repo.Holder `json:"held,omitempty"`
}

// String says what came.
func (f Flight) String() string {
	s := fmt.Sprintf("%s of log from %s to %s", f.Bytes, f.From, f.To)
	if !f.First.IsZero() {
		s += fmt.Sprintf(", written from %s to %s,", stamp(f.First), stamp(f.Last))
	}
	return s + " came behind it and cannot be used" + f.heldBy()
}

// heldBy says what was lost with other replicas.
func (f Flight) heldBy() string {
	var all []string
	for _, h := range f.Held {
		name := fmt.Sprintf("site %q", h.Site) // the part says so: it is not trusted
		if h.Site == "" {
			name = fmt.Sprintf("replica %q", h.Replica)
		}
		all = append(all, fmt.Sprintf("%s had acknowledged everything up to %s", name, wal.LSN(h.Upto)))
	}
	if len(all) == 0 {
		return ""
	}
	return "; " + strings.Join(all, ", ")
}

// Judge tells what a gap is in the newest timeline of a way, that begins at a position, with behind what is there of the timeline
// behind it. It is the end of what came, with what was in flight, where nothing says that the replica ever had more before it: each of
// the parts behind it tells what the replica had acknowledged when that was made, and none tells of the gap. Otherwise lost may say
// why it is a hole; it is empty where nothing is known, as of parts that say nothing.
//
// It is told of a high-water mark by nobody: where that lies behind the start there is a hole.
func Judge(ctx context.Context, log *repo.Log, start wal.LSN, behind []repo.Extent) (f *Flight, lost string, err error) {
	if len(behind) == 0 {
		return nil, "what was behind it has gone: look again", nil
	}
	if stores := log.Lent(); len(stores) > 0 {
		return nil, "this replica does not answer, and what it had is not known: this is what " + strings.Join(stores, " and ") + " has", nil
	}
	replica, err := log.Replica(ctx)
	if err != nil {
		return nil, "the name of the replica cannot be read: " + err.Error(), ctx.Err()
	}
	// The newest part knows most: most holes are told by the first that is read.
	behind = slices.Clone(behind)
	slices.SortFunc(behind, func(a, b repo.Extent) int { return cmp.Compare(b.End, a.End) })
	reader, had := log.Reader(), map[string]repo.Holder{}
	f = &Flight{}
	for _, e := range behind {
		holders, clock, err := reader.Holders(ctx, e)
		if err != nil { // it may have given way to another one
			return nil, "the log behind it cannot be read: " + err.Error(), ctx.Err()
		}
		var own []repo.Holder // a copy of all of it, by other means, has its name
		for _, h := range holders {
			if h.Replica == replica {
				own = append(own, h)
			}
		}
		most := slices.MaxFunc(append(own, repo.Holder{}), func(a, b repo.Holder) int { return cmp.Compare(a.Upto, b.Upto) }).Upto
		switch {
		case len(holders) == 0:
			return nil, "", nil
		case len(own) == 0:
			return nil, "what was written behind it does not tell what this replica had: where it is being filled, that has not ended (holdfast geo copy)", nil
		case most > uint64(start):
			return nil, fmt.Sprintf("this replica had everything up to %s: what is missing was there, or is being filled in again (holdfast geo copy)", wal.LSN(most)), nil
		}
		f.add(clock)
		for _, h := range holders {
			if h.Replica != replica && h.Upto > max(had[h.Replica].Upto, uint64(start)) {
				had[h.Replica] = h
			}
		}
	}
	slices.SortFunc(behind, func(a, b repo.Extent) int { return cmp.Compare(a.Start, b.Start) })
	for i, r := range repo.Merge(behind) {
		if i == 0 {
			f.From = wal.LSN(r.Start)
		}
		f.To, f.Bytes = wal.LSN(r.End), f.Bytes+dr.Bytes(r.End-r.Start)
	}
	for _, h := range had {
		f.Held = append(f.Held, h)
	}
	slices.SortFunc(f.Held, func(a, b repo.Holder) int {
		return cmp.Or(cmp.Compare(b.Upto, a.Upto), cmp.Compare(a.Replica, b.Replica))
	})
	return f, "", nil
}

func (f *Flight) add(c repo.ExtentClock) {
	t := c.Source
	if t.IsZero() {
		t = c.Writer
	}
	if f.First.IsZero() || t.Before(f.First) {
		f.First = t
	}
	f.Last = later(f.Last, t)
}

// judge is Judge for a gap on a way, once.
func (v *View) judge(ctx context.Context, way *wal.Timelines, g *Gap) error {
	s := v.streams[way.Timeline]
	if v.judged == nil || g.Timeline != way.Timeline || s == nil {
		return nil // what follows on a newer timeline proves that it was there
	}
	k := gapOf{g.Timeline, g.Start}
	known, ok := v.judged[k]
	if !ok {
		behind := slices.DeleteFunc(slices.Clone(s.extents), func(e repo.Extent) bool { return wal.LSN(e.Start) < g.End })
		var err error
		if known.flight, known.lost, err = Judge(ctx, v.log, g.Start, behind); err != nil {
			return err
		}
		v.judged[k] = known
	}
	g.Flight, g.Lost = known.flight, known.lost
	return nil
}

// gapOf says where a gap is.
type gapOf struct {
	timeline wal.TimelineID
	start    wal.LSN
}

// verdict is what Judge said of it.
type verdict struct {
	flight *Flight
	lost   string
}
