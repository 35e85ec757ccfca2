package sftp

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// Options say where a store is and how to get there. User, Host and Dir are required.
type Options struct {
	User string
	Host string
	Port int    // 22
	Dir  string // the root, a clean path: absolute, or relative to the user's home on the server

	// IdentityFiles are private keys; the agent is asked only for those that it must open. Empty: what the agent
	// has, and the files that OpenSSH looks for.
	IdentityFiles []string
	KnownHosts    []string // files; empty: those of OpenSSH
	Agent         string   // the agent's socket; empty: SSH_AUTH_SOCK

	Stall time.Duration // a call for which nothing comes back for so long is given up; 30 s
}

const (
	defaultStall = 30 * time.Second

	// slowestRate is the line, in bytes a second, on which a call may still take its time.
	slowestRate = 32 << 10

	// A connection's throughput is bounded by its windows and by one processor for its cipher; a server bounds
	// how many it takes.
	maxConns  = 4
	busyCalls = 4  // on each connection, before another one is dialled
	maxCalls  = 32 // at once, on all of them
)

func (o Options) address() string {
	port := o.Port
	if port == 0 {
		port = 22
	}
	return net.JoinHostPort(o.Host, strconv.Itoa(port))
}

// name is the URL without its parameters.
func (o Options) name() string {
	host := o.Host
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	if o.Port != 0 && o.Port != 22 {
		host += ":" + strconv.Itoa(o.Port)
	}
	dir := o.Dir
	if !strings.HasPrefix(dir, "/") {
		dir = "/~/" + dir
	}
	return fmt.Sprintf("sftp://%s@%s%s", o.User, host, dir)
}

// local returns the path of a file of this machine, whose name may begin with ~/.
func local(name string) (string, error) {
	rest, home := strings.CutPrefix(name, "~/")
	if !home {
		return name, nil
	}
	dir, err := os.UserHomeDir()
	if err != nil || dir == "" {
		return "", errors.New(name + " cannot be found: this user's home directory is unknown")
	}
	return filepath.Join(dir, rest), nil
}
