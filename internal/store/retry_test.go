package store_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-dr/holdfast/internal/store"
	"github.com/holdfast-dr/holdfast/internal/store/storetest"
)

// shaky returns a store that fails on order, and a Retry on top of it.
func shaky(b store.Budget, faults ...storetest.Fault) (*storetest.Faulty, store.Store) {
	f := storetest.NewFaulty(storetest.NewMemory(), faults...)
	return f, store.Retry(f, b)
}

// exercise makes every kind of call.
func exercise(t *testing.T, s store.Store) error {
	t.Helper()
	ctx := t.Context()
	_, getErr := s.Get(ctx, "a", 10)
	_, statErr := s.Stat(ctx, "a")
	var names []string
	listErr := s.List(ctx, "", "", func(i store.Info) error {
		names = append(names, i.Name)
		return nil
	})
	if want := []string{"a", "b", "c", "d"}; listErr == nil && !slices.Equal(names, want) {
		t.Errorf("listed %q, want %q, each once", names, want)
	}
	dst := make([]byte, 3)
	rangeErr := s.GetRange(ctx, "a", 1, dst)
	if rangeErr == nil && string(dst) != "ody" {
		t.Errorf("range: got %q", dst)
	}
	return errors.Join(getErr, statErr, listErr, rangeErr,
		s.Put(ctx, "a", []byte("new")), s.Create(ctx, "e", []byte("mine")), s.Delete(ctx, "b"))
}

func prepared(t *testing.T, s store.Store) {
	t.Helper()
	for _, name := range []string{"a", "b", "c", "d"} {
		if err := s.Put(t.Context(), name, []byte("body")); err != nil {
			t.Fatal(err)
		}
	}
}

// Every call fails Busy once, at every moment: nobody above notices. An error of another kind comes through,
// and is not repeated.
func TestRetryEachFault(t *testing.T) {
	for kind, absorbed := range map[store.Kind]bool{store.Busy: true, store.Denied: false, store.Full: false, store.Other: false} {
		storetest.EachFault(t, storetest.Sweep{
			Kind:    kind,
			Prepare: prepared,
			Run: func(t *testing.T, s store.Store) (err error) {
				synctest.Test(t, func(t *testing.T) { err = exercise(t, store.Retry(s, store.Budget{})) })
				return err
			},
			Check: func(t *testing.T, s store.Store, err error) {
				if absorbed && err != nil {
					t.Errorf("kind %d: not absorbed: %v", kind, err)
				}
				if !absorbed && err != nil && (!errors.Is(err, storetest.ErrInjected) || store.KindOf(err) != kind) {
					t.Errorf("kind %d: got %v", kind, err)
				}
				if !absorbed {
					return
				}
				if got, err := s.Get(t.Context(), "e", 10); err != nil || string(got) != "mine" {
					t.Errorf("created: got %q, %v", got, err)
				}
			},
		})
	}
}

func TestRetryBudget(t *testing.T) {
	always := storetest.Fault{Kind: store.Busy, When: storetest.Before}
	for name, c := range map[string]struct {
		b        store.Budget
		min, max int           // calls
		longest  time.Duration // of all
	}{
		"tries":    {store.Budget{Tries: 3}, 3, 3, time.Second},
		"one":      {store.Budget{Tries: 1}, 1, 1, 0},
		"total":    {store.Budget{Total: 10 * time.Second, Tries: 1000}, 6, 12, 10 * time.Second},
		"flat":     {store.Budget{Total: time.Minute, Tries: 1000, Max: time.Second}, 60, 130, time.Minute},
		"defaults": {store.Budget{}, 10, 10, 2 * time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f, s := shaky(c.b, always)
				begin := time.Now()
				err := s.Put(t.Context(), "x", nil)
				if !errors.Is(err, storetest.ErrInjected) || store.KindOf(err) != store.Busy {
					t.Errorf("got %v, want the last cause, Busy", err)
				}
				if !strings.HasPrefix(err.Error(), "put x in faulty memory: ") || !strings.Contains(err.Error(), "tried ") {
					t.Errorf("got %q, want operation and object first, then the tries", err)
				}
				if n := len(f.Calls()); n < c.min || n > c.max {
					t.Errorf("%d calls, want %d to %d", n, c.min, c.max)
				}
				if took := time.Since(begin); took > c.longest {
					t.Errorf("took %s, want at most %s", took, c.longest)
				}
			})
		})
	}
}

