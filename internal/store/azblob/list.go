package azblob

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/container"

	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/store"
	"github.com/holdfast-dr/holdfast/internal/store/line"
)

// List calls fn for the objects in order.
func (s *Store) List(ctx context.Context, prefix, after string, fn func(store.Info) error) error {
	if err := store.CheckPrefix(prefix); err != nil {
		return s.fail(ctx, "list", prefix, err)
	}
	asked := s.prefix + prefix
	pages := s.client.NewListBlobsFlatPager(&container.ListBlobsFlatOptions{Prefix: &asked})
	if after > prefix { // otherwise it excludes nothing
		ctx = context.WithValue(ctx, startFrom{}, s.prefix+line.StartAt(after))
	}
	for last := ""; pages.More(); {
		var page container.ListBlobsFlatResponse
		err := s.request(ctx, "list", prefix, 0, func(ctx context.Context, _ *line.Watch) (err error) {
			page, err = pages.NextPage(ctx)
			return err
		})
		if err != nil {
			return err
		}
		if page.Segment == nil {
			return s.fail(ctx, "list", prefix, errors.New("the server's answer is no listing"))
		}
		for _, b := range page.Segment.BlobItems {
			if b.Name == nil || b.Properties == nil || b.Properties.ContentLength == nil {
				return s.fail(ctx, "list", prefix, errors.New("the server lists a blob without a name or a size"))
			}
			key := *b.Name
			name, ours := strings.CutPrefix(key, s.prefix)
			if !ours || key <= last || !strings.HasPrefix(name, prefix) {
				return s.fail(ctx, "list", prefix, outOfOrder(key, last))
			}
			last = key
			// A directory's marker that another tool made is no object of ours.
			if name <= after || store.CheckName(name) != nil {
				continue
			}
			if err := fn(store.Info{Name: name, Size: *b.Properties.ContentLength}); err != nil {
				return err
			}
		}
	}
	return nil
}

func outOfOrder(key, last string) error {
	return dr.Advise(fmt.Errorf("the server lists %q after %q: not in order, or not asked for", key, last),
		"use a storage account without a hierarchical namespace: with one the order is another")
}

// startFrom is the key of the name at which a context's listings begin; the SDK has an option for that, and does not send it.
type startFrom struct{}

// startPolicy has a listing begin at the context's name (List Blobs, "startFrom"). Servers that are older than it begin at the
// beginning, and List leaves out what comes before.
type startPolicy struct{}

// Do implements policy.Policy. It comes before the policy that signs.
func (startPolicy) Do(r *policy.Request) (*http.Response, error) {
	raw := r.Raw()
	if name, ok := raw.Context().Value(startFrom{}).(string); ok {
		raw.URL.RawQuery += "&startFrom=" + url.QueryEscape(name)
	}
	return r.Next()
}
