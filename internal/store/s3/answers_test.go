package s3_test

import (
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"

	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/store"
	"github.com/holdfast-dr/holdfast/internal/store/s3"
	"github.com/holdfast-dr/holdfast/internal/store/storetest"
)

const (
	secretKey    = "the-secret-key-Zx9"
	sessionToken = "the-session-token-Qw7"
)

// opened opens a store at a server that answers as it likes: what no real server at hand can be made to say.
func opened(t *testing.T, o s3.Options) *s3.Store {
	t.Helper()
	o.Bucket, o.Region = "bucket", "r"
	o.Credentials = credentials.NewStaticCredentialsProvider("id", secretKey, sessionToken)
	s, err := s3.Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestAnswers(t *testing.T) {
	for _, c := range []struct {
		status int
		code   string
		kind   store.Kind
		advice string
	}{
		{403, "AccessDenied", store.Denied, ""},
		{403, "InvalidAccessKeyId", store.Denied, ""},
		{403, "RequestTimeTooSkewed", store.Denied, "clock"},
		{401, "Unauthorized", store.Denied, ""},
		{404, "NoSuchBucket", store.Denied, "bucket"},
		{301, "PermanentRedirect", store.Denied, "region"},
		{400, "AuthorizationHeaderMalformed", store.Denied, "region"},
		{400, "InvalidArgument", store.Other, ""},
		{501, "NotImplemented", store.Other, ""},
		{400, "RequestTimeout", store.Busy, ""},
		{400, "BadDigest", store.Busy, ""},
		{400, "IncompleteBody", store.Busy, ""},
		{409, "ConditionalRequestConflict", store.Busy, ""},
		{409, "OperationAborted", store.Busy, ""},
		{429, "TooManyRequests", store.Busy, ""},
		{500, "InternalError", store.Busy, ""},
		{502, "", store.Busy, ""},
		{503, "SlowDown", store.Busy, ""},
		{504, "", store.Busy, ""},
		{507, "XMinioStorageFull", store.Full, ""},
		{507, "", store.Full, ""},
		{403, "QuotaExceeded", store.Full, ""},
	} {
		t.Run(fmt.Sprintf("%d %s", c.status, c.code), func(t *testing.T) {
			calls := 0
			h := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				calls++
				w.WriteHeader(c.status)
				if c.code != "" {
					// A server that repeats the request's headers must not make us print them.
					_, _ = fmt.Fprintf(w, "<Error><Code>%s</Code><Message>echo %s %s</Message><RequestId>%s</RequestId></Error>",
						c.code, r.Header.Get("X-Amz-Security-Token"), secretKey, strings.Repeat("r", 9000))
				}
			}))
			defer h.Close()
			s := opened(t, s3.Options{Endpoint: h.URL})
			for op, err := range map[string]error{
				"put": s.Put(t.Context(), "x", []byte("b")), "create": s.Create(t.Context(), "x", []byte("b")),
				"delete": s.Delete(t.Context(), "x"), "range": s.GetRange(t.Context(), "x", 0, make([]byte, 1)),
				"list": s.List(t.Context(), "", "", func(store.Info) error { return nil }),
			} {
				if store.KindOf(err) != c.kind || errors.Is(err, store.ErrNotExist) || errors.Is(err, store.ErrExists) {
					t.Errorf("%s: got %v (kind %d), want kind %d", op, err, store.KindOf(err), c.kind)
					continue
				}
				text := err.Error()
				if strings.Contains(text, secretKey) || strings.Contains(text, sessionToken) || strings.Contains(text, "Signature") {
					t.Errorf("%s: the error shows a secret: %s", op, text)
				}
				if len(text) > 700 || strings.Contains(text, "\n") {
					t.Errorf("%s: an error of %d bytes: %s", op, len(text), text)
				}
				if !strings.Contains(dr.Advice(err), c.advice) || c.advice == "" && dr.Advice(err) != "" {
					t.Errorf("%s: advice %q, want %q in it", op, dr.Advice(err), c.advice)
				}
			}
			if calls != 5 {
				t.Errorf("%d requests for 5 calls: something repeats below store.Retry", calls)
			}
		})
	}
}

// Odd answers that look like success must not pass as it.
func TestOddAnswers(t *testing.T) {
	respond := func(status int, header map[string]string, body string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			for k, v := range header {
				w.Header().Set(k, v)
			}
			w.WriteHeader(status)
			_, _ = w.Write([]byte(body))
		}
	}
	list := func(s *s3.Store, _ context.Context) error {
		return s.List(context.Background(), "a", "", func(store.Info) error { return nil })
	}
	rng := func(s *s3.Store, ctx context.Context) error { return s.GetRange(ctx, "x", 2, make([]byte, 4)) }
	for name, c := range map[string]struct {
		handler http.HandlerFunc
		call    func(*s3.Store, context.Context) error
		kind    store.Kind
	}{
		"range ignored":      {respond(200, nil, "0123456789"), rng, store.Other},
		"another range":      {respond(206, map[string]string{"Content-Range": "bytes 0-3/10"}, "0123"), rng, store.Other},
		"a shorter range":    {respond(206, map[string]string{"Content-Range": "bytes 2-3/4"}, "23"), rng, store.Damaged},
		"listing unsorted":   {respond(200, nil, listing("ab", "aa")), list, store.Other},
		"listing repeats":    {respond(200, nil, listing("aa", "aa")), list, store.Other},
		"listing of another": {respond(200, nil, listing("b")), list, store.Other},
		"listing cut":        {respond(200, map[string]string{"Content-Length": "900"}, listing("aa")[:60]), list, store.Busy},
		"no way on":          {respond(200, nil, strings.Replace(listing("aa"), "false", "true", 1)), list, store.Other},
	} {
		t.Run(name, func(t *testing.T) {
			h := httptest.NewServer(c.handler)
			defer h.Close()
			if err := c.call(opened(t, s3.Options{Endpoint: h.URL}), t.Context()); err == nil || store.KindOf(err) != c.kind {
				t.Errorf("got %v (kind %d), want kind %d", err, store.KindOf(err), c.kind)
			}
		})
	}
}

