package restore_test

import (
	"context"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/holdfast-dr/holdfast/internal/pg/page"
	"github.com/holdfast-dr/holdfast/internal/repo"
	"github.com/holdfast-dr/holdfast/internal/seal"
	"github.com/holdfast-dr/holdfast/internal/store/local"
)

var (
	fragmentSnapshots = flag.Int("fragment.snapshots", 300, "snapshots that BenchmarkFragmented takes of its file")
	fragmentShare     = flag.Float64("fragment.share", 0.002, "part of the file's pages that changes between them")
	fragmentParts     = flag.Int("fragment.parts", 4, "size of the file, in parts of 128 MiB")
)

const fragmentSystem = "orders-db"

// heapPage fills a page as a table of small rows does: a header, line pointers, and rows of numbers and words.
func heapPage(rnd *rand.Rand, b []byte) {
	clear(b)
	const rows, width = 60, 128
	binary.LittleEndian.PutUint64(b, rnd.Uint64()>>20)
	binary.LittleEndian.PutUint16(b[12:], 24+4*rows)
	binary.LittleEndian.PutUint16(b[14:], uint16(len(b)-rows*width))
	binary.LittleEndian.PutUint16(b[16:], uint16(len(b)))
	binary.LittleEndian.PutUint16(b[18:], uint16(len(b))|4)
	for i := range rows {
		at := len(b) - (i+1)*width
		binary.LittleEndian.PutUint32(b[24+4*i:], uint32(at)|1<<15|width<<17)
		binary.LittleEndian.PutUint32(b[at:], 700+uint32(rnd.IntN(100)))
		binary.LittleEndian.PutUint64(b[at+24:], rnd.Uint64()>>30)
		for j := 32; j < 112; j += 4 {
			copy(b[at+j:], [...]string{"meer", "berg", "wald", "haus"}[rnd.IntN(4)])
		}
	}
}

// churn is a file of pages in a repository, of which snapshots are taken as capture takes them.
type churn struct {
	b      *testing.B
	r      *repo.Repository
	rnd    *rand.Rand
	pages  [][]uint64 // seed of each page, in each part
	codec  *page.Codec
	last   *repo.Manifest
	stored int64
	clock  time.Time
}

const (
	partPages  = repo.ListLen * repo.Grid / repo.PageSize
	chunkPages = repo.Grid / repo.PageSize
)

func newChurn(b *testing.B, parts int) *churn {
	st, err := local.Open(b.TempDir(), local.Options{})
	if err != nil {
		b.Fatal(err)
	}
	c := &churn{b: b, rnd: rand.New(rand.NewPCG(1, 1)), codec: page.NewCodec(), clock: time.Now()}
	signer, err := seal.NewSigner()
	if err != nil {
		b.Fatal(err)
	}
	to, err := seal.PassphraseRecipient("test", "fragmentation", 10)
	if err != nil {
		b.Fatal(err)
	}
	c.r, err = repo.Init(b.Context(), st, []seal.Recipient{to}, repo.Options{Signer: signer, CacheDir: b.TempDir(), Codecs: []repo.Codec{c.codec}, Now: func() time.Time {
		c.clock = c.clock.Add(time.Second)
		return c.clock
	}})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = c.r.Close() })
	c.pages = make([][]uint64, parts)
	for n := range c.pages {
		c.pages[n] = make([]uint64, partPages)
		for i := range c.pages[n] {
			c.pages[n][i] = c.rnd.Uint64()
		}
	}
	return c
}

func (c *churn) page(n, i int, b []byte) { heapPage(rand.New(rand.NewPCG(c.pages[n][i], 1)), b) }

func (c *churn) must(err error) {
	if err != nil {
		c.b.Helper()
		c.b.Fatal(err)
	}
}

