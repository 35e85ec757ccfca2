package local_test

import (
	"testing"

	"github.com/holdfast-dr/holdfast/internal/store"
	"github.com/holdfast-dr/holdfast/internal/store/local"
	"github.com/holdfast-dr/holdfast/internal/store/storetest"
)

func open(t *testing.T, opts local.Options) *local.Store {
	t.Helper()
	s, err := local.Open(t.TempDir(), opts)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestConformance(t *testing.T) {
	storetest.Conformance(t, func(t *testing.T) store.Store { return open(t, local.Options{}) })
}

func TestConformanceRetried(t *testing.T) {
	storetest.Conformance(t, func(t *testing.T) store.Store {
		return store.Retry(open(t, local.Options{}), store.Budget{})
	})
}
