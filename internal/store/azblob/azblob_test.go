package azblob_test

import (
	"testing"

	"github.com/holdfast-dr/holdfast/internal/store"
	"github.com/holdfast-dr/holdfast/internal/store/storetest"
)

func TestConformance(t *testing.T) {
	t.Parallel()
	srv := storetest.Azurite(t)
	storetest.Conformance(t, func(t *testing.T) store.Store { return srv.Open(t, t.Name()) })
}

func TestProbe(t *testing.T) {
	t.Parallel()
	s := storetest.Azurite(t).Open(t, "probed")
	got, err := store.Probe(t.Context(), s)
	if want := (store.Abilities{ExclusiveCreate: true, ListAfterWrite: true, Delete: true}); err != nil || got != want {
		t.Errorf("got %+v, %v, want %+v", got, err, want)
	}
}