func TestRetryContext(t *testing.T) {
	always := storetest.Fault{Kind: store.Busy, When: storetest.Before}
	why := errors.New("shutting down")
	t.Run("cancelled while waiting", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			_, s := shaky(store.Budget{First: time.Minute, Max: time.Minute, Total: time.Hour}, always)
			ctx, cancel := context.WithCancelCause(t.Context())
			begin := time.Now()
			time.AfterFunc(time.Millisecond, func() { cancel(why) })
			err := s.Delete(ctx, "x")
			if !errors.Is(err, why) || !errors.Is(err, storetest.ErrInjected) {
				t.Errorf("got %v, want both the reason and the last cause", err)
			}
			if took := time.Since(begin); took != time.Millisecond {
				t.Errorf("took %s, want 1ms", took)
			}
		})
	})
	t.Run("deadline before the next try", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			f, s := shaky(store.Budget{First: time.Minute, Max: time.Minute}, always)
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			if err := s.Delete(ctx, "x"); !errors.Is(err, storetest.ErrInjected) || ctx.Err() != nil || len(f.Calls()) != 1 {
				t.Errorf("got %v after %d calls, want the cause at once", err, len(f.Calls()))
			}
		})
	})
	t.Run("stalled call", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			f, s := shaky(store.Budget{}, storetest.Fault{When: storetest.Stall})
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			if _, err := s.Get(ctx, "x", 1); !errors.Is(err, context.DeadlineExceeded) || len(f.Calls()) != 1 {
				t.Errorf("got %v after %d calls", err, len(f.Calls()))
			}
		})
	})
}

// A Create whose answer got lost finds its own object; one that met another's does not take it for its own.
func TestRetryCreate(t *testing.T) {
	lost := storetest.Fault{N: 1, Op: "create", Kind: store.Busy, When: storetest.After}
	cut := storetest.Fault{N: 1, Op: "create", Kind: store.Busy, When: storetest.Before}
	for name, c := range map[string]struct {
		there  string // before
		faults []storetest.Fault
		ok     bool
	}{
		"ours":                      {"", []storetest.Fault{lost}, true},
		"ours, read fails":          {"", []storetest.Fault{lost, {Op: "get", Once: true, Kind: store.Busy, When: storetest.Before}}, true},
		"never arrived":             {"", []storetest.Fault{cut}, true},
		"another's":                 {"theirs", []storetest.Fault{cut}, false},
		"another's, shorter":        {"x", []storetest.Fault{cut}, false},
		"another's, longer":         {"much longer than ours", []storetest.Fault{cut}, false},
		"equal, but no doubt about": {"ours", nil, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := storetest.NewMemory()
				if c.there != "" {
					if err := m.Put(t.Context(), "x", []byte(c.there)); err != nil {
						t.Fatal(err)
					}
				}
				err := store.Retry(storetest.NewFaulty(m, c.faults...), store.Budget{}).Create(t.Context(), "x", []byte("ours"))
				if c.ok && err != nil || !c.ok && !errors.Is(err, store.ErrExists) {
					t.Errorf("got %v, want success %t, else ErrExists", err, c.ok)
				}
			})
		})
	}
}

// Where the object cannot be read back the answer is "unknown", not "another's".
func TestRetryCreateUnknown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, s := shaky(store.Budget{},
			storetest.Fault{N: 1, Kind: store.Busy, When: storetest.After},
			storetest.Fault{Op: "get", Kind: store.Busy, When: storetest.Before})
		err := s.Create(t.Context(), "x", []byte("ours"))
		if store.KindOf(err) != store.Busy || errors.Is(err, store.ErrExists) {
			t.Errorf("got %v, want Busy", err)
		}
	})
}
