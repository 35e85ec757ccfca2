package azblob_test

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/store"
	"github.com/holdfast-dr/holdfast/internal/store/azblob"
	"github.com/holdfast-dr/holdfast/internal/store/storetest"
)

const (
	accountKey = "dGhlLXNlY3JldC1rZXktWng5"
	signature  = "sig/the+signature-Qw7="
	sas        = "sv=2026-06-06&sp=racwdl&sr=c&sig=sig%2Fthe%2Bsignature-Qw7%3D"
)

// opened opens a store at a server that answers as it likes: what the emulator cannot be made to say, in the words of
// the manual of the Blob service.
func opened(t *testing.T, o azblob.Options, handler http.HandlerFunc) *azblob.Store {
	t.Helper()
	h := httptest.NewServer(handler)
	t.Cleanup(h.Close)
	o.Account, o.Container, o.Endpoint = "account", "container", h.URL
	if o.KeyFile == "" && o.SASFile == "" {
		o.KeyFile = file(t, accountKey)
	}
	s, err := azblob.Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func file(t *testing.T, text string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(name, []byte(text+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func refuse(w http.ResponseWriter, status int, code, message string) {
	if code != "" {
		w.Header().Set("X-Ms-Error-Code", code)
	}
	w.Header().Set("Content-Type", "application/xml")
	w.Header().Set("X-Ms-Request-Id", strings.Repeat("r", 9000))
	w.WriteHeader(status)
	if code != "" {
		_, _ = fmt.Fprintf(w, "\ufeff<?xml version=\"1.0\" encoding=\"utf-8\"?><Error><Code>%s</Code><Message>%s\nRequestId:1\nTime:2</Message></Error>", code, message)
	}
}

func TestAnswers(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		status int
		code   string
		kind   store.Kind
		advice string
	}{
		{403, "AuthenticationFailed", store.Denied, "clock"},
		{403, "AuthorizationPermissionMismatch", store.Denied, ""},
		{401, "NoAuthenticationInformation", store.Denied, ""},
		{404, "ContainerNotFound", store.Denied, "create the container"},
		{404, "ResourceNotFound", store.Denied, "create the container"},
		{404, "", store.Other, ""},
		{409, "ContainerBeingDeleted", store.Denied, "create the container"},
		{409, "BlobImmutableDueToPolicy", store.Denied, "policy"},
		{412, "LeaseIdMissing", store.Denied, "lease"},
		{409, "BlobArchived", store.Denied, "archive"},
		{307, "", store.Denied, "endpoint"},
		{400, "InvalidInput", store.Other, ""},
		{400, "Md5Mismatch", store.Busy, ""},
		{409, "SnapshotsPresent", store.Other, ""},
		{429, "", store.Busy, ""},
		{500, "InternalError", store.Busy, ""},
		{500, "OperationTimedOut", store.Busy, ""},
		{502, "", store.Busy, ""},
		{503, "ServerBusy", store.Busy, ""},
	} {
		for _, with := range []string{"key", "sas"} {
			t.Run(fmt.Sprintf("%d %s with %s", c.status, c.code, with), func(t *testing.T) {
				var o azblob.Options
				secret := accountKey
				if with == "sas" {
					o.SASFile = file(t, "?"+sas)
					secret = strings.ReplaceAll(sas, "&", "&amp;") + " " + signature
				}
				calls := 0
				s := opened(t, o, func(w http.ResponseWriter, r *http.Request) {
					calls++
					_, _ = io.Copy(io.Discard, r.Body)
					if got := r.URL.Query().Get("sig"); (got == signature) != (with == "sas") {
						t.Errorf("signature %q", got)
					}
					// A server that repeats the request must not make us print its secrets.
					refuse(w, c.status, c.code, "echo "+secret+strings.Repeat(" long", 200))
				})
				_, statErr := s.Stat(t.Context(), "x")
				for op, err := range map[string]error{
					"put": s.Put(t.Context(), "x", []byte("b")), "create": s.Create(t.Context(), "x", []byte("b")),
					"list": s.List(t.Context(), "", "", func(store.Info) error { return nil }), "stat": statErr,
					"delete": s.Delete(t.Context(), "x"), "range": s.GetRange(t.Context(), "x", 0, make([]byte, 1)),
				} {
					if store.KindOf(err) != c.kind || errors.Is(err, store.ErrNotExist) || errors.Is(err, store.ErrExists) {
						t.Errorf("%s: got %v (kind %d), want kind %d", op, err, store.KindOf(err), c.kind)
						continue
					}
					text := err.Error()
					if strings.Contains(text, accountKey) || strings.Contains(text, "the+signature") || strings.Contains(text, "the%2Bsignature") ||
						strings.Contains(text, "SharedKey") || len(text) > 700 || strings.Contains(text, "\n") {
						t.Errorf("%s: a secret, or too much: %s", op, text)
					}
					if !strings.Contains(dr.Advice(err), c.advice) || c.advice == "" && dr.Advice(err) != "" {
						t.Errorf("%s: advice %q, want %q in it", op, dr.Advice(err), c.advice)
					}
				}
				if calls != 6 {
					t.Errorf("%d requests for 6 calls: something repeats below store.Retry", calls)
				}
			})
		}
	}
}

// A connection that is refused is told without the URL, which has the signature in it.
func TestNobodyThere(t *testing.T) {
	t.Parallel()
	h := httptest.NewServer(http.NotFoundHandler())
	h.Close()
	s, err := azblob.Open(t.Context(), azblob.Options{Account: "account", Container: "container", Endpoint: h.URL, SASFile: file(t, sas)})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Put(t.Context(), "x", nil); store.KindOf(err) != store.Busy || strings.Contains(err.Error(), "sig") {
		t.Errorf("got %v (kind %d), want Busy", err, store.KindOf(err))
	}
}

// Of either code with which the condition of a Create is refused.
func TestExists(t *testing.T) {
	t.Parallel()
	for code, status := range map[string]int{"BlobAlreadyExists": 409, "ConditionNotMet": 412} {
		s := opened(t, azblob.Options{}, func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			refuse(w, status, code, "")
		})
		if err := s.Create(t.Context(), "x", nil); !errors.Is(err, store.ErrExists) || store.KindOf(err) != store.Gone {
			t.Errorf("%s: create: got %v", code, err)
		}
		if err := s.Put(t.Context(), "x", nil); err == nil || errors.Is(err, store.ErrExists) {
			t.Errorf("%s: put: got %v", code, err)
		}
	}
}

// An upload says on which condition, in which tier, and with which checksum.
func TestUpload(t *testing.T) {
	t.Parallel()
	var got *http.Request
	s := opened(t, azblob.Options{Prefix: "a b", Tier: "Cool"}, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		got = r
		w.WriteHeader(http.StatusCreated)
	})
	for condition, call := range map[string]func() error{
		"":  func() error { return s.Put(t.Context(), "x/y", []byte("hello")) },
		"*": func() error { return s.Create(t.Context(), "x/y", []byte("hello")) },
	} {
		if err := call(); err != nil {
			t.Fatal(err)
		}
		for name, want := range map[string]string{
			"If-None-Match": condition, "Content-Md5": "XUFAKrxLKna5cZ2REBfFkg==", "X-Ms-Access-Tier": "Cool", "X-Ms-Blob-Type": "BlockBlob",
		} {
			if got.Header.Get(name) != want {
				t.Errorf("%s: got %q, want %q", name, got.Header.Get(name), want)
			}
		}
		if got.URL.Path != "/container/a b/x/y" || !strings.HasPrefix(got.Header.Get("Authorization"), "SharedKey account:") {
			t.Errorf("got %s with %q", got.URL, got.Header.Get("Authorization"))
		}
	}
}

// Odd answers that look like success must not pass as it. A hierarchical namespace is one of them: it lists in the order
// of its directories.
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
	list := func(s *azblob.Store, t *testing.T) error {
		return s.List(t.Context(), "a", "", func(store.Info) error { return nil })
	}
	rng := func(s *azblob.Store, t *testing.T) error { return s.GetRange(t.Context(), "x", 2, make([]byte, 4)) }
	for name, c := range map[string]struct {
		handler http.HandlerFunc
		call    func(*azblob.Store, *testing.T) error
		kind    store.Kind
	}{
		"range ignored":      {respond(200, nil, "0123456789"), rng, store.Other},
		"another range":      {respond(206, map[string]string{"Content-Range": "bytes 0-3/10"}, "0123"), rng, store.Other},
		"a shorter range":    {respond(206, map[string]string{"Content-Range": "bytes 2-3/4"}, "23"), rng, store.Damaged},
		"hierarchical":       {respond(200, nil, listing("a/b", "a-b")), list, store.Other},
		"listing repeats":    {respond(200, nil, listing("aa", "aa")), list, store.Other},
		"listing of another": {respond(200, nil, listing("b")), list, store.Other},
		"listing cut":        {respond(200, map[string]string{"Content-Length": "900"}, listing("aa")[:60]), list, store.Busy},
		"no listing":         {respond(200, nil, "<EnumerationResults/>"), list, store.Other},
	} {
		t.Run(name, func(t *testing.T) {
			if err := c.call(opened(t, azblob.Options{}, c.handler), t); err == nil || store.KindOf(err) != c.kind {
				t.Errorf("got %v (kind %d), want kind %d", err, store.KindOf(err), c.kind)
			}
		})
	}
}

