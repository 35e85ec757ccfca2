// Package store lets programs outside of this module implement, and test, a place for Holdfast's objects. It has no
// code of its own: every name is one of internal/store, whose comments are the contract. The suite that holds an
// implementation to it is store/storetest.
//
// A store becomes one of Holdfast's with a case in internal/store/open, which is the one list of what there is; the
// section "Adding a store" of CONTRIBUTING.md has the steps.
package store

import "github.com/holdfast-dr/holdfast/internal/store"

type (
	// Store is one replica's objects: names and bytes.
	Store = store.Store
	// Info is what a listing says of an object.
	Info = store.Info
	// Error is the error of every method of a Store.
	Error = store.Error
	// Kind sorts errors by what a caller can do about them.
	Kind = store.Kind
)

// The kinds of errors. Only what is Busy is repeated.
const (
	Other   = store.Other
	Gone    = store.Gone
	Denied  = store.Denied
	Busy    = store.Busy
	Damaged = store.Damaged
	Full    = store.Full
)

// ErrNotExist and ErrExists are found with errors.Is in the errors of kind Gone.
var (
	ErrNotExist = store.ErrNotExist
	ErrExists   = store.ErrExists
)

// CheckName returns an error that says what is wrong with an object's name.
func CheckName(name string) error { return store.CheckName(name) }

// CheckPrefix returns an error that says why no object's name can begin with prefix.
func CheckPrefix(prefix string) error { return store.CheckPrefix(prefix) }
