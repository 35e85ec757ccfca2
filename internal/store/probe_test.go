package store_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/holdfast-dr/holdfast/internal/store"
	"github.com/holdfast-dr/holdfast/internal/store/storetest"
)

// odd is a store that departs from the contract in one way.
type odd struct {
	store.Store
	create   func(ctx context.Context, name string, body []byte) error
	delete   func(ctx context.Context, name string) error
	getRange func(dst []byte)
}

func (o odd) Create(ctx context.Context, name string, body []byte) error {
	if o.create != nil {
		return o.create(ctx, name, body)
	}
	return o.Store.Create(ctx, name, body)
}

func (o odd) Delete(ctx context.Context, name string) error {
	if o.delete != nil {
		return o.delete(ctx, name)
	}
	return o.Store.Delete(ctx, name)
}

func (o odd) GetRange(ctx context.Context, name string, off int64, dst []byte) error {
	err := o.Store.GetRange(ctx, name, off, dst)
	if o.getRange != nil {
		o.getRange(dst)
	}
	return err
}

func TestProbe(t *testing.T) {
	whole := store.Abilities{ExclusiveCreate: true, ListAfterWrite: true, Delete: true}
	refuse := func(kind store.Kind) error {
		return &store.Error{Op: "delete", Kind: kind, Err: errors.New("refused")}
	}
	for name, c := range map[string]struct {
		change func(m *storetest.Memory) store.Store
		want   store.Abilities
		left   int // objects
	}{
		"whole": {func(m *storetest.Memory) store.Store { return m }, whole, 0},
		"condition ignored": {
			func(m *storetest.Memory) store.Store { return odd{Store: m, create: m.Put} },
			store.Abilities{ListAfterWrite: true, Delete: true},
			0,
		},
		"condition refused": {
			func(m *storetest.Memory) store.Store {
				return odd{Store: m, create: func(context.Context, string, []byte) error { return refuse(store.Other) }}
			},
			store.Abilities{ListAfterWrite: true, Delete: true},
			0,
		},
		"may not delete": {
			func(m *storetest.Memory) store.Store {
				return odd{Store: m, delete: func(context.Context, string) error { return refuse(store.Denied) }}
			},
			store.Abilities{ExclusiveCreate: true, ListAfterWrite: true},
			1,
		},
		"late lists": {
			func(m *storetest.Memory) store.Store {
				f := storetest.NewFaulty(m)
				f.DelayLists(5)
				return f
			},
			store.Abilities{ExclusiveCreate: true, Delete: true},
			0,
		},
		"late deletion": {
			func(m *storetest.Memory) store.Store {
				f := storetest.NewFaulty(m)
				f.DelayLists(1)
				return f
			},
			store.Abilities{ExclusiveCreate: true, Delete: true},
			0,
		},
	} {
		t.Run(name, func(t *testing.T) {
			m := storetest.NewMemory()
			got, err := store.Probe(t.Context(), c.change(m))
			if err != nil || got != c.want {
				t.Errorf("got %+v, %v, want %+v", got, err, c.want)
			}
			if left := m.Names(); len(left) != c.left {
				t.Errorf("left %q, want %d objects", left, c.left)
			}
		})
	}
}

func TestProbeCalls(t *testing.T) {
	f := storetest.NewFaulty(storetest.NewMemory())
	if _, err := store.Probe(t.Context(), f); err != nil {
		t.Fatal(err)
	}
	if n := len(f.Calls()); n != 8 {
		t.Errorf("%d calls, want 8: %v", n, f.Calls())
	}
}

func TestProbeWrongBytes(t *testing.T) {
	m := storetest.NewMemory()
	_, err := store.Probe(t.Context(), odd{Store: m, getRange: func(dst []byte) { dst[0] ^= 1 }})
	if store.KindOf(err) != store.Damaged || !strings.HasPrefix(err.Error(), "probe the store: ") {
		t.Errorf("got %v, want Damaged", err)
	}
	if left := m.Names(); len(left) > 0 {
		t.Errorf("left %q", left)
	}
}

// Whatever call fails, the probe says so, and leaves nothing behind when it could delete.
func TestProbeEachFault(t *testing.T) {
	storetest.EachFault(t, storetest.Sweep{
		Kind: store.Busy,
		Run: func(t *testing.T, s store.Store) error {
			_, err := store.Probe(t.Context(), s)
			return err
		},
		Check: func(t *testing.T, s store.Store, err error) {
			if err != nil && !errors.Is(err, storetest.ErrInjected) {
				t.Errorf("got %v", err)
			}
			if left := s.(*storetest.Memory).Names(); len(left) > 0 { //nolint:forcetypeassert // made by EachFault
				t.Errorf("left %q", left)
			}
		},
	})
}