// commit stores the file's parts, and remembers the snapshot.
func (c *churn) commit(w *repo.Writer, lists []repo.FileList) {
	e := &repo.Entry{Type: repo.TypeFile, Mode: 0o600}
	e.SetContent(int64(len(lists))*partPages*repo.PageSize, lists)
	m := &repo.Manifest{Engine: "test"}
	c.must(w.EditTree(c.b.Context(), c.last, []repo.TreeEdit{{Path: "rel", Entry: e}}, m))
	c.must(w.Commit(c.b.Context(), m))
	c.last, c.stored = m, c.stored+m.Written.StoredBytes
}

// whole stores everything in whole chunks.
func (c *churn) whole() {
	ctx := c.b.Context()
	w, err := c.r.Begin(ctx, fragmentSystem, repo.DefaultGroup)
	c.must(err)
	lists := make([]repo.FileList, len(c.pages))
	var eg errgroup.Group
	eg.SetLimit(2)
	for n := range c.pages {
		lane := w.Lane()
		eg.Go(func() error {
			ids := make([]seal.ChunkID, repo.ListLen)
			buf := make([]byte, repo.Grid)
			for i := range ids {
				for p := range chunkPages {
					c.page(n, i*chunkPages+p, buf[p*repo.PageSize:][:repo.PageSize])
				}
				var err error
				if ids[i], err = lane.Save(ctx, buf, c.codec); err != nil {
					return err
				}
			}
			var err error
			lists[n], err = w.SaveList(ctx, ids, int64(len(c.pages))*partPages*repo.PageSize)
			return err
		})
	}
	c.must(eg.Wait())
	c.last = nil
	c.commit(w, lists)
}

// change takes a snapshot after a share of the pages changed, in units of up to 32.
func (c *churn) change(share float64) {
	ctx := c.b.Context()
	w, err := c.r.Begin(ctx, fragmentSystem, repo.DefaultGroup)
	c.must(err)
	if ok, err := w.MayCarry(ctx, c.last); !ok || err != nil {
		c.b.Fatal(ok, err)
	}
	rd, lane := c.r.Reader(), w.Lane()
	root, err := c.last.RootID()
	c.must(err)
	e, err := rd.Lookup(ctx, root, "rel")
	c.must(err)
	lists := make([]repo.FileList, len(c.pages))
	for n := range c.pages {
		base, err := rd.FilePart(ctx, e, n)
		c.must(err)
		changed := map[int]bool{}
		for len(changed) < int(share*partPages) {
			changed[c.rnd.IntN(partPages)] = true
		}
		var pages []int
		for p := range changed {
			pages = append(pages, p)
		}
		slices.Sort(pages)
		var patches []repo.PagePatch
		for some := range slices.Chunk(pages, 32) {
			unit := make([]byte, len(some)*repo.PageSize)
			for slot, p := range some {
				c.pages[n][p] = c.rnd.Uint64()
				c.page(n, p, unit[slot*repo.PageSize:][:repo.PageSize])
			}
			id, err := lane.Save(ctx, unit, c.codec)
			c.must(err)
			for slot, p := range some {
				patches = append(patches, repo.PagePatch{Page: uint16(p), Unit: id, UnitPages: uint8(len(some)), Slot: uint8(slot)})
			}
		}
		lists[n], err = w.PatchPart(ctx, base, nil, patches, partPages*repo.PageSize)
		c.must(err)
	}
	c.commit(w, lists)
}

// read reads the newest snapshot with two goroutines, as a restore does, and writes it to a directory if there is one.
func (c *churn) read(ctx context.Context, m *repo.Manifest, dir string) error {
	root, err := m.RootID()
	if err != nil {
		return err
	}
	e, err := c.r.Reader().Lookup(ctx, root, "rel")
	if err != nil {
		return err
	}
	var eg errgroup.Group
	eg.SetLimit(2)
	readers := make(chan *repo.Reader, 2)
	readers <- c.r.Reader()
	readers <- c.r.Reader()
	for n := range c.pages {
		eg.Go(func() (err error) {
			rd := <-readers
			defer func() { readers <- rd }()
			p, err := rd.FilePart(ctx, e, n)
			if err != nil {
				return err
			}
			var f *os.File
			if dir != "" {
				if f, err = os.Create(filepath.Join(dir, fmt.Sprint(n))); err != nil {
					return err
				}
				defer func() { err = errors.Join(err, f.Sync(), f.Close()) }()
			}
			var all []int
			for i := range p.Len() {
				all = append(all, i)
			}
			return rd.PartPieces(ctx, p, all, func(i int, pieces [][]byte) error {
				if f == nil {
					return nil
				}
				_, err := unix.Pwritev(int(f.Fd()), pieces, int64(i)*repo.Grid)
				return err
			}, nil)
		})
	}
	return eg.Wait()
}

