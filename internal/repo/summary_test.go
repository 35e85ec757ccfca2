package repo

import (
	"errors"
	"fmt"
	"testing"

	"github.com/holdfast-dr/holdfast/internal/seal"
	"github.com/holdfast-dr/holdfast/internal/store"
	"github.com/holdfast-dr/holdfast/internal/store/storetest"
)

func TestSummaries(t *testing.T) {
	st := storetest.NewMemory()
	r := newRepository(t, st)
	log := r.Log("orders-db")
	all := []Summary{{1, 100, 200}, {1, 150, 180}, {1, 200, 1 << 40}, {2, 120, 130}}
	for _, s := range all {
		if err := log.PutSummary(t.Context(), s, []byte(fmt.Sprint(s))); err != nil {
			t.Fatal(err)
		}
	}
	if err := log.PutSummary(t.Context(), Summary{1, 100, 100}, nil); err == nil {
		t.Error("a summary of nothing was stored")
	}
	for _, c := range []struct {
		from, to uint64
		want     []Summary
	}{{0, 1 << 62, all[:3]}, {100, 201, all[:3]}, {101, 200, all[1:2]}, {201, 300, nil}} {
		got, err := log.Summaries(t.Context(), 1, c.from, c.to)
		if err != nil || fmt.Sprint(got) != fmt.Sprint(c.want) {
			t.Errorf("from %d to %d: %v, %v; want %v", c.from, c.to, got, err, c.want)
		}
	}
	if b, err := log.Summary(t.Context(), all[1]); err != nil || string(b) != fmt.Sprint(all[1]) {
		t.Errorf("read: %q, %v", b, err)
	}
	if _, err := log.Summary(t.Context(), Summary{1, 100, 201}); !errors.Is(err, store.ErrNotExist) {
		t.Errorf("read what is not there: %v", err)
	}
	// A summary's bytes under another's name do not open.
	b, err := st.Get(t.Context(), log.summaryName(all[0]), 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	if err := st.Put(t.Context(), log.summaryName(all[1]), b); err != nil {
		t.Fatal(err)
	}
	var damaged *seal.DamagedError
	if _, err := log.Summary(t.Context(), all[1]); !errors.As(err, &damaged) {
		t.Errorf("another one's bytes: %v", err)
	}
}

// What ends at or before the floor goes, and nothing of another stream.
func TestCollectSummaries(t *testing.T) {
	r := newRepository(t, storetest.NewMemory())
	log := r.Log("orders-db")
	for _, s := range []Summary{{1, 100, 200}, {1, 200, 300}, {1, 250, 310}, {2, 100, 200}} {
		if err := log.PutSummary(t.Context(), s, nil); err != nil {
			t.Fatal(err)
		}
	}
	var report LogReport
	if err := log.dropBelow(t.Context(), 1, 300, &report); err != nil || report.Summaries != 2 {
		t.Fatalf("%+v, %v", report, err)
	}
	for s, want := range map[StreamID]int{1: 1, 2: 1} {
		if got, err := log.Summaries(t.Context(), s, 0, 1<<62); err != nil || len(got) != want {
			t.Errorf("stream %d has %v, %v; want %d", s, got, err, want)
		}
	}
}
