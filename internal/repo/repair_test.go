package repo

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/holdfast-dr/holdfast/internal/store"
	"github.com/holdfast-dr/holdfast/internal/store/storetest"
)

func TestRebuildIndex(t *testing.T) {
	l := newLittle(t)
	for _, prefix := range []string{prefixIndex, prefixBase} {
		for _, how := range []string{"flipped", "gone"} {
			st := l.st.Clone()
			for _, n := range l.st.Names() {
				if !strings.HasPrefix(n, prefix) {
					continue
				}
				if how == "gone" {
					_ = st.Delete(t.Context(), n)
				} else {
					st = change(t, st, n, func(b []byte) []byte { b[len(b)-1] ^= 1; return b })
				}
			}
			r, err := openAgain(t, st)
			if err != nil {
				t.Fatal(err)
			}
			rep, err := r.RebuildIndex(t.Context())
			if err != nil || rep.Packs == 0 {
				t.Errorf("%s %s: RebuildIndex: %+v, %v", prefix, how, rep, err)
			}
			wantClean(t, st)
			if good := l.restorable(t, st); len(good) != len(l.snapshots) {
				t.Errorf("%s %s: restorable after the repair: %v", prefix, how, good)
			}
		}
	}
}

// TestLostPackHeals shows that what a lost pack held is stored again by the next snapshot, for the old ones too.
func TestLostPackHeals(t *testing.T) {
	st := storetest.NewMemory()
	r := newRepository(t, st)
	want := littleFiles(1, []byte("x"))
	old := mustSave(t, r, want)
	for _, n := range st.Names() {
		if strings.HasPrefix(n, prefixPacks) {
			_ = st.Delete(t.Context(), n)
		}
	}
	r, _ = openAgain(t, st)
	rep, err := r.RebuildIndex(t.Context())
	if err != nil || len(rep.Dropped) == 0 {
		t.Fatalf("RebuildIndex: %+v, %v", rep, err)
	}
	r, _ = openAgain(t, st)
	mustSave(t, r, want)
	wantClean(t, st)
	wantFiles(t, r, old, want)
}

func TestNoPlaintextIsStored(t *testing.T) {
	l := newLittle(t)
	for _, name := range l.st.Names() {
		b, err := l.st.Get(t.Context(), name, 1<<30)
		if err != nil {
			t.Fatal(err)
		}
		for _, known := range [][]byte{l.secret, []byte("orders"), []byte("base/"), []byte(passphrase)} {
			if bytes.Contains(b, known) || strings.Contains(name, "orders") {
				t.Errorf("object %s tells %q", name, known)
			}
		}
	}
}

func TestCollectLog(t *testing.T) {
	l := newLittle(t)
	r, err := openAgain(t, l.st)
	if err != nil {
		t.Fatal(err)
	}
	rep, err := r.CollectLog(t.Context(), "orders-db", map[StreamID]uint64{2: 1 << 60})
	if err != nil || rep.Extents != 0 {
		t.Errorf("without a floor: %+v, %v", rep, err)
	}
	rep, err = r.CollectLog(t.Context(), "orders-db", map[StreamID]uint64{1: 1<<24 + 1999})
	if err != nil || rep.Extents != 1 || rep.Summaries != 1 {
		t.Errorf("with a floor inside of the second extent: %+v, %v; want 1 extent and the summary", rep, err)
	}
	w, err := r.Begin(t.Context(), "orders-db", DefaultGroup)
	if err != nil {
		t.Fatal(err)
	}
	rep, err = r.CollectLog(t.Context(), "orders-db", map[StreamID]uint64{1: 1 << 60})
	if err != nil || rep.Extents != 0 || rep.Undecided != 1 {
		t.Errorf("beside a writer: %+v, %v", rep, err)
	}
	if err := w.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	got := lowered(map[StreamID]uint64{1: 50, 2: 70, 3: 80}, []Listed{{Manifest: &Manifest{Log: LogRange{Stream: 2, Start: 60}}}})
	if want := (map[StreamID]uint64{1: 50, 2: 60, 3: 0}); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("lowered: %v, want %v", got, want)
	}
}

// TestRecoverIndexIsTriedAgain cuts the connection while a reader looks into the packs for what a damaged index object named.
func TestRecoverIndexIsTriedAgain(t *testing.T) {
	st := storetest.NewMemory()
	want := littleFiles(1, []byte("x"))
	m := mustSave(t, newRepository(t, st), want)
	for _, n := range st.Names() {
		if strings.HasPrefix(n, prefixIndex) {
			st = change(t, st, n, func(b []byte) []byte { b[len(b)-1] ^= 1; return b })
		}
	}
	inPacks := func(name string) bool { return strings.HasPrefix(name, prefixPacks) }
	for _, op := range []string{"list", "range"} {
		f := storetest.NewFaulty(st)
		r, err := openAgain(t, f)
		if err != nil {
			t.Fatal(err)
		}
		f.SetFaults(storetest.Fault{Op: op, Match: inPacks, When: storetest.Before, Kind: store.Busy, Once: true})
		if _, err := load(t.Context(), r, m); !errors.Is(err, storetest.ErrInjected) {
			t.Fatalf("%s: the first reading: %v", op, err)
		}
		wantFiles(t, r, m, want)
	}
}
