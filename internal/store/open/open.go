package open

import (
	"context"

	"github.com/holdfast-dr/holdfast/internal/store"
	"github.com/holdfast-dr/holdfast/internal/store/local"
	"github.com/holdfast-dr/holdfast/internal/store/meter"
	"github.com/holdfast-dr/holdfast/internal/store/s3"
)

// Options are what a URL does not say. The zero value is right for a program.
type Options struct {
	Local local.Options
	Retry store.Budget // zero fields have Retry's defaults
	Meter *meter.Meter // counts each try; nil: nobody counts
}

// Store opens the store that url names; its calls are repeated within o.Retry. A directory must exist.
func Store(ctx context.Context, url string, o Options) (store.Store, error) {
	return open(ctx, url, o, local.Open)
}

// Create is Store for a new repository: a directory is made where it is missing. A bucket is not, since its
// region, versioning, locks and cost are for people to choose.
func Create(ctx context.Context, url string, o Options) (store.Store, error) {
	return open(ctx, url, o, local.Create)
}

func open(ctx context.Context, url string, o Options, directory func(string, local.Options) (*local.Store, error)) (store.Store, error) {
	l, err := Parse(url)
	if err != nil {
		return nil, err
	}
	if l.Dir != "" {
		s, err := directory(l.Dir, o.Local)
		if err != nil {
			return nil, err
		}
		return o.dress(s), nil
	}
	s, err := s3.Open(ctx, l.S3)
	if err != nil {
		return nil, err
	}
	return o.dress(s), nil
}

// dress puts around a store what each has.
func (o Options) dress(s store.Store) store.Store {
	if o.Meter != nil {
		s = o.Meter.Store(s)
	}
	return store.Retry(s, o.Retry)
}
