package cli

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/holdfast-dr/holdfast/internal/capture"
	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/repo"
	"github.com/holdfast-dr/holdfast/internal/restore/points"
	"github.com/holdfast-dr/holdfast/internal/standby"
	"github.com/holdfast-dr/holdfast/internal/verify"
	"github.com/holdfast-dr/holdfast/internal/workspace"
)

func newStatusCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "status [SYSTEM …]",
		Short: "Show each system's newest snapshot and recovery point against its objectives",
		Long: `Reads the repositories and shows, for each system, its newest snapshot, the newest moment that can be recovered
now, how much would be lost if the disaster were now (the RPO as measured), and the deepest restore test that was passed
on this host, and when. Exit code 3 means that an objective
is missed or something cannot be recovered.`,
		RunE: func(c *cobra.Command, args []string) error { return a.status(c.Context(), args) },
	}
}

// systemStatus is what status says of one system.
type systemStatus struct {
	System    string          `json:"system"`
	Snapshots int             `json:"snapshots"`
	Newest    repo.SnapshotID `json:"newestSnapshot,omitempty"`
	Taken     time.Time       `json:"newestSnapshotTime,omitzero"`
	Point     time.Time       `json:"newestRecoveryPoint,omitzero"`
	RPO       time.Duration   `json:"rpoNs"` // what would be lost now
	Objective time.Duration   `json:"rpoObjectiveNs,omitempty"`
	Problem   string          `json:"problem,omitempty"`
	Standby   *standby.Status `json:"standby,omitempty"` // on this host
	Scrubs    scrubs          `json:"scrubs,omitempty"`  // of the replicas that this host has read over and over
	// Test is the last restore test on this host, and Proven the deepest and then newest one that passed.
	Test   *verify.Summary `json:"lastRestoreTest,omitempty"`
	Proven *verify.Summary `json:"proven,omitempty"`
}

// tests reads what this host knows of restore tests.
func (s *systemStatus) tests(w *workspace.Workspace) {
	all, err := verify.Tests(w.SystemPath(s.System))
	if err != nil || len(all) == 0 {
		return
	}
	s.Test = &all[len(all)-1]
	s.Proven = verify.Deepest(all, nil)
	if s.Problem == "" && s.Test.Outcome == verify.Failed {
		s.Problem = "the last restore test failed: " + s.Test.First
	}
}

type statuses []systemStatus

func (l statuses) writeText(w io.Writer) error {
	var rows [][]string
	for _, s := range l {
		rpo, objective := "-", "-"
		if !s.Point.IsZero() {
			rpo = s.RPO.Round(100 * time.Millisecond).String()
		}
		if s.Objective > 0 {
			objective = s.Objective.String()
		}
		rows = append(rows, []string{s.System, fmt.Sprint(s.Snapshots), string(s.Newest), stamp(s.Point), rpo, objective, provenBy(s.Proven), s.Problem})
	}
	if err := table(w, []string{"SYSTEM", "SNAPSHOTS", "NEWEST", "RECOVERABLE TO (UTC)", "RPO NOW", "OBJECTIVE", "PROVEN", "PROBLEM"}, rows); err != nil {
		return err
	}
	told := map[string]bool{}
	for _, s := range l {
		for _, x := range s.Scrubs {
			if where := x.Repository + " at " + x.Site; !told[where] {
				told[where] = true
				fmt.Fprintf(w, "%s: %s of the bytes were read again within %s, %s are younger; oldest: %s\n", where, shareOf(x.Verified, x.Bytes), days(x.Window), shareOf(x.Young, x.Bytes), oldestOf(x.Statement))
			}
		}
		if t := s.Proven; t != nil && t.RTO > 0 {
			fmt.Fprintf(w, "%s was recovered in %s by %s, in the restore test of %s\n", s.System, round(t.RTO), t.Way, stamp(t.Finished))
		}
		if st := s.Standby; st != nil {
			fmt.Fprintf(w, "the standby of %s in %s is %s, %s and %s behind the repository\n", s.System, st.Directory, st.Phase, st.Lag.Round(time.Millisecond), st.LagBytes)
		}
	}
	return nil
}

func (a *app) status(ctx context.Context, systems []string) error {
	w, err := a.workspace(nil)
	if err != nil {
		return err
	}
	defer w.Close() //nolint:errcheck // only read
	if len(systems) == 0 {
		systems = w.Config.SystemNames()
	}
	out, bad := make(statuses, len(systems)), 0
	var eg errgroup.Group
	eg.SetLimit(statusAtOnce)
	for i, name := range systems {
		eg.Go(func() error {
			s, err := w.System(ctx, name)
			if err == nil {
				out[i], err = statusOf(ctx, s, time.Now())
			}
			if err == nil {
				out[i].scrubbed(w, s)
			}
			out[i].tests(w)
			if warm, ok, askErr := standby.Ask(ctx, w, name); askErr == nil && ok && warm.Phase != standby.PhasePromoted {
				out[i].Standby = &warm
			}
			return err
		})
	}
	if err := eg.Wait(); err != nil {
		return err
	}
	for _, st := range out {
		if st.Problem != "" {
			bad++
		}
	}
	if err := a.emit(out); err != nil {
		return err
	}
	a.tellWaiting(w)
	if bad > 0 {
		return missed(dr.Fail("status", fmt.Errorf("%s of %d has a problem", count(bad, "system"), len(out)), "holdfast doctor says what to do"))
	}
	return nil
}

// statusAtOnce is how many systems are looked at at once: their stores may be far away.
const statusAtOnce = 128

func statusOf(ctx context.Context, s workspace.System, now time.Time) (systemStatus, error) {
	out := systemStatus{System: string(s.Name), Objective: s.Policy.Objectives.RPO}
	v, err := workspace.Newest(ctx, s.Repo, out.System)
	if err != nil {
		return out, err
	}
	out.Snapshots = v.Count
	if len(v.Snapshots) == 0 {
		out.Problem = "nothing can be recovered: there is no snapshot"
		return out, nil
	}
	newest := v.Snapshots[len(v.Snapshots)-1].Manifest
	out.Newest, out.Taken = newest.ID, newest.Finished
	plan, err := v.Plan(ctx, points.Target{Kind: points.Latest}, points.Timeline{}, points.RefuseLoss)
	if err != nil {
		out.Problem = explain(err).What
		return out, nil
	}
	out.Point = plan.Range.ToTime
	if plan.Range.MarkTime.After(out.Point) && plan.Range.Complete() {
		out.Point = plan.Range.MarkTime // idle since: nothing was committed in between
	}
	out.RPO = max(now.Sub(out.Point), 0)
	alarm := alarmOf(v)
	switch {
	case len(v.Unread) > 0:
		out.Problem = fmt.Sprintf("%s cannot be read", count(len(v.Unread), "snapshot"))
	case alarm != nil:
		out.Problem = alarm.String()
	case out.Objective > 0 && out.RPO > out.Objective:
		out.Problem = "the RPO objective is missed"
	}
	return out, nil
}

// alarmOf returns what the snapshots tell of changes that the log did not; nil where nothing matters.
func alarmOf(v *points.View) *capture.Alarm {
	var list []*repo.Manifest
	for _, s := range v.Snapshots {
		list = append(list, s.Manifest)
	}
	return capture.AlarmOf(list)
}
