package sidecar

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// SocketName is the name of the socket in a sidecar's directory, for one that listens there itself.
const SocketName = "socket"

const (
	lockName = "lock"

	// patience is how long a client may take to send its request.
	patience = time.Minute
)

// Place is where a sidecar is asked.
type Place struct {
	// Dir is the sidecar's own: it is made, what a dead one left in it is removed at the beginning, and all of it at the end.
	Dir string
	// Alias is the name of a socket without a file (unix(7), abstract sockets) by which it is asked as well, by its own user
	// and by root; empty: none. Where somebody else has the name, only Dir is left.
	Alias string
	// HangUp ends an answer's ctx also when its client is gone: what was asked for is not done any more.
	HangUp bool
}

// Serve answers requests in a place until nobody has asked for so long as idle, stop of an answer is true, or ctx ends.
// Where another process serves the place already, it returns nil at once. Requests are answered side by side; ctx of an
// answer ends when Serve is about to, and then nothing is answered: the client does its work itself.
func Serve[Q, A any](ctx context.Context, at Place, idle time.Duration, answer func(context.Context, Q) (a A, stop bool)) error {
	lock, err := lockDir(at.Dir)
	if lock == nil {
		return err
	}
	defer lock.Close() //nolint:errcheck // nothing was written
	if err := sweep(at.Dir); err != nil {
		return err
	}
	defer leave(at.Dir)
	listeners, err := at.listen()
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	resting := NewRest(idle, stop)
	defer resting.End()
	var answers sync.WaitGroup
	defer answers.Wait()
	conns := make(chan net.Conn)
	for _, l := range listeners {
		context.AfterFunc(ctx, func() { l.Close() }) //nolint:errcheck // ends Accept
		answers.Go(func() {
			accept(ctx, l, conns)
			stop()
		})
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case conn := <-conns:
			resting.Begin()
			answers.Go(func() {
				defer resting.Done()
				defer conn.Close() //nolint:errcheck // the client sees a missing answer
				if converse(ctx, conn, at.HangUp, answer) {
					stop()
				}
			})
		}
	}
}

// accept hands on who comes and may ask, until the listener is closed. A stranger does not keep the sidecar from its rest.
func accept(ctx context.Context, l net.Listener, to chan<- net.Conn) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		if peer, err := Peer(conn); err != nil || peer != 0 && peer != uint32(os.Geteuid()) {
			conn.Close() //nolint:errcheck // nothing was said
			continue
		}
		select {
		case to <- conn:
		case <-ctx.Done():
			conn.Close() //nolint:errcheck // the client sees a missing answer
		}
	}
}

// lockDir makes dir and takes its lock; nil where another process has it. One that ends removes both, so that what
// was locked may have no name any more: then once more.
func lockDir(dir string) (*os.File, error) {
	for {
		err := os.MkdirAll(dir, 0o700)
		if errors.Is(err, fs.ErrExist) {
			continue // it was there, and was removed before MkdirAll looked
		}
		if err != nil {
			return nil, err
		}
		lock, err := os.OpenFile(filepath.Join(dir, lockName), os.O_CREATE|os.O_RDWR, 0o600)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil {
			return nil, lock.Close()
		}
		ours, err := lock.Stat()
		if err == nil {
			var named os.FileInfo
			if named, err = os.Stat(lock.Name()); err == nil && os.SameFile(ours, named) {
				return lock, nil
			}
		}
		if err = errors.Join(err, lock.Close()); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
}

// leave removes dir, as far as no next sidecar has put anything in it: the lock goes after everything that it guards.
func leave(dir string) {
	if sweep(dir) == nil && os.Remove(filepath.Join(dir, lockName)) == nil {
		_ = os.Remove(dir)
	}
}

// sweep removes what a dead sidecar left, which may be half written.
func sweep(dir string) error {
	entries, err := os.ReadDir(dir)
	for _, e := range entries {
		if e.Name() != lockName {
			err = errors.Join(err, os.RemoveAll(filepath.Join(dir, e.Name())))
		}
	}
	return err
}

// converse reads one request and answers it. A client that goes away is no error of ours.
func converse[Q, A any](ctx context.Context, conn net.Conn, hangUp bool, answer func(context.Context, Q) (A, bool)) (stop bool) {
	conn.SetDeadline(time.Now().Add(patience)) //nolint:errcheck // a socket has deadlines
	var q Q
	if json.NewDecoder(conn).Decode(&q) != nil {
		return false
	}
	conn.SetDeadline(time.Time{}) //nolint:errcheck // as above
	asked := ctx
	if hangUp {
		var listening sync.WaitGroup
		defer listening.Wait()
		defer conn.Close() //nolint:errcheck // the answer is out: ends the reader
		var gone context.CancelFunc
		asked, gone = context.WithCancel(ctx)
		listening.Go(func() {
			_, _ = io.Copy(io.Discard, conn) // a client says nothing more before it goes
			gone()
		})
	}
	a, stop := answer(asked, q)
	if ctx.Err() == nil {
		json.NewEncoder(conn).Encode(a) //nolint:errcheck // as above
	}
	return stop
}

// Peer returns the user whose process is the other end of a local connection, as the kernel tells it.
func Peer(conn net.Conn) (uid uint32, err error) {
	raw, err := conn.(*net.UnixConn).SyscallConn()
	if err != nil {
		return 0, err
	}
	var peer *unix.Ucred
	var credErr error
	err = raw.Control(func(fd uintptr) { peer, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	if err = errors.Join(err, credErr); err != nil {
		return 0, err
	}
	return peer.Uid, nil
}

// listen opens the place's sockets. A socket's path has at most 107 bytes, and directories may be deep: the directory
// is named by a descriptor.
func (at Place) listen() ([]net.Listener, error) {
	d, err := os.Open(at.Dir)
	if err != nil {
		return nil, err
	}
	defer d.Close() //nolint:errcheck // only read
	l, err := net.Listen("unix", fmt.Sprintf("/proc/self/fd/%d/%s", d.Fd(), SocketName))
	if err != nil {
		return nil, err
	}
	// Its path will name nothing once d is closed.
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	all := []net.Listener{l}
	if at.Alias != "" {
		if l, err := net.Listen("unix", "@"+at.Alias); err == nil {
			all = append(all, l)
		}
	}
	return all, nil
}
