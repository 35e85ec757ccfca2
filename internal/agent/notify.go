package agent

import (
	"context"
	"net"
	"strings"
	"time"
)

// Systemd is what a service manager told us in the environment (sd_notify(3), sd_watchdog_enabled(3)).
type Systemd struct {
	Socket   string        // NOTIFY_SOCKET; empty: nobody listens
	Watchdog time.Duration // WATCHDOG_USEC, where WATCHDOG_PID is ours; zero: none
}

// notify sends one message. It is lost where nobody listens, which is no concern of ours.
func (s Systemd) notify(lines ...string) {
	if s.Socket == "" {
		return
	}
	// A name that begins with @ is an abstract socket to package net too (unix(7)).
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: s.Socket, Net: "unixgram"})
	if err != nil {
		return
	}
	_, _ = conn.Write([]byte(strings.Join(lines, "\n")))
	_ = conn.Close()
}

// statusEvery is how often STATUS= is renewed.
const statusEvery = 10 * time.Second

// keepAlive tells the service manager that we live, and how we are, until ctx ends. Each time it asks status,
// which looks at every keeper: an agent that hangs falls silent.
func (s Systemd) keepAlive(ctx context.Context, status func() string) {
	if s.Socket == "" {
		return
	}
	every := statusEvery
	if s.Watchdog > 0 {
		every = min(every, s.Watchdog/2)
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		lines := []string{"STATUS=" + status()}
		if s.Watchdog > 0 {
			lines = append(lines, "WATCHDOG=1")
		}
		s.notify(lines...)
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}
