package repo

import (
	"encoding/binary"
	"fmt"
	"testing"

	"github.com/holdfast-dr/holdfast/internal/store/meter"
	"github.com/holdfast-dr/holdfast/internal/store/storetest"
)

// TestAnHourCostsWhatChanged compares what is asked of the store by all that a process does which has a repository open, when
// a snapshot is due: list the snapshots, take one of some changed pages, and rank it. Neither the files nor the lists nor
// the snapshots that were there before may count, but for what the tree's root takes to name the leaves.
func TestAnHourCostsWhatChanged(t *testing.T) {
	t.Parallel()
	small, large := hour(t, 2000, 5), hour(t, 8*2000, 8*5)
	t.Logf("2000 files and 5 snapshots: %d requests, %d bytes; 8 times as many: %d, %d", small.requests, small.bytes, large.requests, large.bytes)
	if large.requests > small.requests*13/10 {
		t.Errorf("%d requests, of a repository eight times as large %d", small.requests, large.requests)
	}
	if large.bytes > small.bytes*2 {
		t.Errorf("%d bytes, of a repository eight times as large %d", small.bytes, large.bytes)
	}
}

type traffic struct{ requests, bytes int64 }

func hour(t *testing.T, files, snapshots int) traffic {
	t.Helper()
	var m meter.Meter
	r := tick(newRepository(t, m.Store(storetest.NewMemory())))
	h := &hourly{t: t, r: r, last: firstHour(t, r, files)}
	for i := range snapshots {
		h.pass(4 * (1 - min(i, 1))) // the first changes something, so that each history has left the same traces in the files
	}
	before := total(&m)
	h.pass(4)
	after := total(&m)
	return traffic{after.requests - before.requests, after.bytes - before.bytes}
}

func total(m *meter.Meter) (a traffic) {
	totals := m.Read()
	for _, r := range totals.Requests {
		a.requests += r.Count
	}
	a.bytes = totals.Sent + totals.Received
	return a
}

// hourly takes snapshots of a repository's files.
type hourly struct {
	t     *testing.T
	r     *Repository
	last  *Manifest
	pages uint64
}

func hourlyPath(i int) string { return fmt.Sprintf("base/%06d", i) }

const hourlyChunks = inlineChunks + 1 // so that each file has a list

// firstHour stores files that differ in one chunk; that is nowhere, since nobody reads it.
func firstHour(t *testing.T, r *Repository, files int) *Manifest {
	t.Helper()
	w := must(r.Begin(t.Context(), "orders-db", DefaultGroup))
	lane, tree, m := w.Lane(), w.NewTree(t.Context()), &Manifest{}
	same := must(lane.Save(t.Context(), make([]byte, Grid), nil))
	for i := range files {
		ids := someIDs(1)
		binary.LittleEndian.PutUint32(ids[0][:], uint32(i))
		for len(ids) < hourlyChunks {
			ids = append(ids, same)
		}
		e := &Entry{Type: TypeFile}
		e.SetContent(hourlyChunks*Grid, []FileList{must(w.SaveList(t.Context(), ids, hourlyChunks*Grid))})
		if err := tree.Add(hourlyPath(i), e); err != nil {
			t.Fatal(err)
		}
	}
	if err := tree.Finish(m); err != nil {
		t.Fatal(err)
	}
	if err := w.Commit(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	return m
}

// pass does what is done every hour, with a page changed in each of some files.
func (h *hourly) pass(changed int) {
	h.t.Helper()
	ctx, list := h.t.Context(), must(h.r.Snapshots(h.t.Context(), "orders-db"))
	if got := list[len(list)-1]; got.Err != nil || got.ID != h.last.ID {
		h.t.Fatalf("the last snapshot is %s, %v, not %s", got.ID, got.Err, h.last.ID)
	}
	w := must(h.r.Begin(ctx, "orders-db", DefaultGroup))
	if !must(w.MayCarry(ctx, h.last)) {
		h.t.Fatal("nothing may be carried over")
	}
	lane, rd := w.Lane(), h.r.Reader()
	var edits []TreeEdit
	for i := range changed {
		e := must(rd.Lookup(ctx, must(h.last.RootID()), hourlyPath(i)))
		h.pages++
		unit := must(lane.Save(ctx, pageOf(h.pages), nil))
		list := must(w.PatchPart(ctx, must(rd.FilePart(ctx, e, 0)), nil, []PagePatch{{Page: uint16(h.pages % 64), Unit: unit, UnitPages: 1}}, e.Size))
		e.SetContent(e.Size, []FileList{list})
		edits = append(edits, TreeEdit{Path: hourlyPath(i), Entry: e})
	}
	m := &Manifest{}
	if err := w.EditTree(ctx, h.last, edits, m); err != nil {
		h.t.Fatal(err)
	}
	if err := w.Commit(ctx, m); err != nil {
		h.t.Fatal(err)
	}
	h.last = m
	if o := must(h.r.Optimize(ctx, "orders-db", OptimizeOptions{})); o.Rewritten != "" || o.Before.Patched == 0 {
		h.t.Fatalf("optimized: %+v", o)
	}
}
