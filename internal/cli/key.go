package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/holdfast-dr/holdfast/internal/config"
	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/repo"
	"github.com/holdfast-dr/holdfast/internal/seal"
	"github.com/holdfast-dr/holdfast/internal/workspace"
)

func newKeyCommand(a *app) *cobra.Command {
	return group("key", "See and change who can open a repository",
		newKeyListCommand(a), newKeyAddCommand(a), newKeyRemoveCommand(a), newKeyRotateCommand(a))
}

// keyCommand is what the commands of this group share.
type keyCommand struct {
	app        *app
	repository string
	glass      breakGlass
}

func (k *keyCommand) addFlags(c *cobra.Command) {
	c.Flags().StringVar(&k.repository, "repository", "", "`name` of the repository, where the configuration has several")
	k.glass.addFlags(c)
}

// with opens the repository for f.
func (k *keyCommand) with(ctx context.Context, f func(*workspace.Workspace, *repo.Repository) error) error {
	w, err := k.app.workspace(&k.glass)
	if err != nil {
		return err
	}
	defer w.Close() //nolint:errcheck // what was written is durable
	name, err := repositoryName(w.Config, k.repository)
	if err != nil {
		return err
	}
	r, err := w.Repository(ctx, name)
	if err != nil {
		return err
	}
	return f(w, r)
}

// changed records that it was changed who can open the repository, and lists who can.
func (k *keyCommand) changed(ctx context.Context, w *workspace.Workspace, r *repo.Repository, what string, began time.Time) error {
	l, err := listKeys(ctx, r)
	var names []string
	for _, key := range l.Keys {
		names = append(names, fmt.Sprintf("%s (%s, %s)", key.Name, key.Kind, key.Recipient))
	}
	w.RecordKeys(ctx, r, what, names, began, nil)
	return errors.Join(k.app.emit(l), err)
}

type listedKey struct {
	Name      string    `json:"name"`
	Kind      string    `json:"kind"`
	Recipient string    `json:"recipient"`
	Created   time.Time `json:"created"`
	Authentic bool      `json:"authentic"`
}

type listedKeys struct {
	Epoch uint32      `json:"epoch"`
	Keys  []listedKey `json:"keys"`
}

func (l listedKeys) writeText(w io.Writer) error {
	fmt.Fprintf(w, "key epoch %d opens for:\n", l.Epoch)
	var rows [][]string
	for _, k := range l.Keys {
		note := ""
		if !k.Authentic {
			note = "NOT MADE BY A HOLDER OF THE KEYS"
		}
		rows = append(rows, []string{k.Name, k.Kind, k.Recipient, k.Created.Format(time.DateOnly), note})
	}
	return table(w, []string{"NAME", "KIND", "RECIPIENT", "SINCE", ""}, rows)
}

func listKeys(ctx context.Context, r *repo.Repository) (listedKeys, error) {
	slots, err := r.Slots(ctx)
	out := listedKeys{Epoch: r.Keys().Epoch(), Keys: []listedKey{}}
	for _, s := range slots {
		out.Keys = append(out.Keys, listedKey{s.Name, s.Kind, s.Recipient, s.Created, r.Keys().Authentic(s)})
	}
	return out, err
}

func newKeyListCommand(a *app) *cobra.Command {
	k := &keyCommand{app: a}
	c := &cobra.Command{
		Use: "list", Short: "List who can open the repository", Args: cobra.NoArgs,
		Long: "Lists the recipients for whom the repository's key is wrapped. Whoever holds the private half of one of\nthem, or the passphrase, can read everything.",
		RunE: func(c *cobra.Command, _ []string) error {
			return k.with(c.Context(), func(_ *workspace.Workspace, r *repo.Repository) error {
				l, err := listKeys(c.Context(), r)
				return errors.Join(k.app.emit(l), err)
			})
		},
	}
	k.addFlags(c)
	return c
}

