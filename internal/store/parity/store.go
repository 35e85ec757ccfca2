package parity

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/holdfast-dr/holdfast/internal/store"
)

// prefix is in front of the name of what a parity object belongs to.
const prefix = "parity/"

// Wrap returns s with parity: of each object that is written so many percent of its bytes are kept beside it, and removed with it. A
// crash in between leaves an object without parity, or parity without an object; Complete makes that good. It closes s.
func Wrap(s store.Store, percent int) store.Store {
	return &wrapped{Store: s, percent: min(max(percent, 1), maxPercent)}
}

// Has tells whether a store is one that Wrap has returned.
func Has(s store.Store) bool {
	_, ok := s.(*wrapped)
	return ok
}

type wrapped struct {
	store.Store
	percent int
}

// Vault returns what is around: versions of parity are versions of objects like others, which nobody who asks for other names meets.
func (w *wrapped) Vault() store.Vault { return store.VaultOf(w.Store) }

// Unwrap returns the store without parity.
func (w *wrapped) Unwrap() store.Store { return w.Store }

func (w *wrapped) Put(ctx context.Context, name string, body []byte) error {
	if store.CheckName(prefix+name) != nil {
		return w.Store.Put(ctx, name, body)
	}
	eg, inner := errgroup.WithContext(ctx) // both wait for the disk, or the network
	eg.Go(func() error { return w.Store.Put(inner, name, body) })
	eg.Go(func() error { return write(inner, w.Store, name, body, w.percent) })
	return eg.Wait()
}

// Create writes parity behind the object: where there is another one already, that keeps its own. An object that was made is
// reported as made, with parity or without.
func (w *wrapped) Create(ctx context.Context, name string, body []byte) error {
	err := w.Store.Create(ctx, name, body)
	if err == nil && store.CheckName(prefix+name) == nil {
		_ = write(ctx, w.Store, name, body, w.percent) // Complete makes it good
	}
	return err
}

// write writes the parity of an object.
func write(ctx context.Context, s store.Store, name string, body []byte, percent int) error {
	b, err := encode(body, percent)
	if err != nil {
		return &store.Error{Op: "put", Name: prefix + name, Store: s.String(), Err: err}
	}
	return s.Put(ctx, prefix+name, b)
}

// Delete removes the parity first: what stays if it is cut off is an object without parity.
func (w *wrapped) Delete(ctx context.Context, name string) error {
	if store.CheckName(prefix+name) == nil {
		if err := w.Store.Delete(ctx, prefix+name); err != nil {
			return err
		}
	}
	return w.Store.Delete(ctx, name)
}

var errBehind = errors.New("go on behind the names of parity")

// List hides parity.
func (w *wrapped) List(ctx context.Context, pre, after string, fn func(store.Info) error) error {
	for {
		err := w.Store.List(ctx, pre, after, func(i store.Info) error {
			if strings.HasPrefix(i.Name, prefix) {
				return errBehind
			}
			return fn(i)
		})
		if !errors.Is(err, errBehind) {
			return err
		}
		after = prefix + "\x7f" // no name has this character: it is behind all of them
	}
}

// Rebuild returns a view of s that reads objects as they were when their parity was written, or says why it cannot; without parity,
// as they are. It writes nothing. The object that was read last is kept, for who reads it in parts.
func Rebuild(s store.Store) store.Store { return &rebuilt{Store: s} }

type rebuilt struct {
	store.Store

	mu   sync.Mutex // guards name and body
	name string
	body []byte
}

const maxObject = 1 << 30

func (r *rebuilt) Get(ctx context.Context, name string, most int64) ([]byte, error) {
	b, err := r.whole(ctx, "get", name)
	if err == nil && int64(len(b)) > most {
		err = r.damaged("get", name, fmt.Errorf("it has %d bytes, more than %d", len(b), most))
	}
	return bytes.Clone(b), err
}

func (r *rebuilt) GetRange(ctx context.Context, name string, off int64, dst []byte) error {
	b, err := r.whole(ctx, "get", name)
	if err == nil && (off < 0 || off > int64(len(b)) || copy(dst, b[off:]) < len(dst)) {
		err = r.damaged("get", name, fmt.Errorf("it has %d bytes", len(b)))
	}
	return err
}

func (r *rebuilt) Stat(ctx context.Context, name string) (store.Info, error) {
	b, err := r.whole(ctx, "stat", name)
	return store.Info{Name: name, Size: int64(len(b))}, err
}

func (r *rebuilt) damaged(op, name string, err error) error {
	return &store.Error{Op: op, Name: name, Store: r.String(), Kind: store.Damaged, Err: err}
}

// whole returns an object, which belongs to r.
func (r *rebuilt) whole(ctx context.Context, op, name string) ([]byte, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.name == name {
		return r.body, nil
	}
	p, perr := r.Store.Get(ctx, prefix+name, maxObject)
	b, err := r.Store.Get(ctx, name, maxObject)
	if err != nil && store.KindOf(err) != store.Gone {
		b, err = r.sectors(ctx, name, err)
	}
	switch {
	case errors.Is(perr, store.ErrNotExist): // it was stored before there was parity
		return b, err
	case perr != nil:
		return nil, perr
	case err != nil && !errors.Is(err, store.ErrNotExist):
		return nil, err
	}
	out, err := decode(b, p)
	if err != nil {
		return nil, r.damaged(op, name, err)
	}
	r.name, r.body = name, out
	return out, nil
}

// sectors returns what can be read of an object, with zeros where it cannot: a disk that has lost a sector refuses what holds it.
func (r *rebuilt) sectors(ctx context.Context, name string, cause error) ([]byte, error) {
	if k := store.KindOf(cause); k == store.Busy || k == store.Denied {
		return nil, cause
	}
	i, err := r.Store.Stat(ctx, name)
	if err != nil || i.Size > maxObject {
		return nil, cause
	}
	b := make([]byte, i.Size)
	for at := 0; at < len(b); at += blockSize {
		part := b[at:min(at+blockSize, len(b))]
		if err := r.Store.GetRange(ctx, name, int64(at), part); err != nil {
			if ctx.Err() != nil {
				return nil, err
			}
			clear(part)
		}
	}
	return b, nil
}

var errReads = errors.New("what is rebuilt is only read")

func (r *rebuilt) Put(_ context.Context, name string, _ []byte) error {
	return &store.Error{Op: "put", Name: name, Store: r.String(), Kind: store.Denied, Err: errReads}
}

func (r *rebuilt) Create(_ context.Context, name string, _ []byte) error {
	return &store.Error{Op: "create", Name: name, Store: r.String(), Kind: store.Denied, Err: errReads}
}

func (r *rebuilt) Delete(_ context.Context, name string) error {
	return &store.Error{Op: "delete", Name: name, Store: r.String(), Kind: store.Denied, Err: errReads}
}

// Close leaves the store open: it belongs to somebody else.
func (r *rebuilt) Close() error { return nil }