func listing(keys ...string) string {
	text := "<ListBucketResult><IsTruncated>false</IsTruncated>"
	for _, k := range keys {
		text += "<Contents><Key>" + k + "</Key><Size>1</Size></Contents>"
	}
	return text + "</ListBucketResult>"
}

// An upload carries what lets a server see that it was cut off, and nothing that old servers do not know.
func TestUploadHeaders(t *testing.T) {
	var got http.Header
	h := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { got = r.Header }))
	defer h.Close()
	s := opened(t, s3.Options{Endpoint: h.URL, StorageClass: "STANDARD_IA", SSE: "aws:kms", KMSKey: "k"})
	if err := s.Create(t.Context(), "x", []byte("hello")); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"Content-Md5": "XUFAKrxLKna5cZ2REBfFkg==", "If-None-Match": "*", "X-Amz-Storage-Class": "STANDARD_IA",
		"X-Amz-Server-Side-Encryption": "aws:kms", "X-Amz-Server-Side-Encryption-Aws-Kms-Key-Id": "k", "X-Amz-Trailer": "",
	} {
		if got.Get(name) != want {
			t.Errorf("%s: got %q, want %q", name, got.Get(name), want)
		}
	}
	if err := s.Put(t.Context(), "x", nil); err != nil || got.Get("If-None-Match") != "" {
		t.Errorf("put: %v, If-None-Match %q", err, got.Get("If-None-Match"))
	}
}

func TestTLS(t *testing.T) {
	h := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	h.Config.ErrorLog = log.New(io.Discard, "", 0) // of the refused handshakes
	h.StartTLS()
	defer h.Close()
	err := opened(t, s3.Options{Endpoint: h.URL}).Put(t.Context(), "x", nil)
	if store.KindOf(err) != store.Denied || !strings.Contains(dr.Advice(err), "ca-file") {
		t.Errorf("unknown authority: got %v (kind %d), advice %q", err, store.KindOf(err), dr.Advice(err))
	}
	ca := filepath.Join(t.TempDir(), "ca.pem")
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: h.Certificate().Raw})
	if err := os.WriteFile(ca, text, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := opened(t, s3.Options{Endpoint: h.URL, CAFile: ca}).Put(t.Context(), "x", []byte("b")); err != nil {
		t.Errorf("with ca-file: %v", err)
	}
	if _, err := s3.Open(t.Context(), s3.Options{Bucket: "b", CAFile: ca + "x"}); err == nil || dr.Advice(err) == "" {
		t.Errorf("missing ca-file: got %v", err)
	}
	plain := opened(t, s3.Options{Endpoint: strings.Replace(h.URL, "https", "http", 1)})
	if err := plain.Put(t.Context(), "x", nil); err == nil {
		t.Error("HTTP to an HTTPS server: no error")
	}
}

func TestNobodyThere(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = l.Close()
	s := opened(t, s3.Options{Endpoint: "http://" + l.Addr().String()})
	if err := s.Put(t.Context(), "x", nil); store.KindOf(err) != store.Busy || strings.Contains(err.Error(), "operation error") {
		t.Errorf("got %v (kind %d), want Busy, short", err, store.KindOf(err))
	}
}

type noKeys struct{}

func (noKeys) Retrieve(context.Context) (aws.Credentials, error) {
	return aws.Credentials{}, errors.New("no profile")
}

func TestOpenErrors(t *testing.T) {
	for _, name := range []string{"AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"} {
		t.Setenv(name, "")
	}
	t.Setenv("AWS_CONFIG_FILE", filepath.Join(t.TempDir(), "none"))
	for want, o := range map[string]s3.Options{
		"no region":        {Bucket: "b", Credentials: noKeys{}},
		"find credentials": {Bucket: "b", Region: "r", Credentials: noKeys{}},
		"configuration":    {Bucket: "b", Region: "r", Profile: "absent"},
	} {
		_, err := s3.Open(t.Context(), o)
		if err == nil || !strings.Contains(err.Error(), want) || dr.Advice(err) == "" {
			t.Errorf("got %v (advice %q), want it to say %q", err, dr.Advice(err), want)
		}
	}
}

// What a real server says about a bucket and about credentials that do not exist.
func TestRealRefusals(t *testing.T) {
	srv := storetest.S3(t)
	absent := srv.Options("")
	absent.Bucket = "no-such-bucket"
	wrong := srv.Options("")
	wrong.Credentials = credentials.NewStaticCredentialsProvider(srv.AccessKey, "wrong", "")
	for what, o := range map[string]s3.Options{"bucket": absent, "key": wrong} {
		s, err := s3.Open(t.Context(), o)
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

func TestProbe(t *testing.T) {
	s := storetest.S3(t).Open(t, "probed")
	got, err := store.Probe(t.Context(), s)
	if want := (store.Abilities{ExclusiveCreate: true, ListAfterWrite: true, Delete: true}); err != nil || got != want {
		t.Errorf("got %+v, %v, want %+v", got, err, want)
	}
}
