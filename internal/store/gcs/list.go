package gcs

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/holdfast-dr/holdfast/internal/store"
	"github.com/holdfast-dr/holdfast/internal/store/line"
)

type page struct {
	Items []object `json:"items"`
	Next  string   `json:"nextPageToken"`
}

// List calls fn for the objects in order.
func (s *Store) List(ctx context.Context, prefix, after string, fn func(store.Info) error) error {
	if err := store.CheckPrefix(prefix); err != nil {
		return s.fail(ctx, "list", prefix, err)
	}
	query := url.Values{"fields": {"items(name,size),nextPageToken"}, "maxResults": {"1000"}}
	query.Set("prefix", s.prefix+prefix)
	if after > prefix { // otherwise it excludes nothing
		query.Set("startOffset", s.prefix+line.StartAt(after)) // this name too, if there is one
	}
	for last := ""; ; {
		var p page
		err := s.request(ctx, "list", prefix, 0, func(ctx context.Context, _ *line.Watch) error {
			return s.page(ctx, query, &p)
		})
		if err != nil {
			return err
		}
		for _, o := range p.Items {
			name, ours := strings.CutPrefix(o.Name, s.prefix)
			if !ours || o.Name <= last || !strings.HasPrefix(name, prefix) {
				return s.fail(ctx, "list", prefix, fmt.Errorf("the server lists %q after %q: not in order, or not asked for", o.Name, last))
			}
			last = o.Name
			// A directory's marker that another tool made is no object of ours.
			if name <= after || store.CheckName(name) != nil {
				continue
			}
			size, err := o.size()
			if err != nil {
				return s.fail(ctx, "list", prefix, err)
			}
			if err := fn(store.Info{Name: name, Size: size}); err != nil {
				return err
			}
		}
		if p.Next == "" {
			return nil
		}
		if p.Next == query.Get("pageToken") {
			return s.fail(ctx, "list", prefix, fmt.Errorf("the server's listing does not go on"))
		}
		query.Set("pageToken", p.Next)
	}
}

func (s *Store) page(ctx context.Context, query url.Values, p *page) error {
	resp, err := s.get(ctx, http.MethodGet, s.objects("", query), nil)
	if err != nil {
		return s.listable(err)
	}
	defer resp.Body.Close()
	*p = page{}
	return decode(resp.Body, p)
}
