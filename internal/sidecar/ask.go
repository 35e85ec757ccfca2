package sidecar

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"syscall"
	"time"
)

// startTime is how long a sidecar that was just started may take until it listens: unlocking keys takes its time.
const startTime = 20 * time.Second

// Ask sends a request to the sidecar of dir and returns its answer. An error says that none answered; the answer may
// take as long as ctx lets it.
func Ask[Q, A any](ctx context.Context, dir string, q Q) (a A, err error) {
	d, err := os.Open(dir)
	if err != nil {
		return a, err
	}
	defer d.Close() //nolint:errcheck // only read
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "unix", fmt.Sprintf("/proc/self/fd/%d/%s", d.Fd(), SocketName))
	if err != nil {
		return a, err
	}
	defer conn.Close()                                                                        //nolint:errcheck // the answer is in
	defer context.AfterFunc(ctx, func() { conn.SetDeadline(time.Now().Add(-time.Second)) })() //nolint:errcheck // as for every socket
	if err := json.NewEncoder(conn).Encode(q); err != nil {
		return a, err
	}
	return a, json.NewDecoder(conn).Decode(&a)
}

// AskNew is Ask for a sidecar that was just started with Detach, whose died it is given: it repeats until it listens.
func AskNew[Q, A any](ctx context.Context, dir string, q Q, died <-chan struct{}) (A, error) {
	late := time.After(startTime)
	again := time.NewTicker(10 * time.Millisecond)
	defer again.Stop()
	for {
		a, err := Ask[Q, A](ctx, dir, q)
		if err == nil {
			return a, nil
		}
		select {
		case <-ctx.Done():
			return a, context.Cause(ctx)
		case <-late:
			return a, err
		case <-died:
			// Another one may have been faster, and this one left it the work.
			return Ask[Q, A](ctx, dir, q)
		case <-again.C:
		}
	}
}

// Detach starts a command that outlives this process and its terminal. died is closed when it ends; the caller need
// not wait for that.
func Detach(cmd *exec.Cmd) (died <-chan struct{}, err error) {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Setsid = true
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	ended := make(chan struct{})
	go func() {
		_ = cmd.Wait() // why it ended is its own matter
		close(ended)
	}()
	return ended, nil
}
