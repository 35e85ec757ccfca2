package pgtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// Options say how a server is made. The zero value is a small server of any installed version.
type Options struct {
	Version   string            // major version, "15"; empty: any
	Checksums bool              // initdb --data-checksums
	InitArgs  []string          // more arguments of initdb, such as "--wal-segsize=1"
	Conf      map[string]string // postgresql.conf, over what the tests need anyway
	TCP       bool              // listen on 127.0.0.1 too
}

// Server is a running (or stopped) PostgreSQL server of a test. Its superuser is "postgres", without password.
// It is used by one goroutine, except Kill9 and ConnString.
type Server struct {
	DataDir string
	BinDir  string // holds initdb, pg_ctl, postgres; Debian's holds all programs
	Version int    // major version
	Socket  string // directory of the Unix socket
	Port    int

	t       testing.TB
	account account
	opt     Options
	logFile string
	cmd     *exec.Cmd     // nil while stopped
	exited  chan struct{} // closed when cmd has ended
}

// startTimeout bounds how long a server may take to answer, crash recovery included, on a machine that has other work too.
const startTimeout = 2 * time.Minute

// Start makes a cluster with initdb and starts it.
func Start(t testing.TB, o Options) *Server {
	t.Helper()
	s := newServer(t, o)
	s.DataDir = filepath.Join(s.Socket, "data")
	args := []string{"-Upostgres", "-Atrust", "-EUTF8", "--locale=C", "--no-sync"}
	if o.Checksums {
		args = append(args, "--data-checksums")
	} else if s.Version >= 18 {
		args = append(args, "--no-data-checksums") // the default since 18
	}
	if err := s.initdb(find(t, o.Version), append(args, o.InitArgs...)); err != nil {
		t.Fatal(err)
	}
	s.configure()
	s.Start()
	return s
}

// Open returns a server, not yet started, on a data directory that exists already, for instance a restored one;
// it becomes the property of the server's user. Settings of o.Conf and where to listen are given on the command
// line, so that the directory's own configuration stays as it is.
func Open(t testing.TB, dataDir string, o Options) *Server {
	t.Helper()
	if o.Version == "" {
		v, err := os.ReadFile(filepath.Join(dataDir, "PG_VERSION"))
		if err != nil {
			t.Fatal(err)
		}
		o.Version = string(bytes.TrimSpace(v))
	}
	s := newServer(t, o)
	s.DataDir = dataDir
	Chown(t, dataDir)
	return s
}

func newServer(t testing.TB, o Options) *Server {
	t.Helper()
	in := find(t, o.Version)
	s := &Server{t: t, opt: o, account: theAccount(t), Version: in.major, BinDir: reachable(t, in), Port: 5432}
	s.Socket = TempDir(t)
	s.logFile = filepath.Join(s.Socket, "log")
	if o.TCP {
		s.Port = freePort(t)
	}
	t.Cleanup(func() {
		s.Kill9()
		if t.Failed() {
			t.Logf("end of the log of %s:\n%s", s.DataDir, tail(s.Log(), 12_000))
		}
	})
	return s
}

// baseline is the configuration of every test server: small, and without fsync, since nobody cuts the power.
// The test of lost syncs works on the repository's side.
func (s *Server) baseline() map[string]string {
	conf := map[string]string{
		"listen_addresses":        "",
		"unix_socket_directories": s.Socket,
		"port":                    strconv.Itoa(s.Port),
		"fsync":                   "off",
		"shared_buffers":          "32MB",
		"max_connections":         "50",
		"wal_level":               "replica",
		"max_wal_senders":         "12",
		"max_replication_slots":   "12",
		"hot_standby":             "on",
		"logging_collector":       "off",
		"log_line_prefix":         "%m [%p] %q%a ",
		// A standby whose primary does not answer at once tries again after 5 s, if not told otherwise.
		"wal_retrieve_retry_interval": "100ms",
		"timezone":                    "UTC",
		"log_timezone":                "UTC",
	}
	if s.opt.TCP {
		conf["listen_addresses"] = "127.0.0.1"
	}
	for k, v := range s.opt.Conf {
		conf[k] = v
	}
	return conf
}

// configure appends the baseline to postgresql.conf.
func (s *Server) configure() {
	s.t.Helper()
	var b bytes.Buffer
	b.WriteString("\n")
	conf := s.baseline()
	keys := make([]string, 0, len(conf))
	for k := range conf {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	for _, k := range keys {
		fmt.Fprintf(&b, "%s = '%s'\n", k, bytes.ReplaceAll([]byte(conf[k]), []byte("'"), []byte("''")))
	}
	f, err := os.OpenFile(filepath.Join(s.DataDir, "postgresql.conf"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		s.t.Fatal(err)
	}
	_, err = f.Write(b.Bytes())
	if err := errors.Join(err, f.Close()); err != nil {
		s.t.Fatal(err)
	}
}

// Start starts the server and waits until it answers (on a standby: queries of its consistent state).
func (s *Server) Start() {
	s.t.Helper()
	if err := s.TryStart(); err != nil {
		s.t.Fatal(err)
	}
}

// TryStart is Start for a server that may refuse: the error holds the end of its log.
func (s *Server) TryStart() error {
	if err := s.Launch(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	again := time.NewTicker(10 * time.Millisecond) // PostgreSQL tells nobody when it is ready: ask
	defer again.Stop()
	for {
		conn, err := pgx.Connect(ctx, s.ConnString(""))
		if err == nil {
			return conn.Close(ctx)
		}
		select {
		case <-s.exited:
			s.cmd = nil
			return fmt.Errorf("the server did not start:\n%s", tail(s.Log(), 3000))
		case <-ctx.Done():
			s.Kill9()
			return fmt.Errorf("the server does not answer after %v: %w\n%s", startTimeout, err, tail(s.Log(), 3000))
		case <-again.C:
		}
	}
}

// Launch starts the server's process and returns at once; WaitExit waits for its end.
func (s *Server) Launch() error {
	if s.cmd != nil {
		return errors.New("the server runs already")
	}
	args := []string{"-D", s.DataDir}
	for k, v := range s.baseline() {
		args = append(args, "-c", k+"="+v)
	}
	logFile, err := os.OpenFile(s.logFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer logFile.Close()                                                  //nolint:errcheck // the child has its own descriptor
	cmd := command(s.account, syscall.SIGQUIT, s.Bin("postgres"), args...) // SIGQUIT takes the children along
	cmd.Stdout, cmd.Stderr = logFile, logFile
	if err := start(cmd); err != nil {
		return fmt.Errorf("run postgres: %w", err)
	}
	exited := make(chan struct{})
	go func() {
		_ = cmd.Wait() // how it ended is in the log
		close(exited)
	}()
	s.cmd, s.exited = cmd, exited
	return nil
}

// Bin returns the path of a program of this version. The test is skipped where the binaries lack it.
func (s *Server) Bin(name string) string {
	s.t.Helper()
	p := filepath.Join(s.BinDir, name)
	if _, err := os.Stat(p); err != nil {
		s.t.Skipf("the binaries of PostgreSQL %d in %s have no %s: install Debian's package", s.Version, s.BinDir, name)
	}
	return p
}

// Log returns what the server has logged so far.
func (s *Server) Log() string {
	b, err := os.ReadFile(s.logFile)
	if err != nil && !os.IsNotExist(err) {
		return err.Error()
	}
	return string(b)
}

func tail(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return "…" + s[len(s)-n:]
}

func freePort(t testing.TB) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close() //nolint:errcheck // nothing was sent
	return l.Addr().(*net.TCPAddr).Port
}
