package storetest_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/holdfast-dr/holdfast/internal/store"
	"github.com/holdfast-dr/holdfast/internal/store/storetest"
)

func TestFaultyWithoutFaults(t *testing.T) {
	storetest.Conformance(t, func(*testing.T) store.Store { return storetest.NewFaulty(storetest.NewMemory()) })
}

func names(t *testing.T, s store.Store) ([]string, error) {
	t.Helper()
	var got []string
	err := s.List(t.Context(), "", "", func(i store.Info) error { got = append(got, i.Name); return nil })
	return got, err
}

func TestMoments(t *testing.T) {
	for when, want := range map[storetest.Moment]struct{ put, listed, ranged string }{
		storetest.Before: {"", "", "\x00\x00"}, storetest.Middle: {"", "a", "o\x00"}, storetest.After: {"body", "ab", "od"},
	} {
		m := storetest.NewMemory()
		for _, name := range []string{"a", "b"} {
			if err := m.Put(t.Context(), name, []byte("body")); err != nil {
				t.Fatal(err)
			}
		}
		f := storetest.NewFaulty(m, storetest.Fault{When: when, Kind: store.Full})
		listed, listErr := names(t, f)
		dst := make([]byte, 2)
		body, getErr := f.Get(t.Context(), "a", 10)
		for _, err := range []error{listErr, getErr, f.GetRange(t.Context(), "a", 1, dst), f.Create(t.Context(), "c", []byte("body"))} {
			if !errors.Is(err, storetest.ErrInjected) || store.KindOf(err) != store.Full {
				t.Errorf("%s: got %v", when, err)
			}
		}
		put, _ := m.Get(t.Context(), "c", 10)
		if got := strings.Join(listed, ""); string(put) != want.put || got != want.listed || string(dst) != want.ranged || body != nil {
			t.Errorf("%s: put %q, listed %q, range %q, get %q; want %+v", when, put, got, dst, body, want)
		}
		if f.Fired() != 4 || len(f.Calls()) != 4 {
			t.Errorf("%s: %d of %d calls failed, want 4 of 4", when, f.Fired(), len(f.Calls()))
		}
	}
}

func TestLateLists(t *testing.T) {
	m := storetest.NewMemory()
	f := storetest.NewFaulty(m)
	f.DelayLists(2)
	if err := errors.Join(m.Put(t.Context(), "old", nil), f.Put(t.Context(), "new", nil), f.Delete(t.Context(), "old")); err != nil {
		t.Fatal(err)
	}
	// The put was call 1, the delete call 2.
	for call, want := range [][]string{{"old"}, {"new", "old"}, {"new"}} {
		if got, err := names(t, f); err != nil || !slices.Equal(got, want) {
			t.Errorf("call %d: listed %q (%v), want %q", call+3, got, err, want)
		}
	}
}

func TestStallEndsWithTheContext(t *testing.T) {
	f := storetest.NewFaulty(storetest.NewMemory(), storetest.Fault{Op: "put", When: storetest.Stall})
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("enough")
	cancel(why)
	if err := f.Put(ctx, "x", nil); !errors.Is(err, why) {
		t.Errorf("got %v, want the context's cause", err)
	}
}

func TestCloneIsApart(t *testing.T) {
	m := storetest.NewMemory()
	if err := m.Put(t.Context(), "a", nil); err != nil {
		t.Fatal(err)
	}
	c := m.Clone()
	if err := errors.Join(m.Delete(t.Context(), "a"), c.Put(t.Context(), "b", nil)); err != nil {
		t.Fatal(err)
	}
	if got := m.Names(); len(got) != 0 {
		t.Errorf("the original has %q", got)
	}
	if got := c.Names(); !slices.Equal(got, []string{"a", "b"}) {
		t.Errorf("the copy has %q", got)
	}
}
