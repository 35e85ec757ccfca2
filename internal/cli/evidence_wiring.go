package cli

import (
	"context"
	"fmt"
	"time"

	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/evidence"
	"github.com/holdfast-dr/holdfast/internal/standby"
	"github.com/holdfast-dr/holdfast/internal/workspace"
)

// recordFor is how long a repository is waited for that shall take the record of a promotion: the server takes writes already.
const recordFor = 20 * time.Second

// recordPromotion records that a standby was made a primary, or was not.
func (a *app) recordPromotion(ctx context.Context, system string, p standby.Promotion, done *standby.Promoted, began time.Time, err error) {
	ctx, stop := context.WithTimeout(context.WithoutCancel(ctx), recordFor)
	defer stop()
	w, openErr := a.workspace(nil)
	if openErr != nil {
		return // it has said so
	}
	defer w.Close() //nolint:errcheck // what was written is durable
	s, openErr := w.Anywhere(ctx, system)
	if openErr != nil {
		a.logger().Error("there is no evidence of the promotion: the repository cannot be opened", dr.KeyError, openErr)
		return
	}
	w.Record(ctx, s.Repo, promotion(s, p, done, began, err))
}

func promotion(s workspace.System, p standby.Promotion, done *standby.Promoted, began time.Time, err error) evidence.Statement {
	st := evidence.Statement{
		Kind: evidence.Promotion, System: string(s.Name), Outcome: evidence.Succeeded, Started: began, Subjects: []evidence.Subject{workspace.SystemSubject(s.Repo, string(s.Name))},
		NotCovered: []string{"that the old primary cannot come back: to fence it is a person's part", "that what the standby holds is what the source held: the two were not compared"},
	}
	if p.AcceptLoss {
		st.Facts = append(st.Facts, evidence.Fact{Name: "loss accepted", Text: "a person allowed the promotion although log is missing, or the repository does not answer"})
	}
	if p.BesidePrimary {
		st.Facts = append(st.Facts, evidence.Fact{Name: "beside the primary", Text: "a person allowed the promotion although the source accepts writes"})
	}
	if err != nil || done == nil {
		st.Outcome, st.Reason = evidence.Failed, fmt.Sprint(err)
		return st
	}
	st.Facts = append(st.Facts, evidence.Fact{Name: "directory", Text: done.Directory}, evidence.Fact{Name: "replayed to", Text: fmt.Sprintf("%s, on timeline %d", done.Replayed, done.Timeline)},
		evidence.Fact{Name: "newest commit", Text: done.NewestCommit.UTC().Format(time.RFC3339Nano)})
	st.Figures = []evidence.Figure{{Name: "rto", Value: done.RTO.Seconds(), Unit: "s"}}
	for _, ph := range done.Phases {
		st.Phases = append(st.Phases, evidence.Phase{Name: ph.Name, Seconds: ph.Took.Seconds()})
	}
	st.Covered = []string{"the server was promoted, and has written"}
	if done.Missing != "" {
		st.Outcome, st.Reason = evidence.Partial, "known to be missing: "+done.Missing
	} else {
		st.Covered = append(st.Covered, "nothing is missing that the repository is known to have held")
	}
	return st
}

// evidence looks whether what was done here is recorded where it cannot be lost with this host.
func (e *examination) evidence(w *workspace.Workspace, s workspace.System) {
	if _, err := w.Recorder(); err != nil {
		e.warn("nothing that is done here leaves evidence", err.Error(), dr.Advice(err))
		return
	}
	waits, err := evidence.AllWaiting(w.Config.Agent.State)
	n := 0
	for _, x := range waits {
		if x.Repository == s.Repo.ID() {
			n++
		}
	}
	switch {
	case err != nil:
		e.warn("evidence that waits on this host cannot be read", err.Error(), dr.Advice(err))
	case n > 0:
		e.warn(count(n, "record")+" of evidence would be lost with this host", "the repository did not take them; the oldest is of "+waits[0].Signed.UTC().Format(time.DateTime)+" UTC", "holdfast evidence deliver")
	default:
		e.ok("all evidence of what was done here is in the repository")
	}
}

// tellWaiting warns of evidence that no replica has.
func (a *app) tellWaiting(w *workspace.Workspace) {
	if waits, err := evidence.AllWaiting(w.Config.Agent.State); len(waits) > 0 || err != nil {
		a.logger().Warn("evidence of what was done waits on this host", "records", len(waits), dr.KeyError, err, dr.KeyNext, "holdfast evidence deliver")
	}
}
