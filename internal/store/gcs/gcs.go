package gcs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/holdfast-dr/holdfast/internal/store"
	"github.com/holdfast-dr/holdfast/internal/store/line"
)

// Store is a bucket's objects below a prefix.
type Store struct {
	prefix   string // empty, or ends in a slash
	name     string
	endpoint string
	opts     Options
	client   *http.Client
	keys     *keys
}

var _ store.Store = (*Store)(nil)

// String returns bucket, prefix and endpoint.
func (s *Store) String() string { return s.name }

// Close closes idle connections.
func (s *Store) Close() error {
	s.client.CloseIdleConnections()
	return nil
}

// request runs one request under its limits, and gives its error a kind.
func (s *Store) request(ctx context.Context, op, name string, size int64, send func(context.Context, *line.Watch) error) error {
	if err := line.Do(ctx, s.opts.Stall, size, send); err != nil {
		return s.fail(ctx, op, name, err)
	}
	return nil
}

// objects is the URL of the bucket's objects, or of one.
func (s *Store) objects(name string, query url.Values) string {
	u := s.endpoint + "/storage/v1/b/" + url.PathEscape(s.opts.Bucket) + "/o"
	if name != "" {
		u += "/" + url.PathEscape(s.prefix+name) // its slashes too: the name is one element of the path
	}
	return u + "?" + query.Encode()
}

// send sends one request. An answer that is no success is a *line.Answer; otherwise the caller closes the body.
func (s *Store) send(r *http.Request) (*http.Response, error) {
	if err := s.keys.sign(r); err != nil {
		return nil, err
	}
	resp, err := s.client.Do(r)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		defer resp.Body.Close()
		return nil, s.refusal(resp)
	}
	return resp, nil
}

// get sends a request without a body.
func (s *Store) get(ctx context.Context, method, url string, header http.Header) (*http.Response, error) {
	r, err := http.NewRequestWithContext(ctx, method, url, nil)
	if err != nil {
		return nil, err
	}
	for k, v := range header {
		r.Header[k] = v
	}
	return s.send(r)
}

// Put makes name hold body.
func (s *Store) Put(ctx context.Context, name string, body []byte) error {
	return s.put(ctx, "put", name, body, url.Values{})
}

// Create makes name hold body where there is no such object.
func (s *Store) Create(ctx context.Context, name string, body []byte) error {
	return s.put(ctx, "create", name, body, url.Values{"ifGenerationMatch": {"0"}})
}

func (s *Store) put(ctx context.Context, op, name string, body []byte, query url.Values) error {
	if err := store.CheckName(name); err != nil {
		return s.fail(ctx, op, name, err)
	}
	u := s.uploadURL(query)
	head, tail, contentType := s.parts(name, body)
	return s.request(ctx, op, name, int64(len(body)), func(ctx context.Context, w *line.Watch) error {
		lent := w.Lend(body)
		defer lent.GiveBack()
		r, err := http.NewRequestWithContext(ctx, http.MethodPost, u, io.MultiReader(strings.NewReader(head), lent, strings.NewReader(tail)))
		if err != nil {
			return err
		}
		r.ContentLength = int64(len(head) + len(body) + len(tail))
		r.Header.Set("Content-Type", contentType)
		resp, err := s.send(r)
		var a *line.Answer
		switch {
		case errors.As(err, &a) && a.Status == http.StatusPreconditionFailed && op == "create":
			return store.ErrExists
		case errors.As(err, &a) && a.Status == http.StatusNotFound:
			return s.noBucket(a) // nothing else can be missing
		case err != nil:
			return err
		}
		defer resp.Body.Close()
		// The object is there once its description has arrived.
		_, err = io.Copy(io.Discard, resp.Body)
		return line.CutOff(err)
	})
}

// Get returns the whole object.
func (s *Store) Get(ctx context.Context, name string, max int64) ([]byte, error) {
	if err := store.CheckName(name); err != nil {
		return nil, s.fail(ctx, "get", name, err)
	}
	var body []byte
	err := s.request(ctx, "get", name, max, func(ctx context.Context, w *line.Watch) error {
		resp, err := s.download(ctx, name, nil)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if body, err = line.Room(length(resp), max); err != nil {
			return err
		}
		return w.Read(resp.Body, body)
	})
	if err != nil {
		return nil, err
	}
	return body, nil
}

