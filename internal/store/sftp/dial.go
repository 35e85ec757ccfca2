package sftp

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"path"
	"strings"

	"github.com/pkg/sftp"
	"golang.org/x/crypto/ssh"

	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/store"
)

// conn is one SSH connection with one SFTP session, on which several calls are under way.
type conn struct {
	*sftp.Client
	ssh   *ssh.Client
	line  *line
	fsync bool // the server can sync a file
	links bool // the server says that it makes hard links

	calls int // guarded by Store.mu
}

func (c *conn) close(why error) {
	c.line.kill(why)
	_ = c.Client.Close() // waits for its goroutine
	_ = c.ssh.Close()
}

// dial makes a connection: the host proves who it is, then we do, and the root is there.
func (s *Store) dial(ctx context.Context) (*conn, error) {
	hosts, err := s.opts.hostKeys()
	if err != nil {
		return nil, err
	}
	who, err := s.opts.identities()
	if err != nil {
		return nil, err
	}
	defer who.close()
	d := net.Dialer{Timeout: s.opts.Stall}
	raw, err := d.DialContext(ctx, "tcp", s.opts.address())
	if err != nil {
		return nil, err
	}
	l := &line{Conn: raw, stall: s.opts.Stall}
	defer l.begin(ctx, s.longest(0))()
	c, err := s.shake(l, hosts, who)
	if err == nil {
		if err = s.findRoot(c); err == nil {
			return c, nil
		}
	}
	if why := l.broken(); why != nil && errors.Is(why, errGivenUp) {
		err = busy("connect: %w", why)
	}
	l.kill(errClosed)
	return nil, err
}

// shake does the handshakes of SSH and SFTP.
func (s *Store) shake(l *line, hosts *hostKeys, who *identities) (*conn, error) {
	var unbelieved error
	cfg := &ssh.ClientConfig{
		User:              s.opts.User,
		Auth:              []ssh.AuthMethod{ssh.PublicKeys(who.signers...)},
		HostKeyAlgorithms: hosts.algorithms(),
		HostKeyCallback: func(address string, remote net.Addr, key ssh.PublicKey) error {
			unbelieved = hosts.verify(address, remote, key)
			return unbelieved
		},
	}
	sc, chans, reqs, err := ssh.NewClientConn(l, s.opts.address(), cfg)
	if err != nil {
		return nil, s.unshaken(err, unbelieved, who)
	}
	client := ssh.NewClient(sc, chans, reqs)
	session, err := sftp.NewClient(client, sftp.UseConcurrentWrites(true))
	if err != nil {
		if l.broken() != nil {
			return nil, busy("open an SFTP session: %w", l.broken())
		}
		return nil, store.WithKind(store.Denied, dr.Advise(fmt.Errorf("open an SFTP session: %s", clip(err.Error())),
			"let the user "+s.opts.User+" use the subsystem sftp on that server"))
	}
	c := &conn{Client: session, ssh: client, line: l}
	has := func(name string) bool { v, ok := session.HasExtension(name); return ok && v == "1" }
	c.fsync, c.links = has("fsync@openssh.com"), has("hardlink@openssh.com")
	if !has("posix-rename@openssh.com") {
		c.close(errClosed)
		return nil, store.WithKind(store.Denied, dr.Advise(errors.New("the server cannot replace a file in one step (it lacks posix-rename@openssh.com)"),
			"use a server that can, such as OpenSSH"))
	}
	return c, nil
}

// unshaken says why there is no SSH connection.
func (s *Store) unshaken(err, unbelieved error, who *identities) error {
	var none *ssh.AlgorithmNegotiationError
	switch text := err.Error(); {
	case unbelieved != nil:
		return unbelieved
	// The library has no types for these two.
	case strings.Contains(text, "unable to authenticate"), strings.Contains(text, "Too many authentication failures"):
		return who.refused(s.opts.User)
	case errors.As(err, &none):
		return store.WithKind(store.Denied, dr.Advise(errors.New(clip(text)), "bring the server's SSH up to date: it offers nothing that is held safe today"))
	}
	return busy("connect: %s", clip(err.Error()))
}

// findRoot sees that the root is a directory, or makes it where that is wanted.
func (s *Store) findRoot(c *conn) error {
	err := s.absent(c)
	if errors.Is(err, store.ErrNotExist) {
		return nil
	}
	s.mu.Lock()
	wanted := s.makeRoot
	s.mu.Unlock()
	if _, missing := c.Stat(s.opts.Dir); !wanted || !isAbsent(missing) {
		return err
	}
	if err := makeAll(c, s.opts.Dir); err != nil {
		return did("make directory "+s.opts.Dir, err)
	}
	// What is below needs no such care then.
	if err := c.Chmod(s.opts.Dir, 0o700); err != nil {
		return did("keep others out of directory "+s.opts.Dir, err)
	}
	return nil
}

// makeAll makes a directory and its parents.
func makeAll(c *conn, dir string) error {
	err := c.Mkdir(dir)
	if isAbsent(err) && path.Dir(dir) != dir {
		if err := makeAll(c, path.Dir(dir)); err != nil {
			return err
		}
		err = c.Mkdir(dir)
	}
	if err != nil {
		if fi, statErr := c.Stat(dir); statErr == nil && fi.IsDir() {
			return nil // somebody else made it
		}
	}
	return err
}

func isAbsent(err error) bool { return errors.Is(err, fs.ErrNotExist) }
