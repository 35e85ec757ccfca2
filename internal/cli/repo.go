package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/seal"
)

func newRepoCommand(a *app) *cobra.Command {
	return group("repo", "Make, check and clean repositories",
		newRepoInitCommand(a), newRepoCheckCommand(a), newRepoStatsCommand(a), newRepoOptimizeCommand(a), newRepoPruneCommand(a), newRepoLockCommand(a), newRepoScrubCommand(a))
}

// repoInit makes a repository.
type repoInit struct {
	app        *app
	name       string
	recipients []string
}

func newRepoInitCommand(a *app) *cobra.Command {
	r := &repoInit{app: a}
	c := &cobra.Command{
		Use:   "init [REPOSITORY]",
		Short: "Make a repository in its configured place",
		Long: `Makes the repository that holdfast.yaml describes. It opens with the configured passphrase, with the
configured age identities, and with every --recipient. Give an offline break-glass key as one of them: whoever
holds a key of one recipient can read everything, and without any of them nobody can, for ever.

What the store can really do is tried out first: exclusive creation, listing after writing, deletion.`,
		Example: "  holdfast repo init\n  holdfast repo init main --recipient break-glass=age1…",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			r.name = strings.Join(args, "")
			return r.run(c.Context())
		},
	}
	c.Flags().StringArrayVar(&r.recipients, "recipient", nil, "`NAME=KEY`: another public key (age1… or an SSH one) that opens it; may be repeated")
	return c
}

// parseRecipients reads NAME=KEY.
func parseRecipients(texts []string) ([]seal.Recipient, error) {
	var out []seal.Recipient
	for _, t := range texts {
		name, key, ok := strings.Cut(t, "=")
		if !ok || name == "" {
			return nil, usage(fmt.Errorf("recipient %q: write NAME=KEY, such as break-glass=age1…", t))
		}
		r, err := seal.KeyRecipient(name, key)
		if err != nil {
			return nil, usage(fmt.Errorf("recipient %s: %w", name, err))
		}
		out = append(out, r)
	}
	return out, nil
}

type initiated struct {
	Repository      string   `json:"repository"`
	ID              string   `json:"id"`
	Place           string   `json:"place"`
	Recipients      []string `json:"recipients"`
	ExclusiveCreate bool     `json:"exclusiveCreate"`
	ListAfterWrite  bool     `json:"listAfterWrite"`
}

func (r *repoInit) run(ctx context.Context) error {
	extra, err := parseRecipients(r.recipients)
	if err != nil {
		return err
	}
	w, err := r.app.workspace(nil)
	if err != nil {
		return err
	}
	defer w.Close() //nolint:errcheck // what was written is durable
	name, err := repositoryName(w.Config, r.name)
	if err != nil {
		return err
	}
	made, abilities, err := w.Init(ctx, name, extra)
	if err != nil {
		return err
	}
	out := initiated{Repository: name, ID: made.ID(), Place: made.Store().String(), ExclusiveCreate: abilities.ExclusiveCreate, ListAfterWrite: abilities.ListAfterWrite}
	slots, err := made.Slots(ctx)
	if err != nil {
		return err
	}
	for _, s := range slots {
		out.Recipients = append(out.Recipients, s.Name)
	}
	return r.app.emit(out)
}

func (i initiated) writeText(w io.Writer) error {
	fmt.Fprintf(w, "repository %s (%s) is in %s\nit opens for: %s\n", i.Repository, i.ID, i.Place, strings.Join(i.Recipients, ", "))
	if !i.ExclusiveCreate {
		fmt.Fprintln(w, "the store has no exclusive creation: repo prune will ask for --exclusive, a promise that nobody else writes")
	}
	if len(i.Recipients) == 1 {
		fmt.Fprintln(w, "only one key opens it: add an offline one with holdfast key add, before you need it")
	}
	return nil
}

// errDamaged is the cause of exit code 3 after a check.
var errDamaged = errors.New("damage was found")

func checkFailed(what string, problems int) error {
	if problems == 0 {
		return nil
	}
	return missed(dr.Fail(what, fmt.Errorf("%w: %s", errDamaged, count(problems, "problem")), "what is not named above is intact and restorable"))
}
