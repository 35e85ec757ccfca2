package agent

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// manager is the socket of a service manager.
type manager struct {
	t    *testing.T
	name string
	conn *net.UnixConn
}

func newManager(t *testing.T, name string) *manager {
	t.Helper()
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: name, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return &manager{t, name, conn}
}

func (m *manager) next() string {
	m.t.Helper()
	if err := m.conn.SetReadDeadline(time.Now().Add(30 * time.Second)); err != nil {
		m.t.Fatal(err)
	}
	b := make([]byte, 4096)
	n, err := m.conn.Read(b)
	if err != nil {
		m.t.Fatal(err)
	}
	return string(b[:n])
}

// until reads messages up to one that has this line.
func (m *manager) until(line string) {
	m.t.Helper()
	for !slices.Contains(strings.Split(m.next(), "\n"), line) {
	}
}

func TestNotify(t *testing.T) {
	for _, name := range []string{filepath.Join(t.TempDir(), "notify"), fmt.Sprintf("@holdfast-test-%d", os.Getpid())} {
		m := newManager(t, name)
		s := Systemd{Socket: name, Watchdog: 20 * time.Millisecond}
		s.notify("READY=1")
		if got := m.next(); got != "READY=1" {
			t.Errorf("%s: got %q", name, got)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() { s.keepAlive(ctx, func() string { return "fine" }); close(ended) }()
		for range 3 {
			if got := m.next(); got != "STATUS=fine\nWATCHDOG=1" {
				t.Errorf("%s: got %q", name, got)
			}
		}
		cancel()
		<-ended
	}
}

func TestNotifyWithoutAWatchdogOrAListener(t *testing.T) {
	m := newManager(t, filepath.Join(t.TempDir(), "notify"))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	Systemd{Socket: m.name}.keepAlive(ctx, func() string { return "fine" })
	if got := m.next(); strings.Contains(got, "WATCHDOG") || got != "STATUS=fine" {
		t.Errorf("got %q", got)
	}
	Systemd{}.keepAlive(t.Context(), nil) // returns at once
	Systemd{Socket: filepath.Join(t.TempDir(), "nobody")}.notify("READY=1")
}
