package sftp

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"

	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/store"
)

// defaultIdentities are the files that OpenSSH looks for first (ssh_config(5), IdentityFile).
var defaultIdentities = []string{"~/.ssh/id_ed25519", "~/.ssh/id_ecdsa", "~/.ssh/id_rsa"}

// maxKeyFile bounds what is read of a file that is named as a key.
const maxKeyFile = 64 << 10

// identities are the keys that one connection offers, in their order, and what each is for messages.
type identities struct {
	signers []ssh.Signer
	named   []string
	agent   net.Conn // nil where there is none
}

func (i *identities) add(s ssh.Signer, from string) {
	i.signers = append(i.signers, s)
	i.named = append(i.named, fmt.Sprintf("%s (%s)", from, ssh.FingerprintSHA256(s.PublicKey())))
}

func (i *identities) close() {
	if i.agent != nil {
		_ = i.agent.Close()
	}
}

// identities finds the keys. They are read for each connection: a key may have been replaced meanwhile.
func (o Options) identities() (*identities, error) {
	found := &identities{}
	held := found.ask(o.Agent, o.Stall)
	files, given := o.IdentityFiles, len(o.IdentityFiles) > 0
	if !given {
		files = defaultIdentities
		for _, s := range held {
			found.add(s, "of the agent")
		}
	}
	for _, file := range files {
		s, err := readKey(file, held)
		switch {
		case err == nil:
			found.add(s, file)
		case given:
			found.close()
			return nil, store.WithKind(store.Denied, err)
		}
	}
	if len(found.signers) > 0 {
		return found, nil
	}
	found.close()
	return nil, store.WithKind(store.Denied, dr.Advise(
		errors.New("there is no key to log in with: no agent that has one, and no usable file ~/.ssh/id_ed25519, id_ecdsa or id_rsa"),
		"name a private key in the store's URL, identity-file=/path/to/key, or start an agent (SSH_AUTH_SOCK) and ssh-add one"))
}

// ask returns what the agent at a socket holds. One that does not answer has nothing.
func (i *identities) ask(socket string, limit time.Duration) []ssh.Signer {
	if socket == "" {
		socket = os.Getenv("SSH_AUTH_SOCK")
	}
	if socket == "" {
		return nil
	}
	c, err := net.DialTimeout("unix", socket, limit)
	if err != nil {
		return nil
	}
	i.agent = c
	if c.SetDeadline(time.Now().Add(limit)) != nil { // for what it signs, too
		return nil
	}
	signers, err := agent.NewClient(c).Signers()
	if err != nil {
		return nil
	}
	return signers
}

// readKey reads a private key. One that has a passphrase is used by the agent if it is there. No error repeats
// bytes of the file.
func readKey(name string, held []ssh.Signer) (ssh.Signer, error) {
	path, err := local(name)
	if err != nil {
		return nil, err
	}
	text, err := readFile(path)
	if err != nil {
		return nil, dr.Advise(fmt.Errorf("private key %s: %w", name, cause(err)), "correct identity-file in the store's URL, or let this user read that file")
	}
	s, err := ssh.ParsePrivateKey(text)
	var locked *ssh.PassphraseMissingError
	switch {
	case err == nil:
		return s, nil
	case !errors.As(err, &locked):
		return nil, dr.Advise(fmt.Errorf("private key %s: it is none that can be read", name), "name the private key, not the .pub beside it")
	}
	if public := publicOf(path, locked); public != nil {
		for _, s := range held {
			if string(s.PublicKey().Marshal()) == string(public.Marshal()) {
				return s, nil
			}
		}
	}
	return nil, dr.Advise(fmt.Errorf("private key %s: it has a passphrase, and no agent holds it", name),
		"hand it to an agent: ssh-add "+name+"; or make a key without a passphrase for this machine alone")
}

// publicOf returns the public half of a locked key, nil where nothing tells it.
func publicOf(path string, locked *ssh.PassphraseMissingError) ssh.PublicKey {
	if locked.PublicKey != nil {
		return locked.PublicKey
	}
	text, err := readFile(path + ".pub")
	if err != nil {
		return nil
	}
	public, _, _, _, err := ssh.ParseAuthorizedKey(text) //nolint:dogsled // that is its signature
	if err != nil {
		return nil
	}
	return public
}

func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxKeyFile))
}

// cause drops the path that a file's error repeats.
func cause(err error) error {
	var p *fs.PathError
	if errors.As(err, &p) {
		return p.Err
	}
	return err
}

// refused says who was turned away with what.
func (i *identities) refused(user string) error {
	return store.WithKind(store.Denied, dr.Advise(
		fmt.Errorf("the server accepts none of the keys for user %s: %s", user, strings.Join(i.named, ", ")),
		"add the public half of one of them to ~/.ssh/authorized_keys of that user on the server, or name another key in the store's URL: identity-file=…"))
}
