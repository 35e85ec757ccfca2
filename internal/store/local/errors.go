package local

import (
	"context"
	"errors"
	"io/fs"

	"golang.org/x/sys/unix"

	"github.com/holdfast-dr/holdfast/internal/store"
)

// fail makes the *store.Error of a method out of its cause.
func (s *Store) fail(op, name string, err error) error {
	kind := kindOf(err)
	if op == "get" && errors.Is(err, unix.EIO) {
		kind = store.Damaged // the disk has lost a part of it
	}
	return &store.Error{Op: op, Name: name, Store: s.dir, Kind: kind, Err: err}
}

func kindOf(err error) store.Kind {
	if kind, ok, _ := store.GivenKind(err); ok {
		return kind
	}
	switch {
	case errors.Is(err, store.ErrNotExist), errors.Is(err, store.ErrExists):
		return store.Gone
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return store.Busy
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		return store.Full
	case errors.Is(err, unix.EROFS), errors.Is(err, fs.ErrPermission):
		return store.Denied
	// What a network file system or an exhausted process says, and takes back later.
	case errors.Is(err, unix.ESTALE), errors.Is(err, unix.ETIMEDOUT), errors.Is(err, unix.EAGAIN),
		errors.Is(err, unix.EBUSY), errors.Is(err, unix.EMFILE), errors.Is(err, unix.ENFILE):
		return store.Busy
	}
	return store.Other
}
