package geo

import (
	"context"

	"github.com/holdfast-dr/holdfast/internal/repo"
)

// LogEnd returns how far a log goes without a gap, behind what is known to have been acknowledged: its newest stream, and where that
// ends. Both are zero where there is none.
func LogEnd(ctx context.Context, log *repo.Log) (repo.StreamID, uint64, error) {
	streams, err := log.Streams(ctx)
	if err != nil || len(streams) == 0 {
		return 0, 0, err
	}
	newest := streams[len(streams)-1]
	mark, _, err := log.Mark(ctx, newest)
	if err != nil {
		return 0, 0, err
	}
	extents, err := log.Extents(ctx, newest, max(mark.LSN, 1)-1)
	if err != nil {
		return 0, 0, err
	}
	for _, r := range repo.Merge(extents) {
		if r.End >= mark.LSN {
			return newest, r.End, nil
		}
	}
	return newest, mark.LSN, nil
}
