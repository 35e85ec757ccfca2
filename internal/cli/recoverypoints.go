package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/repo"
	"github.com/holdfast-dr/holdfast/internal/restore/points"
	"github.com/holdfast-dr/holdfast/internal/verify"
	"github.com/holdfast-dr/holdfast/internal/workspace"
)

// recoverable is what recovery-points prints.
type recoverable struct {
	System string        `json:"system"`
	Newest time.Time     `json:"newest,omitzero"` // the newest moment that can be recovered
	Ranges []provenRange `json:"ranges"`
	Unread []string      `json:"unread,omitempty"`
	broken int
}

// provenRange is a range with the newest restore test that passed of all that this host knows of its snapshot, the deepest of
// them; nil: there is none.
type provenRange struct {
	points.Range
	Proven *verify.Summary `json:"proven,omitempty"`
}

// prove finds the tests of the ranges.
func (a *app) prove(w *workspace.Workspace, v *points.View, ranges []points.Range) []provenRange {
	tests, err := verify.Tests(w.SystemPath(v.System))
	if err != nil {
		a.logger().Warn("which recovery points are proven is not known", dr.KeyError, err)
	}
	moments := map[repo.SnapshotID]repo.SnapshotID{}
	for _, s := range v.Snapshots {
		moments[s.Manifest.ID] = s.Manifest.Moment()
	}
	var out []provenRange
	for _, rg := range ranges {
		proven := verify.Deepest(tests, func(s verify.Summary) bool { return s.Moment == moments[rg.Snapshot] })
		out = append(out, provenRange{Range: rg, Proven: proven})
	}
	return out
}

func newRecoveryPointsCommand(a *app) *cobra.Command {
	var glass breakGlass
	c := &cobra.Command{
		Use:   "recovery-points SYSTEM",
		Short: "Show which moments can be recovered",
		Long: `Shows, for every snapshot and timeline, from where to where it can be recovered: from the moment at which it is
consistent to the end of the unbroken log. What interrupts the log is named. Nothing is assumed: the log is what
the repository lists, and its end is compared with the high-water mark that the writer signed. What was in flight to this
replica when whoever wrote it was lost is told apart from what is missing. PROVEN is the
deepest restore test that the snapshot has passed on this host, and when: see holdfast verify.

Exit code 3 means that something is missing: a gap, a log that ends below its mark, an unreadable snapshot.`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return a.recoveryPoints(c.Context(), &glass, args[0])
		},
	}
	glass.addFlags(c)
	return c
}

func (a *app) recoveryPoints(ctx context.Context, glass *breakGlass, system string) error {
	w, err := a.workspace(glass)
	if err != nil {
		return err
	}
	defer w.Close() //nolint:errcheck // only read
	r, err := a.repositoryOf(ctx, w, system)
	if err != nil {
		return err
	}
	v, err := points.Load(ctx, r, system)
	if err != nil {
		return err
	}
	out := recoverable{System: system}
	ranges, err := v.Ranges(ctx)
	if err != nil {
		return err
	}
	out.Ranges = a.prove(w, v, ranges)
	for _, e := range v.Unread {
		out.Unread = append(out.Unread, e.Error())
	}
	for _, rg := range out.Ranges {
		if rg.Usable && rg.ToTime.After(out.Newest) {
			out.Newest = rg.ToTime
		}
		if !rg.Complete() {
			out.broken++
		}
	}
	if err := a.emit(out); err != nil {
		return err
	}
	if n := out.broken + len(out.Unread); n > 0 {
		return missed(dr.Fail("recovery-points "+system, fmt.Errorf("%w: %s", errIncomplete, count(n, "range")), "the ranges above can be recovered all the same"))
	}
	return nil
}

var errIncomplete = errors.New("a gap, a lost end or an unreadable snapshot")

func (r recoverable) writeText(w io.Writer) error {
	var rows [][]string
	for _, rg := range r.Ranges {
		note := ""
		switch {
		case !rg.Usable:
			note = "NOT USABLE: the log does not reach the consistent point"
		case rg.Complete() && rg.Gap != nil:
			note = "the rest was in flight: " + rg.Gap.Flight.String()
		case rg.Gap != nil:
			note = "ends at a gap: " + rg.Gap.String()
		case !rg.Complete():
			note = fmt.Sprintf("LOST: the log once reached %s", rg.Mark)
		}
		rows = append(rows, []string{
			string(rg.Snapshot), fmt.Sprint(rg.Timeline), stamp(rg.FromTime), stamp(rg.ToTime), rg.From.String(), rg.To.String(), provenBy(rg.Proven), note,
		})
	}
	if err := table(w, []string{"SNAPSHOT", "TIMELINE", "FROM (UTC)", "TO (UTC)", "FROM LSN", "TO LSN", "PROVEN", ""}, rows); err != nil {
		return err
	}
	for _, u := range r.Unread {
		fmt.Fprintln(w, "UNREADABLE:", u)
	}
	if !r.Newest.IsZero() {
		fmt.Fprintf(w, "the newest moment of %s that can be recovered is %s\n", r.System, stamp(r.Newest))
	}
	return nil
}

// provenBy says how deep and when, in a cell of a table.
func provenBy(t *verify.Summary) string {
	if t == nil {
		return "-"
	}
	depth := string(t.Proven)
	if t.Sample > 0 {
		depth += fmt.Sprintf(" (%.3g%%)", t.Sample*100)
	}
	return fmt.Sprintf("%s %s", depth, t.Finished.UTC().Format("2006-01-02 15:04"))
}

func stamp(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.UTC().Format("2006-01-02 15:04:05.000")
}
