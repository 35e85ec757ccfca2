package gcs_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/store"
	"github.com/holdfast-dr/holdfast/internal/store/gcs"
	"github.com/holdfast-dr/holdfast/internal/store/storetest"
)

// opened opens a store at a server that answers as it likes: what the emulator cannot be made to say, in the words of
// the JSON API's manual.
func opened(t *testing.T, o gcs.Options, handler http.HandlerFunc) *gcs.Store {
	t.Helper()
	h := httptest.NewServer(handler)
	t.Cleanup(h.Close)
	o.Bucket, o.Endpoint = "bucket", h.URL
	if o.KeyFile == "" {
		o.KeyFile = storetest.GCSKey(t, storetest.TokenService(t))
	}
	s, err := gcs.Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func refuse(w http.ResponseWriter, status int, reason, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Guploader-Uploadid", strings.Repeat("r", 9000))
	w.WriteHeader(status)
	if reason != "" {
		_, _ = fmt.Fprintf(w, `{"error":{"code":%d,"message":%q,"errors":[{"domain":"global","reason":%q,"message":%q}]}}`, status, message, reason, message)
	}
}

func TestAnswers(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		status int
		reason string
		kind   store.Kind
		advice string
	}{
		{401, "authError", store.Denied, ""},
		{403, "forbidden", store.Denied, ""},
		{403, "insufficientPermissions", store.Denied, ""},
		{403, "retentionPolicyNotMet", store.Denied, "retention"},
		{403, "rateLimitExceeded", store.Busy, ""},
		{403, "quotaExceeded", store.Full, ""},
		{404, "notFound", store.Denied, "create the bucket"},
		{307, "", store.Denied, "endpoint"},
		{400, "invalid", store.Other, ""},
		{409, "conflict", store.Busy, ""},
		{408, "", store.Busy, ""},
		{412, "conditionNotMet", store.Other, ""},
		{429, "rateLimitExceeded", store.Busy, ""},
		{500, "backendError", store.Busy, ""},
		{502, "", store.Busy, ""},
		{503, "backendError", store.Busy, ""},
		{504, "", store.Busy, ""},
		{501, "", store.Other, ""},
	} {
		t.Run(fmt.Sprintf("%d %s", c.status, c.reason), func(t *testing.T) {
			calls := 0
			s := opened(t, gcs.Options{}, func(w http.ResponseWriter, r *http.Request) {
				calls++
				if got := r.Header.Get("Authorization"); got != "Bearer "+storetest.GCSToken {
					t.Errorf("authorization %q", got)
				}
				_, _ = io.Copy(io.Discard, r.Body)
				// A server that repeats the request's headers must not make us print them.
				refuse(w, c.status, c.reason, "echo "+r.Header.Get("Authorization")+strings.Repeat(" long", 200))
			})
			for op, err := range map[string]error{
				"put": s.Put(t.Context(), "x", []byte("b")), "list": s.List(t.Context(), "", "", func(store.Info) error { return nil }),
				"delete": s.Delete(t.Context(), "x"), "range": s.GetRange(t.Context(), "x", 0, make([]byte, 1)),
			} {
				if store.KindOf(err) != c.kind || errors.Is(err, store.ErrNotExist) || errors.Is(err, store.ErrExists) {
					t.Errorf("%s: got %v (kind %d), want kind %d", op, err, store.KindOf(err), c.kind)
					continue
				}
				text := err.Error()
				if strings.Contains(text, storetest.GCSToken) || len(text) > 700 || strings.Contains(text, "\n") {
					t.Errorf("%s: a secret, or too much: %s", op, text)
				}
				if !strings.Contains(dr.Advice(err), c.advice) || c.advice == "" && dr.Advice(err) != "" {
					t.Errorf("%s: advice %q, want %q in it", op, dr.Advice(err), c.advice)
				}
			}
			want := 4
			if c.status == 404 {
				want = 6 // the bucket is asked for, where the object may be what is absent
			}
			if calls != want {
				t.Errorf("%d requests, want %d: something repeats below store.Retry", calls, want)
			}
		})
	}
}

