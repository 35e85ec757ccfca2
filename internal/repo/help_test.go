package repo

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/internal/store"
	"github.com/holdfast-dr/holdfast/internal/store/storetest"
)

// gone is a store that does not answer.
type gone struct{ store.Store }

func (gone) Get(_ context.Context, name string, _ int64) ([]byte, error) {
	return nil, &store.Error{Op: "get", Name: name, Kind: store.Busy, Err: errors.New("no answer")}
}

func (gone) List(_ context.Context, prefix, _ string, _ func(store.Info) error) error {
	return &store.Error{Op: "list", Name: prefix, Kind: store.Busy, Err: errors.New("no answer")}
}

// Where this replica is gone, what any other has counts: not what the first has that answers, which may be nothing.
func TestHelpIsOfAllOthers(t *testing.T) {
	t.Parallel()
	l := newFarLog(t)
	const b = 1 << 16
	empty := l.replica(storetest.NewMemory())
	put := func(i uint64, history string) {
		t.Helper()
		l.put(1, i*b, (i+1)*b)
		log := l.r.Log("orders-db")
		if err := errors.Join(log.PutFile(t.Context(), history, []byte("x")), log.PutMark(t.Context(), Mark{Stream: 1, LSN: (i + 1) * b, Writer: time.Now()})); err != nil {
			t.Fatal(err)
		}
	}
	put(0, "00000002.history")
	behind := l.replica(storetest.NewMemory())
	must(behind.CopyLog(t.Context(), l.r, "orders-db", nil))
	put(1, "00000003.history")
	whole := l.replica(storetest.NewMemory())
	must(whole.CopyLog(t.Context(), l.r, "orders-db", nil))
	r, err := l.r.Beside(t.Context(), l.st, testOptions(t))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	r.store = gone{r.store}
	defer r.Help(Helpers{Others: func(context.Context) []*Repository { return []*Repository{empty, behind, whole} }})()
	log := r.Log("orders-db")
	if m, ok, err := log.Mark(t.Context(), 1); err != nil || !ok || m.LSN != 2*b {
		t.Errorf("mark %+v, %v, %v", m, ok, err)
	}
	if got := must(log.Extents(t.Context(), 1, 0)); len(got) != 2 || got[1].End != 2*b {
		t.Errorf("extents %+v", got)
	}
	if got := must(log.Files(t.Context())); !slices.Equal(got, []string{"00000002.history", "00000003.history"}) {
		t.Errorf("files %q", got)
	}
	if got := must(log.File(t.Context(), "00000003.history")); string(got) != "x" {
		t.Errorf("file %q", got)
	}
	if got := must(log.Streams(t.Context())); !slices.Equal(got, []StreamID{1}) {
		t.Errorf("streams %v", got)
	}
	if _, err := log.File(t.Context(), "00000004.history"); !errors.Is(err, store.ErrNotExist) {
		t.Errorf("a file that nobody has: %v", err)
	}
}
