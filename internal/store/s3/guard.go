package s3

import (
	"bytes"
	"context"
	"crypto/md5" //nolint:gosec // see put
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"

	"github.com/holdfast-dr/holdfast/internal/store"
	"github.com/holdfast-dr/holdfast/internal/store/line"
)

var _ store.Guarded = (*Store)(nil)

// Settings implements store.Guarded with three small requests.
func (s *Store) Settings(ctx context.Context) (out store.Settings, err error) {
	ask := func(what string, send func(context.Context) error) {
		if err != nil {
			return
		}
		one := s.request(ctx, "settings", what, 0, func(ctx context.Context, _ *line.Watch) error { return send(ctx) })
		switch k := store.KindOf(one); {
		case one == nil:
		case k == store.Gone: // it has none
		case k == store.Busy:
			err = one
		default:
			var e *store.Error
			if errors.As(one, &e) {
				one = e.Err
			}
			out.Unknown = append(out.Unknown, fmt.Sprintf("%s: %v", what, one))
		}
	}
	ask("versioning", func(ctx context.Context) error {
		v, err := s.client.GetBucketVersioning(ctx, &s3.GetBucketVersioningInput{Bucket: &s.bucket})
		if err == nil {
			out.Versioning = v.Status == types.BucketVersioningStatusEnabled
		}
		return err
	})
	ask("Object Lock", func(ctx context.Context) error {
		v, err := s.client.GetObjectLockConfiguration(ctx, &s3.GetObjectLockConfigurationInput{Bucket: &s.bucket})
		if err != nil || v.ObjectLockConfiguration == nil {
			return err
		}
		c := v.ObjectLockConfiguration
		out.ObjectLock = c.ObjectLockEnabled == types.ObjectLockEnabledEnabled
		if r := c.Rule; r != nil && r.DefaultRetention != nil {
			d := r.DefaultRetention
			n, unit := aws.ToInt32(d.Days), "days"
			if n == 0 {
				n, unit = aws.ToInt32(d.Years), "years"
			}
			out.DefaultRetention = fmt.Sprintf("%s %d %s", d.Mode, n, unit)
		}
		return nil
	})
	ask("lifecycle rules", func(ctx context.Context) error {
		v, err := s.client.GetBucketLifecycleConfiguration(ctx, &s3.GetBucketLifecycleConfigurationInput{Bucket: &s.bucket})
		if err != nil {
			return err
		}
		for _, r := range v.Rules {
			s.rule(r, &out)
		}
		return nil
	})
	return out, err
}

// rule notes what a lifecycle rule does to objects below our prefix.
func (s *Store) rule(r types.LifecycleRule, out *store.Settings) {
	prefix := "" // of a rule without a filter, as they once were: it may be for all
	if f := r.Filter; f != nil {
		prefix = aws.ToString(f.Prefix)
		if f.And != nil {
			prefix = aws.ToString(f.And.Prefix)
		}
	}
	if r.Status != types.ExpirationStatusEnabled || !strings.HasPrefix(prefix, s.prefix) && !strings.HasPrefix(s.prefix, prefix) {
		return
	}
	if e := r.Expiration; e != nil && (e.Days != nil || e.Date != nil) {
		out.Expiring = append(out.Expiring, fmt.Sprintf("%q", aws.ToString(r.ID)))
	}
	if r.NoncurrentVersionExpiration != nil {
		out.Noncurrent = true
	}
}

// probeLock is how long an object is retained that Rights tries to remove.
const probeLock = time.Minute

// Rights implements store.Guarded.
func (s *Store) Rights(ctx context.Context) (store.Rights, error) {
	var out store.Rights
	settings, err := s.Settings(ctx)
	if err != nil {
		return out, err
	}
	name := "probe/" + strings.ToLower(rand.Text())
	tried := func(right string, err error) {
		switch store.KindOf(err) {
		case store.Denied:
			out.Lacking = append(out.Lacking, right)
		default:
			if err == nil {
				out.Excess = append(out.Excess, right)
				return
			}
			var e *store.Error
			if errors.As(err, &e) {
				err = e.Err
			}
			out.Unknown = append(out.Unknown, fmt.Sprintf("%s: %v", right, err))
		}
	}
	if settings.Versioning {
		const right = "remove versions for good (s3:DeleteObjectVersion)"
		id, err := s.putProbe(ctx, name, nil)
		if err != nil {
			return out, err
		}
		switch err := s.removeVersion(ctx, name, id, false); {
		case settings.DefaultRetention != "" && err != nil:
			out.Unknown = append(out.Unknown, right+": the bucket's default retention would refuse it to anybody")
		default:
			tried(right, err)
		}
		tried("suspend versioning (s3:PutBucketVersioning)", s.request(ctx, "settings", "versioning", 0, func(ctx context.Context, _ *line.Watch) error {
			// It is enabled already, and stays so.
			_, err := s.client.PutBucketVersioning(ctx, &s3.PutBucketVersioningInput{
				Bucket: &s.bucket, VersioningConfiguration: &types.VersioningConfiguration{Status: types.BucketVersioningStatusEnabled},
			})
			return err
		}))
	}
	if settings.ObjectLock {
		id, err := s.putProbe(ctx, name, aws.Time(time.Now().Add(probeLock)))
		if err != nil {
			return out, err
		}
		tried("end a governance retention early (s3:BypassGovernanceRetention)", s.removeVersion(ctx, name, id, true))
	}
	out.Unknown = append(out.Unknown, "change lifecycle rules, the bucket's policy, or its default retention (s3:PutLifecycleConfiguration, s3:PutBucketPolicy, "+
		"s3:PutBucketObjectLockConfiguration): to try is to change them")
	err = s.Delete(ctx, name)
	if store.KindOf(err) == store.Denied {
		err = nil // a reader's
	}
	return out, err
}

// putProbe puts an object, retained in the mode that can be bypassed, and returns its version.
func (s *Store) putProbe(ctx context.Context, name string, until *time.Time) (id string, err error) {
	body := []byte("probe")
	sum := md5.Sum(body) //nolint:gosec // a retention demands it; see put
	in := &s3.PutObjectInput{Bucket: &s.bucket, Key: s.key(name), Body: bytes.NewReader(body), ContentMD5: aws.String(base64.StdEncoding.EncodeToString(sum[:]))}
	if until != nil {
		in.ObjectLockMode, in.ObjectLockRetainUntilDate = types.ObjectLockModeGovernance, until
	}
	err = s.request(ctx, "put", name, 0, func(ctx context.Context, _ *line.Watch) error {
		out, err := s.client.PutObject(ctx, in)
		if err == nil {
			id = aws.ToString(out.VersionId)
		}
		return err
	})
	return id, err
}

func (s *Store) removeVersion(ctx context.Context, name, id string, bypass bool) error {
	in := &s3.DeleteObjectInput{Bucket: &s.bucket, Key: s.key(name), VersionId: &id}
	if bypass {
		in.BypassGovernanceRetention = aws.Bool(true)
	}
	return s.request(ctx, "delete", name, 0, func(ctx context.Context, _ *line.Watch) error {
		_, err := s.client.DeleteObject(ctx, in)
		if statusOf(err) == http.StatusForbidden {
			return store.WithKind(store.Denied, err)
		}
		return err
	})
}
