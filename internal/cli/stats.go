package cli

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/repo"
)

type repoStats struct {
	*repo.Stats
	Dedup       float64 `json:"dedupRatio"`
	Compression float64 `json:"compressionRatio"`
}

func newRepoStatsCommand(a *app) *cobra.Command {
	var glass breakGlass
	c := &cobra.Command{
		Use:   "stats [REPOSITORY]",
		Short: "Count what a repository holds, and what it costs",
		Args:  cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			w, err := a.workspace(&glass)
			if err != nil {
				return err
			}
			defer w.Close() //nolint:errcheck // only read
			name, err := repositoryName(w.Config, strings.Join(args, ""))
			if err != nil {
				return err
			}
			r, err := w.Repository(c.Context(), name)
			if err != nil {
				return err
			}
			s, err := r.Stats(c.Context())
			if err != nil {
				return err
			}
			return a.emit(repoStats{s, s.DedupRatio(), s.CompressionRatio()})
		},
	}
	glass.addFlags(c)
	return c
}

func (s repoStats) writeText(w io.Writer) error {
	fmt.Fprintf(w, "%s of %s: %s in all, as if each were copied whole\n", count(s.Snapshots, "snapshot"), count(len(s.Systems), "system"), dr.Bytes(s.LogicalBytes))
	fmt.Fprintf(w, "%s of distinct data in %s (%.1f × less), stored as %s in %s (%.1f × less)\n", dr.Bytes(s.PlainBytes), count(int(s.Chunks), "chunk"),
		s.Dedup, dr.Bytes(s.PackBytes), count(s.Packs, "pack"), s.Compression)
	fmt.Fprintf(w, "index: %s in %s\n", dr.Bytes(s.IndexBytes), count(s.IndexObjects, "object"))
	if s.Unreadable > 0 {
		fmt.Fprintf(w, "%s cannot be read, and is not in these figures: holdfast repo check\n", count(s.Unreadable, "snapshot"))
	}
	var rows [][]string
	for _, x := range s.Systems {
		rows = append(rows, []string{x.Name, string(x.Group), fmt.Sprint(x.Snapshots), dr.Bytes(x.LogicalBytes).String(), fmt.Sprint(x.LogExtents), dr.Bytes(x.LogBytes).String(), fragmentation(x.Fragmentation)})
	}
	return table(w, []string{"SYSTEM", "GROUP", "SNAPSHOTS", "SIZE", "LOG OBJECTS", "LOG STORED", "FRAGMENTATION"}, rows)
}

// fragmentation prints how many pages are decoded for each one that is wanted.
func fragmentation(f *repo.Fragmentation) string {
	if f == nil {
		return ""
	}
	return fmt.Sprintf("%.2f", f.Ratio())
}
