package storetest

import (
	"bytes"
	"crypto/md5" //nolint:gosec // what S3 calls an ETag
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"
)

// Provider stands before a real S3 server, and does what providers do on their worst days.
type Provider struct {
	Endpoint string

	bucket string

	// mu guards what follows.
	mu      sync.Mutex
	busy    float64
	loses   func(name string) bool
	holds   *hold
	late    time.Duration
	created map[string]time.Time // objects, by when they were put
	skew    time.Duration
	refused int
	lost    []string
	hidden  int
}

// hold is an order to hold an object back.
type hold struct {
	which    func(name string) bool
	held     chan string // capacity 1, never read twice
	released chan struct{}
}

// NewProvider starts one before a server, which ends with the test.
func NewProvider(t testing.TB, s *S3Server) *Provider {
	t.Helper()
	target, err := url.Parse(s.Endpoint)
	if err != nil {
		t.Fatal(err)
	}
	p := &Provider{bucket: s.Bucket, created: map[string]time.Time{}}
	// The name of the host is signed: it goes on as the client wrote it.
	forward := &httputil.ReverseProxy{
		Rewrite:        func(r *httputil.ProxyRequest) { r.SetURL(target); r.Out.Host = r.In.Host },
		ModifyResponse: p.answer,
		ErrorHandler:   func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusBadGateway) },
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { p.serve(w, r, forward) }))
	t.Cleanup(server.Close)
	p.Endpoint = server.URL
	return p
}

// Busy makes a share of all requests be refused with 503.
func (p *Provider) Busy(share float64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.busy = share
}

// Lose makes the next object whose name, with the prefix of its store, is one that which wants be acknowledged, and be nowhere.
// Only once, since it may be sent again. nil: no more.
func (p *Provider) Lose(which func(name string) bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.loses = which
}

// Hold keeps objects whose names, with the prefix of their store, are those that which wants on their way, while others pass them,
// until release is called. Where whoever sends one goes before that it never comes. held has the first one's name.
func (p *Provider) Hold(which func(name string) bool) (held <-chan string, release func()) {
	h := &hold{which, make(chan string, 1), make(chan struct{})}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.holds = h
	return h.held, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.holds = nil
		close(h.released)
	}
}

// ListLate makes listings not show what was put less than d ago.
func (p *Provider) ListLate(d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.late = d
}

// Skew sets the provider's clock, by which it dates its answers and its objects.
func (p *Provider) Skew(d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.skew = d
}

// Seen returns how many requests were refused, which objects were lost, and how many entries were left out of listings.
func (p *Provider) Seen() (refused int, lost []string, hidden int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.refused, p.lost, p.hidden
}

func (p *Provider) serve(w http.ResponseWriter, r *http.Request, forward http.Handler) {
	name := strings.TrimPrefix(r.URL.Path, "/"+p.bucket+"/")
	p.mu.Lock()
	refuse := rand.Float64() < p.busy
	lose := !refuse && r.Method == http.MethodPut && p.loses != nil && p.loses(name)
	switch {
	case refuse:
		p.refused++
	case lose:
		p.lost, p.loses = append(p.lost, name), nil
	case r.Method == http.MethodPut:
		if _, ok := p.created[name]; !ok {
			p.created[name] = time.Now()
		}
	case r.Method == http.MethodDelete:
		delete(p.created, name)
	}
	hold := p.holds
	if !refuse && !lose && hold != nil && r.Method == http.MethodPut && hold.which(name) {
		select {
		case hold.held <- name:
		default:
		}
	} else {
		hold = nil
	}
	p.mu.Unlock()
	if hold != nil {
		body, err := io.ReadAll(r.Body) // only then it is noticed that the sender goes
		if err != nil {
			return
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		select {
		case <-hold.released:
		case <-r.Context().Done():
			return
		}
	}
	switch {
	case refuse:
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", "application/xml")
		w.WriteHeader(http.StatusServiceUnavailable)
		_, _ = io.WriteString(w, "<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>")
	case lose:
		sum := md5.New() //nolint:gosec // see above
		_, _ = io.Copy(sum, r.Body)
		w.Header().Set("ETag", fmt.Sprintf("%q", fmt.Sprintf("%x", sum.Sum(nil))))
		w.WriteHeader(http.StatusOK)
	default:
		forward.ServeHTTP(w, r)
	}
}

var (
	listedObject = regexp.MustCompile(`(?s)<Contents>.*?</Contents>`)
	listedKey    = regexp.MustCompile(`<Key>([^<]*)</Key>`)
	listedDate   = regexp.MustCompile(`<LastModified>([^<]*)</LastModified>`)
)

// answer changes what the server says of its listings and of the time.
func (p *Provider) answer(r *http.Response) error {
	p.mu.Lock()
	late, skew := p.late, p.skew
	p.mu.Unlock()
	if skew != 0 {
		for _, h := range []string{"Date", "Last-Modified"} {
			if at, err := http.ParseTime(r.Header.Get(h)); err == nil {
				r.Header.Set(h, at.Add(skew).UTC().Format(http.TimeFormat))
			}
		}
	}
	if !r.Request.URL.Query().Has("list-type") || r.StatusCode != http.StatusOK || late == 0 && skew == 0 {
		return nil
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return err
	}
	body = listedObject.ReplaceAllFunc(body, func(entry []byte) []byte {
		if p.hides(listedKey.FindSubmatch(entry), late) {
			return nil
		}
		return listedDate.ReplaceAllFunc(entry, func(date []byte) []byte {
			at, err := time.Parse(time.RFC3339, string(listedDate.FindSubmatch(date)[1]))
			if err != nil {
				return date
			}
			return []byte("<LastModified>" + at.Add(skew).UTC().Format("2006-01-02T15:04:05.000Z") + "</LastModified>")
		})
	})
	r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	r.Header.Set("Content-Length", fmt.Sprint(len(body)))
	return nil
}

func (p *Provider) hides(key [][]byte, late time.Duration) bool {
	if key == nil {
		return false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	at, ok := p.created[string(key[1])]
	if !ok || time.Since(at) >= late {
		return false
	}
	p.hidden++
	return true
}
