package geo_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/internal/geo"
	"github.com/holdfast-dr/holdfast/internal/repo"
	"github.com/holdfast-dr/holdfast/internal/repo/repotest"
	"github.com/holdfast-dr/holdfast/internal/seal"
	"github.com/holdfast-dr/holdfast/internal/store/meter"
	"github.com/holdfast-dr/holdfast/internal/store/storetest"
)

// What one site lacks of another is found with a request for each thousand objects, beside some for each comparison: 10,000 parts of
// a log by listings alone, and 10,000 packs by an index and the nodes of a tree.
func TestMissingIsFoundByListings(t *testing.T) {
	t.Parallel()
	const packs, extents, have = 10_000, 12_000, 2_000
	var here, there meter.Meter
	signer, err := seal.NewSigner()
	if err != nil {
		t.Fatal(err)
	}
	r := repotest.Init(t, here.Store(storetest.NewMemory()), repo.Options{PackBytes: 1, Signer: signer})
	l := r.Log("db")
	if err := l.Register(t.Context(), "main"); err != nil {
		t.Fatal(err)
	}
	encoder := l.Encoder()
	put := func(from, to int) {
		for i := from; i < to; i++ {
			if err := encoder.Put(t.Context(), 1, uint64(i)*16, make([]byte, 16), repo.ExtentClock{Writer: time.Now()}, repo.Fast); err != nil {
				t.Fatal(err)
			}
		}
	}
	put(0, have)
	smallFiles(t, r, 1)
	far := there.Store(storetest.NewMemory())
	if err := r.CopyKeys(t.Context(), far); err != nil {
		t.Fatal(err)
	}
	other, err := r.Beside(t.Context(), far, repo.Options{CacheDir: t.TempDir(), Signer: signer})
	if err != nil {
		t.Fatal(err)
	}
	o := geo.Options{
		Keep:   func(all []*repo.Manifest) []*repo.Manifest { return all },
		Floors: func(context.Context, []*repo.Manifest) (map[repo.StreamID]uint64, error) { return nil, nil },
	}
	if _, err := geo.Copy(t.Context(), r, other, "db", o); err != nil {
		t.Fatal(err)
	}
	put(have, extents)
	smallFiles(t, r, packs)

	before := asked(&here) + asked(&there)
	missing, err := geo.LogMissing(t.Context(), r, other, "db", nil)
	n := asked(&here) + asked(&there) - before
	t.Logf("%d objects of the log are missing, found with %d requests", missing.Objects, n)
	if err != nil || missing.Objects != extents-have || missing.Bytes < extents-have {
		t.Errorf("missing are %d objects of %d bytes, want %d; %v", missing.Objects, missing.Bytes, extents-have, err)
	}
	if most := int64(extents+have)/meter.Page + 4; n > most {
		t.Errorf("%d requests, want at most %d", n, most)
	}

	before = asked(&here) + asked(&there)
	report, err := geo.Copy(t.Context(), r, other, "db", o)
	if err != nil || report.Extents != extents-have || report.Packs < packs {
		t.Fatalf("copied %d parts of the log and %d packs, want %d, and at least %d; %v", report.Extents, report.Packs, extents-have, packs, err)
	}
	n = asked(&here) + asked(&there) - before - 2*int64(report.Extents+report.Packs)
	t.Logf("%d objects were copied; beside reading and writing each that took %d requests", report.Extents+report.Packs, n)
	// The log is compared three times: before the snapshot is there, and behind it. 64 are for one snapshot, as TestACopyCostsWhatChanged has it.
	if most := int64(3*(extents+extents)+packs*10)/meter.Page + 64; n > most {
		t.Errorf("%d requests beside those for the objects, want at most %d", n, most)
	}
	if missing, err := geo.LogMissing(t.Context(), r, other, "db", nil); err != nil || missing != (geo.Missing{}) {
		t.Errorf("after the copy %+v are missing; %v", missing, err)
	}
}

func asked(m *meter.Meter) (n int64) {
	for _, r := range m.Read().Requests {
		n += r.Count
	}
	return n
}

// smallFiles takes a snapshot of n files, each with a chunk of its own.
func smallFiles(t *testing.T, r *repo.Repository, n int) {
	t.Helper()
	w, err := r.Begin(t.Context(), "db", "main")
	if err != nil {
		t.Fatal(err)
	}
	m, tree, lane := &repo.Manifest{}, w.NewTree(t.Context()), w.Lane()
	for i := range n {
		plain := binary.BigEndian.AppendUint64(nil, uint64(i))
		id, err := lane.Save(t.Context(), plain, nil)
		if err == nil {
			err = tree.Add(fmt.Sprintf("base/%06d", i), &repo.Entry{Type: repo.TypeFile, Size: int64(len(plain)), Chunks: []seal.ChunkID{id}})
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := tree.Finish(m); err != nil {
		t.Fatal(err)
	}
	if err := w.Commit(t.Context(), m); err != nil {
		t.Fatal(err)
	}
}
