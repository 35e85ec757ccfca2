package repo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/holdfast-dr/holdfast/internal/store"
	"github.com/holdfast-dr/holdfast/internal/store/storetest"
)

func mustSave(t testing.TB, r *Repository, fs files) *Manifest {
	t.Helper()
	m, err := save(t.Context(), r, "orders-db", fs)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func mustCollect(t testing.TB, r *Repository, opts CollectOptions) *CollectReport {
	t.Helper()
	rep, err := r.Collect(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	return rep
}

func count(st *storetest.Memory, prefix string) int {
	n := 0
	for _, name := range st.Names() {
		if len(name) >= len(prefix) && name[:len(prefix)] == prefix {
			n++
		}
	}
	return n
}

func TestCollectRemovesWhatIsForgotten(t *testing.T) {
	st := storetest.NewMemory()
	r := newRepository(t, st)
	first := randomFiles(1, 20)
	gone := mustSave(t, r, first)
	second := files{}
	for p, b := range first {
		second[p] = b
	}
	for i := range 10 {
		second[fmt.Sprintf("base/%05d", i)] = bytes.Repeat([]byte{byte(i), 7}, 400<<10)
	}
	kept := mustSave(t, reopen(t, st), second)
	if rep := mustCollect(t, reopen(t, st), CollectOptions{}); rep.RemovedPacks != 0 {
		t.Fatalf("a collection removed %d packs although every snapshot is kept", rep.RemovedPacks)
	}
	if err := r.Forget(t.Context(), "orders-db", gone.ID); err != nil {
		t.Fatal(err)
	}
	before := count(st, prefixPacks)
	dry := mustCollect(t, reopen(t, st), CollectOptions{DryRun: true, MinLive: 0.99})
	rep := mustCollect(t, reopen(t, st), CollectOptions{MinLive: 0.99})
	if rep.RemovedPacks == 0 || rep.RemovedPacks != dry.RemovedPacks || count(st, prefixPacks) >= before {
		t.Errorf("removed %d packs (a dry run said %d), %d of %d are left", rep.RemovedPacks, dry.RemovedPacks, count(st, prefixPacks), before)
	}
	// r has the old index in memory, the other one an empty one.
	wantFiles(t, r, kept, second)
	wantFiles(t, reopen(t, st), kept, second)
	if n := count(st, prefixIndex) + count(st, prefixBase); n != 1 {
		t.Errorf("%d index objects are left, want 1", n)
	}
	if rep := mustCollect(t, reopen(t, st), CollectOptions{MinLive: 0.99}); rep.Number != 0 {
		t.Errorf("a second collection had something to do: %+v", rep)
	}
	// All that is left goes with the last snapshot.
	if err := r.Forget(t.Context(), "orders-db", kept.ID); err != nil {
		t.Fatal(err)
	}
	mustCollect(t, reopen(t, st), CollectOptions{})
	if n := count(st, prefixPacks); n != 0 {
		t.Errorf("%d packs are left although there is no snapshot", n)
	}
}

func TestCollectWaitsForOlderWriters(t *testing.T) {
	st := storetest.NewMemory()
	r := newRepository(t, st)
	want := randomFiles(1, 10)
	gone := mustSave(t, r, want)
	w, err := r.Begin(t.Context(), "orders-db", DefaultGroup)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Forget(t.Context(), "orders-db", gone.ID); err != nil {
		t.Fatal(err)
	}
	rep := mustCollect(t, reopen(t, st), CollectOptions{})
	if len(rep.Pending) != 1 || rep.Pending[0].System != "orders-db" || rep.RemovedPacks != 0 {
		t.Fatalf("Collect beside a running writer: %+v", rep)
	}
	// The writer shares everything with the forgotten snapshot; a later one does not.
	late := commit(t, w, want)
	if late.Written.NewChunks != 0 {
		t.Errorf("the older writer stored %d chunks, want 0", late.Written.NewChunks)
	}
	rep = mustCollect(t, reopen(t, st), CollectOptions{})
	if len(rep.Pending) != 0 || rep.RemovedPacks != 0 {
		t.Fatalf("Collect after the writer's commit: %+v", rep)
	}
	wantFiles(t, reopen(t, st), late, want)
}

func TestCollectAbortsAWriter(t *testing.T) {
	st := storetest.NewMemory()
	r := newRepository(t, st)
	want := randomFiles(1, 10)
	gone := mustSave(t, r, want)
	w, err := r.Begin(t.Context(), "orders-db", DefaultGroup)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Forget(t.Context(), "orders-db", gone.ID); err != nil {
		t.Fatal(err)
	}
	rep := mustCollect(t, reopen(t, st), CollectOptions{Patience: NoPatience})
	if len(rep.Aborted) != 1 || rep.RemovedPacks == 0 {
		t.Fatalf("Collect without patience: %+v", rep)
	}
	if _, err := commitWith(t, w, want); !errors.Is(err, ErrAborted) {
		t.Fatalf("Commit of an aborted writer: %v, want ErrAborted", err)
	}
	list, err := reopen(t, st).Snapshots(t.Context(), "orders-db")
	if err != nil || len(list) != 0 {
		t.Fatalf("Snapshots = %v, %v, want none", list, err)
	}
	again := mustSave(t, reopen(t, st), want)
	wantFiles(t, reopen(t, st), again, want)
}

// TestLateIndexCounts shows that what an aborted writer names after a collection is not believed.
func TestLateIndexOfAnAbortedWriterDoesNotCount(t *testing.T) {
	st := storetest.NewMemory()
	r := newRepository(t, st)
	want := randomFiles(1, 10)
	w, err := r.Begin(t.Context(), "orders-db", DefaultGroup)
	if err != nil {
		t.Fatal(err)
	}
	saveAll(t, w, want)
	for _, l := range w.lanes {
		if err := l.flush(t.Context()); err != nil { // its packs are in the store, its index is not
			t.Fatal(err)
		}
	}
	if err := w.drain(); err != nil {
		t.Fatal(err)
	}
	mustCollect(t, reopen(t, st), CollectOptions{Patience: NoPatience})
	if n := count(st, prefixPacks); n != 0 {
		t.Fatalf("%d packs of the aborted writer are left", n)
	}
	if err := w.writeIndex(t.Context(), &w.pending); err != nil {
		t.Fatal(err)
	}
	if count(st, prefixIndex) == 0 {
		t.Fatal("the late index object was not written")
	}
	m := mustSave(t, reopen(t, st), want)
	wantFiles(t, reopen(t, st), m, want)
}

func saveAll(t testing.TB, w *Writer, fs files) *Manifest {
	t.Helper()
	m, err := storeFiles(t.Context(), w, fs)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func commitWith(t testing.TB, w *Writer, fs files) (*Manifest, error) {
	t.Helper()
	m := saveAll(t, w, fs)
	return m, w.Commit(t.Context(), m)
}

func commit(t testing.TB, w *Writer, fs files) *Manifest {
	t.Helper()
	m, err := commitWith(t, w, fs)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// beforeCreate calls do before an object is created whose name ends in suffix.
type beforeCreate struct {
	store.Store
	do map[string]func()
}

func (b *beforeCreate) Create(ctx context.Context, name string, body []byte) error {
	for suffix, do := range b.do {
		if strings.HasPrefix(name, prefixCollect) && strings.HasSuffix(name, suffix) {
			delete(b.do, suffix)
			do()
		}
	}
	return b.Store.Create(ctx, name, body)
}

// TestNobodySharesWhatWillNotCount lets an aborted writer put its index object after the collection has read the
// index, and before that becomes the valid one: a writer that begins in between must not rely on it.
func TestNobodySharesWhatWillNotCount(t *testing.T) {
	st := storetest.NewMemory()
	r := newRepository(t, st)
	gone := mustSave(t, r, littleFiles(1, nil))
	if err := r.Forget(t.Context(), "orders-db", gone.ID); err != nil {
		t.Fatal(err)
	}
	want := littleFiles(2, nil)
	w, err := r.Begin(t.Context(), "orders-db", DefaultGroup)
	if err != nil {
		t.Fatal(err)
	}
	saveAll(t, w, want)
	var kept *Manifest
	collecting := reopen(t, st)
	collecting.store = &beforeCreate{Store: st, do: map[string]func(){
		"00000001": func() { // its packs come after the packs were listed: they are not condemned
			for _, l := range w.lanes {
				if err := l.flush(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			if err := w.drain(); err != nil {
				t.Fatal(err)
			}
		},
		".done": func() {
			if err := w.writeIndex(t.Context(), &w.pending); err != nil {
				t.Fatal(err)
			}
			kept = mustSave(t, reopen(t, st), want)
		},
	}}
	rep := mustCollect(t, collecting, CollectOptions{Patience: NoPatience})
	if len(rep.Aborted) != 1 || kept == nil {
		t.Fatalf("the scene was not played: %+v", rep)
	}
	wantFiles(t, reopen(t, st), kept, want)
}
