package restore

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"

	"github.com/holdfast-dr/holdfast/internal/pg/cluster"
	"github.com/holdfast-dr/holdfast/internal/pg/page"
	"github.com/holdfast-dr/holdfast/internal/pg/wal"
	"github.com/holdfast-dr/holdfast/internal/repo"
)

// So many pages that would be kept are compared with the snapshot's, of so many files, before anything is written.
const (
	sampleFiles  = 16
	samplePlaces = 2 // in each file: pages of one chunk cost what one of them does
	samplePages  = 8 // in each place
)

// lots draws files by their size: each byte of the cluster has the same chance.
type lots struct {
	drawn []lot // ascending by rank
}

type lot struct {
	path string
	e    *repo.Entry
	rank float64 // of all, those with the least are drawn
}

func (l *lots) offer(path string, e *repo.Entry) {
	if r, ok := cluster.ParsePath(path); !ok || r.Fork == cluster.FSM || e.Size < repo.PageSize {
		return
	}
	rank := rand.ExpFloat64() / float64(e.Size) //nolint:gosec // a sample, not a secret
	i, _ := slices.BinarySearchFunc(l.drawn, rank, func(o lot, rank float64) int { return cmp.Compare(o.rank, rank) })
	if i == sampleFiles {
		return
	}
	if len(l.drawn) == sampleFiles {
		l.drawn = l.drawn[:sampleFiles-1]
	}
	l.drawn = slices.Insert(l.drawn, i, lot{path, e, rank})
}

// sample compares some of the pages that the log does not name. One that differs is a reason to compare everything.
func (x *run) sample(ctx context.Context, k *knowledge) error {
	reader := x.repo.Reader()
	chance := rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64())) //nolint:gosec // a sample, not a secret
	for _, l := range x.lots.drawn {
		n, err := x.sampleFile(ctx, k, l.path, l.e, reader, chance)
		x.result.Delta.Sampled += int64(n)
		if err != nil {
			return err
		}
	}
	return nil
}

func (x *run) sampleFile(ctx context.Context, k *knowledge, path string, e *repo.Entry, reader *repo.Reader, chance *rand.Rand) (n int, err error) {
	a, rel, err := x.layout.place(path)
	if err != nil {
		return 0, err
	}
	name := filepath.Join(a.dir, filepath.FromSlash(rel))
	fi, err := os.Lstat(name)
	if errors.Is(err, os.ErrNotExist) || err == nil && !fi.Mode().IsRegular() {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	f, err := os.Open(name)
	if err != nil {
		return 0, err
	}
	defer f.Close() //nolint:errcheck // only read
	write, ok := k.pages(path, fi.Size(), e.Size)
	if !ok {
		return 0, nil
	}
	number := chance.IntN(repo.ListCount(e.Size))
	part, err := reader.FilePart(ctx, e, number)
	if err != nil {
		return 0, err
	}
	var some []uint16
	place := 0
	for i := range samplePlaces * samplePages {
		if i%samplePages == 0 {
			place = chance.IntN(part.Len())
		}
		first := place * pagesOfChunk
		p := uint16(first + chance.IntN(min(pagesOfChunk, int(part.Length()/repo.PageSize)-first)))
		if _, ok := slices.BinarySearch(write, uint32(number)*pagesOfPart+uint32(p)); !ok && !slices.Contains(some, p) {
			some = append(some, p)
		}
	}
	slices.Sort(some)
	r, _ := cluster.ParsePath(path)
	have := make([]byte, repo.PageSize)
	err = reader.Pages(ctx, part, some, func(p uint16, want []byte) error {
		block := uint32(number)*pagesOfPart + uint32(p)
		if _, err := f.ReadAt(have, int64(block)*repo.PageSize); err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		n++
		if why := k.differ(have, want, r.FirstBlock(k.control.SegmentBlocks)+block); why != "" {
			x.note("page %d of %s is another than the log says: %s. Every byte is compared", block, path, why)
			return doubtf("of a sample, page %d of %s is another than the log says: %s", block, path, why)
		}
		return nil
	})
	return n, err
}

// differ says why a page of the cluster that no log names cannot be what the snapshot has there. Two pages of one position
// may differ in what is never logged, or not by everyone: hint bits, and how far a sequence was given out.
func (k *knowledge) differ(have, want []byte, block uint32) string {
	if bytes.Equal(have, want) {
		return ""
	}
	a, b := page.ReadHeader(have), page.ReadHeader(want)
	switch {
	case a.LSN != b.LSN && wal.LSN(b.LSN) >= k.snapshot.redo && wal.LSN(a.LSN) < k.snapshot.redo:
		return "" // it was changed while the snapshot was taken: replay of the log changes it here too
	case a.LSN != b.LSN:
		return "it says that it was changed at " + wal.LSN(a.LSN).String() + ", the snapshot's at " + wal.LSN(b.LSN).String()
	case a.LSN == 0:
		return "" // extended, and never used
	case a.Lower != b.Lower || a.Upper != b.Upper || a.Special != b.Special:
		return "its layout differs"
	case k.control.ChecksumVersion != 0 && a.Checksum != page.Checksum(have, block):
		return "its checksum is wrong"
	}
	return ""
}
