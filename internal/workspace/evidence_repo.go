package workspace

import (
	"context"
	"fmt"
	"time"

	"github.com/holdfast-dr/holdfast/internal/evidence"
	"github.com/holdfast-dr/holdfast/internal/repo"
)

// Records about a repository as a whole are at all of its sites, and name no system.

func wholeRepository(kind evidence.Kind, r *repo.Repository, began time.Time, err error) evidence.Statement {
	st := evidence.Statement{
		Kind: kind, Outcome: evidence.Succeeded, Started: began, Subjects: []evidence.Subject{repositorySubject(r)},
		NotCovered: []string{"replicas at other sites"},
	}
	if err != nil {
		failed(&st, err)
	}
	return st
}

// RecordCollection records what a collection has removed, or that it failed. One that has done nothing is no record.
func (w *Workspace) RecordCollection(ctx context.Context, r *repo.Repository, c *repo.CollectReport, began time.Time, err error) {
	if err == nil && (c == nil || c.RemovedPacks == 0 && len(c.Aborted) == 0 && c.CopiedBytes == 0) {
		return
	}
	st := wholeRepository(evidence.Collect, r, began, err)
	if c != nil {
		st.Facts = []evidence.Fact{{Name: "collection", Text: fmt.Sprint(c.Number)}}
		st.Figures = []evidence.Figure{
			counted("snapshots", c.Snapshots), counted("packs", c.Packs), counted("packs removed", c.RemovedPacks), bytesOf("removed", c.RemovedBytes),
			bytesOf("copied into new packs", c.CopiedBytes), counted("writers given up", len(c.Aborted)),
		}
		if err == nil {
			st.Covered = []string{fmt.Sprintf("%d snapshots were walked through, and need nothing of what was removed", c.Snapshots)}
		}
		if n := len(c.Problems); n > 0 && err == nil {
			st.Outcome, st.Reason = evidence.Partial, fmt.Sprintf("%d packs could not be read, and were left", n)
		}
	}
	st.NotCovered = append(st.NotCovered, "the bytes of what stays: a check reads them")
	w.Record(ctx, r, st)
}

// RecordCheck records what a check has looked at, and found.
func (w *Workspace) RecordCheck(ctx context.Context, r *repo.Repository, c *repo.CheckReport, began time.Time, err error) {
	st := wholeRepository(evidence.Check, r, began, err)
	if c != nil {
		st.Figures = []evidence.Figure{
			counted("systems", c.Systems), counted("snapshots", c.Snapshots), counted("packs", c.Packs), counted("packs read", c.PacksRead),
			counted("parts of logs", c.LogExtents), counted("parts of logs read", c.ExtentsRead), bytesOf("read", c.ReadBytes), counted("problems", len(c.Problems)),
		}
		if err == nil {
			st.Covered = []string{"the keys, the index, and the signature and tree of every snapshot"}
		}
		if n := c.PacksRead + c.ExtentsRead; err == nil && n > 0 {
			st.Covered = append(st.Covered, fmt.Sprintf("every byte of %d of %d packs, and of %d of %d parts of logs", c.PacksRead, c.Packs, c.ExtentsRead, c.LogExtents))
		}
		if unread := c.Packs - c.PacksRead + c.LogExtents - c.ExtentsRead; unread > 0 {
			st.NotCovered = append(st.NotCovered, fmt.Sprintf("the bytes of %d packs and %d parts of logs, which were not read this time", c.Packs-c.PacksRead, c.LogExtents-c.ExtentsRead))
		}
		if n := len(c.Problems); n > 0 && err == nil {
			st.Outcome, st.Reason = evidence.Partial, fmt.Sprintf("%d objects are not as they were stored, the first is %s: %s", n, c.Problems[0].Object, c.Problems[0].Reason)
		}
	}
	st.NotCovered = append(st.NotCovered, "that a server starts from any of it")
	w.Record(ctx, r, st)
}

// RecordRepair records what was put back, or made anew. healed and index may be nil.
func (w *Workspace) RecordRepair(ctx context.Context, r *repo.Repository, healed *repo.HealReport, index *repo.RepairReport, collection *repo.CollectReport, began time.Time, err error) {
	st := wholeRepository(evidence.Repair, r, began, err)
	done := collection != nil
	if healed != nil {
		done = done || len(healed.Healed)+len(healed.Left) > 0
		st.Figures = append(st.Figures, counted("objects put back", len(healed.Healed)), counted("objects left as they are", len(healed.Left)))
		for _, name := range healed.Healed {
			st.Facts = append(st.Facts, evidence.Fact{Name: "put back", Text: name})
		}
		st.Covered = append(st.Covered, "what was put back proved to be what was stored under its name")
		if n := len(healed.Left); n > 0 && err == nil {
			st.Outcome, st.Reason = evidence.Partial, fmt.Sprintf("%d objects could not be put back", n)
		}
	}
	if index != nil {
		done = done || len(index.Objects) > 0
		st.Figures = append(st.Figures, counted("index objects made anew", len(index.Objects)), counted("packs no longer named", len(index.Dropped)))
	}
	if collection != nil {
		st.Facts = append(st.Facts, evidence.Fact{Name: "collection that took the place of a damaged one", Text: fmt.Sprint(collection.Number)})
	}
	if done || err != nil {
		w.Record(ctx, r, st)
	}
}

// RecordLock records that the retention of a replica's objects was renewed. One that was not due is no record.
func (w *Workspace) RecordLock(ctx context.Context, r *repo.Repository, site string, l *repo.LockReport, began time.Time, err error) {
	if l == nil || !l.Due {
		return
	}
	st := wholeRepository(evidence.Lock, r, began, err)
	st.Site = site
	st.Figures = []evidence.Figure{counted("objects", l.Objects), counted("renewed", l.Renewed)}
	if err == nil {
		st.Facts = []evidence.Fact{{Name: "retained until", Text: l.Until.UTC().Format(time.RFC3339)}}
		st.Covered = []string{"the store has accepted the retention of each object"}
		if n := len(l.Hidden) + len(l.Doubted); n > 0 {
			st.Outcome, st.Reason = evidence.Partial, fmt.Sprintf("%d objects are hidden by somebody, and of %d no version is what was stored", len(l.Hidden), len(l.Doubted))
		}
	}
	st.NotCovered = append(st.NotCovered, "whether the store keeps its promise")
	w.Record(ctx, r, st)
}

// RecordKeys records that it was changed who can open the repository.
func (w *Workspace) RecordKeys(ctx context.Context, r *repo.Repository, what string, names []string, began time.Time, err error) {
	st := wholeRepository(evidence.Keys, r, began, err)
	st.Facts = []evidence.Fact{{Name: "change", Text: what}}
	for _, n := range names {
		st.Facts = append(st.Facts, evidence.Fact{Name: "can open it now", Text: n})
	}
	st.NotCovered = append(st.NotCovered, "copies of old keys: what was stored before stays readable with them")
	w.Record(ctx, r, st)
}
