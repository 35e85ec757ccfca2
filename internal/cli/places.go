package cli

import (
	"cmp"
	"context"
	"io"

	"github.com/spf13/cobra"

	"github.com/holdfast-dr/holdfast/internal/repo"
	"github.com/holdfast-dr/holdfast/internal/workspace"
)

func newGeoPlacesCommand(a *app) *cobra.Command {
	var site string
	c := &cobra.Command{
		Use:   "places [SYSTEM …]",
		Short: "Show where the data of systems has ever been",
		Long: `Shows the records that are signed and kept in the repository before a system's data comes to another site: since when, who brought
it there, and why where the configuration forbids it (holdfast geo copy --override-residency). The replica that is asked
knows what was copied from it or to it.`,
		RunE: func(c *cobra.Command, args []string) error { return a.geoPlaces(c.Context(), site, args) },
	}
	addSite(c, &site)
	return c
}

type places []repo.Place

func (l places) writeText(w io.Writer) error {
	var rows [][]string
	for _, p := range l {
		rows = append(rows, []string{p.System, p.Site, cmp.Or(p.Jurisdiction, "-"), stamp(p.Since), p.Location, p.User + " on " + p.Host, cmp.Or(p.Override, "-")})
	}
	return table(w, []string{"SYSTEM", "SITE", "JURISDICTION", "SINCE (UTC)", "LOCATION", "BROUGHT BY", "AGAINST THE RULES, BECAUSE"}, rows)
}

func (a *app) geoPlaces(ctx context.Context, site string, systems []string) error {
	out := places{}
	err := a.eachSystem(ctx, site, systems, func(_ *workspace.Workspace, s workspace.System) error {
		all, err := s.Repo.Places(ctx, string(s.Name))
		out = append(out, all...)
		return err
	})
	if err != nil {
		return err
	}
	return a.emit(out)
}
