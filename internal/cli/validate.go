package cli

import (
	"fmt"
	"io"
	"maps"
	"slices"

	"github.com/spf13/cobra"
)

// validated is what `holdfast validate` found in a configuration without mistakes.
type validated struct {
	File         string   `json:"file"`
	Systems      []string `json:"systems"`
	Repositories []string `json:"repositories"`
	Policies     []string `json:"policies"`
	Sites        []string `json:"sites"`
}

func newValidateCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "validate",
		Short: "Check the configuration, and tell every mistake with its line",
		Long: `Reads the configuration strictly: unknown keys, wrong values and names that refer to nothing are mistakes,
and all of them are told in one run. Nothing is opened or connected to. Exit code 2 means mistakes.`,
		Example: "  holdfast validate --config /etc/holdfast/holdfast.yaml",
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			c, err := a.config()
			if err != nil {
				return err
			}
			return a.emit(validated{
				File:         c.Path,
				Systems:      append([]string{}, c.SystemNames()...),
				Repositories: append([]string{}, slices.Sorted(maps.Keys(c.Repositories))...),
				Policies:     slices.Sorted(maps.Keys(c.Policies)),
				Sites:        slices.Sorted(maps.Keys(c.Sites)),
			})
		},
	}
}

func (v validated) writeText(w io.Writer) error {
	_, err := fmt.Fprintf(w, "%s: no mistakes; %s, %s, %s, %s\n", v.File, count(len(v.Systems), "system"),
		count(len(v.Repositories), "repository"), count(len(v.Policies), "policy"), count(len(v.Sites), "site"))
	return err
}