func listing(names ...string) string {
	text := `<?xml version="1.0" encoding="utf-8"?><EnumerationResults><Blobs>`
	for _, n := range names {
		text += "<Blob><Name>" + n + "</Name><Properties><Content-Length>1</Content-Length></Properties></Blob>"
	}
	return text + "</Blobs><NextMarker/></EnumerationResults>"
}

// A listing begins where it is to, also on servers that know nothing of it: the emulator is one.
func TestStartFrom(t *testing.T) {
	t.Parallel()
	var query url.Values
	s := opened(t, azblob.Options{Prefix: "p"}, func(w http.ResponseWriter, r *http.Request) {
		query = r.URL.Query()
		_, _ = io.WriteString(w, listing("p/a", "p/b", "p/c"))
	})
	var names []string
	err := s.List(t.Context(), "", "b", func(i store.Info) error { names = append(names, i.Name); return nil })
	if err != nil || len(names) != 1 || names[0] != "c" || query.Get("startFrom") != "p/b" || query.Get("prefix") != "p/" {
		t.Errorf("got %q, %v of %v", names, err, query)
	}
}

// An identity's token is asked for, and never sent in plain text nor shown.
func TestIdentity(t *testing.T) {
	for _, name := range []string{"AZURE_STORAGE_KEY", "AZURE_STORAGE_SAS_TOKEN", "AZURE_STORAGE_ACCOUNT", "AZURE_AUTHORITY_HOST"} {
		t.Setenv(name, "")
	}
	t.Setenv("AZURE_TOKEN_CREDENTIALS", "EnvironmentCredential") // and nothing else is looked for
	s, err := azblob.Open(t.Context(), azblob.Options{Account: "account", Container: "container", Endpoint: "http://127.0.0.1:1"})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Put(t.Context(), "x", nil); store.KindOf(err) == store.Busy || err == nil {
		t.Errorf("a token over plain HTTP: got %v (kind %d)", err, store.KindOf(err))
	}
}

