package workspace

import (
	"context"
	"strings"
	"time"

	"github.com/holdfast-dr/holdfast/internal/repo"
)

// Retention says whether Retain does what it finds.
type Retention bool

// The ways to run Retain.
const (
	Apply  Retention = true
	DryRun Retention = false
)

// Retained says what the policy makes of a system's snapshots.
type Retained struct {
	System    string            `json:"system"`
	Kept      []KeptSnapshot    `json:"kept"`
	Forgotten []repo.SnapshotID `json:"forgotten"` // or to be forgotten, in a dry run
}

// KeptSnapshot is one that stays, and why.
type KeptSnapshot struct {
	ID  repo.SnapshotID `json:"id"`
	Why string          `json:"why"` // "last, daily"; "unreadable": nobody decides about what he cannot read
}

// Retain forgets the snapshots of a system that its policy does not keep. The newest is always kept, and so is
// one that cannot be read. The space comes back with a collection.
func (w *Workspace) Retain(ctx context.Context, s System, how Retention) (out Retained, err error) {
	began, gone := time.Now(), []repo.Listed{}
	defer func() {
		if len(gone) > 0 {
			w.RecordForgotten(ctx, s.Repo, string(s.Name), gone, "no rule of its policy keeps it, or another one is of the same moment", began, err)
		}
	}()
	out = Retained{System: string(s.Name), Kept: []KeptSnapshot{}, Forgotten: []repo.SnapshotID{}}
	list, err := s.Repo.Snapshots(ctx, string(s.Name))
	if err != nil {
		return out, err
	}
	var all, readable []*repo.Manifest
	for _, l := range list {
		if l.Err != nil {
			out.Kept = append(out.Kept, KeptSnapshot{l.ID, "unreadable"})
			continue
		}
		all = append(all, l.Manifest)
	}
	// Where an optimization was interrupted there are two of one moment. They count once, and the older one goes.
	superseded := repo.Superseded(all)
	var taken []time.Time
	for _, m := range all {
		if _, ok := superseded[m.ID]; !ok {
			readable, taken = append(readable, m), append(taken, m.Started)
			continue
		}
		if how == Apply {
			if err := s.Repo.Forget(ctx, string(s.Name), m.ID); err != nil {
				return out, err
			}
			gone = append(gone, repo.Listed{ID: m.ID, Manifest: m})
		}
		out.Forgotten = append(out.Forgotten, m.ID)
	}
	for i, reasons := range s.Policy.Retention.Select(taken) {
		id := readable[i].ID
		if len(reasons) > 0 {
			out.Kept = append(out.Kept, KeptSnapshot{id, strings.Join(reasons, ", ")})
			continue
		}
		if how == Apply {
			if err := s.Repo.Forget(ctx, string(s.Name), id); err != nil {
				return out, err
			}
			gone = append(gone, repo.Listed{ID: id, Manifest: readable[i]})
		}
		out.Forgotten = append(out.Forgotten, id)
	}
	return out, nil
}