// length returns how long an answer is, also where it comes in chunks; negative where the server does not say.
func length(r *http.Response) int64 {
	if r.ContentLength >= 0 {
		return r.ContentLength
	}
	n, err := strconv.ParseInt(r.Header.Get("X-Goog-Stored-Content-Length"), 10, 64)
	if err != nil {
		return -1
	}
	return n
}

func (s *Store) download(ctx context.Context, name string, header http.Header) (*http.Response, error) {
	resp, err := s.get(ctx, http.MethodGet, s.objects(name, url.Values{"alt": {"media"}}), header)
	return resp, s.absent(ctx, err)
}

// absent tells an absent object from an absent bucket, where err is 404. Google's own answer to either says which it
// is, in words only; where they are not there the bucket is asked for.
func (s *Store) absent(ctx context.Context, err error) error {
	var a *line.Answer
	if !errors.As(err, &a) || a.Status != http.StatusNotFound || strings.HasPrefix(a.Message, "No such object") {
		return err
	}
	resp, askErr := s.get(ctx, http.MethodGet, s.objects("", url.Values{"maxResults": {"1"}, "fields": {"kind"}}), nil)
	var b *line.Answer
	switch {
	case askErr == nil:
		_ = resp.Body.Close()
		return err
	case errors.As(askErr, &b) && b.Status == http.StatusNotFound:
		return s.noBucket(b)
	}
	return askErr
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
		resp, err := s.download(ctx, name, http.Header{"Range": {span}})
		var a *line.Answer
		if errors.As(err, &a) && a.Status == http.StatusRequestedRangeNotSatisfiable {
			return line.EndsBefore(off, len(dst))
		}
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		var first, last int64
		got := resp.Header.Get("Content-Range")
		if n, _ := fmt.Sscanf(got, "bytes %d-%d/", &first, &last); n != 2 || first != off || last-off >= int64(len(dst)) {
			return fmt.Errorf("the server was asked for %s and sent the range %q", span, got)
		}
		if n := last - off + 1; n != int64(len(dst)) {
			return line.TooShort(off+n, off, len(dst))
		}
		return w.Read(resp.Body, dst)
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
		resp, err := s.get(ctx, http.MethodGet, s.objects(name, url.Values{"fields": {"size"}}), nil)
		if err = s.absent(ctx, err); err != nil {
			return err
		}
		defer resp.Body.Close()
		var o object
		if err := decode(resp.Body, &o); err != nil {
			return err
		}
		info.Name = name
		info.Size, err = o.size()
		return err
	})
	return info, err
}

// object is what we read of an object's description.
type object struct {
	Name string `json:"name"`
	Size string `json:"size"` // a number, which the JSON API writes as text
}

func (o object) size() (int64, error) {
	n, err := strconv.ParseInt(o.Size, 10, 64)
	if err != nil || n < 0 {
		return 0, store.Damagedf("the server does not say how long it is")
	}
	return n, nil
}

// maxPage bounds the description of 1000 objects with names of 1024 bytes each.
const maxPage = 8 << 20

func decode(body io.Reader, v any) error {
	err := json.NewDecoder(io.LimitReader(body, maxPage)).Decode(v)
	var syntax *json.SyntaxError
	if errors.As(err, &syntax) {
		return fmt.Errorf("the server's answer is no JSON: %w", err)
	}
	return line.CutOff(err)
}

// Delete removes name.
func (s *Store) Delete(ctx context.Context, name string) error {
	if err := store.CheckName(name); err != nil {
		return s.fail(ctx, "delete", name, err)
	}
	err := s.request(ctx, "delete", name, 0, func(ctx context.Context, _ *line.Watch) error {
		resp, err := s.get(ctx, http.MethodDelete, s.objects(name, nil), nil)
		if err = s.absent(ctx, err); err != nil {
			return err
		}
		return resp.Body.Close()
	})
	if errors.Is(err, store.ErrNotExist) {
		return nil
	}
	return err
}
