package storetest

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/internal/store"
)

// BrokenLines cuts and stalls each kind of request to the server at an endpoint, in its request and in its answer: the
// error is Busy, and no upload that was cut off is an object, until it is repeated. open opens a store below a prefix, at
// the server or at a line to it, that gives up where nothing moves for stall; 0 is the store's own.
func BrokenLines(t *testing.T, endpoint string, open func(t *testing.T, endpoint, prefix string, stall time.Duration) store.Store) {
	body := bytes.Repeat([]byte("body"), 1<<20)
	for _, stall := range []bool{false, true} {
		t.Run(fmt.Sprintf("stall=%t", stall), func(t *testing.T) {
			prefix := fmt.Sprintf("lines-%t", stall)
			p := NewProxy(t, endpoint)
			direct, s := open(t, endpoint, prefix, 0), open(t, p.Endpoint, prefix, 300*time.Millisecond)
			t.Cleanup(func() { _, _ = direct.Close(), s.Close() })
			put(t, direct, "there", body)
			for where, c := range map[string]Cut{
				"at once": {}, "in the body": {After: 1 << 20}, "before the answer": {Answer: true},
			} {
				c.Stall = stall
				p.Order(c)
				for op, call := range map[string]func(string, []byte) error{
					"put":    func(n string, b []byte) error { return s.Put(t.Context(), n, b) },
					"create": func(n string, b []byte) error { return s.Create(t.Context(), n, b) },
				} {
					name := op + strings.ReplaceAll(where, " ", "-")
					wantBusy(t, op+" "+where, call(name, body))
					got, err := direct.Get(t.Context(), name, 1<<30)
					if !errors.Is(err, store.ErrNotExist) && !bytes.Equal(got, body) {
						t.Errorf("%s cut off %s made an object of %d bytes (%v)", op, where, len(got), err)
					}
				}
			}
			for _, n := range []int64{0, 100, 1 << 20} {
				p.Order(Cut{Answer: true, After: n, Stall: stall})
				got, err := s.Get(t.Context(), "there", 1<<30)
				wantBusy(t, fmt.Sprintf("get after %d of %d", n, len(got)), err)
				wantBusy(t, fmt.Sprintf("range after %d", n), s.GetRange(t.Context(), "there", 1, make([]byte, 2<<20)))
			}
			p.Order(Cut{Answer: true, After: 50, Stall: stall})
			_, err := s.Stat(t.Context(), "there")
			wantBusy(t, "stat", err)
			wantBusy(t, "list", s.List(t.Context(), "", "", func(store.Info) error { return nil }))
			wantBusy(t, "delete", s.Delete(t.Context(), "there"))
			if stall {
				return
			}
			// What was cut off once is done at the second try.
			p.Mend()
			hit := p.Cut(Cut{After: 1 << 20})
			patient := open(t, p.Endpoint, prefix, 0)
			t.Cleanup(func() { _ = patient.Close() })
			if err := store.Retry(patient, store.Budget{}).Create(t.Context(), "again", body); err != nil {
				t.Errorf("retried: %v", err)
			}
			<-hit
			wantBody(t, direct, "again", body)
		})
	}
}

func wantBusy(t *testing.T, what string, err error) {
	t.Helper()
	if store.KindOf(err) != store.Busy {
		t.Errorf("%s: got %v (kind %d), want Busy", what, err, store.KindOf(err))
	}
}
