package s3

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"
)

// errStalled is the cause with which we end a request ourselves.
var errStalled = errors.New("the request was given up")

// watch ends a request in which nothing moves.
type watch struct {
	idle  *time.Timer
	stall time.Duration
}

// moved says that bytes went one way or the other.
func (w *watch) moved() { w.idle.Reset(w.stall) }

// request runs one request that moves size bytes, under its two limits, and gives its error a kind.
func (s *Store) request(ctx context.Context, op, name string, size int64, send func(context.Context, *watch) error) error {
	if ctx.Err() != nil {
		return s.fail(ctx, op, name, context.Cause(ctx))
	}
	limited, end := context.WithCancelCause(ctx)
	defer end(nil)
	w := &watch{stall: s.opts.Stall}
	w.idle = time.AfterFunc(w.stall, func() {
		end(fmt.Errorf("%w: nothing moved for %s", errStalled, w.stall))
	})
	defer w.idle.Stop()
	longest := 4*w.stall + time.Duration(size/slowestRate)*time.Second
	all := time.AfterFunc(longest, func() {
		end(fmt.Errorf("%w: it was not done after %s", errStalled, longest))
	})
	defer all.Stop()
	err := send(limited, w)
	if err == nil {
		return nil
	}
	if cause := context.Cause(limited); ctx.Err() == nil && errors.Is(cause, errStalled) {
		err = cause
	}
	return s.fail(ctx, op, name, err)
}

// lent is a request's body. net/http may go on reading a body after the request has ended, when it was cut
// off; the bytes belong to our caller again then, so they are taken away.
type lent struct {
	w *watch

	// mu guards r, which is nil once the bytes are given back.
	mu sync.Mutex
	r  *bytes.Reader
}

var errGivenBack = errors.New("the request has ended")

func (l *lent) Read(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.r == nil {
		return 0, errGivenBack
	}
	n, err := l.r.Read(p)
	if n > 0 {
		l.w.moved()
	}
	return n, err
}

func (l *lent) Seek(off int64, whence int) (int64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.r == nil {
		return 0, errGivenBack
	}
	return l.r.Seek(off, whence)
}

func (l *lent) giveBack() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.r = nil
}

// watched is a response's body.
type watched struct {
	r io.Reader
	w *watch
}

func (r watched) Read(p []byte) (int, error) {
	n, err := r.r.Read(p)
	if n > 0 {
		r.w.moved()
	}
	return n, err
}
