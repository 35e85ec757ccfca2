package storetest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/holdfast-dr/holdfast/internal/store"
)

// Moment is when a call fails.
type Moment string

// The moments.
const (
	Before Moment = "before" // nothing happened
	Middle Moment = "middle" // an upload is cut off: no effect; a read: a part of the bytes or names, then the error
	After  Moment = "after"  // it happened, and the caller gets the error all the same
	Stall  Moment = "stall"  // nothing happens until the context ends, or Until is closed; then the error
	Late   Moment = "late"   // it happens, and well, but only when Until is closed
)

// Call is one call of a store's method: "put", "create", "get", "range", "stat", "list" or "delete".
type Call struct {
	N    int // 1 is the first
	Op   string
	Name string
}

func (c Call) String() string { return fmt.Sprintf("call %d: %s %s", c.N, c.Op, c.Name) }

// Fault is an order to fail. Calls that match all fields that are set fail.
type Fault struct {
	N     int               // the number of the call; 0 is any
	Op    string            // as in Call; empty is any
	Match func(string) bool // of the name; nil is any
	When  Moment
	Kind  store.Kind // of the error
	Once  bool       // the first matching call only

	Until   <-chan struct{} // the end of Stall and Late; nil never comes
	Reached func()          // nil, or called when a call begins to wait in Stall or Late
}

// ErrInjected is found in every error that a Faulty store made itself.
var ErrInjected = errors.New("injected fault")

// Faulty is a store that fails on order and remembers its calls.
type Faulty struct {
	s store.Store

	// mu guards what follows. Not held during calls of s.
	mu     sync.Mutex
	faults []Fault
	calls  []Call
	fired  int
	late   int             // listings show the state as it was so many calls ago
	news   map[string]news // of each name, its last change within the last late calls
}

// news is a change that late listings do not show yet.
type news struct {
	n      int        // of the call
	before store.Info // as it is still listed; without a name where it was not there
}

var _ store.Store = (*Faulty)(nil)

// NewFaulty returns s with faults.
func NewFaulty(s store.Store, faults ...Fault) *Faulty {
	return &Faulty{s: s, faults: faults, news: map[string]news{}}
}

// SetFaults replaces the orders.
func (f *Faulty) SetFaults(faults ...Fault) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.faults = faults
}

// DelayLists makes listings show the state as it was n calls ago; 0 is no delay.
func (f *Faulty) DelayLists(n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.late = n
}

// Calls returns the calls so far.
func (f *Faulty) Calls() []Call {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.calls)
}

// Fired returns how many calls failed on order.
func (f *Faulty) Fired() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.fired
}

// begin records a call and returns the fault that meets it, if any.
func (f *Faulty) begin(op, name string) (Call, *Fault) {
	f.mu.Lock()
	defer f.mu.Unlock()
	c := Call{N: len(f.calls) + 1, Op: op, Name: name}
	f.calls = append(f.calls, c)
	for i, o := range f.faults {
		if (o.N != 0 && o.N != c.N) || (o.Op != "" && o.Op != op) || (o.Match != nil && !o.Match(name)) {
			continue
		}
		f.fired++
		if o.Once {
			f.faults = slices.Delete(slices.Clone(f.faults), i, i+1)
		}
		return c, &o
	}
	return c, nil
}

func (f *Faulty) fail(c Call, o *Fault) error {
	op := c.Op
	if op == "range" {
		op = "get"
	}
	return &store.Error{
		Op: op, Name: c.Name, Store: f.String(), Kind: o.Kind, Err: fmt.Errorf("%w %s %s", ErrInjected, o.When, c),
	}
}

// do runs a call. part is what happens of it when it fails in the middle; nil is nothing.
func (f *Faulty) do(ctx context.Context, c Call, o *Fault, whole, part func() error) error {
	switch {
	case o == nil:
		return whole()
	case o.When == Stall || o.When == Late:
		if err := f.wait(ctx, c, o); err != nil {
			return err
		}
		if o.When == Late {
			return whole()
		}
	case o.When == Middle && part != nil:
		if err := part(); err != nil {
			return err
		}
	case o.When == After:
		if err := whole(); err != nil {
			return err
		}
	}
	return f.fail(c, o)
}

