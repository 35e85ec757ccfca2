package storetest

import (
	"context"
	"time"

	"github.com/holdfast-dr/holdfast/internal/store"
	"github.com/holdfast-dr/holdfast/internal/store/meter"
)

// Far returns s as it is from afar: each request takes a delay more, and a listing one for each page.
func Far(s store.Store, delay time.Duration) store.Store { return &far{s, delay} }

type far struct {
	store.Store

	delay time.Duration
}

func (f *far) wait(ctx context.Context) {
	t := time.NewTimer(f.delay)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

func (f *far) Put(ctx context.Context, name string, body []byte) error {
	f.wait(ctx)
	return f.Store.Put(ctx, name, body)
}

func (f *far) Create(ctx context.Context, name string, body []byte) error {
	f.wait(ctx)
	return f.Store.Create(ctx, name, body)
}

func (f *far) Get(ctx context.Context, name string, max int64) ([]byte, error) {
	f.wait(ctx)
	return f.Store.Get(ctx, name, max)
}

func (f *far) GetRange(ctx context.Context, name string, off int64, dst []byte) error {
	f.wait(ctx)
	return f.Store.GetRange(ctx, name, off, dst)
}

func (f *far) Stat(ctx context.Context, name string) (store.Info, error) {
	f.wait(ctx)
	return f.Store.Stat(ctx, name)
}

func (f *far) List(ctx context.Context, prefix, after string, fn func(store.Info) error) error {
	f.wait(ctx)
	names := 0
	return f.Store.List(ctx, prefix, after, func(i store.Info) error {
		if names++; names > 1 && names%meter.Page == 1 {
			f.wait(ctx)
		}
		return fn(i)
	})
}

func (f *far) Delete(ctx context.Context, name string) error {
	f.wait(ctx)
	return f.Store.Delete(ctx, name)
}
