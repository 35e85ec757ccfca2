package storetest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/holdfast-dr/holdfast/internal/store"
)

// Memory is a store in memory that keeps the whole contract, durability excepted.
type Memory struct {
	// mu guards objects. The bodies are never changed, only replaced.
	mu      sync.Mutex
	objects map[string][]byte
}

var _ store.Store = (*Memory)(nil)

// NewMemory returns an empty store.
func NewMemory() *Memory { return &Memory{objects: map[string][]byte{}} }

// Clone returns a store with the same objects; later changes of either do not show in the other.
func (m *Memory) Clone() *Memory {
	m.mu.Lock()
	defer m.mu.Unlock()
	return &Memory{objects: maps.Clone(m.objects)}
}

// Names returns all names, sorted.
func (m *Memory) Names() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Sorted(maps.Keys(m.objects))
}

func (m *Memory) fail(op, name string, kind store.Kind, err error) error {
	return &store.Error{Op: op, Name: name, Store: m.String(), Kind: kind, Err: err}
}

// enter checks what every call checks first.
func (m *Memory) enter(ctx context.Context, op, name string) error {
	if err := store.CheckName(name); err != nil {
		return m.fail(op, name, store.Other, err)
	}
	if ctx.Err() != nil {
		return m.fail(op, name, store.Busy, context.Cause(ctx))
	}
	return nil
}

// Put implements store.Store.
func (m *Memory) Put(ctx context.Context, name string, body []byte) error {
	if err := m.enter(ctx, "put", name); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.objects[name] = slices.Clone(body)
	return nil
}

// Create implements store.Store.
func (m *Memory) Create(ctx context.Context, name string, body []byte) error {
	if err := m.enter(ctx, "create", name); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, ok := m.objects[name]; ok {
		return m.fail("create", name, store.Gone, store.ErrExists)
	}
	m.objects[name] = slices.Clone(body)
	return nil
}

func (m *Memory) object(ctx context.Context, op, name string) ([]byte, error) {
	if err := m.enter(ctx, op, name); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	body, ok := m.objects[name]
	if !ok {
		return nil, m.fail(op, name, store.Gone, store.ErrNotExist)
	}
	return body, nil
}

// Get implements store.Store.
func (m *Memory) Get(ctx context.Context, name string, max int64) ([]byte, error) {
	body, err := m.object(ctx, "get", name)
	if err != nil {
		return nil, err
	}
	if int64(len(body)) > max {
		return nil, m.fail("get", name, store.Damaged, fmt.Errorf("it has %d bytes; at most %d are expected", len(body), max))
	}
	return append([]byte{}, body...), nil
}

// GetRange implements store.Store.
func (m *Memory) GetRange(ctx context.Context, name string, off int64, dst []byte) error {
	body, err := m.object(ctx, "get", name)
	if err != nil {
		return err
	}
	if off < 0 {
		return m.fail("get", name, store.Other, fmt.Errorf("offset %d is negative", off))
	}
	if off > int64(len(body)) || int64(len(body))-off < int64(len(dst)) {
		return m.fail("get", name, store.Damaged,
			fmt.Errorf("it ends at byte %d; %d bytes from %d on are expected", len(body), len(dst), off))
	}
	copy(dst, body[off:])
	return nil
}

// Stat implements store.Store.
func (m *Memory) Stat(ctx context.Context, name string) (store.Info, error) {
	body, err := m.object(ctx, "stat", name)
	if err != nil {
		return store.Info{}, err
	}
	return store.Info{Name: name, Size: int64(len(body))}, nil
}

// List implements store.Store.
func (m *Memory) List(ctx context.Context, prefix, after string, fn func(store.Info) error) error {
	if err := store.CheckPrefix(prefix); err != nil {
		return m.fail("list", prefix, store.Other, err)
	}
	for _, name := range m.Names() {
		if !strings.HasPrefix(name, prefix) || name <= after {
			continue
		}
		info, err := m.Stat(ctx, name)
		if errors.Is(err, store.ErrNotExist) {
			continue // deleted meanwhile
		}
		if err != nil {
			return m.fail("list", prefix, store.Busy, context.Cause(ctx))
		}
		if err := fn(info); err != nil {
			return err
		}
	}
	if ctx.Err() != nil {
		return m.fail("list", prefix, store.Busy, context.Cause(ctx))
	}
	return nil
}

// Delete implements store.Store.
func (m *Memory) Delete(ctx context.Context, name string) error {
	if err := m.enter(ctx, "delete", name); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.objects, name)
	return nil
}

// String implements store.Store.
func (m *Memory) String() string { return "memory" }

// Close implements store.Store; the objects stay.
func (m *Memory) Close() error { return nil }
