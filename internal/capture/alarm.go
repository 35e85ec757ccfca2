package capture

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/holdfast-dr/holdfast/internal/pg"
	"github.com/holdfast-dr/holdfast/internal/repo"
)

// Alarm is that pages changed of which the log did not tell, and that snapshots are kept which may lack such changes.
type Alarm struct {
	pg.Alarm
	Doubtful []repo.SnapshotID `json:"doubtful"` // those snapshots, oldest first
}

// maxAlarmPages bounds what every later snapshot repeats.
const maxAlarmPages = 10

// AlarmOf returns what the newest snapshot of a system tells of an alarm, as long as it matters; list has all snapshots of
// the system, oldest first.
func AlarmOf(list []*repo.Manifest) *Alarm {
	audits := make([]*pg.Audit, len(list))
	for i, m := range list {
		audits[i] = auditOf(m)
	}
	told := pg.AlarmOf(audits)
	if told == nil {
		return nil
	}
	out := &Alarm{Alarm: *told}
	for i, m := range list {
		if told.Doubts(m.Started, audits[i]) {
			out.Doubtful = append(out.Doubtful, m.ID)
		}
	}
	if len(out.Doubtful) == 0 {
		return nil // they are gone
	}
	return out
}

// Alarmed tells whether a snapshot tells of an alarm. Whether that matters still, AlarmOf knows.
func Alarmed(m *repo.Manifest) bool {
	a := auditOf(m)
	return a != nil && a.Alarm != nil
}

// TellsNoAlarm tells whether the newest snapshot of a system says that nothing is alarming, so that the others need not be asked.
func TellsNoAlarm(newest *repo.Manifest) bool {
	a := auditOf(newest)
	return a != nil && a.Alarm == nil
}

// String says what happened, and what it means, in one line.
func (a *Alarm) String() string {
	first := a.Doubtful[0]
	which := fmt.Sprintf("snapshot %s", first)
	if n := len(a.Doubtful); n > 1 {
		which = fmt.Sprintf("%d snapshots from %s to %s", n, first, a.Doubtful[n-1])
	}
	page := ""
	if len(a.Pages) > 0 {
		page = ", the first: " + a.Pages[0]
	}
	return fmt.Sprintf("%s changed of which the log did not tell, as snapshot %s found, which holds them: %s may lack such changes%s",
		pagesOf(a.Missed), a.Snapshot, which, page)
}

func pagesOf(n int64) string {
	if n == 1 {
		return "1 page"
	}
	return fmt.Sprintf("%d pages", n)
}

// auditOf returns nil where a snapshot tells nothing of it.
func auditOf(m *repo.Manifest) *pg.Audit {
	f, err := pg.ParseFacts(m.Engine, m.Facts)
	if err != nil {
		return nil
	}
	return f.Audit
}

// audited says what was read and compared, and what earlier snapshots found that matters still.
func (s *snapshot) audited(ctx context.Context) (*pg.Audit, error) {
	r := s.report
	a := &pg.Audit{
		FullScan: r.FullScan, Unread: r.Unread, Compared: r.Compared, NotCompared: r.NotCompared,
		Missed: s.missed.count, Pages: s.missed.names(maxMissed),
	}
	var before *pg.Alarm
	if s.latest != nil {
		if b := auditOf(s.latest); b != nil {
			before = b.Alarm
		}
	}
	switch {
	case s.missed.count > 0:
		var err error
		a.Alarm, err = s.alarm(ctx, before)
		return a, err
	case r.FullScan == askedFor && r.NotCompared == "":
		return a, nil // somebody has looked, and there is nothing more
	}
	a.Alarm = before
	return a, nil
}

// alarm says what was found now, and earlier.
func (s *snapshot) alarm(ctx context.Context, before *pg.Alarm) (*pg.Alarm, error) {
	a := &pg.Alarm{Snapshot: string(s.w.ID()), Found: s.w.Started(), Missed: s.missed.count, Pages: s.missed.names(maxAlarmPages)}
	if before != nil {
		a.Since, a.Missed = before.Since, a.Missed+before.Missed
		a.Pages = append(a.Pages, before.Pages[:min(len(before.Pages), maxAlarmPages-len(a.Pages))]...)
		return a, nil
	}
	list, err := s.repo.Snapshots(ctx, s.cfg.System)
	if err != nil {
		return nil, err
	}
	a.Since = lastRead(list)
	return a, nil
}

// lastRead returns when the last snapshot that had read everything was begun; zero where there is none.
func lastRead(list []repo.Listed) time.Time {
	for _, l := range slices.Backward(list) {
		if l.Manifest == nil {
			continue
		}
		if a := auditOf(l.Manifest); a != nil && a.FullScan != "" {
			return l.Manifest.Started
		}
	}
	return time.Time{}
}
