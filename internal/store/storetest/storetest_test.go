package storetest_test

import (
	"testing"

	"github.com/holdfast-dr/holdfast/internal/store"
	"github.com/holdfast-dr/holdfast/internal/store/storetest"
)

func TestMemory(t *testing.T) {
	storetest.Conformance(t, func(*testing.T) store.Store { return storetest.NewMemory() })
}

func TestMemoryRetried(t *testing.T) {
	storetest.Conformance(t, func(*testing.T) store.Store {
		return store.Retry(storetest.NewMemory(), store.Budget{})
	})
}
