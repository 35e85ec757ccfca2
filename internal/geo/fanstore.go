package geo

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/holdfast-dr/holdfast/internal/store"
)

var _ store.Store = (*Fan)(nil)

// Put returns when Sync sites hold the object.
func (f *Fan) Put(ctx context.Context, name string, body []byte) error {
	b := slices.Clone(body) // sites go on with it
	return f.write(ctx, &fanOp{name: name, size: len(b), order: f.orderOf(name), do: func(ctx context.Context, s store.Store) error { return s.Put(ctx, name, b) }}, f.opts.Sync)
}

// orderOf tells how an object depends on others: a mark promises what is before it, and a timeline's log needs its history.
func (f *Fan) orderOf(name string) order {
	for _, prefix := range f.opts.Free {
		if strings.HasPrefix(name, prefix) {
			return free
		}
	}
	return strict
}

// Create creates the object at the site that is read, and then at the others: it is new where nobody else writes.
func (f *Fan) Create(ctx context.Context, name string, body []byte) error {
	s, err := f.reader()
	if err == nil {
		err = s.Create(ctx, name, body)
	}
	if err != nil {
		return err
	}
	b := slices.Clone(body)
	return f.write(ctx, &fanOp{size: len(b), order: strict, do: func(ctx context.Context, s store.Store) error {
		err := s.Create(ctx, name, b)
		if errors.Is(err, store.ErrExists) {
			return nil
		}
		return err
	}}, f.opts.Sync)
}

// Delete deletes behind everything that was written before, at each site: nothing is removed where its successor is missing.
func (f *Fan) Delete(ctx context.Context, name string) error {
	return f.write(ctx, &fanOp{order: deletion, do: func(ctx context.Context, s store.Store) error { return s.Delete(ctx, name) }}, 1)
}

// reader returns the store that is read.
func (f *Fan) reader() (store.Store, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := f.readerLocked()
	if s == nil {
		return nil, errClosed
	}
	return s.member.store, nil
}

// Get reads from the member that is farthest, as all that follow do.
func (f *Fan) Get(ctx context.Context, name string, limit int64) ([]byte, error) {
	s, err := f.reader()
	if err != nil {
		return nil, err
	}
	return s.Get(ctx, name, limit)
}

// GetRange implements store.Store.
func (f *Fan) GetRange(ctx context.Context, name string, off int64, dst []byte) error {
	s, err := f.reader()
	if err != nil {
		return err
	}
	return s.GetRange(ctx, name, off, dst)
}

// Stat implements store.Store.
func (f *Fan) Stat(ctx context.Context, name string) (store.Info, error) {
	s, err := f.reader()
	if err != nil {
		return store.Info{}, err
	}
	return s.Stat(ctx, name)
}

// List implements store.Store.
func (f *Fan) List(ctx context.Context, prefix, after string, fn func(store.Info) error) error {
	s, err := f.reader()
	if err != nil {
		return err
	}
	return s.List(ctx, prefix, after, fn)
}

// String names the members' stores.
func (f *Fan) String() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var all []string
	for _, s := range f.sites {
		if s.member != nil {
			all = append(all, s.member.store.String())
		}
	}
	return strings.Join(all, " and ")
}

// FanSite is how a site stands.
type FanSite struct {
	Site   string
	Member bool // what is written is written there
	Err    error
	Since  time.Time // of Member
}

// FanStatus is how a Fan stands.
type FanStatus struct {
	Sites []FanSite
	// Short is since when there are fewer members than Sync; zero: there are enough. GaveUp: objects were acknowledged with
	// fewer since.
	Short  time.Time
	GaveUp bool
}

// Status says how all sites stand.
func (f *Fan) Status() FanStatus {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := FanStatus{Short: f.short, GaveUp: f.gaveUp}
	for _, s := range f.sites {
		out.Sites = append(out.Sites, FanSite{s.name, s.member != nil && s.member.joined, s.err, s.since})
	}
	return out
}

// Source returns the site from which those that are behind are brought up to date: the first where it is a member. Empty: there
// is none.
func (f *Fan) Source() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	if s := f.sites[0]; s.member != nil && s.member.joined {
		return s.name
	}
	if s := f.readerLocked(); s != nil {
		return s.name
	}
	return ""
}

// Has tells whether a site is a member that has all that was written before now. It waits for what is on its way.
func (f *Fan) Has(ctx context.Context, site string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.settledLocked(ctx, site, f.seq) == nil
}

// Close implements store.Store; see End.
func (f *Fan) Close() error { return nil }
