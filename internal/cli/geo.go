package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/geo"
	"github.com/holdfast-dr/holdfast/internal/workspace"
)

func newGeoCommand(a *app) *cobra.Command {
	return group("geo", "Keep copies of a repository at several sites", newGeoStatusCommand(a), newGeoCopyCommand(a), newGeoPlacesCommand(a))
}

func newGeoStatusCommand(a *app) *cobra.Command {
	var site string
	c := &cobra.Command{
		Use:   "status [SYSTEM …]",
		Short: "Show what each site holds of each system",
		Long: `Reads every replica and shows, for each system and site, its newest recovery point, how far that is behind the newest of
all sites, and how many snapshots and objects of the log are to be copied there. Where parts of the log came before what they follow, and that
never came, it says what cannot be used, and up to where other sites had acknowledged the log. Exit code 3 means that a site cannot be read, or holds nothing. A
site that does not answer is waited for 20 seconds, and the others are shown all the same.`,
		RunE: func(c *cobra.Command, args []string) error { return a.geoStatus(c.Context(), site, args) },
	}
	addSite(c, &site)
	return c
}

// addSite adds the flag that chooses a replica.
func addSite(c *cobra.Command, site *string) {
	c.Flags().StringVar(site, "site", "", "work with the replica at this `site`, instead of the repository's first")
}

