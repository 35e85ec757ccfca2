package meter

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/holdfast-dr/holdfast/internal/store"
)

// Requests is how often an operation ended with a result.
type Requests struct {
	Operation string `json:"operation"` // put, create, get, range, stat, list, delete, versions or retain
	Result    string `json:"result"`    // ok, gone, denied, busy, damaged, full, canceled or other
	Count     int64  `json:"count"`
}

// Page is how many names a provider lists in one request.
const Page = 1000

// Totals is what was counted so far.
type Totals struct {
	Requests []Requests `json:"requests"` // by operation and result; only those that happened
	Sent     int64      `json:"sentBytes"`
	Received int64      `json:"receivedBytes"`
}

// Meter counts for any number of stores. Its zero value is ready, and its methods may be called by several goroutines.
type Meter struct {
	mu     sync.Mutex // guards what follows
	counts map[Requests]int64
	sent   int64
	got    int64
}

// Read returns what was counted since the meter was made.
func (m *Meter) Read() Totals {
	m.mu.Lock()
	defer m.mu.Unlock()
	t := Totals{Sent: m.sent, Received: m.got}
	for r, n := range m.counts {
		r.Count = n
		t.Requests = append(t.Requests, r)
	}
	slices.SortFunc(t.Requests, func(a, b Requests) int {
		return cmp.Or(cmp.Compare(a.Operation, b.Operation), cmp.Compare(a.Result, b.Result))
	})
	return t
}

// note counts a call that sent and received bytes. Of a call that failed nobody knows how many went over the wire.
func (m *Meter) note(ctx context.Context, operation string, err error, sent, got int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.counts == nil {
		m.counts = map[Requests]int64{}
	}
	m.counts[Requests{Operation: operation, Result: result(ctx, err)}]++
	if err == nil {
		m.sent += int64(sent)
		m.got += int64(got)
	}
}

// kinds are the results that are errors.
var kinds = map[store.Kind]string{
	store.Gone: "gone", store.Denied: "denied", store.Busy: "busy", store.Damaged: "damaged", store.Full: "full", store.Other: "other",
}

func result(ctx context.Context, err error) string {
	switch {
	case err == nil:
		return "ok"
	case ctx.Err() != nil:
		return "canceled"
	}
	return kinds[store.KindOf(err)]
}

// Store returns s, counted.
func (m *Meter) Store(s store.Store) store.Store { return &metered{s: s, m: m} }

type metered struct {
	s store.Store
	m *Meter
}

var _ store.Store = (*metered)(nil)

func (c *metered) Put(ctx context.Context, name string, body []byte) error {
	err := c.s.Put(ctx, name, body)
	c.m.note(ctx, "put", err, len(body), 0)
	return err
}

func (c *metered) Create(ctx context.Context, name string, body []byte) error {
	err := c.s.Create(ctx, name, body)
	c.m.note(ctx, "create", err, len(body), 0)
	return err
}

func (c *metered) Get(ctx context.Context, name string, max int64) ([]byte, error) {
	body, err := c.s.Get(ctx, name, max)
	c.m.note(ctx, "get", err, 0, len(body))
	return body, err
}

func (c *metered) GetRange(ctx context.Context, name string, off int64, dst []byte) error {
	err := c.s.GetRange(ctx, name, off, dst)
	c.m.note(ctx, "range", err, 0, len(dst))
	return err
}

func (c *metered) Stat(ctx context.Context, name string) (store.Info, error) {
	info, err := c.s.Stat(ctx, name)
	c.m.note(ctx, "stat", err, 0, 0)
	return info, err
}

func (c *metered) List(ctx context.Context, prefix, after string, fn func(store.Info) error) error {
	var stop error // what fn returned says nothing about the store
	names := 0
	err := c.s.List(ctx, prefix, after, func(i store.Info) error {
		// Each page is a request of its own.
		if names++; names > 1 && names%Page == 1 {
			c.m.note(ctx, "list", nil, 0, 0)
		}
		stop = fn(i)
		return stop
	})
	if stop != nil && errors.Is(err, stop) {
		c.m.note(ctx, "list", nil, 0, 0)
		return err
	}
	c.m.note(ctx, "list", err, 0, 0)
	return err
}

func (c *metered) Delete(ctx context.Context, name string) error {
	err := c.s.Delete(ctx, name)
	c.m.note(ctx, "delete", err, 0, 0)
	return err
}

func (c *metered) String() string { return c.s.String() }
func (c *metered) Close() error   { return c.s.Close() }

// Unwrap returns the store that is counted.
func (c *metered) Unwrap() store.Store { return c.s }

// Vault returns the store's, counted.
func (c *metered) Vault() store.Vault {
	if v := store.VaultOf(c.s); v != nil {
		return &meteredVault{v, c.m}
	}
	return nil
}

type meteredVault struct {
	v store.Vault
	m *Meter
}

func (c *meteredVault) Versions(ctx context.Context, prefix, after string, fn func(store.Version) error) error {
	var stop error
	err := c.v.Versions(ctx, prefix, after, func(v store.Version) error {
		stop = fn(v)
		return stop
	})
	if stop != nil && errors.Is(err, stop) {
		c.m.note(ctx, "versions", nil, 0, 0)
		return err
	}
	c.m.note(ctx, "versions", err, 0, 0)
	return err
}

func (c *meteredVault) GetVersion(ctx context.Context, v store.Version, off int64, dst []byte) error {
	err := c.v.GetVersion(ctx, v, off, dst)
	c.m.note(ctx, "range", err, 0, len(dst))
	return err
}

func (c *meteredVault) Retain(ctx context.Context, v store.Version, until time.Time) error {
	err := c.v.Retain(ctx, v, until)
	c.m.note(ctx, "retain", err, 0, 0)
	return err
}

func (c *meteredVault) Retained(ctx context.Context, v store.Version) (time.Time, error) {
	until, err := c.v.Retained(ctx, v)
	c.m.note(ctx, "retained", err, 0, 0)
	return until, err
}
