package geo

import (
	"context"

	"github.com/holdfast-dr/holdfast/internal/repo"
)

// Missing is what one replica lacks of another's log.
type Missing struct {
	Objects int
	Bytes   int64 // stored
}

// LogMissing returns what CopyLog would bring of the parts of a system's log. It only lists.
func LogMissing(ctx context.Context, from, to *repo.Repository, system string, floors map[repo.StreamID]uint64) (out Missing, err error) {
	theirs, ours := from.Log(system), to.Log(system)
	streams, err := theirs.Streams(ctx)
	if err != nil {
		return out, err
	}
	for _, s := range streams {
		there, err := theirs.Extents(ctx, s, floors[s])
		if err != nil {
			return out, err
		}
		here, err := ours.Extents(ctx, s, floors[s])
		if err != nil {
			return out, err
		}
		for _, e := range repo.Uncovered(there, repo.Merge(here)) {
			out.Objects, out.Bytes = out.Objects+1, out.Bytes+e.Stored
		}
	}
	return out, nil
}