// wait lets a call hang until its time has come; the error is of the context.
func (f *Faulty) wait(ctx context.Context, c Call, o *Fault) error {
	if o.Reached != nil {
		o.Reached()
	}
	select {
	case <-o.Until:
		return nil
	case <-ctx.Done():
		return &store.Error{
			Op: c.Op, Name: c.Name, Store: f.String(), Kind: store.Busy,
			Err: fmt.Errorf("%w %s: %w", ErrInjected, c, context.Cause(ctx)),
		}
	}
}

// change runs a call that changes name, and notes for late listings what was there before.
func (f *Faulty) change(ctx context.Context, op, name string, whole func() error) error {
	c, o := f.begin(op, name)
	f.note(ctx, c)
	return f.do(ctx, c, o, whole, nil)
}

func (f *Faulty) note(ctx context.Context, c Call) {
	f.mu.Lock()
	late := f.late
	f.mu.Unlock()
	if late == 0 {
		return
	}
	before, err := f.s.Stat(ctx, c.Name)
	if err != nil {
		before = store.Info{}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	// Of several changes within the delay the first one hides what the others changed.
	if old, ok := f.news[c.Name]; !ok || old.n+late < c.N {
		f.news[c.Name] = news{c.N, before}
	}
}

// Put implements store.Store.
func (f *Faulty) Put(ctx context.Context, name string, body []byte) error {
	return f.change(ctx, "put", name, func() error { return f.s.Put(ctx, name, body) })
}

// Create implements store.Store.
func (f *Faulty) Create(ctx context.Context, name string, body []byte) error {
	return f.change(ctx, "create", name, func() error { return f.s.Create(ctx, name, body) })
}

// Delete implements store.Store.
func (f *Faulty) Delete(ctx context.Context, name string) error {
	return f.change(ctx, "delete", name, func() error { return f.s.Delete(ctx, name) })
}

// Get implements store.Store.
func (f *Faulty) Get(ctx context.Context, name string, max int64) ([]byte, error) {
	c, o := f.begin("get", name)
	var body []byte
	err := f.do(ctx, c, o, func() (err error) {
		body, err = f.s.Get(ctx, name, max)
		return err
	}, nil)
	if err != nil {
		return nil, err
	}
	return body, nil
}

// GetRange implements store.Store.
func (f *Faulty) GetRange(ctx context.Context, name string, off int64, dst []byte) error {
	c, o := f.begin("range", name)
	return f.do(ctx, c, o,
		func() error { return f.s.GetRange(ctx, name, off, dst) },
		func() error { return f.s.GetRange(ctx, name, off, dst[:len(dst)/2]) })
}

// Stat implements store.Store.
func (f *Faulty) Stat(ctx context.Context, name string) (info store.Info, err error) {
	c, o := f.begin("stat", name)
	err = f.do(ctx, c, o, func() (err error) {
		info, err = f.s.Stat(ctx, name)
		return err
	}, nil)
	if err != nil {
		return store.Info{}, err
	}
	return info, nil
}

// List implements store.Store. It holds the listing in memory.
func (f *Faulty) List(ctx context.Context, prefix, after string, fn func(store.Info) error) error {
	c, o := f.begin("list", prefix)
	all, err := f.listing(ctx, c, prefix, after)
	if err != nil {
		return err
	}
	deliver := func(infos []store.Info) error {
		for _, i := range infos {
			if err := fn(i); err != nil {
				return err
			}
		}
		return nil
	}
	return f.do(ctx, c, o,
		func() error { return deliver(all) },
		func() error { return deliver(all[:len(all)/2]) })
}

// listing returns what is listed at call c.
func (f *Faulty) listing(ctx context.Context, c Call, prefix, after string) ([]store.Info, error) {
	byName := map[string]store.Info{}
	err := f.s.List(ctx, prefix, after, func(i store.Info) error {
		byName[i.Name] = i
		return nil
	})
	if err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for name, n := range f.news {
		switch {
		case n.n+f.late < c.N:
			delete(f.news, name)
		case len(selected([]string{name}, prefix, after)) == 0:
		case n.before.Name == "":
			delete(byName, name)
		default:
			byName[name] = n.before
		}
	}
	all := make([]store.Info, 0, len(byName))
	for _, name := range slices.Sorted(maps.Keys(byName)) {
		all = append(all, byName[name])
	}
	return all, nil
}

// String implements store.Store.
func (f *Faulty) String() string { return "faulty " + f.s.String() }

// Close implements store.Store.
func (f *Faulty) Close() error { return f.s.Close() }