// What tells an absent object from an absent bucket: Google's words, and where they are others the bucket itself.
func TestAbsent(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		words    string
		plain    bool // as Google refuses a download
		bucket   bool // is there
		requests int
		kind     store.Kind
	}{
		"object, in Google's words":    {"No such object: bucket/x", false, true, 1, store.Gone},
		"object, refused download":     {"No such object: bucket/x", true, true, 1, store.Gone},
		"object, in other words":       {"Not Found", false, true, 2, store.Gone},
		"bucket":                       {"The specified bucket does not exist.", false, false, 2, store.Denied},
		"bucket, on a page for people": {"<html>Not Found</html>", true, false, 2, store.Denied},
	} {
		t.Run(name, func(t *testing.T) {
			requests := 0
			s := opened(t, gcs.Options{}, func(w http.ResponseWriter, r *http.Request) {
				requests++
				switch {
				case strings.HasSuffix(r.URL.Path, "/o") && c.bucket:
					_, _ = io.WriteString(w, `{"kind":"storage#objects"}`)
				case c.plain:
					http.Error(w, c.words, http.StatusNotFound)
				default:
					refuse(w, http.StatusNotFound, "notFound", c.words)
				}
			})
			_, getErr := s.Get(t.Context(), "x", 1)
			_, statErr := s.Stat(t.Context(), "x")
			for op, err := range map[string]error{"get": getErr, "stat": statErr} {
				if store.KindOf(err) != c.kind || errors.Is(err, store.ErrNotExist) != (c.kind == store.Gone) {
					t.Errorf("%s: got %v (kind %d), want kind %d", op, err, store.KindOf(err), c.kind)
				}
			}
			if err := s.Delete(t.Context(), "x"); (err == nil) != (c.kind == store.Gone) {
				t.Errorf("delete: got %v", err)
			}
			if requests != 3*c.requests {
				t.Errorf("%d requests for three calls, want %d each", requests, c.requests)
			}
		})
	}
}

// Odd answers that look like success must not pass as it.
func TestOddAnswers(t *testing.T) {
	t.Parallel()
	respond := func(status int, header map[string]string, body string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			for k, v := range header {
				w.Header().Set(k, v)
			}
			w.WriteHeader(status)
			_, _ = w.Write([]byte(body))
		}
	}
	list := func(s *gcs.Store, t *testing.T) error {
		return s.List(t.Context(), "a", "", func(store.Info) error { return nil })
	}
	rng := func(s *gcs.Store, t *testing.T) error { return s.GetRange(t.Context(), "x", 2, make([]byte, 4)) }
	stat := func(s *gcs.Store, t *testing.T) error {
		_, err := s.Stat(t.Context(), "x")
		return err
	}
	for name, c := range map[string]struct {
		handler http.HandlerFunc
		call    func(*gcs.Store, *testing.T) error
		kind    store.Kind
	}{
		"range ignored":      {respond(200, nil, "0123456789"), rng, store.Other},
		"another range":      {respond(206, map[string]string{"Content-Range": "bytes 0-3/10"}, "0123"), rng, store.Other},
		"a shorter range":    {respond(206, map[string]string{"Content-Range": "bytes 2-3/4"}, "23"), rng, store.Damaged},
		"listing unsorted":   {respond(200, nil, listing("ab", "aa")), list, store.Other},
		"listing repeats":    {respond(200, nil, listing("aa", "aa")), list, store.Other},
		"listing of another": {respond(200, nil, listing("b")), list, store.Other},
		"listing cut":        {respond(200, map[string]string{"Content-Length": "900"}, listing("aa")[:30]), list, store.Busy},
		"listing of nothing": {respond(200, nil, "<html>"), list, store.Other},
		"no size":            {respond(200, nil, "{}"), stat, store.Damaged},
		"no progress":        {respond(200, nil, `{"nextPageToken":"n"}`), list, store.Other},
	} {
		t.Run(name, func(t *testing.T) {
			if err := c.call(opened(t, gcs.Options{}, c.handler), t); err == nil || store.KindOf(err) != c.kind {
				t.Errorf("got %v (kind %d), want kind %d", err, store.KindOf(err), c.kind)
			}
		})
	}
}

