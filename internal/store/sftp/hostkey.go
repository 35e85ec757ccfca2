package sftp

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"slices"
	"strings"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"

	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/store"
)

// defaultKnownHosts are the files of OpenSSH (ssh_config(5), UserKnownHostsFile and GlobalKnownHostsFile).
var defaultKnownHosts = []string{"~/.ssh/known_hosts", "/etc/ssh/ssh_known_hosts"}

// hostKeys decides whether a server is the one that it says it is.
type hostKeys struct {
	o     Options
	check ssh.HostKeyCallback

	// authority says that known_hosts has a certificate authority, for whatever hosts.
	authority bool
}

// hostKeys reads the files of known hosts, which need not exist: then no host is known.
func (o Options) hostKeys() (*hostKeys, error) {
	h := &hostKeys{o: o}
	names, given := o.KnownHosts, len(o.KnownHosts) > 0
	if !given {
		names = defaultKnownHosts
	}
	var files []string
	for _, name := range names {
		path, err := local(name)
		if err != nil && given {
			return nil, store.WithKind(store.Denied, err)
		}
		text, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, store.WithKind(store.Denied, dr.Advise(fmt.Errorf("known hosts %s: %w", name, cause(err)), "let this user read the file"))
		}
		files = append(files, path)
		h.authority = h.authority || bytes.Contains(text, []byte("@cert-authority"))
	}
	var err error
	if h.check, err = knownhosts.New(files...); err != nil {
		return nil, store.WithKind(store.Denied, dr.Advise(err, "correct that line: a mark in it may be what revokes a key, so nothing is skipped"))
	}
	return h, nil
}

// algorithms returns the kinds of keys to ask the server for, the known ones first: it would otherwise present the
// one that it likes best, of which we may know nothing.
func (h *hostKeys) algorithms() []string {
	if h.authority {
		return nil // certificates first, as is the default
	}
	var known []string
	var mismatch *knownhosts.KeyError
	if err := h.check(h.o.address(), nowhere, nobody{}); errors.As(err, &mismatch) {
		for _, w := range mismatch.Want {
			known = append(known, w.Key.Type())
		}
	}
	var first, others []string
	for _, a := range ssh.SupportedAlgorithms().HostKeys {
		kind := a
		if a == ssh.KeyAlgoRSASHA256 || a == ssh.KeyAlgoRSASHA512 {
			kind = ssh.KeyAlgoRSA
		}
		switch {
		case strings.Contains(a, "-cert-"): // without an authority none is good
		case slices.Contains(known, kind):
			first = append(first, a)
		default:
			others = append(others, a)
		}
	}
	return append(first, others...)
}

// verify is called with the key that the server has proved to own.
func (h *hostKeys) verify(address string, remote net.Addr, key ssh.PublicKey) error {
	err := h.check(address, remote, key)
	if err == nil {
		return nil
	}
	shown := key.Type() + " " + ssh.FingerprintSHA256(key)
	var mismatch *knownhosts.KeyError
	var revoked *knownhosts.RevokedError
	switch {
	case errors.As(err, &revoked):
		err = dr.Advise(fmt.Errorf("the key of the host, %s, is revoked by %s:%d", shown, revoked.Revoked.Filename, revoked.Revoked.Line),
			"do not connect: ask who runs the server")
	case errors.As(err, &mismatch) && len(mismatch.Want) == 0:
		err = dr.Advise(fmt.Errorf("the host is not known, and its key is %s", shown),
			"compare that with what who runs the server says, then: ssh-keyscan "+h.o.scan()+" >> "+h.file())
	case errors.As(err, &mismatch):
		w := mismatch.Want[0]
		err = dr.Advise(fmt.Errorf("the key of the host has changed to %s, and %s:%d has %s: it may be another machine that pretends to be it",
			shown, w.Filename, w.Line, ssh.FingerprintSHA256(w.Key)),
			"ask who runs the server whether its key was replaced; only then remove that line and add the new key")
	}
	return store.WithKind(store.Denied, err)
}

// file is where a person adds a known host.
func (h *hostKeys) file() string {
	if len(h.o.KnownHosts) > 0 {
		return h.o.KnownHosts[0]
	}
	return defaultKnownHosts[0]
}

// scan are the arguments of ssh-keyscan for the host.
func (o Options) scan() string {
	if o.Port != 0 && o.Port != 22 {
		return fmt.Sprintf("-p %d %s", o.Port, o.Host)
	}
	return o.Host
}

// nowhere and nobody ask for what is known of a host before it was reached.
var nowhere = &net.TCPAddr{IP: net.IPv4zero}

type nobody struct{}

func (nobody) Type() string                        { return "none" }
func (nobody) Marshal() []byte                     { return nil }
func (nobody) Verify([]byte, *ssh.Signature) error { return errors.New("no key") }
