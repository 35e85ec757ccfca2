package workspace

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/holdfast-dr/holdfast/internal/capture"
	"github.com/holdfast-dr/holdfast/internal/evidence"
	"github.com/holdfast-dr/holdfast/internal/pg/wal"
	"github.com/holdfast-dr/holdfast/internal/repo"
	"github.com/holdfast-dr/holdfast/internal/restore"
	"github.com/holdfast-dr/holdfast/internal/restore/boot"
	"github.com/holdfast-dr/holdfast/internal/restore/points"
)

// RecordSnapshot records a snapshot that was taken, or that failed.
func (w *Workspace) RecordSnapshot(ctx context.Context, s System, report *capture.SnapshotReport, began time.Time, err error) {
	st := evidence.Statement{Kind: evidence.Snapshot, System: string(s.Name), Outcome: evidence.Succeeded, Started: began, Subjects: []evidence.Subject{SystemSubject(s.Repo, string(s.Name))}}
	if err != nil || report == nil || report.Snapshot == nil {
		if err == nil {
			err = errors.New("there is no report of it")
		}
		failed(&st, err)
		st.NotCovered = []string{"there is no snapshot of this moment"}
		w.Record(ctx, s.Repo, st)
		return
	}
	m := report.Snapshot
	st.Subjects = []evidence.Subject{SnapshotSubject(m)}
	st.Facts = []evidence.Fact{
		{Name: "snapshot", Text: string(m.ID)},
		{Name: "log that it needs", Text: fmt.Sprintf("%s to %s on timeline %d", wal.LSN(m.Log.Start), wal.LSN(m.Log.End), m.Log.Stream)},
	}
	st.Figures = []evidence.Figure{
		bytesOf("size", m.Bytes), counted("files", m.Files), bytesOf("new", m.Written.NewBytes), bytesOf("stored", m.Written.StoredBytes),
		counted("pages read", report.Pages), counted("pages compared", report.Compared), counted("pages not read", report.Unread),
	}
	st.Phases = []evidence.Phase{{Name: "checkpoint", Seconds: report.Checkpoint.Seconds()}, {Name: "copy", Seconds: report.Copy.Seconds()}, {Name: "log", Seconds: report.Log.Seconds()}}
	st.Covered = []string{fmt.Sprintf("the checksums of %d pages that were read", report.Pages), "the log that it needs is in the repository"}
	st.NotCovered = []string{"that a server starts from it: nobody has started one", "replicas at other sites, to which it is copied afterwards"}
	if report.FullScan != "" {
		st.Facts = append(st.Facts, evidence.Fact{Name: "everything was read", Text: report.FullScan})
	} else {
		st.NotCovered = append(st.NotCovered, fmt.Sprintf("%d pages that the log did not name, and that were taken over from the snapshot before without being read", report.Unread-report.Compared))
	}
	if report.NotCompared != "" {
		st.NotCovered = append(st.NotCovered, "whether the log told of every change: "+report.NotCompared)
	}
	switch {
	case len(report.Problems) > 0:
		st.Outcome, st.Reason = evidence.Partial, fmt.Sprintf("%d pages are damaged in the database itself, and are stored as they are; the first is %s", len(report.Problems), report.Problems[0])
	case report.MissedPages > 0:
		st.Outcome, st.Reason = evidence.Partial, fmt.Sprintf("%d pages changed of which the log did not tell: this snapshot has them, earlier ones may lack such changes", report.MissedPages)
	}
	w.Record(ctx, s.Repo, st)
}

