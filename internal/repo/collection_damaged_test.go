package repo

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/seal"
	"github.com/holdfast-dr/holdfast/internal/store/storetest"
)

// Where the newest object of the collections is damaged, the error names it and says what to do.
func TestDamagedCollectionSaysWhatToDo(t *testing.T) {
	r := &Repository{store: storetest.NewMemory()}
	for _, c := range []struct {
		v    view
		err  error
		want string
	}{
		{view{highest: 3, done: 3}, errors.New("too short"), "collections/00000003.done"},
		{view{highest: 4, done: 3}, errors.New("too short"), "collections/00000004"},
		{view{highest: 4, done: 3}, &seal.DamagedError{Name: "collections/00000003.done", Reason: "x"}, "collections/00000003.done"},
	} {
		err := r.collectionDamaged(&c.v, c.err)
		var f *dr.Failure
		if !errors.As(err, &f) || !errors.Is(err, c.err) {
			t.Fatalf("not a failure of %v: %v", c.err, err)
		}
		if !strings.HasSuffix(f.What, "object "+c.want+" is damaged") || !strings.HasPrefix(f.Next, "holdfast repo check --repair-index; or copy "+c.want+" from another replica") {
			t.Errorf("want it about %s:\n%v", c.want, err)
		}
	}
}

// damage is what may happen to an object.
var damage = map[string]func(ctx context.Context, st *storetest.Memory, name string) error{
	"flipped": func(ctx context.Context, st *storetest.Memory, name string) error {
		b, err := st.Get(ctx, name, 1<<30)
		if err == nil {
			b[len(b)/2] ^= 1
			err = st.Put(ctx, name, b)
		}
		return err
	},
	"cut": func(ctx context.Context, st *storetest.Memory, name string) error {
		b, err := st.Get(ctx, name, 1<<30)
		if err == nil {
			err = st.Put(ctx, name, b[:len(b)/2])
		}
		return err
	},
	"lost": func(ctx context.Context, st *storetest.Memory, name string) error { return st.Delete(ctx, name) },
}

// Whatever happens to an object of the collections, one repair makes everything sound, and loses nothing.
func TestRepairCollection(t *testing.T) {
	l := newLittle(t)
	for _, object := range []string{"00000001.done", "00000001", "00000001.ending", "00000001.waits"} {
		for how, do := range damage {
			t.Run(object+" "+how, func(t *testing.T) {
				st := l.st.Clone()
				if err := do(t.Context(), st, prefixCollect+object); err != nil {
					t.Fatal(err)
				}
				if good := l.restorable(t, st); len(good) != len(l.snapshots) {
					t.Errorf("restorable before the repair: %v", good)
				}
				_, err := save(t.Context(), reopen(t, st), "orders-db", littleFiles(4, l.secret))
				if refused := object == "00000001.done" && how != "lost"; refused != (err != nil) {
					t.Errorf("a snapshot before the repair: %v", err)
				}
				if _, err := reopen(t, st).RepairCollection(t.Context(), CollectOptions{Patience: NoPatience}); err != nil {
					t.Fatal(err)
				}
				mustSave(t, reopen(t, st), littleFiles(5, l.secret))
				mustCollect(t, reopen(t, st), CollectOptions{Patience: NoPatience, MinLive: 0.9})
				mustCollect(t, reopen(t, st), CollectOptions{Patience: NoPatience, MinLive: 0.9})
				if object != "00000001.done" { // what no repair has to do with
					_ = st.Delete(t.Context(), prefixCollect+object)
				}
				wantClean(t, st)
				if good := l.restorable(t, st); len(good) != len(l.snapshots) {
					t.Errorf("restorable after the repair: %v", good)
				}
			})
		}
	}
}
