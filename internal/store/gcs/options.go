package gcs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/oauth2"
	"golang.org/x/oauth2/google"

	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/store/line"
)

// Options say where a bucket is. Bucket is required.
type Options struct {
	Bucket   string
	Prefix   string // stands before each object's name, with a slash between
	Endpoint string // https://host[:port]; empty is Google's
	KeyFile  string // a service account's key, or another file of credentials; empty: the default ones

	StorageClass string // empty is the bucket's
	KMSKey       string // projects/…/cryptoKeys/…; empty is the bucket's

	Stall time.Duration // a request in which nothing moves for so long is given up; 30 s
}

const (
	googles = "https://storage.googleapis.com"

	// scope is what the objects of a store need; that of full control could change who may read them.
	scope = "https://www.googleapis.com/auth/devstorage.read_write"

	credentialsHint = "give credentials as for Google's tools: GOOGLE_APPLICATION_CREDENTIALS=/path/to/key.json, " +
		"gcloud auth application-default login, a service account of the machine, or ?key-file=/path/to/key.json"
)

// Open prepares a store and finds the credentials. It sends nothing to the bucket.
func Open(ctx context.Context, o Options) (*Store, error) {
	s := &Store{opts: o, name: "gs://" + o.Bucket, endpoint: googles}
	if s.prefix = strings.Trim(o.Prefix, "/"); s.prefix != "" {
		s.name += "/" + s.prefix
		s.prefix += "/"
	}
	if o.Stall <= 0 {
		s.opts.Stall = line.DefaultStall
	}
	if o.Endpoint != "" {
		s.endpoint = strings.TrimSuffix(o.Endpoint, "/")
		s.name += " at " + s.endpoint
	}
	if err := line.CheckEndpoint(s.endpoint); err != nil {
		return nil, dr.Fail("open store "+s.name, err, dr.Advice(err))
	}
	t := http.DefaultTransport.(*http.Transport).Clone() //nolint:forcetypeassert // of net/http
	line.Tune(t)
	s.client = &http.Client{
		Transport: t,
		// A redirect is an answer: nothing of Google's sends one, and it would take the token along.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	// What is fetched later is not bounded by the context of this call, but by the client.
	s.keys = &keys{transport: t}
	ctx = context.WithValue(context.WithoutCancel(ctx), oauth2.HTTPClient, &http.Client{Transport: s.keys, Timeout: s.opts.Stall})
	var err error
	if s.keys.from, err = find(ctx, o.KeyFile); err != nil {
		return nil, dr.Fail("open store "+s.name, fmt.Errorf("find credentials: %w", err), credentialsHint)
	}
	return s, nil
}

// find finds credentials. Errors of a file's content do not repeat it.
func find(ctx context.Context, file string) (oauth2.TokenSource, error) {
	if file == "" {
		c, err := google.FindDefaultCredentials(ctx, scope)
		if err != nil {
			return nil, err
		}
		return c.TokenSource, nil
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var kind struct {
		Type google.CredentialsType `json:"type"`
	}
	if err := json.Unmarshal(text, &kind); err != nil || kind.Type == "" {
		return nil, fmt.Errorf("%s is no file of credentials: JSON with a type is expected", file)
	}
	c, err := google.CredentialsFromJSONWithType(ctx, text, kind.Type, scope)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return c.TokenSource, nil
}

// keys hands out tokens and remembers the newest, so that no message ever shows it.
type keys struct {
	from oauth2.TokenSource // caches
	last atomic.Pointer[string]

	transport http.RoundTripper
	broken    atomic.Bool // the last request for a token got no answer, which the library's errors do not tell
}

// RoundTrip implements http.RoundTripper, for requests for tokens.
func (k *keys) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := k.transport.RoundTrip(r)
	k.broken.Store(err != nil)
	return resp, err
}

// keysError is a failure to get a token, as opposed to a token that the store refuses.
type keysError struct {
	err    error
	broken bool
}

func (e *keysError) Error() string {
	var answer *oauth2.RetrieveError
	if errors.As(e.err, &answer) && answer.Response != nil {
		return fmt.Sprintf("get a token: %v", line.NewAnswer(answer.Response.StatusCode, answer.ErrorCode, answer.ErrorDescription, "", plain))
	}
	return fmt.Sprintf("get a token: %v", e.err)
}

func (e *keysError) Unwrap() error { return e.err }

func plain(text string) string { return text }

// busy tells whether getting a token may succeed later.
func (e *keysError) busy() bool {
	var answer *oauth2.RetrieveError
	if errors.As(e.err, &answer) && answer.Response != nil {
		return answer.Response.StatusCode >= 500 || answer.Response.StatusCode == http.StatusTooManyRequests
	}
	return e.broken || line.IsNetwork(e.err)
}

// sign gives a request its token. Getting a new one is not ended by the request's context, but bounded.
func (k *keys) sign(r *http.Request) error {
	t, err := k.from.Token()
	if err != nil {
		return &keysError{err, k.broken.Load()}
	}
	k.last.Store(&t.AccessToken)
	t.SetAuthHeader(r)
	return nil
}

func (k *keys) hide(text string) string {
	if t := k.last.Load(); t != nil {
		return line.Hide(text, *t)
	}
	return text
}