// An answer may come in chunks: how long it is, and what of the object it is, is then said elsewhere.
func TestChunks(t *testing.T) {
	t.Parallel()
	s := opened(t, gcs.Options{}, func(w http.ResponseWriter, r *http.Request) {
		body := "0123456789"
		if r.Header.Get("Range") != "" {
			w.Header().Set("Content-Range", "bytes 2-5/10")
			w.WriteHeader(http.StatusPartialContent)
			body = body[2:6]
		}
		w.Header().Set("X-Goog-Stored-Content-Length", "10")
		_ = http.NewResponseController(w).Flush() // so that no length is sent
		_, _ = io.WriteString(w, body)
	})
	if got, err := s.Get(t.Context(), "x", 10); err != nil || string(got) != "0123456789" {
		t.Errorf("got %q, %v", got, err)
	}
	if _, err := s.Get(t.Context(), "x", 9); store.KindOf(err) != store.Damaged {
		t.Errorf("over the limit: got %v, want Damaged", err)
	}
	part := make([]byte, 4)
	if err := s.GetRange(t.Context(), "x", 2, part); err != nil || string(part) != "2345" {
		t.Errorf("range: got %q, %v", part, err)
	}
}

func listing(names ...string) string {
	type item struct{ Name, Size string }
	var items []item
	for _, n := range names {
		items = append(items, item{n, "1"})
	}
	text, _ := json.Marshal(map[string]any{"items": items})
	return strings.NewReplacer(`"Name"`, `"name"`, `"Size"`, `"size"`).Replace(string(text))
}

// An upload says on which condition, as what, and with which checksum.
func TestUpload(t *testing.T) {
	t.Parallel()
	var url string
	var parts []string
	s := opened(t, gcs.Options{Prefix: "a b", StorageClass: "NEARLINE", KMSKey: "projects/p/k"}, func(_ http.ResponseWriter, r *http.Request) {
		url, parts = r.Method+" "+r.URL.String(), nil
		_, params, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
		if err != nil {
			t.Error(err)
		}
		m := multipart.NewReader(r.Body, params["boundary"])
		for {
			p, err := m.NextPart()
			if err != nil {
				break
			}
			text, err := io.ReadAll(p)
			if err != nil {
				t.Error(err)
			}
			parts = append(parts, string(text))
		}
	})
	const common = "fields=size&%skmsKeyName=projects%%2Fp%%2Fk&uploadType=multipart"
	for op, c := range map[string]struct {
		call      func() error
		condition string
	}{
		"put":    {func() error { return s.Put(t.Context(), "x/y", []byte("hello")) }, ""},
		"create": {func() error { return s.Create(t.Context(), "x/y", []byte("hello")) }, "ifGenerationMatch=0&"},
	} {
		if err := c.call(); err != nil {
			t.Fatal(err)
		}
		if want := "POST /upload/storage/v1/b/bucket/o?" + fmt.Sprintf(common, c.condition); url != want {
			t.Errorf("%s: got %s, want %s", op, url, want)
		}
		want := []string{`{"name":"a b/x/y","contentType":"application/octet-stream","crc32c":"mnG7TA==","storageClass":"NEARLINE"}`, "hello"}
		if d := cmp.Diff(want, parts); d != "" {
			t.Errorf("%s: parts (-want +got):\n%s", op, d)
		}
	}
}

// What a condition that is not met, and a body that was altered on its way, are answered with.
func TestRefusedUploads(t *testing.T) {
	t.Parallel()
	status, reason, message := 412, "conditionNotMet", "At least one of the pre-conditions you specified did not hold."
	s := opened(t, gcs.Options{}, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		refuse(w, status, reason, message)
	})
	if err := s.Create(t.Context(), "x", nil); !errors.Is(err, store.ErrExists) || store.KindOf(err) != store.Gone {
		t.Errorf("create: got %v", err)
	}
	status, reason, message = 400, "invalid", `Provided CRC32C "mnG7TA==" doesn't match calculated CRC32C "AAAAAA==".`
	if err := s.Put(t.Context(), "x", nil); store.KindOf(err) != store.Busy {
		t.Errorf("altered: got %v (kind %d), want Busy", err, store.KindOf(err))
	}
}

