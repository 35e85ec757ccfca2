package capture

import (
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/holdfast-dr/holdfast/internal/pg/pgtest"
	"github.com/holdfast-dr/holdfast/internal/pg/wal"
	"github.com/holdfast-dr/holdfast/internal/pg/wal/record"
)

// Blocks of any size, of which some are lost and some begin in the middle of a page: maps begin and end where records
// do, one begins where the one before ended, and only behind a loss something is left out.
func TestFeedMapsJoin(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	id := LogIdentity{SystemID: 7, SegmentSize: 1 << 20}
	log := pgtest.NewLog(t, 5<<20, uint64(id.SegmentSize), id.SystemID)
	var borders []wal.LSN // where records start, a page's start where that is right behind its header
	for len(log.Bytes) < 5<<20 {
		start, _ := log.Record(record.LogicalMessage, 0, make([]byte, []int{r.IntN(100), r.IntN(3000), r.IntN(40_000), r.IntN(300_000)}[r.IntN(4)]))
		borders = append(borders, id.SegmentSize.BeforeHeader(wal.LSN(start)))
	}
	isBorder := func(l wal.LSN) bool { _, ok := slices.BinarySearch(borders, l); return ok }
	for range 20 {
		feed := changeFeed{id: id}
		known := wal.LSN(0) // end of the last map; zero behind a loss
		since := wal.LSN(log.Start)
		for at := wal.LSN(log.Start); at < wal.LSN(log.End()); {
			end := min(at+1+wal.LSN(r.IntN(400_000)), wal.LSN(log.End()))
			m := feed.block(1, at, log.Bytes[at-wal.LSN(log.Start):end-wal.LSN(log.Start)])
			if m != nil {
				// The first record behind a loss is the first one that starts on a page that came whole.
				begin, _ := slices.BinarySearch(borders, (since+wal.PageSize-1)&^(wal.PageSize-1))
				last, _ := slices.BinarySearch(borders, end)
				switch {
				case known != 0 && m.Start != known:
					t.Fatalf("a map begins at %s, the one before ended at %s", m.Start, known)
				case known == 0 && m.Start < borders[begin], !isBorder(m.Start), m.End > (end+7)&^7:
					t.Fatalf("block %s to %s: the map is from %s to %s", at, end, m.Start, m.End)
				case m.End != wal.LSN(log.End()+7)&^7 && !isBorder(m.End), last > 0 && m.End < borders[last-1]:
					t.Fatalf("block %s to %s: the map ends at %s", at, end, m.End)
				}
				known = m.End
			}
			if at = end; r.IntN(5) == 0 {
				at += wal.LSN(r.IntN(100_000))
				if at > end {
					known, since = 0, at
				}
			}
		}
	}
	// Damage ends a map; the next block has one again, which begins behind its start.
	feed := changeFeed{id: id}
	damaged := slices.Clone(log.Bytes[:1<<20])
	damaged[700_000] ^= 1
	m := feed.block(1, wal.LSN(log.Start), damaged)
	if m == nil || m.Start != wal.LSN(log.Start) || m.End > wal.LSN(log.Start)+700_000 || !isBorder(m.End) {
		t.Errorf("before the damage: %+v", m)
	}
	if m := feed.block(1, wal.LSN(log.Start)+1<<20, log.Bytes[1<<20:2<<20]); m == nil || !isBorder(m.Start) {
		t.Errorf("behind the damage: %+v", m)
	}
	if m := feed.block(2, wal.LSN(log.Start)+3<<20+5, make([]byte, 100_000)); m != nil {
		t.Errorf("zeros give a map from %s to %s", m.Start, m.End)
	}
}
