package storetest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// Net is a network that only this test has: a switch in a network namespace of its own, at which regions are. The machine's own
// network knows nothing of it. Nothing is left of it, however the test ends: a namespace without a name is gone with the last thread
// and process in it, and with it its links.
type Net struct {
	hub   *namespace
	count int
}

// Region is a network namespace with an address of its own, from which the other regions are reached, and nothing else.
type Region struct {
	Name string
	Addr string // IP address

	net  *Net
	at   *namespace
	port string // of the switch, at which the region's line is
}

// NewNet returns a network without regions. Where namespaces cannot be made the test is skipped.
func NewNet(t testing.TB) *Net {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("regions are network namespaces, and those are made by root")
	}
	for _, program := range []string{"ip", "tc"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("regions need iproute2: %v", err)
		}
	}
	hub, err := newNamespace(t)
	if errors.Is(err, unix.EPERM) {
		t.Skipf("this machine lets nobody make network namespaces: %v", err)
	}
	if err == nil {
		err = hub.commands("ip link set lo up", "ip link add switch type bridge forward_delay 0", "ip link set switch up")
	}
	if err != nil {
		t.Fatalf("make a network: %v", err)
	}
	return &Net{hub: hub}
}

// Region adds one.
func (n *Net) Region(t testing.TB, name string) *Region {
	t.Helper()
	n.count++
	r := &Region{Name: name, Addr: fmt.Sprintf("10.213.0.%d", n.count), net: n, port: fmt.Sprintf("port%d", n.count)}
	var err error
	if r.at, err = newNamespace(t); err == nil {
		err = errors.Join(
			n.hub.commands(
				fmt.Sprintf("ip link add %s type veth peer name line netns %d", r.port, r.at.thread),
				"ip link set "+r.port+" master switch up",
			),
			r.at.commands("ip link set lo up", "ip addr add "+r.Addr+"/24 dev line", "ip link set line up"),
		)
	}
	if err != nil {
		t.Fatalf("make the region %s: %v", name, err)
	}
	return r
}

// Cut takes the region's line away: what is on its way is lost, connections fall silent, and new ones are not answered.
func (r *Region) Cut(t testing.TB) {
	t.Helper()
	r.do(t, r.net.hub, "ip link set "+r.port+" down")
}

// Mend brings the line back.
func (r *Region) Mend(t testing.TB) {
	t.Helper()
	r.do(t, r.net.hub, "ip link set "+r.port+" up")
}

// Bandwidth limits what the region's line carries in either direction, in the words of tc ("8mbit").
func (r *Region) Bandwidth(t testing.TB, rate string) {
	t.Helper()
	r.do(t, r.at, "tc qdisc replace dev line root tbf latency 200ms burst 64kb rate "+rate)
	r.do(t, r.net.hub, "tc qdisc replace dev "+r.port+" root tbf latency 200ms burst 64kb rate "+rate)
}

func (r *Region) do(t testing.TB, at *namespace, command string) {
	t.Helper()
	if err := at.commands(command); err != nil {
		t.Fatalf("region %s: %v", r.Name, err)
	}
}

// Run calls f on a thread that is in the region, and so is a process that f starts. The thread lives until the test ends, and does
// one thing at a time.
func (r *Region) Run(f func() error) error { return r.at.run(f) }

// Dial connects from the region; addr is an IP address and a port.
func (r *Region) Dial(ctx context.Context, network, addr string) (c net.Conn, err error) {
	err = r.at.visit(func() error {
		var d net.Dialer
		c, err = d.DialContext(ctx, network, addr)
		return err
	})
	return c, err
}

// S3 starts an S3 server in the region, as the function S3 does on this machine.
func (r *Region) S3(t testing.TB) *S3Server {
	t.Helper()
	return startS3(t, r)
}

// Proxy starts a line from the region to the server at an endpoint.
func (r *Region) Proxy(t testing.TB, endpoint string) *Proxy {
	t.Helper()
	var l net.Listener
	err := r.at.visit(func() (err error) {
		l, err = net.Listen("tcp", r.Addr+":0")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return startProxy(t, l, endpoint, r.Dial)
}

// namespace is a network namespace with a thread in it.
type namespace struct {
	thread int
	fd     *os.File
	jobs   chan func()
}

// newNamespace returns one that is there until the test ends, or as long as a process is in it.
func newNamespace(t testing.TB) (*namespace, error) {
	n := &namespace{jobs: make(chan func())}
	made := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with this goroutine
		err := unix.Unshare(unix.CLONE_NEWNET)
		if n.thread = unix.Gettid(); err == nil {
			n.fd, err = os.Open(fmt.Sprintf("/proc/self/task/%d/ns/net", n.thread))
		}
		made <- err
		for f := range n.jobs {
			f()
		}
	}()
	err := <-made
	if err != nil {
		close(n.jobs)
		return nil, fmt.Errorf("make a network namespace: %w", err)
	}
	t.Cleanup(func() {
		close(n.jobs)
		_ = n.fd.Close()
	})
	return n, nil
}

func (n *namespace) run(f func() error) error {
	done := make(chan error, 1)
	n.jobs <- func() { done <- f() }
	return <-done
}

// visit calls f on a thread that comes for it: f may take long. A socket that f itself opens is in the namespace, and stays there.
func (n *namespace) visit(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked, as above
		err := unix.Setns(int(n.fd.Fd()), unix.CLONE_NEWNET)
		if err == nil {
			err = f()
		}
		done <- err
	}()
	return <-done
}

func (n *namespace) commands(lines ...string) error {
	for _, line := range lines {
		words := strings.Fields(line)
		err := n.run(func() error {
			out, err := exec.Command(words[0], words[1:]...).CombinedOutput() //nolint:gosec // lines of this file
			if err != nil {
				return fmt.Errorf("%s: %w: %s", line, err, out)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}
