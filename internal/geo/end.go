package geo

import (
	"context"

	"github.com/holdfast-dr/holdfast/internal/repo"
)

// LogEnd returns how far a log goes: its newest stream, and where that ends without a hole behind what its mark promises. Both are
// zero where there is none.
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
	extents, err := log.Extents(ctx, newest, max(mark.LSN, 1)-1) // to see what ends at it
	if err != nil {
		return 0, 0, err
	}
	if ranges := repo.Merge(extents); len(ranges) > 0 && (ranges[0].Start <= mark.LSN || mark.LSN == 0) {
		return newest, ranges[0].End, nil
	}
	// What the mark promises is lost: it ends with what is before.
	if extents, err = log.Extents(ctx, newest, 0); err != nil {
		return 0, 0, err
	}
	end := uint64(0)
	for _, r := range repo.Merge(extents) {
		if r.Start <= mark.LSN {
			end = r.End
		}
	}
	return newest, end, nil
}
