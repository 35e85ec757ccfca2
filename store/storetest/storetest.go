// Package storetest holds an implementation of store.Store to its contract, also one that is made outside of this
// module:
//
//	func TestConformance(t *testing.T) {
//		storetest.Conformance(t, func(t *testing.T) store.Store {
//			s, err := mine.Open(t.TempDir())
//			if err != nil {
//				t.Fatal(err)
//			}
//			return s
//		})
//	}
package storetest

import (
	"testing"

	"github.com/holdfast-dr/holdfast/internal/store/storetest"
	"github.com/holdfast-dr/holdfast/store"
)

// Conformance checks the contract. open returns a new, empty store for each part of it; Conformance closes them.
func Conformance(t *testing.T, open func(t *testing.T) store.Store) {
	t.Helper()
	storetest.Conformance(t, open)
}
