package storetest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"
)

// process is a server that keeps its objects in a temporary directory, on a port of the loopback interface or in a region. It can
// be killed and started again.
type process struct {
	what       string // it is, for messages
	root, port string
	region     *Region // that it is in; nil: it is on this machine
	command    func() *exec.Cmd

	// mu guards cmd and ended. Not held while waiting.
	mu    sync.Mutex
	cmd   *exec.Cmd
	ended chan struct{} // closed when cmd has ended
}

// startLimit bounds the wait for a server that is starting.
const startLimit = 30 * time.Second

// init finds a directory and a port. The server ends with the test.
func (s *process) init(t testing.TB, what string) {
	t.Helper()
	s.what, s.root = what, t.TempDir()
	var err error
	if s.port, err = freePort(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Kill)
}

// Addr is host and port.
func (s *process) Addr() string {
	if s.region != nil {
		return net.JoinHostPort(s.region.Addr, s.port)
	}
	return net.JoinHostPort("127.0.0.1", s.port)
}

// dialer is net.Dialer's DialContext, or a region's Dial.
type dialer = func(ctx context.Context, network, addr string) (net.Conn, error)

// dial connects from where the server is.
func (s *process) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	if s.region != nil {
		return s.region.Dial(ctx, network, addr)
	}
	var d net.Dialer
	return d.DialContext(ctx, network, addr)
}

// Start starts the server again after a Kill, on the same port and files, and returns when it answers.
func (s *process) Start(t testing.TB) {
	t.Helper()
	log, err := os.OpenFile(filepath.Join(s.root, "log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd := s.command()
	cmd.Stdout, cmd.Stderr = log, log
	// It ends with us also when the test binary is killed.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	start := cmd.Start
	if s.region != nil {
		start = func() error { return s.region.Run(cmd.Start) }
	}
	if err := start(); err != nil {
		t.Fatalf("start the %s: %v", s.what, err)
	}
	ended := make(chan struct{})
	go func() { // waited for in Kill
		_ = cmd.Wait()
		close(ended)
	}()
	s.mu.Lock()
	s.cmd, s.ended = cmd, ended
	s.mu.Unlock()
	if err := answering(s.dial, s.Addr(), ended); err != nil {
		text, _ := os.ReadFile(log.Name())
		t.Fatalf("the %s does not answer: %v\n%s", s.what, err, text)
	}
}

// Kill ends the server with SIGKILL and returns when it is gone. It may be called from any goroutine.
func (s *process) Kill() {
	s.mu.Lock()
	cmd, ended := s.cmd, s.ended
	s.mu.Unlock()
	if cmd == nil {
		return
	}
	_ = cmd.Process.Kill()
	<-ended
}

func freePort() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("find a free port: %w", err)
	}
	port := l.Addr().(*net.TCPAddr).Port //nolint:forcetypeassert // of a TCP listener
	return strconv.Itoa(port), l.Close()
}

// answering waits until something accepts connections at addr.
func answering(dial dialer, addr string, ended <-chan struct{}) error {
	ctx, cancel := context.WithTimeout(context.Background(), startLimit)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		c, err := dial(ctx, "tcp", addr)
		if err == nil {
			return c.Close()
		}
		select {
		case <-ended:
			return errors.New("it ended at once")
		case <-ctx.Done():
			return err
		case <-tick.C:
		}
	}
}