// What a service that hands out tokens can say, and what of it is shown.
func TestTokens(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		status int
		kind   store.Kind
	}{"refused": {400, store.Denied}, "overloaded": {503, store.Busy}, "away": {0, store.Busy}} {
		t.Run(name, func(t *testing.T) {
			h := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Content-Type", "application/json")
				w.WriteHeader(c.status)
				_, _ = fmt.Fprintf(w, `{"error":"invalid_grant","error_description":%q,"assertion":%q}`, "no such account", r.FormValue("assertion"))
			}))
			defer h.Close()
			if c.status == 0 {
				h.Close()
			}
			s := opened(t, gcs.Options{KeyFile: storetest.GCSKey(t, h.URL)}, func(http.ResponseWriter, *http.Request) {
				t.Error("a request without a token")
			})
			_, err := s.Get(t.Context(), "x", 1)
			if store.KindOf(err) != c.kind || (dr.Advice(err) != "") != (c.kind == store.Denied) {
				t.Errorf("got %v (kind %d), advice %q; want kind %d", err, store.KindOf(err), dr.Advice(err), c.kind)
			}
			if len(err.Error()) > 400 || strings.Contains(err.Error(), "\n") || strings.Contains(err.Error(), "assertion") {
				t.Errorf("too much: %s", err)
			}
		})
	}
}

func TestOpenErrors(t *testing.T) {
	bad := filepath.Join(t.TempDir(), "bad.json")
	if err := os.WriteFile(bad, []byte(`{"private_key": "hunter2"`), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("GOOGLE_APPLICATION_CREDENTIALS", filepath.Join(t.TempDir(), "none"))
	for want, o := range map[string]gcs.Options{
		"plain text":               {Endpoint: "http://storage.example.org"},
		"no file of credentials":   {KeyFile: bad},
		"no such file":             {KeyFile: bad + "x"},
		"find credentials":         {},
		"it is not http(s)://host": {Endpoint: "ftp://host"},
	} {
		o.Bucket = "bucket"
		_, err := gcs.Open(t.Context(), o)
		if err == nil || !strings.Contains(err.Error(), want) || dr.Advice(err) == "" || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("got %v (advice %q), want it to say %q", err, dr.Advice(err), want)
		}
	}
	t.Setenv("GOOGLE_APPLICATION_CREDENTIALS", storetest.GCSKey(t, "http://127.0.0.1:1/"))
	s, err := gcs.Open(t.Context(), gcs.Options{Bucket: "bucket", Prefix: "/p/"})
	if err != nil || s.String() != "gs://bucket/p" {
		t.Errorf("by default: got %v, %v", s, err)
	}
}

// A bucket that does not exist is never an empty one.
func TestNoBucket(t *testing.T) {
	t.Parallel()
	o := storetest.GCS(t).Options("")
	o.Bucket = "no-such-bucket"
	s, err := gcs.Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	_, getErr := s.Get(t.Context(), "x", 1)
	_, statErr := s.Stat(t.Context(), "x")
	for op, err := range map[string]error{
		"get": getErr, "stat": statErr, "put": s.Put(t.Context(), "x", nil), "create": s.Create(t.Context(), "x", nil),
		"delete": s.Delete(t.Context(), "x"), "list": s.List(t.Context(), "", "", func(store.Info) error { return nil }),
	} {
		if store.KindOf(err) != store.Denied || errors.Is(err, store.ErrNotExist) || !strings.Contains(dr.Advice(err), "create the bucket") {
			t.Errorf("%s: got %v (kind %d), want Denied", op, err, store.KindOf(err))
		}
	}
}
