package repo

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/internal/seal"
	"github.com/holdfast-dr/holdfast/internal/store"
	"github.com/holdfast-dr/holdfast/internal/store/storetest"
)

// distant is a store that takes its time, and counts what it is asked for.
type distant struct {
	store.Store
	delay           time.Duration
	requests, bytes atomic.Int64
}

func (d *distant) GetRange(ctx context.Context, name string, off int64, dst []byte) error {
	select {
	case <-time.After(d.delay):
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	d.requests.Add(1)
	d.bytes.Add(int64(len(dst)))
	return d.Store.GetRange(ctx, name, off, dst)
}

// A page of each of many chunks is fetched by itself where requests are cheap, and with what lies between where they are not.
func TestPagesOfNearAndDistantStores(t *testing.T) {
	t.Parallel()
	st := storetest.NewMemory()
	p := &patcher{t: t, codec: sparse{new(atomic.Int64)}}
	const chunks = 8
	want := p.content(chunks * chunkPages)
	m := wholeChunks(t, newRepository(t, st), p.codec, want)
	asked := map[time.Duration]*distant{}
	for _, delay := range []time.Duration{0, 20 * time.Millisecond} {
		d := &distant{Store: st, delay: delay}
		asked[delay] = d
		r := reopen(t, d)
		r.codecs[p.codec.ID()] = p.codec
		rd := r.Reader()
		part := must(rd.FilePart(t.Context(), must(rd.Lookup(t.Context(), must(m.RootID()), "rel")), 0))
		if near := r.near(); near != (delay == 0) {
			t.Fatalf("a delay of %s: near is %t", delay, near)
		}
		d.requests.Store(0)
		d.bytes.Store(0)
		var pages []uint16
		for c := range chunks {
			pages = append(pages, uint16(c*chunkPages+7*c), uint16(c*chunkPages+7*c+1))
		}
		read := 0
		err := rd.Pages(t.Context(), part, pages, func(page uint16, plain []byte) error {
			read++
			if !bytes.Equal(plain, want[int(page)*PageSize:][:PageSize]) {
				t.Errorf("a delay of %s: page %d is another one", delay, page)
			}
			return nil
		})
		if err != nil || read != len(pages) {
			t.Fatalf("a delay of %s: %d pages, %v", delay, read, err)
		}
	}
	near, far := asked[0], asked[20*time.Millisecond]
	if near.bytes.Load() > int64(len(want)/8) || far.bytes.Load() < int64(len(want)) || far.requests.Load() > near.requests.Load()/2 {
		t.Errorf("near: %d requests for %d bytes; far: %d for %d", near.requests.Load(), near.bytes.Load(), far.requests.Load(), far.bytes.Load())
	}
}

// wholeChunks stores a file, one chunk behind the other.
func wholeChunks(t *testing.T, r *Repository, codec Codec, content []byte) *Manifest {
	t.Helper()
	w := must(r.Begin(t.Context(), "orders-db", DefaultGroup))
	defer w.Close(t.Context()) //nolint:errcheck // the error of interest is another
	lane := w.Lane()
	var ids []seal.ChunkID
	for chunk := range slices.Chunk(content, Grid) {
		ids = append(ids, must(lane.Save(t.Context(), chunk, codec)))
	}
	list := must(w.SaveList(t.Context(), ids, int64(len(content))))
	e, m := &Entry{Type: TypeFile, Mode: 0o600}, &Manifest{}
	e.SetContent(int64(len(content)), []FileList{list})
	if err := errors.Join(w.EditTree(t.Context(), nil, []TreeEdit{{Path: "rel", Entry: e}}, m), w.Commit(t.Context(), m)); err != nil {
		t.Fatal(err)
	}
	return m
}

// Of a part of which more is patched than fits into memory, every group is decoded once all the same, and every page is right.
func TestAWindowKeepsWhatTheNextOneNeeds(t *testing.T) {
	t.Parallel()
	st := storetest.NewMemory()
	r := newRepository(t, st)
	skipped := new(atomic.Int64)
	p := &patcher{t: t, rnd: rand.New(rand.NewPCG(17, 18)), most: 30, codec: &counting{sparse: sparse{skipped}}}
	const chunks = 24
	now := p.content(chunks * chunkPages)
	m := wholeChunks(t, r, p.codec, now)
	for range 40 { // units that lie across the whole part
		next := bytes.Clone(now)
		for range 30 {
			copy(next[p.rnd.IntN(chunks*chunkPages)*PageSize:], p.content(1))
		}
		m, now = p.snapshot(r, m, now, next), next
	}
	for _, window := range []int{chunkPages, 3 * chunkPages, windowPages} {
		codec := p.codec.(*counting)
		r := reopen(t, st)
		r.codecs[codec.ID()] = codec
		rd := r.Reader()
		rd.GatherIn(make([]byte, window*PageSize*4/3+Grid+PageSize))
		part := must(rd.FilePart(t.Context(), must(rd.Lookup(t.Context(), must(m.RootID()), "rel")), 0))
		codec.decoded.Store(0)
		var all []int
		for c := range part.Len() {
			all = append(all, c)
		}
		err := rd.PartPieces(t.Context(), part, all, func(c int, pieces [][]byte) error {
			if got := bytes.Join(pieces, nil); !bytes.Equal(got, now[c*Grid:][:Grid]) {
				t.Errorf("a window of %d pages: chunk %d is another one", window, c)
			}
			return nil
		}, nil)
		if err != nil {
			t.Fatal(err)
		}
		// What is not within memory with its mates, when these are more than the window, may be decoded again.
		most := part.Fragmentation().Decoded * PageSize
		if got := codec.decoded.Load(); got < most*9/10 || window > chunkPages && got > most {
			t.Errorf("a window of %d pages decodes %d bytes, and the fragmentation says %d", window, got, most)
		}
	}
}

// counting counts what is decoded.
type counting struct {
	sparse
	decoded atomic.Int64
}

func (c *counting) Decode(dst, src []byte, size int, want uint64) ([]byte, error) {
	out, err := c.sparse.Decode(dst, src, size, want)
	c.decoded.Add(int64(len(out) - len(dst)))
	return out, err
}
