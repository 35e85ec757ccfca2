package sftp_test

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"

	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/store/sftp"
	"github.com/holdfast-dr/holdfast/internal/store/storetest"
)

// startAgent starts an agent that holds a key, and returns its socket.
func startAgent(t *testing.T, key any) string {
	t.Helper()
	ring := agent.NewKeyring()
	if err := ring.Add(agent.AddedKey{PrivateKey: key}); err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "agent") // a socket's path is short
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				_ = agent.ServeAgent(ring, c)
			})
		}
	})
	t.Cleanup(func() {
		_ = errors.Join(l.Close(), os.RemoveAll(dir))
		wg.Wait()
	})
	return l.Addr().String()
}

// Keys are found as OpenSSH finds them: in the agent, in the files of ~/.ssh, in a file that has a passphrase and
// that the agent has opened.
func TestWhereKeysAre(t *testing.T) {
	srv := startGo(t, "posix-rename@openssh.com")
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	allowed, err := ssh.NewPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	srv.mu.Lock()
	srv.allowed = allowed
	srv.mu.Unlock()
	home := t.TempDir()
	t.Setenv("HOME", home)
	t.Setenv("SSH_AUTH_SOCK", "")
	file := filepath.Join(home, "locked")
	if err := errors.Join(os.Mkdir(filepath.Join(home, ".ssh"), 0o700), os.WriteFile(file, locked(allowed), 0o600)); err != nil {
		t.Fatal(err)
	}
	socket := startAgent(t, private)
	try := func(agent string, files ...string) error {
		o := srv.options("s")
		o.Agent, o.IdentityFiles = agent, files
		s, err := sftp.Create(t.Context(), o)
		if err == nil {
			err = s.Close()
		}
		return err
	}
	for what, err := range map[string]error{"the agent": try(socket), "a locked file with the agent": try(socket, file)} {
		if err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	for next, err := range map[string]error{
		"ssh-add " + file: try("", file), "identity-file=/path/to/key": try(""), "authorized_keys": try(socket, srv.key),
		"correct identity-file": try(socket, "~/absent"),
	} {
		if err == nil || !strings.Contains(dr.Advice(err), next) {
			t.Errorf("got %v, want the advice %q", err, next)
		}
	}
	t.Setenv("SSH_AUTH_SOCK", socket)
	if err := try(""); err != nil {
		t.Errorf("the agent of the environment: %v", err)
	}
	t.Setenv("SSH_AUTH_SOCK", filepath.Join(home, "nobody-listens"))
	block, err := ssh.MarshalPrivateKey(private, "")
	if err == nil {
		err = os.WriteFile(filepath.Join(home, ".ssh", "id_ed25519"), pem.EncodeToMemory(block), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := try(""); err != nil {
		t.Errorf("~/.ssh/id_ed25519: %v", err)
	}
}

// locked returns the file of a private key that has a passphrase, but for the bytes that the passphrase opens
// (OpenSSH, PROTOCOL.key).
func locked(public ssh.PublicKey) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "OPENSSH PRIVATE KEY", Bytes: append([]byte("openssh-key-v1\x00"), ssh.Marshal(struct {
		Cipher, KDF, Options string
		Keys                 uint32
		Public, Private      []byte
	}{"aes256-ctr", "bcrypt", "", 1, public.Marshal(), make([]byte, 64)})...)})
}

// A server presents the key that it likes best; the one that known_hosts has is asked for.
func TestKnownKeyIsAskedFor(t *testing.T) {
	srv := startGo(t, "posix-rename@openssh.com")
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	second, err := ssh.NewSignerFromKey(private)
	if err != nil {
		t.Fatal(err)
	}
	srv.mu.Lock()
	srv.host = append(srv.host, second)
	keys := srv.host
	srv.mu.Unlock()
	for _, key := range keys {
		if err := os.WriteFile(srv.knownHosts, storetest.KnownHost(srv.addr, key.PublicKey()), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := srv.open(t, "s").Close(); err != nil {
			t.Error(err)
		}
	}
}