// BenchmarkFragmented reads a file that was stored whole, then after many small changes, then after Optimize.
func BenchmarkFragmented(b *testing.B) {
	c := newChurn(b, *fragmentParts)
	c.whole()
	reads := func(name string) {
		root, err := c.last.RootID()
		c.must(err)
		f, err := c.r.Reader().Fragmentation(b.Context(), root)
		c.must(err)
		for _, write := range []bool{false, true} {
			kind := "decode"
			if write {
				kind = "write"
			}
			b.Run(name+"/"+kind, func(b *testing.B) {
				b.SetBytes(f.Pages * repo.PageSize)
				dir := ""
				if write {
					dir = b.TempDir()
				}
				before := cpu(b, unix.RUSAGE_SELF)
				for b.Loop() {
					if err := c.read(b.Context(), c.last, dir); err != nil {
						b.Fatal(err)
					}
				}
				b.ReportMetric((cpu(b, unix.RUSAGE_SELF)-before).Seconds()/float64(b.N), "cpu-s/op")
				b.ReportMetric(f.Ratio(), "fragmentation")
				b.ReportMetric(float64(c.stored)/(1<<20), "stored-MiB")
			})
		}
	}
	reads("fresh")
	for range *fragmentSnapshots {
		c.change(*fragmentShare)
	}
	reads("fragmented")
	for _, bound := range []float64{1.5, 1.25} {
		began := time.Now()
		o, err := c.r.Optimize(b.Context(), fragmentSystem, repo.OptimizeOptions{Bound: bound, Codec: func(string) repo.Codec { return c.codec }})
		c.must(err)
		if o.Rewritten == "" {
			continue
		}
		b.Logf("bound %.2f: %d bytes in %s: %.2f to %.2f", bound, o.Bytes, time.Since(began), o.Before.Ratio(), o.After.Ratio())
		c.last, err = c.r.Manifest(b.Context(), fragmentSystem, o.Rewritten)
		c.must(err)
		c.stored += o.Stored
		reads(fmt.Sprintf("optimized-%.2f", bound))
	}
}

// BenchmarkPrune forgets every other one of 500 snapshots of a file that changes a little, and gives the space back.
func BenchmarkPrune(b *testing.B) {
	for b.Loop() {
		b.StopTimer()
		c := newChurn(b, *fragmentParts)
		c.whole()
		for range 499 {
			c.change(*fragmentShare)
		}
		list, err := c.r.Snapshots(b.Context(), fragmentSystem)
		c.must(err)
		b.StartTimer()
		began := time.Now()
		before := cpu(b, unix.RUSAGE_SELF)
		for i, l := range list {
			if i%2 == 0 && i < len(list)-1 {
				c.must(c.r.Forget(b.Context(), fragmentSystem, l.ID))
			}
		}
		forgot := time.Since(began)
		report, err := c.r.Collect(b.Context(), repo.CollectOptions{})
		c.must(err)
		b.ReportMetric(forgot.Seconds(), "forget-s")
		b.ReportMetric((cpu(b, unix.RUSAGE_SELF) - before).Seconds(), "cpu-s")
		b.ReportMetric(float64(report.RemovedPacks), "packs-removed")
		var u unix.Rusage
		c.must(unix.Getrusage(unix.RUSAGE_SELF, &u))
		b.ReportMetric(float64(u.Maxrss)/1024, "peak-MiB")
	}
}
