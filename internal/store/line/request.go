package line

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"
)

// DefaultStall is how long nothing may move in a request.
const DefaultStall = 30 * time.Second

// slowestRate is the line, in bytes a second, on which an upload may still take its time.
const slowestRate = 32 << 10

// ErrStalled is the cause with which Do ends a request itself.
var ErrStalled = errors.New("the request was given up")

// Watch ends a request in which nothing moves.
type Watch struct {
	idle  *time.Timer
	stall time.Duration
}

// moved says that bytes went one way or the other.
func (w *Watch) moved() { w.idle.Reset(w.stall) }

// Do runs one request that moves size bytes, under its two limits: stall without a byte, and the time that the
// slowest line would need. Where it ended the request, the error is ErrStalled; where ctx ended, its cause.
func Do(ctx context.Context, stall time.Duration, size int64, send func(context.Context, *Watch) error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	limited, end := context.WithCancelCause(ctx)
	defer end(nil)
	w := &Watch{stall: stall}
	w.idle = time.AfterFunc(w.stall, func() {
		end(fmt.Errorf("%w: nothing moved for %s", ErrStalled, w.stall))
	})
	defer w.idle.Stop()
	longest := 4*w.stall + time.Duration(size/slowestRate)*time.Second
	all := time.AfterFunc(longest, func() {
		end(fmt.Errorf("%w: it was not done after %s", ErrStalled, longest))
	})
	defer all.Stop()
	err := send(limited, w)
	if err == nil {
		return nil
	}
	if cause := context.Cause(limited); ctx.Err() == nil && errors.Is(cause, ErrStalled) {
		return cause
	}
	return err
}

// Lent is a request's body. net/http may go on reading a body after the request has ended, when it was cut
// off; the bytes belong to our caller again then, so they are taken away.
type Lent struct {
	w *Watch

	// mu guards r, which is nil once the bytes are given back.
	mu sync.Mutex
	r  *bytes.Reader
}

var errGivenBack = errors.New("the request has ended")

// Lend returns a body to send, until it is given back.
func (w *Watch) Lend(body []byte) *Lent { return &Lent{w: w, r: bytes.NewReader(body)} }

// Read implements io.Reader.
func (l *Lent) Read(p []byte) (int, error) {
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

// Seek implements io.Seeker.
func (l *Lent) Seek(off int64, whence int) (int64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.r == nil {
		return 0, errGivenBack
	}
	return l.r.Seek(off, whence)
}

// Close does nothing: a transport closes a body that it may be asked to send again.
func (l *Lent) Close() error { return nil }

// GiveBack takes the bytes away from whoever still reads them.
func (l *Lent) GiveBack() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.r = nil
}

// Read fills dst from a response's body. One that ended early is Busy: the connection broke, not the object.
func (w *Watch) Read(body io.Reader, dst []byte) error {
	_, err := io.ReadFull(watched{body, w}, dst)
	return CutOff(err)
}

// watched is a response's body.
type watched struct {
	r io.Reader
	w *Watch
}

func (r watched) Read(p []byte) (int, error) {
	n, err := r.r.Read(p)
	if n > 0 {
		r.w.moved()
	}
	return n, err
}
