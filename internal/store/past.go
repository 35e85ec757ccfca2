package store

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// past is a store as it stood at a time.
type past struct {
	s  Store
	v  Vault
	at time.Time

	// mu guards known, which has the versions of names that were looked up lately: a reader asks many times for parts of one.
	mu    sync.Mutex
	known map[string]Version
}

// AsOf returns s as it stood at a time: what was current then, by the store's clock. It is read only. nil where s keeps no versions.
func AsOf(s Store, at time.Time) Store {
	v := VaultOf(s)
	if v == nil {
		return nil
	}
	return &past{s: s, v: v, at: at, known: map[string]Version{}}
}

// errPast is the error of changing a view of the past.
var errPast = errors.New("it is seen as it stood at another time, where nothing can be changed")

func (p *past) fail(op, name string, kind Kind, err error) error {
	return &Error{Op: op, Name: name, Store: p.String(), Kind: kind, Err: err}
}

// String names the store and the time.
func (p *past) String() string {
	return fmt.Sprintf("%s as of %s", p.s, p.at.UTC().Format(time.RFC3339))
}

// maxKnown bounds known: some 20 MiB.
const maxKnown = 1 << 17

var _ Store = (*past)(nil)

// each calls fn for what was current of each name.
func (p *past) each(ctx context.Context, prefix, after string, fn func(Version) error) error {
	name := ""
	return p.v.Versions(ctx, prefix, after, func(v Version) error {
		if v.Name == name || v.Written.After(p.at) {
			return nil
		}
		name = v.Name
		if v.Deleted {
			return nil
		}
		return fn(v)
	})
}

func (p *past) remember(v Version) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.known) >= maxKnown {
		clear(p.known)
	}
	p.known[v.Name] = v
}

// find returns what a name stood for.
func (p *past) find(ctx context.Context, name string) (Version, error) {
	if err := CheckName(name); err != nil {
		return Version{}, err
	}
	p.mu.Lock()
	v, ok := p.known[name]
	p.mu.Unlock()
	if ok {
		return v, nil
	}
	all, err := VersionsOf(ctx, p.v, name)
	if err != nil {
		return v, err
	}
	for _, v := range all {
		if v.Written.After(p.at) {
			continue
		}
		if v.Deleted {
			break
		}
		p.remember(v)
		return v, nil
	}
	return v, ErrNotExist
}

// found is find, with an error as a Store has it.
func (p *past) found(ctx context.Context, op, name string) (Version, error) {
	v, err := p.find(ctx, name)
	var e *Error
	switch {
	case err == nil, errors.As(err, &e):
	case errors.Is(err, ErrNotExist):
		err = p.fail(op, name, Gone, err)
	default:
		err = p.fail(op, name, Other, err)
	}
	return v, err
}

func (p *past) Get(ctx context.Context, name string, max int64) ([]byte, error) {
	v, err := p.found(ctx, "get", name)
	if err != nil {
		return nil, err
	}
	if v.Size > max {
		return nil, p.fail("get", name, Damaged, fmt.Errorf("it has %d bytes; at most %d are expected", v.Size, max))
	}
	b := make([]byte, v.Size)
	if err := p.v.GetVersion(ctx, v, 0, b); err != nil {
		return nil, err
	}
	return b, nil
}

func (p *past) GetRange(ctx context.Context, name string, off int64, dst []byte) error {
	v, err := p.found(ctx, "get", name)
	if err == nil {
		err = p.v.GetVersion(ctx, v, off, dst)
	}
	return err
}

func (p *past) Stat(ctx context.Context, name string) (Info, error) {
	v, err := p.found(ctx, "stat", name)
	return Info{Name: name, Size: v.Size}, err
}

func (p *past) List(ctx context.Context, prefix, after string, fn func(Info) error) error {
	return p.each(ctx, prefix, after, func(v Version) error {
		p.remember(v)
		return fn(Info{Name: v.Name, Size: v.Size})
	})
}

func (p *past) Put(_ context.Context, name string, _ []byte) error {
	return p.fail("put", name, Denied, errPast)
}

func (p *past) Create(_ context.Context, name string, _ []byte) error {
	return p.fail("create", name, Denied, errPast)
}

func (p *past) Delete(_ context.Context, name string) error {
	return p.fail("delete", name, Denied, errPast)
}

func (p *past) Close() error { return p.s.Close() }

// Vault returns the versions that were there at the time.
func (p *past) Vault() Vault { return pastVault{p} }

type pastVault struct{ p *past }

func (v pastVault) Versions(ctx context.Context, prefix, after string, fn func(Version) error) error {
	name := ""
	return v.p.v.Versions(ctx, prefix, after, func(x Version) error {
		if x.Written.After(v.p.at) {
			return nil
		}
		x.Latest, name = x.Name != name, x.Name
		return fn(x)
	})
}

func (v pastVault) GetVersion(ctx context.Context, x Version, off int64, dst []byte) error {
	return v.p.v.GetVersion(ctx, x, off, dst)
}

func (v pastVault) Retain(_ context.Context, x Version, _ time.Time) error {
	return v.p.fail("retain", x.Name, Denied, errPast)
}

func (v pastVault) Retained(ctx context.Context, x Version) (time.Time, error) {
	return v.p.v.Retained(ctx, x)
}
