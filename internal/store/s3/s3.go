package s3

import (
	"context"
	"crypto/md5" //nolint:gosec // a checksum against cut cables that every server knows, not a signature
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"github.com/holdfast-dr/holdfast/internal/store"
	"github.com/holdfast-dr/holdfast/internal/store/line"
)

// Store is a bucket's objects below a prefix.
type Store struct {
	bucket, prefix string // prefix is empty or ends in a slash
	name           string
	opts           Options
	client         *s3.Client
	transport      *awshttp.BuildableClient
	keys           *keys
}

var _ store.Store = (*Store)(nil)

// String returns bucket, prefix and endpoint.
func (s *Store) String() string { return s.name }

// Close closes idle connections.
func (s *Store) Close() error {
	s.transport.GetTransport().CloseIdleConnections()
	return nil
}

// request runs one request under its limits, and gives its error a kind.
func (s *Store) request(ctx context.Context, op, name string, size int64, send func(context.Context, *line.Watch) error) error {
	if err := line.Do(ctx, s.opts.Stall, size, send); err != nil {
		return s.fail(ctx, op, name, err)
	}
	return nil
}

func (s *Store) key(name string) *string { return aws.String(s.prefix + name) }

// Put makes name hold body.
func (s *Store) Put(ctx context.Context, name string, body []byte) error {
	return s.put(ctx, "put", name, body, nil)
}

// Create makes name hold body where there is no such object.
func (s *Store) Create(ctx context.Context, name string, body []byte) error {
	return s.put(ctx, "create", name, body, aws.String("*"))
}

func (s *Store) put(ctx context.Context, op, name string, body []byte, ifNoneMatch *string) error {
	if err := store.CheckName(name); err != nil {
		return s.fail(ctx, op, name, err)
	}
	sum := md5.Sum(body) //nolint:gosec // as above
	in := &s3.PutObjectInput{
		Bucket: &s.bucket, Key: s.key(name), IfNoneMatch: ifNoneMatch,
		ContentLength: aws.Int64(int64(len(body))),
		ContentMD5:    aws.String(base64.StdEncoding.EncodeToString(sum[:])),
		ContentType:   aws.String("application/octet-stream"),
		StorageClass:  types.StorageClass(s.opts.StorageClass),
	}
	if s.opts.SSE != "" {
		in.ServerSideEncryption = types.ServerSideEncryption(s.opts.SSE)
		if s.opts.KMSKey != "" {
			in.SSEKMSKeyId = &s.opts.KMSKey
		}
	}
	if lock := s.opts.Lock; lock.For > 0 && !store.Unlocked(name) {
		in.ObjectLockMode = types.ObjectLockMode(lock.Mode)
		in.ObjectLockRetainUntilDate = aws.Time(time.Now().Add(lock.For).UTC().Truncate(time.Second))
	}
	return s.request(ctx, op, name, int64(len(body)), func(ctx context.Context, w *line.Watch) error {
		b := w.Lend(body)
		defer b.GiveBack()
		in.Body = b
		_, err := s.client.PutObject(ctx, in)
		if ifNoneMatch != nil && statusOf(err) == http.StatusPreconditionFailed {
			return store.ErrExists
		}
		return err
	})
}

// statusOf returns the status of a server's refusal, or 0.
func statusOf(err error) int {
	var resp *smithyhttp.ResponseError
	if errors.As(err, &resp) {
		return resp.HTTPStatusCode()
	}
	return 0
}

// Get returns the whole object.
func (s *Store) Get(ctx context.Context, name string, max int64) ([]byte, error) {
	if err := store.CheckName(name); err != nil {
		return nil, s.fail(ctx, "get", name, err)
	}
	var body []byte
	err := s.request(ctx, "get", name, max, func(ctx context.Context, w *line.Watch) error {
		out, err := s.client.GetObject(ctx, &s3.GetObjectInput{Bucket: &s.bucket, Key: s.key(name)})
		if err != nil {
			return err
		}
		defer out.Body.Close()
		size := int64(-1)
		if out.ContentLength != nil {
			size = *out.ContentLength
		}
		if body, err = line.Room(size, max); err != nil {
			return err
		}
		return w.Read(out.Body, body)
	})
	if err != nil {
		return nil, err
	}
	return body, nil
}

// GetRange fills dst with the object's bytes from off on.
func (s *Store) GetRange(ctx context.Context, name string, off int64, dst []byte) error {
	fail := func(err error) error { return s.fail(ctx, "get", name, err) }
	if err := store.CheckName(name); err != nil {
		return fail(err)
	}
	stat := func() (store.Info, error) { return s.stat(ctx, "get", name) }
	if done, err := line.NoRange(off, len(dst), fail, stat); done {
		return err
	}
	span := fmt.Sprintf("bytes=%d-%d", off, off+int64(len(dst))-1)
	return s.request(ctx, "get", name, int64(len(dst)), func(ctx context.Context, w *line.Watch) error {
		out, err := s.client.GetObject(ctx, &s3.GetObjectInput{Bucket: &s.bucket, Key: s.key(name), Range: &span})
		if statusOf(err) == http.StatusRequestedRangeNotSatisfiable {
			return line.EndsBefore(off, len(dst))
		}
		if err != nil {
			return err
		}
		defer out.Body.Close()
		if got := aws.ToString(out.ContentRange); !strings.HasPrefix(got, fmt.Sprintf("bytes %d-", off)) {
			return fmt.Errorf("the server was asked for %s and sent the range %q", span, got)
		}
		if n := aws.ToInt64(out.ContentLength); n != int64(len(dst)) {
			return line.TooShort(off+n, off, len(dst))
		}
		return w.Read(out.Body, dst)
	})
}