// eachSystem opens the repository at a site of each system, or of all where none is named, and calls fn.
func (a *app) eachSystem(ctx context.Context, site string, systems []string, fn func(*workspace.Workspace, workspace.System) error) error {
	w, err := a.workspace(nil)
	if err != nil {
		return err
	}
	defer w.Close() //nolint:errcheck // what was written is durable
	w.Site = site
	if len(systems) == 0 {
		systems = w.Config.SystemNames()
	}
	for _, name := range systems {
		s, err := w.System(ctx, name)
		if err == nil {
			err = fn(w, s)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

type replicaStatuses []workspace.ReplicaStatus

func (l replicaStatuses) writeText(w io.Writer) error {
	var rows [][]string
	for _, s := range l {
		lag, missing := "-", fmt.Sprint(s.Missing)
		if !s.Point.IsZero() {
			lag = s.Lag.Round(100 * time.Millisecond).String()
		}
		if s.Missing > 0 {
			missing += " (" + dr.Bytes(s.Bytes).String() + ")"
		}
		if s.Log > 0 {
			missing += fmt.Sprintf(" and %d of log (%s)", s.Log, dr.Bytes(s.LogBytes))
		}
		rows = append(rows, []string{s.System, s.Site, fmt.Sprint(s.Snapshots), string(s.Newest), stamp(s.Point), lag, missing, s.Problem})
	}
	if err := table(w, []string{"SYSTEM", "SITE", "SNAPSHOTS", "NEWEST", "RECOVERABLE TO (UTC)", "LAG", "TO COPY", "PROBLEM"}, rows); err != nil {
		return err
	}
	for _, s := range l {
		if s.Gap != nil {
			fmt.Fprintf(w, "%s at site %s: %s\n", s.System, s.Site, s.Gap.Ends())
		}
	}
	return nil
}

func (a *app) geoStatus(ctx context.Context, site string, systems []string) error {
	out, bad := replicaStatuses{}, 0
	w, err := a.workspace(nil)
	if err != nil {
		return err
	}
	if len(systems) == 0 {
		systems = w.Config.SystemNames()
	}
	for _, name := range systems {
		all, err := a.replicasOf(ctx, site, name)
		if err != nil {
			return err
		}
		for _, st := range all {
			if st.Problem != "" {
				bad++
			}
		}
		out = append(out, all...)
	}
	if err := a.emit(out); err != nil {
		return err
	}
	if bad > 0 {
		return missed(dr.Fail("geo status", errors.New(count(bad, "replica")+" cannot be recovered from as it should"), "holdfast geo copy brings what is missing"))
	}
	return nil
}

// replicasOf asks all sites of a system, each of which may be gone.
func (a *app) replicasOf(ctx context.Context, site, system string) ([]workspace.ReplicaStatus, error) {
	w, err := a.workspace(nil)
	if err != nil {
		return nil, err
	}
	defer w.Close() //nolint:errcheck // only read
	w.Site = site
	s, err := w.Anywhere(ctx, system)
	if err != nil {
		return nil, err
	}
	return w.Replicas(ctx, s)
}

// geoCopy copies.
type geoCopy struct {
	app  *app
	site string
	to   string
	why  string
}

func newGeoCopyCommand(a *app) *cobra.Command {
	g := &geoCopy{app: a}
	c := &cobra.Command{
		Use:   "copy [SYSTEM …]",
		Short: "Copy what other sites lack of systems",
		Long: `Copies snapshots that the policy keeps, the newest first, and the log that they need, from the repository's first replica
(or from that at --site) to all others at which the system's data may be, or to the one at --to. A place that is empty becomes a
replica. What is copied is verified, and a replica never lists a snapshot of which anything is missing. It is safe beside
everything, and may be interrupted at any time: it goes on where it was. Nothing is deleted anywhere: each replica has its own
retention (holdfast repo prune --site).

A site at which the system's data may not be is refused, but for --override-residency with a reason, which is recorded with who gave it:
holdfast geo places shows it for ever. Packs hold data of all systems of a residency group: what they have in common goes along.`,
		Example: "  holdfast geo copy\n  holdfast geo copy orders-db --to zurich",
		RunE:    func(c *cobra.Command, args []string) error { return g.run(c.Context(), args) },
	}
	addSite(c, &g.site)
	c.Flags().StringVar(&g.to, "to", "", "copy to this `site` only")
	c.Flags().StringVar(&g.why, "override-residency", "", "copy to --to although the system's data may not be there, for this `reason`")
	return c
}

// siteCopy is what was copied of a system to a site.
type siteCopy struct {
	System string `json:"system"`
	Site   string `json:"site"`
	geo.Report
}

type siteCopies []siteCopy

func (l siteCopies) writeText(w io.Writer) error {
	for _, c := range l {
		fmt.Fprintf(w, "%s to %s: %s, %s of log, %s\n", c.System, c.Site, count(len(c.Snapshots), "snapshot"), count(c.Extents, "object"), dr.Bytes(c.Bytes))
		for _, id := range c.Refused {
			fmt.Fprintf(w, "  not copied, since it was forgotten there: %s\n", id)
		}
	}
	if len(l) == 0 {
		_, err := fmt.Fprintln(w, "there is no other site to copy to")
		return err
	}
	return nil
}

func (g *geoCopy) run(ctx context.Context, systems []string) error {
	if g.why != "" && (g.to == "" || len(systems) == 0) {
		return usage(errors.New("--override-residency goes with the systems and the --to that it is for"))
	}
	out, failed := siteCopies{}, []error(nil)
	err := g.app.eachSystem(ctx, g.site, systems, func(w *workspace.Workspace, s workspace.System) error {
		sites := []string{g.to}
		if g.to == "" {
			sites = sites[:0]
			for _, rep := range w.Others(s) {
				sites = append(sites, rep.Site)
			}
		}
		for _, site := range sites {
			report, err := g.copy(ctx, w, s, site)
			if err != nil {
				failed = append(failed, fmt.Errorf("copy %s to site %s: %w", s.Name, site, err))
			}
			if err == nil || len(report.Snapshots)+report.Extents > 0 {
				out = append(out, siteCopy{string(s.Name), site, report})
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	return errors.Join(g.app.emit(out), errors.Join(failed...))
}

func (g *geoCopy) copy(ctx context.Context, w *workspace.Workspace, s workspace.System, site string) (geo.Report, error) {
	r, err := w.Replica(ctx, s, site, g.why)
	if err != nil {
		return geo.Report{}, err
	}
	defer r.Close()
	progress, stop := g.app.progress()
	defer stop()
	return r.Copy(ctx, progress)
}
