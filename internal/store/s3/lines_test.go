package s3_test

import (
	"bytes"
	"errors"
	"fmt"
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

// order has every request from now on end as ordered.
func order(p *storetest.Proxy, c storetest.Cut) {
	p.Mend()
	c.Times = storetest.Always
	p.Cut(c)
}

func wantBusy(t *testing.T, what string, err error) {
	t.Helper()
	if store.KindOf(err) != store.Busy {
		t.Errorf("%s: got %v (kind %d), want Busy", what, err, store.KindOf(err))
	}
}

// TestBrokenLines cuts and stalls each kind of request, in its request and in its answer.
func TestBrokenLines(t *testing.T) {
	srv := storetest.S3(t)
	body := bytes.Repeat([]byte("body"), 1<<20)
	for _, stall := range []bool{false, true} {
		t.Run(fmt.Sprintf("stall=%t", stall), func(t *testing.T) {
			prefix := fmt.Sprintf("lines-%t", stall)
			direct := srv.Open(t, prefix)
			p, s := through(t, srv, prefix)
			if err := direct.Put(t.Context(), "there", body); err != nil {
				t.Fatal(err)
			}
			for where, o := range map[string]storetest.Cut{
				"at once": {}, "in the body": {After: 1 << 20}, "before the answer": {Answer: true},
			} {
				o.Stall = stall
				order(p, o)
				for op, call := range map[string]func(string, []byte) error{
					"put":    func(n string, b []byte) error { return s.Put(t.Context(), n, b) },
					"create": func(n string, b []byte) error { return s.Create(t.Context(), n, b) },
				} {
					name := op + strings.ReplaceAll(where, " ", "-")
					err := call(name, body)
					wantBusy(t, op+" "+where, err)
					got, err := direct.Get(t.Context(), name, 1<<30)
					if !errors.Is(err, store.ErrNotExist) && !bytes.Equal(got, body) {
						t.Errorf("%s cut off %s made an object of %d bytes (%v)", op, where, len(got), err)
					}
				}
			}
			for _, n := range []int64{0, 100, 1 << 20} {
				order(p, storetest.Cut{Answer: true, After: n, Stall: stall})
				got, err := s.Get(t.Context(), "there", 1<<30)
				wantBusy(t, fmt.Sprintf("get after %d of %d", n, len(got)), err)
				wantBusy(t, fmt.Sprintf("range after %d", n), s.GetRange(t.Context(), "there", 1, make([]byte, 2<<20)))
			}
			order(p, storetest.Cut{Answer: true, After: 50, Stall: stall})
			_, err := s.Stat(t.Context(), "there")
			wantBusy(t, "stat", err)
			wantBusy(t, "list", s.List(t.Context(), "", "", func(store.Info) error { return nil }))
			wantBusy(t, "delete", s.Delete(t.Context(), "there"))
		})
	}
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
		order(p, storetest.Cut{After: 1 << 20, Do: srv.Kill})
		wantBusy(t, call, do(s))
		p.Mend()
		wantBusy(t, call+" without a server", do(s))
		srv.Start(t)
		if _, err := s.Stat(t.Context(), "x/"+call); !errors.Is(err, store.ErrNotExist) {
			t.Errorf("%s: after the kill: got %v, want ErrNotExist", call, err)
		}

		var once sync.Once
		back := make(chan struct{})
		order(p, storetest.Cut{After: 1 << 20, Do: func() {
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
	order(p, storetest.Cut{Stall: true})
	_, err := s.Get(t.Context(), "x", 1)
	if err == nil || !strings.Contains(err.Error(), "nothing moved for 300ms") {
		t.Errorf("got %v", err)
	}
}
