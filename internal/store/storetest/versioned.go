package storetest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/holdfast-dr/holdfast/internal/store"
)

// Versioned is a store in memory that keeps what is replaced and deleted, and lets nobody remove what is retained: what a bucket
// with versions and Object Lock is. Its clock moves by a second with each change, unless At sets it.
type Versioned struct {
	*Memory
	lock time.Duration // of each object

	mu       sync.Mutex // guards what follows
	now      time.Time
	versions map[string][]held // newest first
	retained int
}

type held struct {
	store.Version
	body  []byte
	until time.Time
}

// NewVersioned returns an empty store, in which each object is retained for some time.
func NewVersioned(lock time.Duration) *Versioned {
	return &Versioned{Memory: NewMemory(), lock: lock, now: time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC), versions: map[string][]held{}}
}

// Now returns the store's time, which also is that of its last change.
func (s *Versioned) Now() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.now
}

// Pass lets time pass.
func (s *Versioned) Pass(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now = s.now.Add(d)
}

func (s *Versioned) add(name string, body []byte, deleted bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now = s.now.Add(time.Second)
	old := s.versions[name]
	if len(old) > 0 {
		old[0].Latest = false
	}
	v := held{Version: store.Version{Name: name, ID: fmt.Sprint(len(old)), Size: int64(len(body)), Written: s.now, Latest: true, Deleted: deleted}, body: slices.Clone(body)}
	if !store.Unlocked(name) && !deleted {
		v.until = s.now.Add(s.lock)
	}
	s.versions[name] = append([]held{v}, old...)
}

// Put implements store.Store.
func (s *Versioned) Put(ctx context.Context, name string, body []byte) error {
	err := s.Memory.Put(ctx, name, body)
	if err == nil {
		s.add(name, body, false)
	}
	return err
}

// Create implements store.Store.
func (s *Versioned) Create(ctx context.Context, name string, body []byte) error {
	err := s.Memory.Create(ctx, name, body)
	if err == nil {
		s.add(name, body, false)
	}
	return err
}

// Delete implements store.Store: it hides.
func (s *Versioned) Delete(ctx context.Context, name string) error {
	err := s.Memory.Delete(ctx, name)
	if err == nil {
		s.add(name, nil, true)
	}
	return err
}

// Vault returns the versions.
func (s *Versioned) Vault() store.Vault { return versionedVault{s} }

// Until returns when the retention ends of what a name stands for now.
func (s *Versioned) Until(name string) time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, v := range s.versions[name] {
		if !v.Deleted {
			return v.until
		}
	}
	return time.Time{}
}

// Retained returns how often a retention was extended.
func (s *Versioned) Retained() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.retained
}

type versionedVault struct{ s *Versioned }

func (v versionedVault) Versions(ctx context.Context, prefix, after string, fn func(store.Version) error) error {
	v.s.mu.Lock()
	var all []store.Version
	names := make([]string, 0, len(v.s.versions))
	for name := range v.s.versions {
		if strings.HasPrefix(name, prefix) && name > after {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	for _, name := range names {
		for _, x := range v.s.versions[name] {
			all = append(all, x.Version)
		}
	}
	v.s.mu.Unlock()
	for _, x := range all {
		if ctx.Err() != nil {
			return v.s.fail("versions", prefix, store.Busy, context.Cause(ctx))
		}
		if err := fn(x); err != nil {
			return err
		}
	}
	return nil
}

func (v versionedVault) find(name, id string) *held {
	for i, x := range v.s.versions[name] {
		if x.ID == id && !x.Deleted {
			return &v.s.versions[name][i]
		}
	}
	return nil
}

func (v versionedVault) GetVersion(_ context.Context, x store.Version, off int64, dst []byte) error {
	v.s.mu.Lock()
	defer v.s.mu.Unlock()
	h := v.find(x.Name, x.ID)
	if h == nil {
		return v.s.fail("get", x.Name, store.Gone, store.ErrNotExist)
	}
	if off < 0 || off+int64(len(dst)) > int64(len(h.body)) {
		return v.s.fail("get", x.Name, store.Damaged, errors.New("it is shorter"))
	}
	copy(dst, h.body[off:])
	return nil
}

func (v versionedVault) Retain(_ context.Context, x store.Version, until time.Time) error {
	v.s.mu.Lock()
	defer v.s.mu.Unlock()
	h := v.find(x.Name, x.ID)
	switch {
	case h == nil:
		return v.s.fail("retain", x.Name, store.Gone, store.ErrNotExist)
	case until.Before(h.until):
		return v.s.fail("retain", x.Name, store.Denied, errors.New("a retention is never shortened"))
	}
	h.until = until
	v.s.retained++
	return nil
}

func (v versionedVault) Retained(_ context.Context, x store.Version) (time.Time, error) {
	v.s.mu.Lock()
	defer v.s.mu.Unlock()
	h := v.find(x.Name, x.ID)
	if h == nil {
		return time.Time{}, v.s.fail("retained", x.Name, store.Gone, store.ErrNotExist)
	}
	return h.until, nil
}

// Replace makes the latest version of a name have other bytes, as if it had been put so.
func (s *Versioned) Replace(name string, body []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	h := &s.versions[name][0]
	h.body, h.Size = slices.Clone(body), int64(len(body))
}
