package pg

import (
	"math"
	"slices"
	"time"
)

// Audit says which pages a snapshot took over without reading them, because the log did not name them, and how sure it
// is that none of them had changed.
type Audit struct {
	FullScan string `json:"fullScan,omitempty"` // why everything was read; empty: only what changed was
	// Unread is how many pages were taken over. It may be somewhat more than there are: what no log describes, such as
	// free space maps, is counted in.
	Unread      int64  `json:"unread,omitempty"`
	Compared    int64  `json:"compared,omitempty"`    // pages that the log did not name, and that were compared with the snapshot before
	NotCompared string `json:"notCompared,omitempty"` // why none was
	// Missed is how many of those had changed although the log did not tell, and Pages the first of them.
	Missed int64    `json:"missed,omitempty"`
	Pages  []string `json:"pages,omitempty"`
	Alarm  *Alarm   `json:"alarm,omitempty"`
}

// Unseen is how likely a change of which the log did not tell stayed unseen, from 0 to 1. The pages that are compared
// are drawn so that every page that was taken over has the same chance.
type Unseen struct {
	Page       float64 `json:"page"`       // of one page, whichever it is
	Hundredth  float64 `json:"hundredth"`  // of changes in one page of a hundred: that none of them was compared
	Thousandth float64 `json:"thousandth"` // in one of a thousand
}

// Unseen returns the chances at a snapshot of what changed; nil where everything was read. None is less than the truth:
// with k of N pages compared, one page is not among them with 1 - k/N, which grows with N; and none of a part f of the
// pages is with less than (1 - f)^k, which would hold if a page could be drawn twice.
func (a *Audit) Unseen() *Unseen {
	if a == nil || a.FullScan != "" {
		return nil
	}
	none := func(part float64) float64 {
		if a.Compared >= a.Unread {
			return 0
		}
		return math.Pow(1-part, float64(a.Compared))
	}
	u := &Unseen{Hundredth: none(0.01), Thousandth: none(0.001)}
	if a.Compared < a.Unread {
		u.Page = 1 - float64(a.Compared)/float64(a.Unread)
	}
	return u
}

// Alarm is that pages changed of which the log did not tell. Snapshots of what changed may lack such changes if they were
// begun between Since and Found. The snapshot that found it says so, and every one that comes after it does, until
// somebody asks for a scan of everything that finds nothing more.
type Alarm struct {
	Snapshot string    `json:"snapshot"`       // that found it, and holds everything
	Found    time.Time `json:"found"`          // when it was begun
	Since    time.Time `json:"since,omitzero"` // when the last one before it was begun that had read everything; zero: not known
	Missed   int64     `json:"missed"`         // pages
	Pages    []string  `json:"pages,omitempty"`
}

// AlarmOf returns what the newest of a system's snapshots tells of an alarm, nil where it tells of none; audits are of all of
// them, oldest first, nil where one tells nothing.
func AlarmOf(audits []*Audit) *Alarm {
	for _, a := range slices.Backward(audits) {
		if a != nil {
			return a.Alarm
		}
	}
	return nil
}

// Doubts tells whether a snapshot that was begun then, and that tells this of itself, may lack changes of which the log did
// not tell.
func (a *Alarm) Doubts(began time.Time, of *Audit) bool {
	return a != nil && began.Before(a.Found) && began.After(a.Since) && (of == nil || of.FullScan == "")
}
