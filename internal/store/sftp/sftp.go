package sftp

import (
	"context"
	"errors"
	"fmt"
	"path"
	"sync"
	"sync/atomic"
	"time"

	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/store"
)

// Store is a directory of objects on a server.
type Store struct {
	opts Options
	name string

	slots   chan struct{} // one for each call that may be under way
	noLinks atomic.Bool   // the server's file system was seen to have no hard links
	swept   atomic.Bool   // what dead writers left was looked for

	// mu guards what follows. Not held during I/O.
	mu       sync.Mutex
	conns    []*conn
	dialling int
	dialled  *dialled             // the next dial that ends
	closed   bool                 // no more is dialled
	makeRoot bool                 // the root is made where it is missing
	made     map[string]struct{}  // directories that were seen to be there
	left     map[string]time.Time // claims of ours that are still there though their calls are over, and since when
}

// dialled is the end of a dial, for those who wait for it.
type dialled struct {
	ended chan struct{}
	err   error // set before ended is closed
}

var _ store.Store = (*Store)(nil)

// Open prepares a store. It sends nothing to the server: that it can be reached, and that the root exists, is seen
// by the first call.
func Open(o Options) *Store {
	if o.Stall <= 0 {
		o.Stall = defaultStall
	}
	return &Store{
		opts: o, name: o.name(), slots: make(chan struct{}, maxCalls), dialled: &dialled{ended: make(chan struct{})},
		made: map[string]struct{}{}, left: map[string]time.Time{},
	}
}

// Create is Open for a directory that is made, with its parents, where it is missing. It connects.
func Create(ctx context.Context, o Options) (*Store, error) {
	s := Open(o)
	s.makeRoot = true
	err := s.call(ctx, "create", ".", 0, func(context.Context, *conn) error { return nil }) // dialling makes it
	if err != nil {
		next := dr.Advice(err)
		if next == "" {
			next = "check that the server is there and the URL is right; then try again"
		}
		var e *store.Error
		if errors.As(err, &e) {
			err = e.Err
		}
		_ = s.Close() // of what was not there
		return nil, dr.Fail("create store "+s.name, err, next)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.makeRoot = false // a root that vanishes later is a disk that was unmounted
	return s, nil
}

// String returns the URL without its parameters.
func (s *Store) String() string { return s.name }

// Close ends the connections.
func (s *Store) Close() error {
	s.mu.Lock()
	s.closed = true
	conns := s.conns
	s.conns = nil
	s.mu.Unlock()
	for _, c := range conns {
		c.close(errClosed)
	}
	return nil
}

var errClosed = errors.New("the store is closed")

// path returns where an object is on the server.
func (s *Store) path(name string) string { return path.Join(s.opts.Dir, name) }

// call runs fn with a connection, within the limits of a call that moves size bytes, and makes its error the
// method's.
func (s *Store) call(ctx context.Context, op, name string, size int64, fn func(context.Context, *conn) error) error {
	if err := s.try(ctx, size, fn); err != nil {
		return s.fail(ctx, op, name, err)
	}
	return nil
}

func (s *Store) try(ctx context.Context, size int64, fn func(context.Context, *conn) error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	select {
	case s.slots <- struct{}{}:
		defer func() { <-s.slots }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	c, err := s.acquire(ctx)
	if err != nil {
		return err
	}
	defer s.release(c)
	defer c.line.begin(ctx, s.longest(size))()
	err = fn(ctx, c)
	if why := c.line.broken(); err != nil && why != nil {
		return busy("the connection was lost: %w", why)
	}
	return err
}

func (s *Store) longest(size int64) time.Duration {
	return 4*s.opts.Stall + time.Duration(size/slowestRate)*time.Second
}

// acquire returns the connection with the fewest calls, for release. It dials another one where there is none, or
// where all are busy.
func (s *Store) acquire(ctx context.Context) (*conn, error) {
	for {
		s.mu.Lock()
		if s.closed {
			s.mu.Unlock()
			return nil, errClosed
		}
		c := s.idlestLocked()
		full := len(s.conns)+s.dialling >= maxConns
		if c != nil && (c.calls < busyCalls || full) {
			c.calls++
			s.mu.Unlock()
			return c, nil
		}
		if !full {
			s.dialling++
			s.mu.Unlock()
			c, err := s.dial(ctx)
			return s.took(ctx, c, err)
		}
		wait := s.dialled // all that there may be are on their way
		s.mu.Unlock()
		select {
		case <-wait.ended:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
		if wait.err != nil {
			return nil, wait.err // to dial in our turn would make each caller of a dead server wait longer
		}
	}
}

// took takes up a connection, or the error of one. A server may take fewer connections than we would like: then
// those that are there do.
func (s *Store) took(ctx context.Context, c *conn, err error) (*conn, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dialling--
	if s.idlestLocked() == nil && ctx.Err() == nil {
		s.dialled.err = err // of all who wait; that a caller went away is his alone
	}
	close(s.dialled.ended)
	s.dialled = &dialled{ended: make(chan struct{})}
	switch {
	case err == nil && s.closed:
		c.line.kill(errClosed)
		return nil, errClosed
	case err == nil:
		s.conns = append(s.conns, c)
	default:
		if c = s.idlestLocked(); c == nil {
			return nil, err
		}
	}
	c.calls++
	return c, nil
}

// idlestLocked drops what is broken and returns the connection with the fewest calls, or nil.
func (s *Store) idlestLocked() *conn {
	var idlest *conn
	living := s.conns[:0]
	for _, c := range s.conns {
		if c.line.broken() != nil {
			continue
		}
		living = append(living, c)
		if idlest == nil || c.calls < idlest.calls {
			idlest = c
		}
	}
	clear(s.conns[len(living):])
	s.conns = living
	return idlest
}

func (s *Store) release(c *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c.calls--
}

// absent tells an absent object from an absent store: "nothing is there" would be the most dangerous of wrong
// answers when a disk is not mounted.
func (s *Store) absent(c *conn) error {
	switch fi, err := c.Stat(s.opts.Dir); {
	case isAbsent(err):
		return s.noRoot()
	case err != nil:
		return did("look for the root", err)
	case !fi.IsDir():
		return store.WithKind(store.Denied, fmt.Errorf("%s is no directory", s.opts.Dir))
	}
	return store.ErrNotExist
}

func (s *Store) noRoot() error {
	return store.WithKind(store.Denied, dr.Advise(fmt.Errorf("there is no directory %s on the server", s.opts.Dir),
		"mount the disk that holds it there, or correct the path; a new repository's directory is made by: holdfast repo init"))
}
