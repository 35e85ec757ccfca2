package s3_test

import (
	"bytes"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/internal/store"
	"github.com/holdfast-dr/holdfast/internal/store/s3"
	"github.com/holdfast-dr/holdfast/internal/store/storetest"
)

// through opens a store over a proxy, with a short patience.
func through(t *testing.T, srv *storetest.S3Server, prefix string) (*storetest.Proxy, *s3.Store) {
	t.Helper()
	p := storetest.NewProxy(t, srv.Endpoint)
	o := srv.Options(prefix)
	o.Endpoint, o.Stall = p.Endpoint, 300*time.Millisecond
	s, err := s3.Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return p, s
}

func wantBusy(t *testing.T, what string, err error) {
	t.Helper()
	if store.KindOf(err) != store.Busy {
		t.Errorf("%s: got %v (kind %d), want Busy", what, err, store.KindOf(err))
	}
}

func TestBrokenLines(t *testing.T) {
	srv := storetest.S3(t)
	storetest.BrokenLines(t, srv.Endpoint, func(t *testing.T, endpoint, prefix string, stall time.Duration) store.Store {
		o := srv.Options(prefix)
		o.Endpoint, o.Stall = endpoint, stall
		s, err := s3.Open(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		return s
	})
}

// TestKilledInPut kills the server in the middle of an upload: nothing is there afterwards, and Retry finishes
// the same call once the server is back.
func TestKilledInPut(t *testing.T) {
	srv := storetest.S3(t)
	p, s := through(t, srv, "killed")
	body := bytes.Repeat([]byte("0123456789abcdef"), 1<<19)
	for _, call := range []string{"put", "create"} {
		do := func(s store.Store) error {
			if call == "put" {
				return s.Put(t.Context(), "x/"+call, body)
			}
			return s.Create(t.Context(), "x/"+call, body)
		}
		p.Order(storetest.Cut{After: 1 << 20, Do: srv.Kill})
		wantBusy(t, call, do(s))
		p.Mend()
		wantBusy(t, call+" without a server", do(s))
		srv.Start(t)
		if _, err := s.Stat(t.Context(), "x/"+call); !errors.Is(err, store.ErrNotExist) {
			t.Errorf("%s: after the kill: got %v, want ErrNotExist", call, err)
		}

		var once sync.Once
		back := make(chan struct{})
		p.Order(storetest.Cut{After: 1 << 20, Do: func() {
			once.Do(func() {
				srv.Kill()
				p.Mend()
				close(back)
			})
		}})
		done := make(chan error)
		go func() { done <- do(store.Retry(s, store.Budget{})) }()
		<-back
		srv.Start(t)
		if err := <-done; err != nil {
			t.Errorf("%s across a restart: %v", call, err)
		}
		if got, err := s.Get(t.Context(), "x/"+call, 1<<30); err != nil || !bytes.Equal(got, body) {
			t.Errorf("%s across a restart: got %d bytes, %v", call, len(got), err)
		}
	}
}

func TestStallNamesTheTime(t *testing.T) {
	srv := storetest.S3(t)
	p, s := through(t, srv, "stall")
	p.Order(storetest.Cut{Stall: true})
	_, err := s.Get(t.Context(), "x", 1)
	if err == nil || !strings.Contains(err.Error(), "nothing moved for 300ms") {
		t.Errorf("got %v", err)
	}
}
