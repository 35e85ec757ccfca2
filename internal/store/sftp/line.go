package sftp

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"
)

// grace is what a call that was cancelled has for ending in order before its connection is cut.
const grace = time.Second

var errGivenUp = errors.New("the call was given up")

// line is the stream below one SSH connection. It ends when a call waits and nothing comes back.
type line struct {
	net.Conn
	stall time.Duration

	// mu guards calls and dead. Not held during I/O.
	mu    sync.Mutex
	calls int   // that wait for an answer
	dead  error // why nothing can be sent any more
}

// Read ends the line with the first error.
func (l *line) Read(p []byte) (int, error) {
	n, err := l.Conn.Read(p)
	if err == nil {
		l.mu.Lock()
		l.waitLocked()
		l.mu.Unlock()
		return n, nil
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = fmt.Errorf("%w: nothing came back for %s", errGivenUp, l.stall)
	}
	l.kill(err)
	return n, err
}

// waitLocked sets until when something must come. A connection that nobody waits for may be silent.
func (l *line) waitLocked() {
	until := time.Time{}
	if l.calls > 0 {
		until = time.Now().Add(l.stall)
	}
	_ = l.SetReadDeadline(until) // fails only on a closed connection
}

// begin says that a call waits on the line, under two limits: ctx, and how long it may take in all. What is said
// when one of them is over is not taken back, so the line goes.
func (l *line) begin(ctx context.Context, longest time.Duration) (end func()) {
	l.mu.Lock()
	l.calls++
	if l.calls == 1 {
		l.waitLocked()
	}
	l.mu.Unlock()
	all := time.AfterFunc(longest, func() { l.kill(fmt.Errorf("%w: it was not done after %s", errGivenUp, longest)) })
	late := make(chan *time.Timer, 1)
	stop := context.AfterFunc(ctx, func() {
		late <- time.AfterFunc(grace, func() { l.kill(context.Cause(ctx)) })
	})
	return func() {
		all.Stop()
		if !stop() {
			(<-late).Stop()
		}
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.calls--; l.calls == 0 {
			l.waitLocked()
		}
	}
}

// kill ends the line; the first reason stays.
func (l *line) kill(why error) {
	l.mu.Lock()
	if l.dead == nil {
		l.dead = why
	}
	l.mu.Unlock()
	_ = l.Close()
}

// broken returns why the line has ended, or nil.
func (l *line) broken() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.dead
}
