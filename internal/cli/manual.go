package cli

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// markdownPage is a command's page in docs/cli.
func markdownPage(c *cobra.Command) string {
	var b strings.Builder
	fmt.Fprintf(&b, "# %s\n\n%s.\n\n```\n%s\n```\n", c.CommandPath(), c.Short, c.UseLine())
	if c.Long != "" {
		fmt.Fprintf(&b, "\n%s\n", c.Long)
	}
	if c.Example != "" {
		fmt.Fprintf(&b, "\n## Examples\n\n```\n%s\n```\n", dedent(c.Example))
	}
	if subs := visible(c); len(subs) > 0 {
		b.WriteString("\n## Commands\n\n")
		for _, s := range subs {
			fmt.Fprintf(&b, "- [%s](%s.md): %s\n", s.CommandPath(), strings.ReplaceAll(s.CommandPath(), " ", "-"), s.Short)
		}
	}
	writeFlags := func(title string, flags []*pflag.Flag) {
		if len(flags) > 0 {
			fmt.Fprintf(&b, "\n## %s\n\n", title)
		}
		for _, f := range flags {
			fmt.Fprintf(&b, "- `%s`: %s\n", flagUse(f), flagText(f))
		}
	}
	writeFlags("Flags", flagsOf(c.NonInheritedFlags()))
	writeFlags("Global flags", flagsOf(c.InheritedFlags()))
	return b.String()
}

// manPage is a command's page for man, in the macros of man(7).
func manPage(c *cobra.Command) string {
	var b strings.Builder
	title := strings.ReplaceAll(c.CommandPath(), " ", "-")
	fmt.Fprintf(&b, ".TH %s 1 \"\" \"holdfast %s\" \"Holdfast\"\n", strings.ToUpper(roff(title)), roff(version))
	fmt.Fprintf(&b, ".SH NAME\n%s \\- %s\n", roff(title), roff(c.Short))
	fmt.Fprintf(&b, ".SH SYNOPSIS\n.nf\n%s\n.fi\n", roff(c.UseLine()))
	fmt.Fprintf(&b, ".SH DESCRIPTION\n%s\n", roff(either(c.Long, c.Short+".")))
	if c.Example != "" {
		fmt.Fprintf(&b, ".SH EXAMPLES\n.nf\n%s\n.fi\n", roff(dedent(c.Example)))
	}
	if subs := visible(c); len(subs) > 0 {
		b.WriteString(".SH COMMANDS\n")
		for _, s := range subs {
			fmt.Fprintf(&b, ".TP\n.B %s\n%s\n", roff(s.CommandPath()), roff(s.Short))
		}
	}
	b.WriteString(".SH OPTIONS\n")
	for _, f := range append(flagsOf(c.NonInheritedFlags()), flagsOf(c.InheritedFlags())...) {
		fmt.Fprintf(&b, ".TP\n.B %s\n%s\n", roff(flagUse(f)), roff(flagText(f)))
	}
	b.WriteString(".SH EXIT STATUS\n")
	for _, e := range exitTable {
		fmt.Fprintf(&b, ".TP\n.B %d\n%s\n", e.code, roff(strings.ReplaceAll(e.meaning, "`", "")))
	}
	return b.String()
}

// roff escapes text for troff: backslashes, hyphens that must stay hyphens, and lines that begin like a request.
func roff(s string) string {
	s = strings.NewReplacer(`\`, `\e`, "-", `\-`).Replace(s)
	lines := strings.Split(s, "\n")
	for i, l := range lines {
		if strings.HasPrefix(l, ".") || strings.HasPrefix(l, "'") {
			lines[i] = `\&` + l
		}
	}
	return strings.ReplaceAll(strings.Join(lines, "\n"), "\n\n", "\n.PP\n")
}

func visible(c *cobra.Command) []*cobra.Command {
	var subs []*cobra.Command
	for _, s := range c.Commands() {
		if !s.Hidden && s.Name() != "help" {
			subs = append(subs, s)
		}
	}
	return subs
}

func flagsOf(set *pflag.FlagSet) []*pflag.Flag {
	var flags []*pflag.Flag
	set.VisitAll(func(f *pflag.Flag) {
		if !f.Hidden && f.Name != "help" {
			flags = append(flags, f)
		}
	})
	return flags
}

// flagUse returns "-o, --output format".
func flagUse(f *pflag.Flag) string {
	value, _ := pflag.UnquoteUsage(f)
	use := "--" + f.Name
	if f.Shorthand != "" {
		use = "-" + f.Shorthand + ", " + use
	}
	return strings.TrimSpace(use + " " + value)
}

func flagText(f *pflag.Flag) string {
	_, text := pflag.UnquoteUsage(f)
	if d := f.DefValue; d != "" && d != "false" && d != "0" && d != "[]" && d != "0s" {
		text += " (default " + d + ")"
	}
	return text
}

func either(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// dedent takes the two spaces off that cobra wants before examples.
func dedent(s string) string {
	lines := strings.Split(s, "\n")
	for i := range lines {
		lines[i] = strings.TrimPrefix(lines[i], "  ")
	}
	return strings.Join(lines, "\n")
}
