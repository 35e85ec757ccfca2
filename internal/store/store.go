package store

import (
	"context"
	"errors"
	"fmt"
)

// Store is one replica's objects: names and bytes, nothing else. Objects are immutable by convention of the
// callers, except where Put replaces one. All methods may be called from several goroutines.
//
// Names are relative, slash-separated, made of the characters [a-z0-9._-] and "/", at most 512 bytes, with no
// empty, "." or ".." element and none over 255 bytes; CheckName tells. A store that is given another name
// returns an error and does nothing. No object's name is the directory of another's ("a" beside "a/b"): a
// store may refuse the second one.
//
// Every error is a *Error and has a Kind. ErrNotExist, ErrExists and kind Denied mean that nothing was changed.
// After any other error, or when the context ended, the call may have had its effect, or not, or have it later,
// when a request that we gave up arrives after all.
type Store interface {
	// Put makes name hold body, whole, replacing what was there. When it returns nil the object is durable and
	// every later Get, Stat and List from anywhere sees it. A reader never sees a part. body is lent.
	Put(ctx context.Context, name string, body []byte) error

	// Create is Put for a name that must be new: ErrExists where there is one. Of any number of concurrent
	// creators of one name exactly one gets nil. A call that failed Busy and is repeated may therefore see its
	// own object: Retry compares, so bodies of different creators must differ.
	Create(ctx context.Context, name string, body []byte) error

	// Get returns the whole object; the result belongs to the caller. ErrNotExist where there is none.
	// max bounds what is read into memory: a larger object is an error of kind Damaged.
	Get(ctx context.Context, name string, max int64) ([]byte, error)

	// GetRange fills dst with the bytes from off on. An object that ends earlier is an error of kind Damaged.
	GetRange(ctx context.Context, name string, off int64, dst []byte) error

	// Stat returns name and size. ErrNotExist where there is none.
	Stat(ctx context.Context, name string) (Info, error)

	// List calls fn for every object whose name begins with prefix and is greater than after, in ascending
	// order of bytes. It needs memory for one page of the listing (one directory), not for all. An error of fn
	// ends it and is returned as it is. Objects created or deleted meanwhile may or may not appear. prefix may
	// end anywhere in a name and may be empty; after may be anything.
	List(ctx context.Context, prefix, after string, fn func(Info) error) error

	// Delete removes name, durably. An absent name is no error.
	Delete(ctx context.Context, name string) error

	// String names the location for messages and never contains a secret.
	String() string

	// Close releases connections. The objects stay.
	Close() error
}

// Info is what a listing says of an object.
type Info struct {
	Name string
	Size int64
}

// Kind sorts errors by what a caller can do about them.
type Kind uint8

// The kinds of errors.
const (
	Other   Kind = iota // neither of the others: a bug, a bad argument, a local fault
	Gone                // there is no such object (or, from Create, there is one already)
	Denied              // the credentials may not do this; repeating is useless
	Busy                // overload, time-out, cut connection: may be repeated
	Damaged             // the object is not what it must be: shorter, too large
	Full                // no space, or over a quota
)

// ErrNotExist and ErrExists are found with errors.Is in the errors of Get, GetRange, Stat and of Create.
var (
	ErrNotExist = errors.New("no such object")
	ErrExists   = errors.New("object exists already")
)

// Error is the error of every method of a Store.
type Error struct {
	Op    string // "put", "create", "get", "stat", "list", "delete"
	Name  string // object or prefix
	Store string // Store.String()
	Kind  Kind
	Err   error
}

func (e *Error) Error() string { return fmt.Sprintf("%s %s in %s: %v", e.Op, e.Name, e.Store, e.Err) }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// KindOf returns the kind of the first *Error in err's tree, or Other.
func KindOf(err error) Kind {
	var e *Error
	if errors.As(err, &e) {
		return e.Kind
	}
	return Other
}

// maxElement is what a file's name may have on the file systems of Linux (NAME_MAX).
const maxElement = 255

// CheckPrefix returns an error that says why no object's name can begin with prefix.
func CheckPrefix(prefix string) error {
	if prefix == "" || CheckName(prefix) == nil {
		return nil
	}
	// "x" completes an unfinished element: a/ and a/. can go on, a//, /a and a/../ cannot.
	if err := CheckName(prefix + "x"); err != nil {
		return fmt.Errorf("as the beginning of a name: %w", err)
	}
	return nil
}

// CheckName returns an error that says what is wrong with an object's name.
func CheckName(name string) error {
	if name == "" || len(name) > 512 {
		return fmt.Errorf("object name %q has %d bytes; 1 to 512 are allowed", name, len(name))
	}
	elem := 0 // start of the current element
	for i := 0; i <= len(name); i++ {
		if i == len(name) || name[i] == '/' {
			if e := name[elem:i]; e == "" || e == "." || e == ".." || len(e) > maxElement {
				return fmt.Errorf("object name %q has the element %q; 1 to %d bytes are allowed, not . or ..", name, e, maxElement)
			}
			elem = i + 1
			continue
		}
		c := name[i]
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '.' && c != '_' && c != '-' {
			return fmt.Errorf("object name %q has the character %q; [a-z0-9._-/] are allowed", name, c)
		}
	}
	return nil
}
