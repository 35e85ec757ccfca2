package azblob

import (
	"context"
	"crypto/md5" //nolint:gosec // a checksum against cut cables that every server knows, not a signature
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blockblob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/container"

	"github.com/holdfast-dr/holdfast/internal/store"
	"github.com/holdfast-dr/holdfast/internal/store/line"
)

// Store is a container's blobs below a prefix.
type Store struct {
	prefix    string // empty, or ends in a slash
	name      string
	url       string // of the container
	opts      Options
	client    *container.Client
	transport *http.Client
	keys      *keys
}

var _ store.Store = (*Store)(nil)

// String returns account, container, prefix and endpoint.
func (s *Store) String() string { return s.name }

// Close closes idle connections.
func (s *Store) Close() error {
	s.transport.CloseIdleConnections()
	return nil
}

// request runs one request under its limits, and gives its error a kind.
func (s *Store) request(ctx context.Context, op, name string, size int64, send func(context.Context, *line.Watch) error) error {
	if err := line.Do(ctx, s.opts.Stall, size, send); err != nil {
		return s.fail(ctx, op, name, err)
	}
	return nil
}

func (s *Store) blob(name string) *blockblob.Client {
	return s.client.NewBlockBlobClient(s.prefix + name)
}

// Put makes name hold body.
func (s *Store) Put(ctx context.Context, name string, body []byte) error {
	return s.put(ctx, "put", name, body, nil)
}

// Create makes name hold body where there is no such object.
func (s *Store) Create(ctx context.Context, name string, body []byte) error {
	absent := azcore.ETagAny
	return s.put(ctx, "create", name, body, &blob.AccessConditions{
		ModifiedAccessConditions: &blob.ModifiedAccessConditions{IfNoneMatch: &absent},
	})
}

func (s *Store) put(ctx context.Context, op, name string, body []byte, when *blob.AccessConditions) error {
	if err := store.CheckName(name); err != nil {
		return s.fail(ctx, op, name, err)
	}
	sum := md5.Sum(body) //nolint:gosec // as above
	return s.request(ctx, op, name, int64(len(body)), func(ctx context.Context, w *line.Watch) error {
		b := w.Lend(body)
		defer b.GiveBack()
		_, err := s.blob(name).Upload(ctx, b, &blockblob.UploadOptions{
			TransactionalValidation: blob.TransferValidationTypeMD5(sum[:]),
			AccessConditions:        when,
			Tier:                    s.tier(),
		})
		// The first is what the condition is answered with, the second what its kind is answered with elsewhere.
		if c := code(err); when != nil && (c == "BlobAlreadyExists" || c == "ConditionNotMet") {
			return store.ErrExists
		}
		return err
	})
}

// Get returns the whole object.
func (s *Store) Get(ctx context.Context, name string, max int64) ([]byte, error) {
	if err := store.CheckName(name); err != nil {
		return nil, s.fail(ctx, "get", name, err)
	}
	var body []byte
	err := s.request(ctx, "get", name, max, func(ctx context.Context, w *line.Watch) error {
		out, err := s.blob(name).DownloadStream(ctx, nil)
		if err != nil {
			return err
		}
		defer out.Body.Close()
		if body, err = line.Room(orNegative(out.ContentLength), max); err != nil {
			return err
		}
		return w.Read(out.Body, body)
	})
	if err != nil {
		return nil, err
	}
	return body, nil
}

func orNegative(n *int64) int64 {
	if n == nil {
		return -1
	}
	return *n
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
	span := blob.HTTPRange{Offset: off, Count: int64(len(dst))}
	return s.request(ctx, "get", name, int64(len(dst)), func(ctx context.Context, w *line.Watch) error {
		out, err := s.blob(name).DownloadStream(ctx, &blob.DownloadStreamOptions{Range: span})
		if code(err) == "InvalidRange" {
			return line.EndsBefore(off, len(dst))
		}
		if err != nil {
			return err
		}
		defer out.Body.Close()
		// A Range of bytes from 0 on may be answered whole, where it is that.
		n := orNegative(out.ContentLength)
		if got := out.ContentRange; got == nil || !strings.HasPrefix(*got, fmt.Sprintf("bytes %d-", off)) {
			return fmt.Errorf("the server was asked for %d bytes from %d on and sent another range (%d bytes)", len(dst), off, n)
		}
		if n != int64(len(dst)) {
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
		out, err := s.blob(name).GetProperties(ctx, nil)
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

// Delete removes name.
func (s *Store) Delete(ctx context.Context, name string) error {
	if err := store.CheckName(name); err != nil {
		return s.fail(ctx, "delete", name, err)
	}
	err := s.request(ctx, "delete", name, 0, func(ctx context.Context, _ *line.Watch) error {
		_, err := s.blob(name).Delete(ctx, nil)
		return err
	})
	if errors.Is(err, store.ErrNotExist) {
		return nil
	}
	return err
}
