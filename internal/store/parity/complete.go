package parity

import (
	"bytes"
	"context"
	"errors"
	"iter"
	"strings"

	"github.com/holdfast-dr/holdfast/internal/store"
)

// Completion is what Complete did.
type Completion struct {
	Written int   `json:"written"` // parity objects
	Bytes   int64 `json:"bytes"`   // of these
	Removed int   `json:"removed"` // parity objects that belonged to nothing
}

// Complete makes the parity of each object of s what it is to be, and removes parity that belongs to no object. It believes what it reads: so
// an object that skip names is left alone, and with keep so is parity without an object, from which a small one can be
// rebuilt. s is wrapped. It may run beside anything, and be repeated.
func Complete(ctx context.Context, s store.Store, skip func(name string) bool, keep bool) (c Completion, err error) {
	w, ok := s.(*wrapped)
	if !ok {
		return c, errNone
	}
	var alone []string
	err = w.pairs(ctx, func(object, parity store.Info) error {
		switch {
		case object.Name != "" && !skip(object.Name):
			return w.complete(ctx, object.Name, &c)
		case object.Name == "":
			alone = append(alone, parity.Name)
		}
		return nil
	})
	if err != nil || keep {
		return c, err
	}
	for _, name := range alone { // somebody may have been writing the object while it was listed
		if _, err := w.Store.Stat(ctx, strings.TrimPrefix(name, prefix)); !errors.Is(err, store.ErrNotExist) {
			continue
		}
		if err := w.Store.Delete(ctx, name); err != nil {
			return c, err
		}
		c.Removed++
	}
	return c, nil
}

// Lacking returns how many objects of s, which is wrapped, have no parity. It only lists.
func Lacking(ctx context.Context, s store.Store) (n int, err error) {
	w, ok := s.(*wrapped)
	if !ok {
		return 0, errNone
	}
	err = w.pairs(ctx, func(object, parity store.Info) error {
		if parity.Name == "" && store.CheckName(prefix+object.Name) == nil {
			n++
		}
		return nil
	})
	return n, err
}

// Each calls fn for each object of s, which is wrapped, in order, with the size of its parity, -1 where it has none. What has parity only
// is passed with the size -1: it was lost, or is being written; whoever deletes removes the parity first. It only lists.
func Each(ctx context.Context, s store.Store, fn func(object store.Info, parity int64) error) error {
	w, ok := s.(*wrapped)
	if !ok {
		return errNone
	}
	return w.pairs(ctx, func(object, parity store.Info) error {
		if parity.Name == "" {
			return fn(object, -1)
		}
		if object.Name == "" {
			object = store.Info{Name: strings.TrimPrefix(parity.Name, prefix), Size: -1}
		}
		return fn(object, parity.Size)
	})
}

// Check reads the parity of an object of s, which is wrapped, and tells whether it is what it must be for the object's bytes to be rebuilt
// from it, in full strength. An error says that it could not be read.
func Check(ctx context.Context, s store.Store, name string, object []byte) (good bool, err error) {
	w, ok := s.(*wrapped)
	if !ok {
		return false, errNone
	}
	if store.CheckName(prefix+name) != nil {
		return true, nil // its name is too long to have any
	}
	b, err := w.Store.Get(ctx, prefix+name, maxObject)
	if errors.Is(err, store.ErrNotExist) || store.KindOf(err) == store.Damaged {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return whole(b, object), nil
}

// Mend makes the parity of an object of s, which is wrapped, what it is to be for the bytes that are there now.
func Mend(ctx context.Context, s store.Store, name string) error {
	w, ok := s.(*wrapped)
	if !ok {
		return errNone
	}
	var c Completion
	return w.complete(ctx, name, &c)
}

var errNone = errors.New("the store keeps no parity")

// pairs calls fn with objects and their parity, in order; of those that are alone the other one has no name.
func (w *wrapped) pairs(ctx context.Context, fn func(object, parity store.Info) error) error {
	nextObject, stopObjects := iter.Pull2(listed(ctx, w, ""))
	defer stopObjects()
	nextParity, stopParities := iter.Pull2(listed(ctx, w.Store, prefix))
	defer stopParities()
	object, err, more := nextObject()
	parity, parityErr, moreParity := nextParity()
	for err == nil && parityErr == nil && (more || moreParity) {
		order := 0
		switch {
		case !moreParity:
			order = -1
		case !more:
			order = 1
		default:
			order = strings.Compare(prefix+object.Name, parity.Name)
		}
		var both [2]store.Info
		if order <= 0 {
			both[0] = object
		}
		if order >= 0 {
			both[1] = parity
		}
		if err := fn(both[0], both[1]); err != nil {
			return err
		}
		if order <= 0 {
			object, err, more = nextObject()
		}
		if order >= 0 {
			parity, parityErr, moreParity = nextParity()
		}
	}
	return errors.Join(err, parityErr)
}

// complete writes the parity of an object, if it is not there as it is to be.
func (w *wrapped) complete(ctx context.Context, name string, c *Completion) error {
	if store.CheckName(prefix+name) != nil {
		return nil
	}
	object, err := w.Store.Get(ctx, name, maxObject)
	if errors.Is(err, store.ErrNotExist) {
		return nil // since it was listed
	}
	if err != nil {
		return err
	}
	want, err := encode(object, w.percent)
	if err != nil {
		return err
	}
	if have, err := w.Store.Get(ctx, prefix+name, maxObject); err == nil && bytes.Equal(have, want) {
		return nil
	}
	if err := w.Store.Put(ctx, prefix+name, want); err != nil {
		return err
	}
	c.Written++
	c.Bytes += int64(len(want))
	return nil
}

// listed is a listing to be pulled from.
func listed(ctx context.Context, s store.Store, pre string) iter.Seq2[store.Info, error] {
	return func(yield func(store.Info, error) bool) {
		ended := errors.New("ended")
		err := s.List(ctx, pre, "", func(i store.Info) error {
			if !yield(i, nil) {
				return ended
			}
			return nil
		})
		if err != nil && !errors.Is(err, ended) {
			yield(store.Info{}, err)
		}
	}
}
