package meter_test

import (
	"context"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-dr/holdfast/internal/store"
	"github.com/holdfast-dr/holdfast/internal/store/meter"
	"github.com/holdfast-dr/holdfast/internal/store/storetest"
)

func TestConformance(t *testing.T) {
	storetest.Conformance(t, func(*testing.T) store.Store { return new(meter.Meter).Store(storetest.NewMemory()) })
}

func TestMeterCountsWhatHappened(t *testing.T) {
	faulty := storetest.NewFaulty(storetest.NewMemory())
	var m meter.Meter
	s, ctx := m.Store(faulty), t.Context()
	if diff := cmp.Diff(meter.Totals{}, m.Read()); diff != "" {
		t.Errorf("before anything (-want +got):\n%s", diff)
	}
	body := []byte("twelve bytes")
	want := func(err, is error) {
		t.Helper()
		if !errors.Is(err, is) {
			t.Fatalf("got %v, want %v", err, is)
		}
	}
	want(s.Put(ctx, "a", body), nil)
	want(s.Create(ctx, "b", body), nil)
	want(s.Create(ctx, "b", body), store.ErrExists)
	_, err := s.Get(ctx, "a", 100)
	want(err, nil)
	_, err = s.Get(ctx, "nothing", 100)
	want(err, store.ErrNotExist)
	want(s.GetRange(ctx, "a", 2, make([]byte, 5)), nil)
	_, err = s.Stat(ctx, "a")
	want(err, nil)
	enough := errors.New("enough")
	want(s.List(ctx, "", "", func(store.Info) error { return enough }), enough)
	want(s.Delete(ctx, "b"), nil)
	faulty.SetFaults(storetest.Fault{Op: "put", When: storetest.Before, Kind: store.Busy})
	want(s.Put(ctx, "c", body), storetest.ErrInjected)
	faulty.SetFaults()
	ended, end := context.WithCancel(ctx)
	end()
	want(s.Put(ended, "c", body), context.Canceled)

	got := m.Read()
	if diff := cmp.Diff(meter.Totals{Sent: 24, Received: 17, Requests: []meter.Requests{
		{"create", "gone", 1},
		{"create", "ok", 1},
		{"delete", "ok", 1},
		{"get", "gone", 1},
		{"get", "ok", 1},
		{"list", "ok", 1},
		{"put", "busy", 1},
		{"put", "canceled", 1},
		{"put", "ok", 1},
		{"range", "ok", 1},
		{"stat", "ok", 1},
	}}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
