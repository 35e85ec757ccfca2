package storetest

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/crypto/ssh"

	"github.com/holdfast-dr/holdfast/internal/store/sftp"
)

// SSHServer is OpenSSH's server with files in a temporary directory. It is started for each connection, as inetd
// does, by a listener in the test: so it can be killed with all that it has begun.
type SSHServer struct {
	Addr       string // host:port
	User       string
	Dir        string // of the user; the server may write there
	Key        string // a private key that logs in
	KnownHosts string // a file that has the server's key

	binary string
	cred   *syscall.Credential // nil: ours

	// mu guards what follows.
	mu       sync.Mutex
	listener net.Listener
	children map[*os.Process]net.Conn
	ended    sync.WaitGroup
}

const sshdPath = "/usr/sbin/sshd"

// SSHD starts OpenSSH's server on a free port of the loopback interface, as an unprivileged user. It ends with the
// test. Where it is not installed, the test is skipped: scripts/setup.sh installs it.
func SSHD(t testing.TB) *SSHServer {
	t.Helper()
	if _, err := os.Stat(sshdPath); err != nil {
		t.Skipf("no OpenSSH server: %v; scripts/setup.sh installs it", err)
	}
	root, err := os.MkdirTemp("", "holdfast-sshd-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(root) })
	s := &SSHServer{
		binary: sshdPath, Dir: filepath.Join(root, "files"), Key: filepath.Join(root, "id"), KnownHosts: filepath.Join(root, "known_hosts"),
		children: map[*os.Process]net.Conn{},
	}
	if err := s.configure(root); err != nil {
		t.Fatalf("the SSH server: %v", err)
	}
	t.Cleanup(s.Kill)
	t.Cleanup(func() {
		if log, _ := os.ReadFile(filepath.Join(root, "log")); t.Failed() && len(log) > 0 { //nolint:errcheck // only to say more
			t.Logf("the SSH server's log:\n%s", log)
		}
	})
	s.Start(t)
	return s
}

// configure writes the server's files, for a user who may read them.
func (s *SSHServer) configure(root string) error {
	me, err := user.Current()
	if err == nil && os.Geteuid() == 0 {
		// root is never refused anything, and a server for root needs more of its machine. The package has this
		// user; nobody is locked where systemd answers for it.
		me, err = user.Lookup("sshd")
	}
	if err != nil {
		return err
	}
	uid, uidErr := strconv.Atoi(me.Uid)
	gid, gidErr := strconv.Atoi(me.Gid)
	if err := errors.Join(uidErr, gidErr, os.Mkdir(s.Dir, 0o700)); err != nil {
		return err
	}
	if uid != os.Geteuid() {
		s.cred = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)} //nolint:gosec // a user's
	}
	s.User = me.Username
	_, hostErr := NewKey(filepath.Join(root, "host"))
	public, keyErr := NewKey(s.Key)
	at := func(name string) string { return filepath.Join(root, name) }
	text := strings.Join([]string{
		"HostKey " + at("host"), "AuthorizedKeysFile " + at("authorized"), "PidFile none",
		"StrictModes no", "UsePAM no", "PasswordAuthentication no", "KbdInteractiveAuthentication no", "PrintMotd no", "PermitRootLogin no",
		"Subsystem sftp internal-sftp", "ForceCommand internal-sftp", "LogLevel ERROR", "",
	}, "\n")
	err = errors.Join(hostErr, keyErr,
		os.WriteFile(at("authorized"), ssh.MarshalAuthorizedKey(public), 0o600),
		os.WriteFile(at("config"), []byte(text), 0o600),
		os.WriteFile(at("log"), nil, 0o600))
	for _, name := range []string{"", "files", "host", "authorized", "config", "log"} {
		err = errors.Join(err, os.Chown(at(name), uid, gid))
	}
	return err
}

// NewKey writes a new private key to a file and returns its public half.
func NewKey(path string) (ssh.PublicKey, error) {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	block, err := ssh.MarshalPrivateKey(private, "holdfast test")
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
		return nil, err
	}
	return ssh.NewPublicKey(public)
}

// Options returns what opens a store in a directory below the server's, which Create makes.
func (s *SSHServer) Options(dir string) sftp.Options {
	host, port, _ := net.SplitHostPort(s.Addr)
	n, _ := strconv.Atoi(port)
	return sftp.Options{
		User: s.User, Host: host, Port: n, Dir: filepath.Join(s.Dir, dir),
		IdentityFiles: []string{s.Key}, KnownHosts: []string{s.KnownHosts},
	}
}

// Open makes and opens a store in a directory below the server's.
func (s *SSHServer) Open(t testing.TB, dir string) *sftp.Store {
	t.Helper()
	st, err := sftp.Create(t.Context(), s.Options(dir))
	if err != nil {
		t.Fatal(err)
	}
	return st
}

// Start lets the server answer, on the same port after a Kill.
func (s *SSHServer) Start(t testing.TB) {
	t.Helper()
	addr := s.Addr
	if addr == "" {
		addr = "127.0.0.1:0"
	}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	s.Addr = l.Addr().String()
	root := filepath.Dir(s.Dir)
	if err := s.know(filepath.Join(root, "host")); err != nil {
		t.Fatal(err)
	}
	s.mu.Lock()
	s.listener = l
	s.mu.Unlock()
	s.ended.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			if err := s.serve(root, c); err != nil {
				t.Errorf("the SSH server: %v", err)
			}
		}
	})
}

// know writes the server's key to KnownHosts, under its address.
func (s *SSHServer) know(host string) error {
	text, err := os.ReadFile(host)
	if err != nil {
		return err
	}
	key, err := ssh.ParsePrivateKey(text)
	if err != nil {
		return err
	}
	return os.WriteFile(s.KnownHosts, KnownHost(s.Addr, key.PublicKey()), 0o600)
}

// KnownHost returns a line of a known_hosts file.
func KnownHost(addr string, key ssh.PublicKey) []byte {
	host, port, _ := net.SplitHostPort(addr)
	return fmt.Appendf(nil, "[%s]:%s %s", host, port, ssh.MarshalAuthorizedKey(key))
}

// serve starts a server for one connection.
func (s *SSHServer) serve(root string, c net.Conn) error {
	socket, err := c.(*net.TCPConn).File() //nolint:forcetypeassert // of a TCP listener
	if err != nil {
		return err
	}
	defer socket.Close()
	cmd := exec.Command(s.binary, "-i", "-f", filepath.Join(root, "config"), "-E", filepath.Join(root, "log")) //nolint:gosec // a constant
	cmd.Stdin, cmd.Stdout = socket, socket
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL, Credential: s.cred}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.listener == nil {
		return c.Close() // killed meanwhile
	}
	if err := cmd.Start(); err != nil {
		return errors.Join(err, c.Close())
	}
	s.children[cmd.Process] = c
	s.ended.Go(func() {
		_ = cmd.Wait()
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.children, cmd.Process)
		_ = c.Close()
	})
	return nil
}

// Kill ends the server, and what it has begun, with SIGKILL, and returns when it is gone. It may be called from any
// goroutine.
func (s *SSHServer) Kill() {
	s.mu.Lock()
	l := s.listener
	s.listener = nil
	for p := range s.children {
		_ = syscall.Kill(-p.Pid, syscall.SIGKILL)
	}
	s.mu.Unlock()
	if l != nil {
		_ = l.Close()
	}
	s.ended.Wait()
}
