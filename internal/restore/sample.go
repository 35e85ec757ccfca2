package restore

import (
	"bytes"
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
	sampleDraws = 256
	sampleFiles = 16
	samplePages = 8 // of each file
)

// sample compares some of the pages that the log does not name. One that differs is a reason to compare everything.
func (x *run) sample(ctx context.Context, k *knowledge) error {
	root, err := x.plan.Snapshot.Manifest.RootID()
	if err != nil {
		return err
	}
	reader := x.repo.Reader()
	chance := rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64())) //nolint:gosec // a sample, not a secret
	files := 0
	for range sampleDraws {
		if files == sampleFiles {
			break
		}
		path, e, err := reader.Sample(ctx, root, chance)
		if err != nil {
			return err
		}
		// Larger files with preference.
		if e == nil || e.Type != repo.TypeFile || e.Size < repo.PageSize || chance.Int64N(e.Size) < chance.Int64N(repo.Grid/8) {
			continue
		}
		n, err := x.sampleFile(ctx, k, path, e, reader, chance)
		if err != nil {
			return err
		}
		if x.result.Delta.Sampled += int64(n); n > 0 {
			files++
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
	for range samplePages {
		p := uint16(chance.Int64N(part.Length() / repo.PageSize))
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
