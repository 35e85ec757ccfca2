package cli

import (
	"errors"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/holdfast-dr/holdfast/internal/dr"
)

// newDocsCommand writes the manual from the commands themselves, for packagers and for the repository.
func newDocsCommand(*app) *cobra.Command {
	page := func(name, short, suffix string, print func(*cobra.Command) string) *cobra.Command {
		return &cobra.Command{
			Use: name + " DIR", Short: short, Args: cobra.ExactArgs(1),
			RunE: func(c *cobra.Command, args []string) error {
				return writePages(args[0], suffix, c.Root(), print)
			},
		}
	}
	docs := group("docs", "Write the manual",
		page("man", "Write a man page of every command", ".1", manPage),
		page("markdown", "Write a Markdown page of every command", ".md", markdownPage))
	docs.AddCommand(&cobra.Command{
		Use: "exit-codes FILE", Short: "Write the table of exit codes", Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			return os.WriteFile(args[0], []byte(exitCodesMarkdown()), 0o644)
		},
	})
	docs.Hidden = true
	return docs
}

// writePages writes a page for every command that a person sees, and removes pages of commands that are gone.
func writePages(dir, suffix string, root *cobra.Command, print func(*cobra.Command) string) error {
	what := "write the manual to " + dir
	old, err := filepath.Glob(filepath.Join(dir, "holdfast*"+suffix))
	if err == nil {
		err = os.MkdirAll(dir, 0o755)
	}
	for _, path := range old {
		err = errors.Join(err, os.Remove(path))
	}
	for _, c := range documented(root) {
		path := filepath.Join(dir, strings.ReplaceAll(c.CommandPath(), " ", "-")+suffix)
		err = errors.Join(err, os.WriteFile(path, []byte(print(c)), 0o644))
	}
	if err != nil {
		return dr.Fail(what, err, "")
	}
	return nil
}

// documented returns the commands that a person sees.
func documented(c *cobra.Command) []*cobra.Command {
	var commands []*cobra.Command
	if c.Hidden || c.Name() == "help" {
		return nil
	}
	commands = append(commands, c)
	for _, sub := range c.Commands() {
		commands = append(commands, documented(sub)...)
	}
	return commands
}
