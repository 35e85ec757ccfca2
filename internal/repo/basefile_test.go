package repo

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/holdfast-dr/holdfast/internal/seal"
)

// countedFile counts readings.
type countedFile struct {
	cacheFile
	reads int
}

func (c *countedFile) ReadAt(b []byte, at int64) (int, error) {
	c.reads++
	return c.cacheFile.ReadAt(b, at)
}

// The search finds every ID that is there, and no other, however they are spread: hashes in a few readings, and others in
// as many as halving takes.
func TestSearchInAnySpread(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	rnd := rand.New(rand.NewPCG(seed, 1))
	key := func(hi, lo uint64) (id seal.ChunkID) {
		binary.BigEndian.PutUint64(id[:], hi)
		binary.BigEndian.PutUint64(id[24:], lo)
		return id
	}
	for name, c := range map[string]struct {
		n, most int // readings of one search
		id      func(i int) seal.ChunkID
	}{
		"hashes":         {n: 100_000, most: 5, id: func(int) seal.ChunkID { return key(rnd.Uint64(), rnd.Uint64()) }},
		"few":            {n: 65, most: 3, id: func(int) seal.ChunkID { return key(rnd.Uint64(), rnd.Uint64()) }},
		"one":            {n: 1, most: 1, id: func(int) seal.ChunkID { return key(rnd.Uint64(), 0) }},
		"the extremes":   {n: 2, most: 2, id: func(i int) seal.ChunkID { return key(-uint64(i), -uint64(i)) }},
		"equal keys":     {n: 20_000, most: 13, id: func(i int) seal.ChunkID { return key(7, uint64(i)*2) }},
		"two clusters":   {n: 20_000, most: 13, id: func(i int) seal.ChunkID { return key(uint64(i%2)<<63, uint64(i)) }},
		"all at the end": {n: 20_000, most: 13, id: func(i int) seal.ChunkID { return key(-uint64(i)*3, 1) }},
		"powers":         {n: 64, most: 4, id: func(i int) seal.ChunkID { return key(1<<i, 1) }},
	} {
		t.Run(fmt.Sprintf("%s/seed=%d", name, seed), func(t *testing.T) {
			recent, pack := map[seal.ChunkID]location{}, &packRef{group: "main", size: 1 << 20}
			for i := range c.n {
				id := c.id(i)
				recent[id] = location{pack, chunkPlace{id: id, offset: uint32(seal.HeaderSize + i), stored: seal.Overhead}}
			}
			b, err := mergeBase(t.TempDir(), nil, recent, nil)
			if err != nil {
				t.Fatal(err)
			}
			defer b.close() //nolint:errcheck // it was only read
			f := &countedFile{cacheFile: b.f}
			b.f = f
			most, all, searches := 0, 0, 0
			n, last := int64(0), seal.ChunkID{}
			for range min(c.n, 1000) {
				var id seal.ChunkID
				for id = range recent {
					break
				}
				f.reads = 0
				l, ok, err := b.find(id)
				if err != nil || !ok || l.offset != recent[id].offset {
					t.Fatalf("find %s: %+v, %v, %v", id, l, ok, err)
				}
				most, all, searches = max(most, f.reads), all+f.reads, searches+1
				absent := id
				absent[rnd.IntN(32)] ^= 1 << rnd.IntN(8)
				if _, there := recent[absent]; there {
					continue
				}
				f.reads = 0
				if _, ok, err := b.find(absent); err != nil || ok {
					t.Fatalf("find %s, which is not there: %v, %v", absent, ok, err)
				}
				most = max(most, f.reads)
			}
			err = b.each(func(i int64, l location) error {
				if n > 0 && !lessID(last, l.id) {
					return fmt.Errorf("entry %d is not behind the one before it", i)
				}
				n, last = n+1, l.id
				if i%41 > 0 {
					return nil
				}
				rank, ok, err := b.rank(l.id)
				if err == nil && (!ok || rank != i) {
					err = fmt.Errorf("the rank of entry %d is %d, %v", i, rank, ok)
				}
				return err
			})
			if err != nil || n != int64(len(recent)) {
				t.Errorf("%d of %d entries, %v", n, len(recent), err)
			}
			t.Logf("%d readings at most, %.2f on average", most, float64(all)/float64(searches))
			if most > c.most {
				t.Errorf("a search took %d readings, want %d", most, c.most)
			}
		})
	}
}
