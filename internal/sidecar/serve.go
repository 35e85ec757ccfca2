package sidecar

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	lockName   = "lock"
	socketName = "socket"

	// patience is how long a client may take to send its request.
	patience = time.Minute
)

// Serve answers requests in dir until nobody has asked for so long as idle, stop of an answer is true, or ctx ends.
// Where another process serves dir already, it returns nil at once. Requests are answered side by side; ctx of an
// answer ends when Serve is about to. dir is made, and is the sidecar's own: what a dead one left in it is removed at the
// beginning, and all of it at the end.
func Serve[Q, A any](ctx context.Context, dir string, idle time.Duration, answer func(context.Context, Q) (a A, stop bool)) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	lock, err := os.OpenFile(filepath.Join(dir, lockName), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer lock.Close() //nolint:errcheck // nothing was written
	if unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil {
		return nil
	}
	if err := sweep(dir); err != nil {
		return err
	}
	l, err := listen(dir)
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir) //nolint:errcheck // the next one sweeps
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	ends := time.AfterFunc(idle, stop)
	defer ends.Stop()
	context.AfterFunc(ctx, func() { l.Close() }) //nolint:errcheck // ends Accept
	var answers sync.WaitGroup
	defer answers.Wait()
	for {
		conn, err := l.Accept()
		if err != nil {
			stop()
			return nil // closed, by whatever made ctx end
		}
		ends.Reset(idle)
		answers.Go(func() {
			defer conn.Close() //nolint:errcheck // the client sees a missing answer
			if converse(ctx, conn, answer) {
				stop()
			}
			ends.Reset(idle)
		})
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
func converse[Q, A any](ctx context.Context, conn net.Conn, answer func(context.Context, Q) (A, bool)) (stop bool) {
	conn.SetDeadline(time.Now().Add(patience)) //nolint:errcheck // a socket has deadlines
	var q Q
	if json.NewDecoder(conn).Decode(&q) != nil {
		return false
	}
	conn.SetDeadline(time.Time{}) //nolint:errcheck // as above
	a, stop := answer(ctx, q)
	if ctx.Err() == nil || !stop {
		json.NewEncoder(conn).Encode(a) //nolint:errcheck // as above
	}
	return stop
}

// listen opens the socket. A socket's path has at most 107 bytes, and directories may be deep: the directory is
// named by a descriptor.
func listen(dir string) (net.Listener, error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer d.Close() //nolint:errcheck // only read
	l, err := net.Listen("unix", fmt.Sprintf("/proc/self/fd/%d/%s", d.Fd(), socketName))
	if err != nil {
		return nil, err
	}
	// Its path will name nothing once d is closed.
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	return l, nil
}
