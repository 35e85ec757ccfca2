package restore

import (
	"context"
	"fmt"
	"os"
	"path"

	"github.com/holdfast-dr/holdfast/internal/pg/wal"
)

// The segment in which a timeline was left has several names, one for each timeline that has a part of it, and a recovery asks
// for the newest. As long as it is before the switch it is on the older timeline, and reads transactions that were prepared, at a
// shutdown checkpoint and at its end, out of the file in pg_wal with the older name (xlogutils.c, read_local_xlog_page: the
// timeline is that of the replay). Nothing has put it there: "requested WAL segment … has already been removed", and the server
// ends (seen in 13 to 18). So the segments in which the plan's way changes timelines are put there by their older names.

// writeOlderNames puts them into pg_wal, as far as the older timeline goes.
func (x *run) writeOlderNames(ctx context.Context) error {
	f := x.plan.Snapshot.Facts
	size := wal.SegmentSize(f.SegmentSize)
	log := &storedLog{log: x.repo.Log(x.plan.System), way: x.plan.Way}
	for _, a := range x.plan.Way.Ancestors {
		_, left, ok := x.plan.Way.Range(a.Timeline)
		if !ok || left <= f.StopLSN || left == size.Floor(left) {
			continue // the recovery begins behind it, or no part of a segment is left
		}
		name := wal.SegmentName(a.Timeline, size.Segment(left), size)
		var unread error // the log cannot be read: whether it is needed is not known
		err := x.putWith(path.Join("pg_wal", name), func(out *os.File) error {
			if err := out.Truncate(int64(size)); err != nil {
				return err
			}
			for begin, at := size.Floor(left), size.Floor(left); at < left; {
				b, err := log.piece(ctx, at, left)
				if err != nil {
					unread = err
					return err
				}
				if _, err := out.WriteAt(b, int64(at-begin)); err != nil {
					return err
				}
				at += wal.LSN(len(b))
			}
			return nil
		})
		if unread != nil && ctx.Err() == nil {
			x.note("the recovery will not find transactions that were prepared before %s, in %s: %v", left, name, unread)
		} else if err != nil {
			return fmt.Errorf("put %s into pg_wal: %w", name, err)
		}
	}
	return nil
}