// RecordRecovery records what Recover did.
func (w *Workspace) RecordRecovery(ctx context.Context, r *repo.Repository, system string, o RecoverOptions, rec *Recovery, began time.Time, err error) {
	st := w.recovery(r, system, o, rec.manifest, began, err)
	st.Facts = append(st.Facts, evidence.Fact{Name: "directory", Text: o.To})
	st.Phases = phasesOf(rec.Phases)
	if rec.Files != nil {
		st.Figures = append(st.Figures, bytesOf("restored", rec.Files.Bytes), counted("files", rec.Files.Files), bytesOf("kept, since they were right", rec.Files.Kept))
		if rec.Files.Delta != nil && rec.Files.Delta.Compared == "" {
			st.NotCovered = append(st.NotCovered, "files of the directory of which the logs say that they did not change: they were not read")
		}
	}
	if rec.Doubt != "" {
		st.NotCovered = append(st.NotCovered, "the snapshot is doubtful: "+rec.Doubt)
	}
	if f := rec.InFlight; f != nil {
		st.NotCovered = append(st.NotCovered, "log that was in flight to this replica: "+f.String())
	}
	for _, n := range rec.Notes {
		st.Facts = append(st.Facts, evidence.Fact{Name: "note", Text: n})
	}
	if rec.Server == nil {
		st.NotCovered = append(st.NotCovered, "that a server starts in the directory, and recovers to the moment: nobody has started one")
	} else {
		st.Figures = append(st.Figures, tookOf("rto", rec.RTO()))
	}
	reached(&st, rec.Boot)
	w.Record(ctx, r, st)
}

// RecordInstant records what Instantly did: i is nil where it failed.
func (w *Workspace) RecordInstant(ctx context.Context, r *repo.Repository, system string, o RecoverOptions, i *Instant, began time.Time, err error) {
	rec := &Recovery{}
	if i != nil {
		rec = i.Recovery
	}
	st := w.recovery(r, system, o, rec.manifest, began, err)
	st.Facts = append(st.Facts, evidence.Fact{Name: "directory", Text: o.To}, evidence.Fact{Name: "way", Text: "instant: on a mount, whose data comes behind the server's back"})
	if i != nil {
		h := i.Hydration()
		st.Figures = []evidence.Figure{tookOf("rto", time.Since(began)), bytesOf("size", h.Total), bytesOf("fetched by then", h.Done)}
		if !h.Whole {
			st.NotCovered = append(st.NotCovered, "the data that had not been fetched when this was recorded: whether all of it can be read was not known")
		}
		if i.Resumed {
			st.Facts = append(st.Facts, evidence.Fact{Name: "resumed", Text: "it went on with a mount that had been interrupted"})
		}
	}
	if rec.Doubt != "" {
		st.NotCovered = append(st.NotCovered, "the snapshot is doubtful: "+rec.Doubt)
	}
	st.Phases = phasesOf(rec.Phases)
	reached(&st, rec.Boot)
	w.Record(ctx, r, st)
}

// recovery is what statements of recoveries have in common. of is the snapshot; nil where none was chosen.
func (w *Workspace) recovery(r *repo.Repository, system string, o RecoverOptions, of *repo.Manifest, began time.Time, err error) evidence.Statement {
	st := evidence.Statement{
		Kind: evidence.Recovery, System: system, Outcome: evidence.Succeeded, Started: began, Subjects: []evidence.Subject{SystemSubject(r, system)},
		Facts:      []evidence.Fact{{Name: "target", Text: o.Target.String()}},
		NotCovered: []string{"that what was recovered is what the source held: the two were not compared"},
	}
	if of != nil {
		st.Subjects = []evidence.Subject{SnapshotSubject(of)}
		st.Facts = append(st.Facts, evidence.Fact{Name: "snapshot", Text: string(of.ID)})
		st.Covered = []string{"all that was read of the repository proved to be what was stored"}
	}
	if o.Loss == points.AllowLoss {
		st.Facts = append(st.Facts, evidence.Fact{Name: "loss accepted", Text: "a person allowed that the database is opened although log is missing that once was there"})
	}
	var damage *restore.DamageError
	switch {
	case errors.As(err, &damage) && damage.Startable:
		st.Outcome, st.Reason = evidence.Partial, err.Error()
		st.Covered = nil
		st.NotCovered = append(st.NotCovered, "what the repository has lost: it is in the reason")
	case err != nil:
		failed(&st, err)
	}
	return st
}