func TestOpenErrors(t *testing.T) {
	t.Setenv("AZURE_STORAGE_ACCOUNT", "another")
	t.Setenv("AZURE_STORAGE_KEY", "not base64 hunter2") // of another account
	for want, o := range map[string]azblob.Options{
		"plain text":      {Endpoint: "http://blobs.example.org", KeyFile: file(t, accountKey)},
		"base64":          {KeyFile: file(t, "hunter2!")},
		"no such file":    {KeyFile: "/no/such/key"},
		"is empty":        {SASFile: file(t, "")},
		"with sig= are":   {SASFile: file(t, "sv=hunter2")},
		"not http(s)://h": {Endpoint: "ftp://host"},
	} {
		o.Account, o.Container = "account", "container"
		_, err := azblob.Open(t.Context(), o)
		if err == nil || !strings.Contains(err.Error(), want) || dr.Advice(err) == "" || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("got %v (advice %q), want it to say %q", err, dr.Advice(err), want)
		}
	}
	t.Setenv("AZURE_STORAGE_ACCOUNT", "account")
	if _, err := azblob.Open(t.Context(), azblob.Options{Account: "account", Container: "container"}); err == nil || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("a bad key of the environment: got %v", err)
	}
	t.Setenv("AZURE_STORAGE_KEY", accountKey)
	s, err := azblob.Open(t.Context(), azblob.Options{Account: "account", Container: "container", Prefix: "/p/"})
	if err != nil || s.String() != "azblob://account/container/p" {
		t.Errorf("got %v, %v", s, err)
	}
}

// What the emulator says about a container and about credentials that do not exist.
func TestRefusals(t *testing.T) {
	t.Parallel()
	srv := storetest.Azurite(t)
	absent, wrong := srv.Options(""), srv.Options("")
	absent.Container = "no-such-container"
	wrong.KeyFile = file(t, accountKey)
	for what, o := range map[string]azblob.Options{"container": absent, "key": wrong} {
		s, err := azblob.Open(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		_, getErr := s.Get(t.Context(), "x", 1)
		_, statErr := s.Stat(t.Context(), "x")
		for op, err := range map[string]error{
			"get": getErr, "stat": statErr, "put": s.Put(t.Context(), "x", nil), "create": s.Create(t.Context(), "x", nil),
			"delete": s.Delete(t.Context(), "x"), "list": s.List(t.Context(), "", "", func(store.Info) error { return nil }),
		} {
			if store.KindOf(err) != store.Denied || errors.Is(err, store.ErrNotExist) {
				t.Errorf("wrong %s: %s: got %v (kind %d), want Denied", what, op, err, store.KindOf(err))
			}
		}
	}
}
