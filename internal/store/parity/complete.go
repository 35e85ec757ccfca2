package parity

import (
	"context"
	"errors"
	"iter"

	"github.com/holdfast-dr/holdfast/internal/store"
)

// Completion is what Complete did.
type Completion struct {
	Written int   `json:"written"` // parity objects
	Bytes   int64 `json:"bytes"`   // of these
	Removed int   `json:"removed"` // parity objects that belonged to nothing
}

// Complete writes the parity of the objects of s that have none, or one of another size, and removes parity that belongs to no object.
// It believes what it reads: so an object that skip names is left alone, and with keep so is parity without an object, from
// which a small one can be rebuilt. s is wrapped. It may run beside anything, and be repeated.
func Complete(ctx context.Context, s store.Store, skip func(name string) bool, keep bool) (c Completion, err error) {
	w, ok := s.(*wrapped)
	if !ok {
		return c, errors.New("the store keeps no parity")
	}
	nextObject, stopObjects := iter.Pull2(listed(ctx, w, ""))
	defer stopObjects()
	nextParity, stopParities := iter.Pull2(listed(ctx, w.Store, prefix))
	defer stopParities()
	object, err, more := nextObject()
	parity, parityErr, moreParity := nextParity()
	for more || moreParity {
		if err := errors.Join(err, parityErr, ctx.Err()); err != nil {
			return c, err
		}
		of := parity.Name[min(len(prefix), len(parity.Name)):]
		switch {
		case more && moreParity && of == object.Name:
			if parity.Size != int64(layoutOf(int(object.Size), blockSize, w.percent).length()) {
				err = w.complete(ctx, object.Name, skip, &c)
			}
			object, err, more = following(err, nextObject)
			parity, parityErr, moreParity = nextParity()
		case more && (!moreParity || object.Name < of):
			err = w.complete(ctx, object.Name, skip, &c)
			object, err, more = following(err, nextObject)
		default:
			if !keep {
				if err := w.Store.Delete(ctx, parity.Name); err != nil {
					return c, err
				}
				c.Removed++
			}
			parity, parityErr, moreParity = nextParity()
		}
	}
	return c, errors.Join(err, parityErr, ctx.Err())
}

// following is next, if there was no error.
func following(err error, next func() (store.Info, error, bool)) (store.Info, error, bool) {
	if err != nil {
		return store.Info{}, err, true
	}
	return next()
}

func (w *wrapped) complete(ctx context.Context, name string, skip func(string) bool, c *Completion) error {
	if skip(name) || store.CheckName(prefix+name) != nil {
		return nil
	}
	b, err := w.Store.Get(ctx, name, maxObject)
	if errors.Is(err, store.ErrNotExist) {
		return nil // since it was listed
	}
	if err == nil {
		err = write(ctx, w.Store, name, b, w.percent)
	}
	if err == nil {
		c.Written++
		c.Bytes += int64(layoutOf(len(b), blockSize, w.percent).length())
	}
	return err
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