// reached adds what a server reached.
func reached(st *evidence.Statement, b *boot.Report) {
	if b == nil {
		return
	}
	st.Facts = append(st.Facts, evidence.Fact{Name: "replayed to", Text: fmt.Sprintf("%s, on timeline %d", b.Replayed, b.Timeline)})
	if !b.NewestCommit.IsZero() {
		st.Facts = append(st.Facts, evidence.Fact{Name: "newest commit", Text: b.NewestCommit.UTC().Format(time.RFC3339Nano)})
	}
	if st.Outcome != evidence.Failed {
		st.Figures = append(st.Figures, tookOf("rpo", b.RPO))
		st.Covered = append(st.Covered, "a server replayed the log, and answered")
	}
	st.NotCovered = append(st.NotCovered, "what happened at the source behind the end of the log, at "+b.LogEnd.String())
}

// RecordPart records that a part was brought back: of is the snapshot, and b what the sandbox's server reached, nil where it did not start.
func (w *Workspace) RecordPart(ctx context.Context, r *repo.Repository, system, part string, o RecoverOptions, of *repo.Manifest, b *boot.Report, phases []boot.Phase, began time.Time, err error) {
	st := w.recovery(r, system, o, of, began, err)
	st.Facts = append(st.Facts, evidence.Fact{Name: "part", Text: part})
	st.NotCovered = append(st.NotCovered, "everything but "+part)
	st.Phases = phasesOf(phases)
	reached(&st, b)
	w.Record(ctx, r, st)
}

// RecordForgotten records that snapshots ceased to exist.
func (w *Workspace) RecordForgotten(ctx context.Context, r *repo.Repository, system string, gone []repo.Listed, why string, began time.Time, err error) {
	if len(gone) == 0 && err == nil {
		return
	}
	st := evidence.Statement{
		Kind: evidence.Forget, System: system, Outcome: evidence.Succeeded, Started: began, Figures: []evidence.Figure{counted("snapshots", len(gone))},
		Facts:      []evidence.Fact{{Name: "why", Text: why}},
		NotCovered: []string{"what they held: it is there until a collection finds that nothing needs it", "other replicas, each of which forgets by itself"},
	}
	for _, g := range gone {
		if g.Manifest != nil {
			st.Subjects = append(st.Subjects, SnapshotSubject(g.Manifest))
			continue
		}
		st.Facts = append(st.Facts, evidence.Fact{Name: "could not be read", Text: string(g.ID)})
	}
	if len(st.Subjects) == 0 {
		st.Subjects = []evidence.Subject{SystemSubject(r, system)}
	}
	if err != nil {
		failed(&st, err)
		if len(gone) > 0 {
			st.Outcome = evidence.Partial
		}
	}
	w.Record(ctx, r, st)
}

// recordLog records that parts of a system's log were removed.
func (w *Workspace) recordLog(ctx context.Context, s System, objects int, bytes int64, floors map[repo.StreamID]uint64, began time.Time) {
	st := evidence.Statement{
		Kind: evidence.RemoveLog, System: string(s.Name), Outcome: evidence.Succeeded, Started: began, Subjects: []evidence.Subject{SystemSubject(s.Repo, string(s.Name))},
		Figures:    []evidence.Figure{counted("objects", objects), bytesOf("removed", bytes)},
		Covered:    []string{"no snapshot of this replica needs what was removed"},
		NotCovered: []string{"other replicas, each of which removes by itself"},
	}
	for stream, floor := range floors {
		from := wal.LSN(floor).String()
		if floor == math.MaxUint64 {
			from = "its end: no snapshot needs anything of it"
		}
		st.Facts = append(st.Facts, evidence.Fact{Name: fmt.Sprintf("timeline %d is kept from", stream), Text: from})
	}
	w.Record(ctx, s.Repo, st)
}
