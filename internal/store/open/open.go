package open

import (
	"context"
	"errors"

	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/store"
	"github.com/holdfast-dr/holdfast/internal/store/azblob"
	"github.com/holdfast-dr/holdfast/internal/store/gcs"
	"github.com/holdfast-dr/holdfast/internal/store/local"
	"github.com/holdfast-dr/holdfast/internal/store/meter"
	"github.com/holdfast-dr/holdfast/internal/store/s3"
	"github.com/holdfast-dr/holdfast/internal/store/sftp"
)

// Options are what a URL does not say. The zero value is right for a program.
type Options struct {
	Local local.Options
	Retry store.Budget // zero fields have Retry's defaults
	Meter *meter.Meter // counts each try; nil: nobody counts
	Lock  store.Lock   // of each object; only a bucket can
}

// Store opens the store that url names; its calls are repeated within o.Retry. A directory must exist; whether one
// on a server does is seen by the first call.
func Store(ctx context.Context, url string, o Options) (store.Store, error) {
	l, err := Parse(url)
	if err != nil {
		return nil, err
	}
	if o.Lock.For > 0 && l.S3.Bucket == "" {
		return nil, dr.Fail("open store "+url, errNoLock, "leave lock out")
	}
	switch {
	case l.Dir != "":
		return o.dress(local.Open(l.Dir, o.Local))
	case l.SFTP != nil:
		return o.dress(sftp.Open(*l.SFTP), nil)
	}
	return o.bucket(ctx, l)
}

var errNoLock = errors.New("only an S3 bucket can retain objects")

// bucket opens a store that nobody but a person makes.
func (o Options) bucket(ctx context.Context, l Location) (store.Store, error) {
	l.S3.Lock = o.Lock
	switch {
	case l.GCS != nil:
		return o.dress(gcs.Open(ctx, *l.GCS))
	case l.Azure != nil:
		return o.dress(azblob.Open(ctx, *l.Azure))
	}
	return o.dress(s3.Open(ctx, l.S3))
}

// Create is Store for a new repository: a directory is made where it is missing. A bucket or container is not, since its
// region, versioning, locks and cost are for people to choose.
func Create(ctx context.Context, url string, o Options) (store.Store, error) {
	l, err := Parse(url)
	if err != nil {
		return nil, err
	}
	if o.Lock.For > 0 && l.S3.Bucket == "" {
		return nil, dr.Fail("open store "+url, errNoLock, "leave lock out")
	}
	switch {
	case l.Dir != "":
		return o.dress(local.Create(l.Dir, o.Local))
	case l.SFTP != nil:
		return o.dress(sftp.Create(ctx, *l.SFTP))
	}
	return o.bucket(ctx, l)
}

// dress puts around a store what each has.
func (o Options) dress(s store.Store, err error) (store.Store, error) {
	if err != nil {
		return nil, err
	}
	if o.Meter != nil {
		s = o.Meter.Store(s)
	}
	return store.Retry(s, o.Retry), nil
}
