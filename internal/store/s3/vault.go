package s3

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"

	"github.com/holdfast-dr/holdfast/internal/store"
	"github.com/holdfast-dr/holdfast/internal/store/line"
)

// Vault returns what a bucket with versions, and with Object Lock, can do beside. Without versioning each name has one, "null".
func (s *Store) Vault() store.Vault { return vault{s} }

type vault struct{ s *Store }

var _ store.Vault = vault{}

// Versions implements store.Vault. A listing has versions and delete markers in two lists, each with the newest first, and
// times in whole seconds: between two of one second the order is not told, but for the latest.
func (v vault) Versions(ctx context.Context, prefix, after string, fn func(store.Version) error) error {
	s := v.s
	if err := store.CheckPrefix(prefix); err != nil {
		return s.fail(ctx, "versions", prefix, err)
	}
	asked := listable(prefix)
	in := &s3.ListObjectVersionsInput{Bucket: &s.bucket, Prefix: s.key(asked)}
	if after > prefix {
		in.KeyMarker = s.key(after)
	}
	var rest []store.Version // of the last name: more of it may come
	give := func(all []store.Version) error {
		for _, x := range all {
			if err := fn(x); err != nil {
				return err
			}
		}
		return nil
	}
	for last := ""; ; {
		var page *s3.ListObjectVersionsOutput
		err := s.request(ctx, "versions", prefix, 0, func(ctx context.Context, _ *line.Watch) (err error) {
			page, err = s.client.ListObjectVersions(ctx, in)
			return err
		})
		if err != nil {
			return err
		}
		for _, x := range v.merge(page, prefix, after) {
			if x.Name < last {
				return s.fail(ctx, "versions", prefix, fmt.Errorf("the server lists versions of %q after those of %q: not in order", x.Name, last))
			}
			if x.Name != last {
				if err := give(rest); err != nil {
					return err
				}
				rest, last = rest[:0], x.Name
			}
			rest = append(rest, x)
		}
		if !aws.ToBool(page.IsTruncated) {
			return give(rest)
		}
		if aws.ToString(page.NextKeyMarker) == "" {
			return s.fail(ctx, "versions", prefix, errors.New("the server cut the listing and does not say where it goes on"))
		}
		in.KeyMarker, in.VersionIdMarker = page.NextKeyMarker, page.NextVersionIdMarker
	}
}

// merge returns a page's versions and delete markers in one order.
func (v vault) merge(page *s3.ListObjectVersionsOutput, prefix, after string) []store.Version {
	all := make([]store.Version, 0, len(page.Versions)+len(page.DeleteMarkers))
	add := func(key, id *string, size *int64, latest *bool, at *time.Time, deleted bool) {
		name, ours := strings.CutPrefix(aws.ToString(key), v.s.prefix)
		if !ours || name <= after || !strings.HasPrefix(name, prefix) || store.CheckName(name) != nil {
			return
		}
		all = append(all, store.Version{
			Name: name, ID: aws.ToString(id), Size: aws.ToInt64(size), Written: aws.ToTime(at), Latest: aws.ToBool(latest), Deleted: deleted,
		})
	}
	for _, o := range page.Versions {
		add(o.Key, o.VersionId, o.Size, o.IsLatest, o.LastModified, false)
	}
	for _, o := range page.DeleteMarkers {
		add(o.Key, o.VersionId, nil, o.IsLatest, o.LastModified, true)
	}
	older := func(x store.Version) int {
		if x.Latest {
			return 0
		}
		return 1
	}
	slices.SortStableFunc(all, func(a, b store.Version) int {
		return cmp.Or(strings.Compare(a.Name, b.Name), cmp.Compare(older(a), older(b)), b.Written.Compare(a.Written))
	})
	return all
}

// GetVersion implements store.Vault.
func (v vault) GetVersion(ctx context.Context, x store.Version, off int64, dst []byte) error {
	s := v.s
	if err := store.CheckName(x.Name); err != nil {
		return s.fail(ctx, "get", x.Name, err)
	}
	if end := off + int64(len(dst)); off < 0 || end > x.Size {
		return s.fail(ctx, "get", x.Name, line.TooShort(x.Size, off, len(dst)))
	}
	if len(dst) == 0 {
		return nil
	}
	span := fmt.Sprintf("bytes=%d-%d", off, off+int64(len(dst))-1)
	return s.request(ctx, "get", x.Name, int64(len(dst)), func(ctx context.Context, w *line.Watch) error {
		out, err := s.client.GetObject(ctx, &s3.GetObjectInput{Bucket: &s.bucket, Key: s.key(x.Name), VersionId: &x.ID, Range: &span})
		if statusOf(err) == http.StatusRequestedRangeNotSatisfiable {
			return store.Damagedf("version %s ends before byte %d; %d bytes from there on are expected", x.ID, off, len(dst))
		}
		if err != nil {
			return err
		}
		defer out.Body.Close()
		if n := aws.ToInt64(out.ContentLength); n != int64(len(dst)) {
			return line.TooShort(off+n, off, len(dst))
		}
		return w.Read(out.Body, dst)
	})
}

// Retain implements store.Vault, in the mode that the store was opened with.
func (v vault) Retain(ctx context.Context, x store.Version, until time.Time) error {
	s := v.s
	mode := s.opts.Lock.Mode
	if mode == "" {
		return s.fail(ctx, "retain", x.Name, errors.New("no mode of retention is configured"))
	}
	return s.request(ctx, "retain", x.Name, 0, func(ctx context.Context, _ *line.Watch) error {
		_, err := s.client.PutObjectRetention(ctx, &s3.PutObjectRetentionInput{
			Bucket: &s.bucket, Key: s.key(x.Name), VersionId: &x.ID,
			Retention: &types.ObjectLockRetention{
				Mode: types.ObjectLockRetentionMode(mode), RetainUntilDate: aws.Time(until.UTC().Truncate(time.Second)),
			},
		})
		return err
	})
}

// Retained implements store.Vault.
func (v vault) Retained(ctx context.Context, x store.Version) (until time.Time, err error) {
	s := v.s
	err = s.request(ctx, "retained", x.Name, 0, func(ctx context.Context, _ *line.Watch) error {
		out, err := s.client.GetObjectRetention(ctx, &s3.GetObjectRetentionInput{Bucket: &s.bucket, Key: s.key(x.Name), VersionId: &x.ID})
		if err == nil && out.Retention != nil {
			until = aws.ToTime(out.Retention.RetainUntilDate)
		}
		return err
	})
	return until, err
}
