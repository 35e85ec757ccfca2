package cli

import (
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/internal/agent"
)

func TestSystemdIsReadFromTheEnvironment(t *testing.T) {
	for _, c := range []struct {
		name              string
		socket, usec, pid string
		want              agent.Systemd
	}{
		{"no systemd", "", "", "", agent.Systemd{}},
		{"no watchdog", "/run/x", "", "", agent.Systemd{Socket: "/run/x"}},
		{"watchdog", "@x", "60000000", strconv.Itoa(os.Getpid()), agent.Systemd{Socket: "@x", Watchdog: time.Minute}},
		{"watchdog without a process", "@x", "60000000", "", agent.Systemd{Socket: "@x", Watchdog: time.Minute}},
		{"watchdog of another process", "@x", "60000000", "1", agent.Systemd{Socket: "@x"}},
		{"nonsense", "@x", "soon", "", agent.Systemd{Socket: "@x"}},
	} {
		t.Setenv("NOTIFY_SOCKET", c.socket)
		t.Setenv("WATCHDOG_USEC", c.usec)
		t.Setenv("WATCHDOG_PID", c.pid)
		if got := systemd(); got != c.want {
			t.Errorf("%s: got %+v, want %+v", c.name, got, c.want)
		}
	}
}
