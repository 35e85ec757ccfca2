package repo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/internal/seal"
	"github.com/holdfast-dr/holdfast/internal/store"
)

// What the faults of an optimization are tried on: a system whose file of 64 pages was changed a few times.
const (
	eventsSystem    = "events-db"
	eventsPages     = chunkPages
	eventsSnapshots = 5
)

// eventsContent is what the file has after n snapshots behind the first.
func eventsContent(n int) []byte {
	var b []byte
	for page := range eventsPages {
		at := 0
		for s := 1; s <= n; s++ {
			if page%(s+2) == 0 {
				at = s
			}
		}
		b = append(b, pageOf(uint64(page*100+at))...)
	}
	return b
}

func fragmentedEvents(ctx context.Context, st store.Store) error {
	if err := twoSnapshots(ctx, st); err != nil {
		return err
	}
	return opened(ctx, st, func(r *Repository) error {
		began := time.Now().Add(-time.Hour)
		r.opts.Now = func() time.Time {
			began = began.Add(time.Second)
			return began
		}
		m, err := save(ctx, r, eventsSystem, files{"rel": eventsContent(0)})
		for n := 1; n <= eventsSnapshots && err == nil; n++ {
			before := m
			if m, err = patchEvents(ctx, r, before, n); err == nil {
				err = r.Forget(ctx, eventsSystem, before.ID)
			}
		}
		return err
	})
}

// patchEvents takes the nth snapshot on top of the one before it.
func patchEvents(ctx context.Context, r *Repository, before *Manifest, n int) (*Manifest, error) {
	w, err := r.Begin(ctx, eventsSystem, DefaultGroup)
	if err != nil {
		return nil, err
	}
	defer w.Close(ctx) //nolint:errcheck // the error of interest is another
	if ok, err := w.MayCarry(ctx, before); !ok || err != nil {
		return nil, errors.Join(err, errors.New("it may not be carried over"))
	}
	root, err := before.RootID()
	if err != nil {
		return nil, err
	}
	rd := r.Reader()
	e, err := rd.Lookup(ctx, root, "rel")
	if err != nil {
		return nil, err
	}
	base, err := rd.FilePart(ctx, e, 0)
	if err != nil {
		return nil, err
	}
	old, now := eventsContent(n-1), eventsContent(n)
	var unit []byte
	var patches []PagePatch
	for page := range eventsPages {
		if b := now[page*PageSize:][:PageSize]; !bytes.Equal(b, old[page*PageSize:][:PageSize]) {
			patches = append(patches, PagePatch{Page: uint16(page), Slot: uint8(len(unit) / PageSize)})
			unit = append(unit, b...)
		}
	}
	id, err := w.Lane().Save(ctx, unit, nil)
	if err != nil {
		return nil, err
	}
	for i := range patches {
		patches[i].Unit, patches[i].UnitPages = id, uint8(len(patches))
	}
	list, err := w.PatchPart(ctx, base, map[int]seal.ChunkID{}, patches, int64(len(now)))
	if err != nil {
		return nil, err
	}
	e.SetContent(int64(len(now)), []FileList{list})
	m := &Manifest{Engine: "test"}
	if err := w.EditTree(ctx, before, []TreeEdit{{Path: "rel", Entry: e}}, m); err != nil {
		return nil, err
	}
	return m, w.Commit(ctx, m)
}

func optimizeEvents(ctx context.Context, st store.Store) error {
	return opened(ctx, st, func(r *Repository) error {
		report, err := r.Optimize(ctx, eventsSystem, OptimizeOptions{Bound: 1.1})
		if err == nil && report.Original == "" {
			err = errors.New("there was nothing to look at")
		}
		return err
	})
}

// sameEvents shows that the moment is there, once where one counts it right, and quick to read.
func sameEvents(t *testing.T, r *Repository) {
	t.Helper()
	list, err := r.Snapshots(t.Context(), eventsSystem)
	if err != nil {
		t.Fatal(err)
	}
	var all []*Manifest
	for _, l := range list {
		if l.Err != nil {
			t.Errorf("snapshot %s: %v", l.ID, l.Err)
			continue
		}
		all = append(all, l.Manifest)
		wantFiles(t, r, l.Manifest, files{"rel": eventsContent(eventsSnapshots)})
	}
	superseded := Superseded(all)
	if len(all)-len(superseded) != 1 {
		t.Errorf("%d snapshots, of which %d are superseded: %v", len(all), len(superseded), fmt.Sprint(superseded))
	}
	for _, m := range all {
		if _, ok := superseded[m.ID]; ok {
			continue
		}
		if f, err := r.fragmentationOf(t.Context(), m); err != nil || f.Ratio() > 1.1 {
			t.Errorf("%s has a fragmentation of %.2f, %v", m.ID, f.Ratio(), err)
		}
	}
}
