package sftp_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"

	pkgsftp "github.com/pkg/sftp"
	"golang.org/x/crypto/ssh"

	"github.com/holdfast-dr/holdfast/internal/store/sftp"
	"github.com/holdfast-dr/holdfast/internal/store/storetest"
)

// goServer is a second maker's server, in this process: it cannot sync, and says less about what went wrong.
type goServer struct {
	addr, dir, key, knownHosts string

	session func(io.ReadWriteCloser) error // serves one
	wg      sync.WaitGroup

	// mu guards what follows.
	mu      sync.Mutex
	host    []ssh.Signer  // its keys
	allowed ssh.PublicKey // of who may log in
	conns   []net.Conn
}

// startGo starts one that announces these extensions. The library keeps them for the whole process: its tests do not
// run beside each other.
func startGo(t *testing.T, extensions ...string) *goServer {
	t.Helper()
	if err := pkgsftp.SetSFTPExtensions(extensions...); err != nil {
		t.Fatal(err)
	}
	return startSession(t, func(rwc io.ReadWriteCloser) error {
		s, err := pkgsftp.NewServer(rwc)
		if err != nil {
			return err
		}
		return s.Serve()
	})
}

func startSession(t *testing.T, session func(io.ReadWriteCloser) error) *goServer {
	t.Helper()
	dir := t.TempDir()
	s := &goServer{dir: filepath.Join(dir, "files"), key: filepath.Join(dir, "id"), knownHosts: filepath.Join(dir, "known_hosts"), session: session}
	var err error
	if s.allowed, err = storetest.NewKey(s.key); err != nil {
		t.Fatal(err)
	}
	host, err := newSigner(filepath.Join(dir, "host"))
	if err != nil {
		t.Fatal(err)
	}
	s.host = []ssh.Signer{host}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.addr = l.Addr().String()
	if err := os.WriteFile(s.knownHosts, storetest.KnownHost(s.addr, host.PublicKey()), 0o600); err != nil {
		t.Fatal(err)
	}
	s.wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			s.mu.Lock()
			s.conns = append(s.conns, c)
			s.mu.Unlock()
			s.wg.Go(func() { s.serve(c) })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		s.cut()
		s.wg.Wait()
	})
	return s
}

func newSigner(path string) (ssh.Signer, error) {
	if _, err := storetest.NewKey(path); err != nil {
		return nil, err
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	return ssh.ParsePrivateKey(text)
}

// cut ends all connections.
func (s *goServer) cut() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.conns {
		_ = c.Close()
	}
	s.conns = nil
}

func (s *goServer) connections() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.conns)
}

func (s *goServer) serve(c net.Conn) {
	defer c.Close()
	cfg := &ssh.ServerConfig{PublicKeyCallback: func(_ ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
		s.mu.Lock()
		defer s.mu.Unlock()
		if string(key.Marshal()) != string(s.allowed.Marshal()) {
			return nil, errors.New("another key")
		}
		return &ssh.Permissions{}, nil
	}}
	s.mu.Lock()
	for _, h := range s.host {
		cfg.AddHostKey(h)
	}
	s.mu.Unlock()
	_, chans, reqs, err := ssh.NewServerConn(c, cfg)
	if err != nil {
		return
	}
	s.wg.Go(func() { ssh.DiscardRequests(reqs) })
	for nc := range chans {
		ch, requests, err := nc.Accept()
		if err != nil {
			return
		}
		s.wg.Go(func() {
			for r := range requests {
				_ = r.Reply(r.Type == "subsystem", nil)
			}
		})
		s.wg.Go(func() {
			defer ch.Close()
			_ = s.session(ch)
		})
	}
}

func (s *goServer) options(dir string) sftp.Options {
	host, port, _ := net.SplitHostPort(s.addr)
	n, _ := strconv.Atoi(port)
	return sftp.Options{
		User: "anybody", Host: host, Port: n, Dir: filepath.Join(s.dir, dir),
		IdentityFiles: []string{s.key}, KnownHosts: []string{s.knownHosts},
	}
}

func (s *goServer) open(t *testing.T, dir string) *sftp.Store {
	t.Helper()
	st, err := sftp.Create(t.Context(), s.options(dir))
	if err != nil {
		t.Fatal(err)
	}
	return st
}

// sha is how a claim is named after its object.
func sha(name string) string {
	sum := sha256.Sum256([]byte(name))
	return fmt.Sprintf("%x", sum[:16])
}

// cutAt is a session that ends before a request that holds text is seen, once.
type cutAt struct {
	io.ReadWriteCloser
	text string
	once *sync.Once
	cut  func()
}

func (c *cutAt) Read(p []byte) (int, error) {
	n, err := c.ReadWriteCloser.Read(p)
	if bytes.Contains(p[:n], []byte(c.text)) {
		c.once.Do(func() {
			c.cut()
			n, err = 0, io.EOF
		})
	}
	return n, err
}