func newKeyAddCommand(a *app) *cobra.Command {
	k := &keyCommand{app: a}
	var newPassphrase string
	c := &cobra.Command{
		Use:   "add NAME [KEY]",
		Short: "Let another key open the repository",
		Long: `Wraps the repository's key for another recipient: an age public key (age1…), an SSH public key, or, with
--new-passphrase-file, a passphrase. Nothing else is written anew; the new recipient can read all that is stored.`,
		Example: "  holdfast key add break-glass age1…\n  holdfast key add night-shift --new-passphrase-file ./passphrase",
		Args:    cobra.RangeArgs(1, 2),
		RunE: func(c *cobra.Command, args []string) error {
			to, err := newRecipient(args, newPassphrase)
			if err != nil {
				return usage(err)
			}
			return k.with(c.Context(), func(w *workspace.Workspace, r *repo.Repository) error {
				began := time.Now()
				if err := nameIsFree(c.Context(), r, to); err != nil {
					return err
				}
				if err := r.AddRecipient(c.Context(), to); err != nil {
					return err
				}
				return k.changed(c.Context(), w, r, "added "+to.Name, began)
			})
		},
	}
	c.Flags().StringVar(&newPassphrase, "new-passphrase-file", "", "`file` with the passphrase to add")
	k.addFlags(c)
	return c
}

func newRecipient(args []string, passphraseFile string) (seal.Recipient, error) {
	switch {
	case len(args) == 2 && passphraseFile == "":
		return seal.KeyRecipient(args[0], args[1])
	case len(args) == 1 && passphraseFile != "":
		p, err := config.Keys{PassphraseFile: absolute(passphraseFile)}.Passphrase()
		if err != nil {
			return seal.Recipient{}, err
		}
		return workspace.PassphraseRecipient(args[0], p)
	}
	return seal.Recipient{}, errors.New("give either a public KEY or --new-passphrase-file")
}

// nameIsFree keeps two recipients from having one name: key remove could not tell them apart.
func nameIsFree(ctx context.Context, r *repo.Repository, to seal.Recipient) error {
	slots, err := r.Slots(ctx)
	if err != nil {
		return err
	}
	for _, s := range slots {
		if s.Name == to.Name && s.Who().ID() != to.ID() {
			return usage(dr.Fail(fmt.Sprintf("key add %s", to.Name), errors.New("another recipient has this name"), "choose another name; holdfast key list shows those that are taken"))
		}
	}
	return nil
}

// rotate drops the named recipients, or nobody, and starts an epoch.
func (k *keyCommand) rotate(ctx context.Context, drop []string) error {
	return k.with(ctx, func(w *workspace.Workspace, r *repo.Repository) error {
		began := time.Now()
		slots, err := r.Slots(ctx)
		if err != nil {
			return err
		}
		known := map[string]bool{}
		for _, s := range slots {
			known[s.Name] = true
		}
		for _, d := range drop {
			if !known[d] {
				return usage(dr.Fail(fmt.Sprintf("key remove %s", d), errors.New("nobody has this name"), "holdfast key list shows the names"))
			}
		}
		if len(drop) > 0 && len(drop) >= len(known) {
			return usage(dr.Fail("key remove "+strings.Join(drop, " "), errors.New("nobody could open the repository afterwards"), "add another recipient first: holdfast key add"))
		}
		if _, err := r.Rotate(ctx, func(s *seal.Slot) bool {
			for _, d := range drop {
				if s.Name == d {
					return true
				}
			}
			return false
		}); err != nil {
			return err
		}
		what := "rotated"
		if len(drop) > 0 {
			what = "taken away from " + strings.Join(drop, ", ")
		}
		return k.changed(ctx, w, r, what, began)
	})
}

func newKeyRemoveCommand(a *app) *cobra.Command {
	k := &keyCommand{app: a}
	c := &cobra.Command{
		Use:   "remove NAME [NAME …]",
		Short: "Take the repository away from a recipient",
		Long: `Rotates the key and wraps the new one for everybody but the named. They can read nothing that is stored from
now on; what was stored before stays readable to whoever kept a copy of the old key.`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error { return k.rotate(c.Context(), args) },
	}
	k.addFlags(c)
	return c
}

func newKeyRotateCommand(a *app) *cobra.Command {
	k := &keyCommand{app: a}
	c := &cobra.Command{
		Use:   "rotate",
		Short: "Start a new key epoch for the recipients of today",
		Long: `Makes a new secret, with which everything is sealed from now on, and wraps it for all recipients. No stored
object is written anew: every recipient can open the old epochs too.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return k.rotate(c.Context(), nil) },
	}
	k.addFlags(c)
	return c
}
