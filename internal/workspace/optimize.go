package workspace

import (
	"context"

	"github.com/holdfast-dr/holdfast/internal/pg/cluster"
	"github.com/holdfast-dr/holdfast/internal/repo"
)

// Optimize rewrites what is too fragmented in the newest snapshot of a system, with the codec for the pages of relations.
func (w *Workspace) Optimize(ctx context.Context, s System, o repo.OptimizeOptions) (*repo.OptimizeReport, error) {
	o.Codec = func(path string) repo.Codec {
		if _, ok := cluster.ParsePath(path); ok {
			return w.codec
		}
		return nil
	}
	return s.Repo.Optimize(ctx, string(s.Name), o)
}
