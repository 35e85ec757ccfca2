package points

import (
	"fmt"
	"slices"

	"github.com/holdfast-dr/holdfast/internal/pg"
)

// take chooses one of the ranges that suffice for a plan's target, oldest first. A snapshot that may lack changes of which
// the log did not tell is passed over where an older one reaches as far: more log is replayed, which has them.
func (v *View) take(p *Plan, enough []Range) {
	alarm := v.alarm()
	newest := enough[len(enough)-1]
	p.Range, p.Snapshot = newest, v.snapshot(newest)
	if !doubtful(alarm, p.Snapshot) {
		return
	}
	why := fmt.Sprintf("snapshot %s may lack changes of which the log did not tell, as snapshot %s found", newest.Snapshot, alarm.Snapshot)
	for _, r := range slices.Backward(enough) {
		// Its own moment is all that is asked for: another snapshot has another one.
		if p.Target.Kind == Immediate || r.To < newest.To {
			continue
		}
		if s := v.snapshot(r); !doubtful(alarm, s) {
			p.Range, p.Snapshot = r, s
			p.Notes = append(p.Notes, fmt.Sprintf("%s: it was passed over for %s, which is older, so that more log has to be replayed", why, r.Snapshot))
			return
		}
	}
	p.Doubt = why + "; no other one serves for this moment: check what was recovered (pg_amcheck), or choose a later moment"
}

// alarm returns what the snapshots tell of changes that the log did not; nil: nothing.
func (v *View) alarm() *pg.Alarm {
	audits := make([]*pg.Audit, len(v.Snapshots))
	for i, s := range v.Snapshots {
		audits[i] = s.Facts.Audit
	}
	return pg.AlarmOf(audits)
}

func doubtful(a *pg.Alarm, s Snapshot) bool { return a.Doubts(s.Manifest.Started, s.Facts.Audit) }
