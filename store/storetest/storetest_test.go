package storetest_test

import (
	"testing"

	internal "github.com/holdfast-dr/holdfast/internal/store/storetest"
	"github.com/holdfast-dr/holdfast/store"
	"github.com/holdfast-dr/holdfast/store/storetest"
)

// The published suite is the one that our own stores pass.
func TestConformance(t *testing.T) {
	storetest.Conformance(t, func(*testing.T) store.Store { return internal.NewMemory() })
}
