package storetest

import (
	"context"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"sync"

	"github.com/holdfast-dr/holdfast/internal/store"
)

// Memory is a store in memory that keeps the whole contract, durability excepted.
type Memory struct {
	// mu guards what follows. The bodies are never changed, only replaced.
	mu      sync.Mutex
	objects map[string][]byte
	folders map[string]*nameList // of all names, so that many are listed quickly
}

// nameList has the names of a directory.
type nameList struct {
	names  []string
	sorted bool
}

var _ store.Store = (*Memory)(nil)

// NewMemory returns an empty store.
func NewMemory() *Memory {
	return &Memory{objects: map[string][]byte{}, folders: map[string]*nameList{}}
}

// Clone returns a store with the same objects; later changes of either do not show in the other.
func (m *Memory) Clone() *Memory {
	m.mu.Lock()
	defer m.mu.Unlock()
	c := &Memory{objects: maps.Clone(m.objects), folders: map[string]*nameList{}}
	for dir, f := range m.folders {
		c.folders[dir] = &nameList{slices.Clone(f.names), f.sorted}
	}
	return c
}

// Names returns all names, sorted.
func (m *Memory) Names() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Sorted(maps.Keys(m.objects))
}

// putLocked makes name hold body.
func (m *Memory) putLocked(name string, body []byte) {
	if _, ok := m.objects[name]; !ok {
		f := m.folders[path.Dir(name)]
		if f == nil {
			f = &nameList{sorted: true}
			m.folders[path.Dir(name)] = f
		}
		f.sorted = f.sorted && (len(f.names) == 0 || f.names[len(f.names)-1] < name)
		f.names = append(f.names, name)
	}
	m.objects[name] = slices.Clone(body)
}

// sort returns the names in order.
func (f *nameList) sort() []string {
	if !f.sorted {
		slices.Sort(f.names)
		f.sorted = true
	}
	return f.names
}

// selectedLocked returns what a listing gives.
func (m *Memory) selectedLocked(prefix, after string) (out []store.Info) {
	folders := 0
	for dir, f := range m.folders {
		if !strings.HasPrefix(dir+"/", prefix) && !strings.HasPrefix(prefix, dir+"/") && dir != "." {
			continue
		}
		before := len(out)
		names := f.sort()
		from, found := slices.BinarySearch(names, max(prefix, after))
		if found && names[from] == after {
			from++
		}
		for _, name := range names[from:] {
			if !strings.HasPrefix(name, prefix) {
				if name > prefix {
					break
				}
				continue
			}
			out = append(out, store.Info{Name: name, Size: int64(len(m.objects[name]))})
		}
		if len(out) > before {
			folders++
		}
	}
	if folders > 1 {
		slices.SortFunc(out, func(a, b store.Info) int { return strings.Compare(a.Name, b.Name) })
	}
	return out
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
	m.putLocked(name, body)
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
	m.putLocked(name, body)
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
	m.mu.Lock()
	all := m.selectedLocked(prefix, after)
	m.mu.Unlock()
	for _, info := range all {
		if ctx.Err() != nil {
			break
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
	if _, ok := m.objects[name]; ok {
		f := m.folders[path.Dir(name)]
		n, _ := slices.BinarySearch(f.sort(), name)
		f.names = slices.Delete(f.names, n, n+1)
		delete(m.objects, name)
	}
	return nil
}

// String implements store.Store.
func (m *Memory) String() string { return "memory" }

// Close implements store.Store; the objects stay.
func (m *Memory) Close() error { return nil }