// Stat returns name and size.
func (s *Store) Stat(ctx context.Context, name string) (store.Info, error) {
	if err := store.CheckName(name); err != nil {
		return store.Info{}, s.fail(ctx, "stat", name, err)
	}
	return s.stat(ctx, "stat", name)
}

func (s *Store) stat(ctx context.Context, op, name string) (info store.Info, err error) {
	err = s.request(ctx, op, name, 0, func(ctx context.Context, _ *line.Watch) error {
		out, err := s.client.HeadObject(ctx, &s3.HeadObjectInput{Bucket: &s.bucket, Key: s.key(name)})
		if statusOf(err) == http.StatusNotFound {
			return s.absent(ctx)
		}
		if err != nil {
			return err
		}
		if out.ContentLength == nil {
			return store.Damagedf("the server does not say how long it is")
		}
		info = store.Info{Name: name, Size: *out.ContentLength}
		return nil
	})
	return info, err
}

// absent tells an absent object from an absent bucket: an answer to HEAD has no body that would say it, and
// "nothing is there" would be the most dangerous of wrong answers.
func (s *Store) absent(ctx context.Context) error {
	_, err := s.client.HeadBucket(ctx, &s3.HeadBucketInput{Bucket: &s.bucket})
	if statusOf(err) == http.StatusNotFound {
		_, err = s.sortAnswer(&line.Answer{Status: http.StatusNotFound, Code: "NoSuchBucket"})
		return store.WithKind(store.Denied, err)
	}
	if err != nil {
		return err
	}
	return store.ErrNotExist
}

// List calls fn for the objects in order.
func (s *Store) List(ctx context.Context, prefix, after string, fn func(store.Info) error) error {
	if err := store.CheckPrefix(prefix); err != nil {
		return s.fail(ctx, "list", prefix, err)
	}
	asked := listable(prefix)
	in := &s3.ListObjectsV2Input{Bucket: &s.bucket, Prefix: s.key(asked)}
	if after > prefix { // otherwise it excludes nothing
		in.StartAfter = s.key(after)
	}
	for last := ""; ; {
		var page *s3.ListObjectsV2Output
		err := s.request(ctx, "list", prefix, 0, func(ctx context.Context, _ *line.Watch) (err error) {
			page, err = s.client.ListObjectsV2(ctx, in)
			return err
		})
		if err != nil {
			return err
		}
		for _, o := range page.Contents {
			key := aws.ToString(o.Key)
			name, ours := strings.CutPrefix(key, s.prefix)
			if !ours || key <= last || !strings.HasPrefix(name, asked) {
				return s.fail(ctx, "list", prefix, fmt.Errorf("the server lists %q after %q: not in order, or not asked for", key, last))
			}
			last = key
			// A directory's marker that another tool made is no object of ours.
			if name <= after || !strings.HasPrefix(name, prefix) || store.CheckName(name) != nil {
				continue
			}
			if err := fn(store.Info{Name: name, Size: aws.ToInt64(o.Size)}); err != nil {
				return err
			}
		}
		if !aws.ToBool(page.IsTruncated) {
			return nil
		}
		if aws.ToString(page.NextContinuationToken) == "" {
			return s.fail(ctx, "list", prefix, errors.New("the server cut the listing and does not say where it goes on"))
		}
		in.ContinuationToken = page.NextContinuationToken
	}
}

// listable returns a prefix that every server takes, which is prefix or shorter: MinIO refuses one that ends with an
// element of dots alone, although names may begin with it ("a/." of "a/.b").
func listable(prefix string) string {
	if p := strings.TrimRight(prefix, "."); p == "" || strings.HasSuffix(p, "/") {
		return p
	}
	return prefix
}

// Delete removes name.
func (s *Store) Delete(ctx context.Context, name string) error {
	if err := store.CheckName(name); err != nil {
		return s.fail(ctx, "delete", name, err)
	}
	err := s.request(ctx, "delete", name, 0, func(ctx context.Context, _ *line.Watch) error {
		_, err := s.client.DeleteObject(ctx, &s3.DeleteObjectInput{Bucket: &s.bucket, Key: s.key(name)})
		return err
	})
	if errors.Is(err, store.ErrNotExist) {
		return nil // most servers say "deleted" here, some that there was nothing
	}
	return err
}
