package cli

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/repo"
)

// changed is what differs between two snapshots.
type changed struct {
	System string          `json:"system"`
	From   repo.SnapshotID `json:"from"`
	To     repo.SnapshotID `json:"to"`
	Paths  []changedPath   `json:"paths"`
}

type changedPath struct {
	Path string   `json:"path"`
	What string   `json:"what"` // added, removed, changed
	Size dr.Bytes `json:"size"` // in the newer one; of a removed path in the older
}

func (c changed) writeText(w io.Writer) error {
	marks := map[string]string{"added": "+", "removed": "-", "changed": "~"}
	for _, p := range c.Paths {
		fmt.Fprintf(w, "%s %s (%s)\n", marks[p.What], p.Path, p.Size)
	}
	_, err := fmt.Fprintf(w, "%s differ between %s and %s\n", count(len(c.Paths), "path"), c.From, c.To)
	return err
}

func newSnapshotDiffCommand(a *app) *cobra.Command {
	var glass breakGlass
	c := &cobra.Command{
		Use:   "diff SYSTEM SNAPSHOT SNAPSHOT",
		Short: "Show which files differ between two snapshots",
		Long:  "Compares two snapshots by their trees. Parts that both share are not read, so it is quick where little changed.",
		Args:  cobra.ExactArgs(3),
		RunE: func(c *cobra.Command, args []string) error {
			return a.diff(c.Context(), &glass, args[0], args[1], args[2])
		},
	}
	glass.addFlags(c)
	return c
}

func (a *app) diff(ctx context.Context, glass *breakGlass, system, from, to string) error {
	w, err := a.workspace(glass)
	if err != nil {
		return err
	}
	defer w.Close() //nolint:errcheck // only read
	r, err := a.repositoryOf(ctx, w, system)
	if err != nil {
		return err
	}
	var sides [2]repo.Listed
	for i, id := range []string{from, to} {
		if sides[i], err = findSnapshot(ctx, r, system, id); err != nil {
			return err
		}
		if sides[i].Err != nil {
			return sides[i].Err
		}
	}
	out := changed{System: system, From: sides[0].ID, To: sides[1].ID, Paths: []changedPath{}}
	err = r.Reader().Diff(ctx, sides[0].Manifest, sides[1].Manifest, func(path string, old, now *repo.Entry) error {
		switch {
		case old == nil:
			out.Paths = append(out.Paths, changedPath{path, "added", dr.Bytes(now.Size)})
		case now == nil:
			out.Paths = append(out.Paths, changedPath{path, "removed", dr.Bytes(old.Size)})
		default:
			out.Paths = append(out.Paths, changedPath{path, "changed", dr.Bytes(now.Size)})
		}
		return nil
	})
	if err != nil {
		return err
	}
	return a.emit(out)
}
