package cli

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/repo"
)

// repoOptimize rewrites what is fragmented.
type repoOptimize struct {
	app    *app
	dryRun bool
	atMost dr.Bytes
	bound  float64
}

func newRepoOptimizeCommand(a *app) *cobra.Command {
	o := &repoOptimize{app: a}
	c := &cobra.Command{
		Use:   "optimize [SYSTEM]",
		Short: "Make the newest snapshot quick to read again",
		Long: `Snapshots store only the pages that changed, so that after many of them a file lies in many pieces, and reading it
decodes more than it has: its fragmentation. This rewrites the parts of the newest snapshot's files whose fragmentation
is above the bound. The result takes the place of the newest snapshot: its moment, its content and what it says of
itself are the same. Nothing is read from the database. Without a SYSTEM it does so for all of them.

The agent does it by itself after snapshots, within policies.….optimize.budget. It is safe beside everything, and may be
interrupted at any time. What is stored twice afterwards goes with the older snapshots that need it.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error { return o.run(c.Context(), args) },
	}
	f := c.Flags()
	f.BoolVar(&o.dryRun, "dry-run", false, "show what would be rewritten, and change nothing")
	f.Var((*bytesFlag)(&o.atMost), "at-most", "how many `BYTES` to store again, before compression, such as 10GiB; 0 for as many as it takes")
	f.Float64Var(&o.bound, "bound", repo.FragmentationBound, "fragmentation above which a part of a file is rewritten")
	return c
}

// bytesFlag reads sizes as holdfast.yaml does.
type bytesFlag dr.Bytes

func (b *bytesFlag) String() string { return dr.Bytes(*b).String() }
func (b *bytesFlag) Type() string   { return "BYTES" }

func (b *bytesFlag) Set(s string) error {
	n, err := dr.ParseBytes(s)
	*b = bytesFlag(n)
	return err
}

type optimized []*repo.OptimizeReport

func (l optimized) writeText(w io.Writer) error {
	for _, o := range l {
		if err := writeOptimized(w, o); err != nil {
			return err
		}
	}
	return nil
}

func writeOptimized(w io.Writer, o *repo.OptimizeReport) error {
	if o.Original == "" {
		_, err := fmt.Fprintf(w, "%s: there is no snapshot\n", o.System)
		return err
	}
	fmt.Fprintf(w, "%s: snapshot %s has a fragmentation of %.2f\n", o.System, o.Original, o.Before.Ratio())
	switch {
	case o.Parts > 0 && o.DryRun:
		fmt.Fprintf(w, "  would rewrite %s, %s, down to %.2f\n", count(o.Parts, "part"), dr.Bytes(o.Bytes), o.After.Ratio())
	case o.Parts > 0:
		fmt.Fprintf(w, "  rewrote %s, %s stored as %s, down to %.2f: it is %s now\n", count(o.Parts, "part"), dr.Bytes(o.Bytes), dr.Bytes(o.Stored), o.After.Ratio(), o.Rewritten)
	case o.Left == 0:
		fmt.Fprintln(w, "  nothing is worth rewriting")
	}
	if o.Left > 0 {
		fmt.Fprintf(w, "  left %s above the bound\n", count(o.Left, "part"))
	}
	for _, p := range o.Problems {
		fmt.Fprintf(w, "  left as it is: %s\n", p)
	}
	return nil
}

func (o *repoOptimize) run(ctx context.Context, args []string) error {
	if o.bound <= 1 {
		return usage(fmt.Errorf("--bound %g: 1 is what files in whole chunks have; write more, such as 1.5", o.bound))
	}
	w, err := o.app.workspace(nil)
	if err != nil {
		return err
	}
	defer w.Close() //nolint:errcheck // what was written is durable
	if len(args) == 0 {
		args = w.Config.SystemNames()
	}
	out, problems := optimized{}, 0
	left := int64(o.atMost)
	for _, name := range args {
		s, err := w.System(ctx, name)
		if err != nil {
			return err
		}
		progress, stop := o.app.progress()
		one, err := w.Optimize(ctx, s, repo.OptimizeOptions{Bound: o.bound, AtMost: left, DryRun: o.dryRun, Progress: progress})
		stop()
		if err != nil {
			return errors.Join(o.app.emit(append(out, one)), err)
		}
		out, problems = append(out, one), problems+len(one.Problems)
		if o.atMost > 0 {
			left = max(left-one.Bytes, 1) // 1: not even a page
		}
	}
	return errors.Join(o.app.emit(out), checkFailed("repo optimize", problems))
}
