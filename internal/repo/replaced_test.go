package repo

import (
	"errors"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/internal/store"
	"github.com/holdfast-dr/holdfast/internal/store/storetest"
)

// A process that lasts goes on with the keys of the repository that it opened. Where that was removed, and perhaps made
// anew, no log is acknowledged any more.
func TestReplacedRepository(t *testing.T) {
	st := storetest.NewMemory()
	r := newRepository(t, st)
	log := r.Log("orders-db")
	if err := log.Register(t.Context(), DefaultGroup); err != nil {
		t.Fatal(err)
	}
	mark := func(lsn uint64) error { return log.PutMark(t.Context(), Mark{Stream: 1, LSN: lsn}) }
	if err := mark(1); err != nil {
		t.Fatal(err)
	}
	var names []string
	if err := st.List(t.Context(), "", "", func(i store.Info) error { names = append(names, i.Name); return nil }); err != nil {
		t.Fatal(err)
	}
	for _, n := range names {
		if err := st.Delete(t.Context(), n); err != nil {
			t.Fatal(err)
		}
	}
	late := r.opts.Now().Add(markerEvery)
	r.opts.Now = func() time.Time { return late }
	if mark(2) == nil {
		t.Error("where the repository was removed, a mark is put")
	}
	if err := st.Put(t.Context(), markerName, []byte(`{"format":"holdfast-repository","version":1,"id":"another"}`)); err != nil {
		t.Fatal(err)
	}
	if err := mark(3); !errors.Is(err, ErrReplaced) {
		t.Errorf("where another one is: %v", err)
	}
}
