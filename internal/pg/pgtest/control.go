package pgtest

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// Mode is how a server is stopped.
type Mode syscall.Signal

// The modes of pg_ctl stop.
const (
	Smart     = Mode(syscall.SIGTERM) // waits for the clients to leave
	Fast      = Mode(syscall.SIGINT)  // a clean stop, with a shutdown checkpoint
	Immediate = Mode(syscall.SIGQUIT) // a crash
)

// Stop stops the server and waits until its process is gone.
func (s *Server) Stop(mode Mode) {
	s.t.Helper()
	s.Signal(mode)
	s.WaitExit()
}

// Signal begins a stop and returns at once; WaitExit waits for its end.
func (s *Server) Signal(mode Mode) {
	s.t.Helper()
	if s.cmd == nil {
		return
	}
	if err := s.cmd.Process.Signal(syscall.Signal(mode)); err != nil {
		s.t.Fatalf("stop the server: %v", err)
	}
}

// WaitExit waits until the server's process has ended by itself or by Signal.
func (s *Server) WaitExit() {
	s.t.Helper()
	if s.cmd == nil {
		return
	}
	select {
	case <-s.exited:
		s.cmd = nil
	case <-time.After(startTimeout):
		s.Kill9()
		s.t.Fatalf("the server did not end within %v", startTimeout)
	}
}

// Exited is closed when the process that runs now has ended; nil while the server is stopped.
func (s *Server) Exited() <-chan struct{} {
	if s.cmd == nil {
		return nil
	}
	return s.exited
}

// Kill9 kills every process of the server at once, as a loss of the machine would. A stopped server stays
// stopped.
func (s *Server) Kill9() {
	if s.cmd == nil {
		return
	}
	// Each backend leads a process group of its own; those that are left notice the postmaster's death.
	children, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", s.cmd.Process.Pid, s.cmd.Process.Pid))
	_ = s.cmd.Process.Kill()
	<-s.exited
	for _, f := range strings.Fields(string(children)) {
		if pid, err := strconv.Atoi(f); err == nil {
			s.killChild(pid)
		}
	}
	s.cmd = nil
	// A killed postmaster cannot remove these; a new one would take a recycled process id for itself.
	_ = os.Remove(filepath.Join(s.DataDir, "postmaster.pid"))
}

// unloggedLeft is how a start fails after a crash amidst SET UNLOGGED, in all versions: replay has made the relation's main
// fork, and the start wants to make it anew from the init fork.
var unloggedLeft = regexp.MustCompile(`FATAL:  could not create file "([^"]+)": File exists`)

// Crash kills the server and starts it again.
func (s *Server) Crash() {
	s.t.Helper()
	s.Kill9()
	for err := s.TryStart(); err != nil; err = s.TryStart() {
		left := unloggedLeft.FindAllStringSubmatch(err.Error(), -1)
		if left == nil {
			s.t.Fatal(err)
		}
		fork := left[len(left)-1][1] // the log's end is that of this start
		if _, noInit := os.Stat(filepath.Join(s.DataDir, fork+"_init")); noInit != nil {
			s.t.Fatal(err)
		}
		s.t.Logf("as somebody would do: %s is removed, which an unlogged relation has from its init fork", fork)
		if gone := os.Remove(filepath.Join(s.DataDir, fork)); gone != nil {
			s.t.Fatal(err, gone)
		}
	}
}

// killChild kills a process of this server and waits until it is gone: while one is left, a new server refuses
// to start, and the directory cannot be removed.
func (s *Server) killChild(pid int) {
	for deadline := time.Now().Add(startTimeout); s.owns(pid) && time.Now().Before(deadline); {
		_ = syscall.Kill(pid, syscall.SIGKILL)
		time.Sleep(time.Millisecond) // it is not our child, so nobody tells us of its end
	}
}

// owns tells whether pid still is a process of this server: its working directory is the data directory.
func (s *Server) owns(pid int) bool {
	cwd, err := os.Readlink(fmt.Sprintf("/proc/%d/cwd", pid))
	return err == nil && cwd == s.DataDir
}

// Restart stops the server cleanly and starts it again.
func (s *Server) Restart() {
	s.t.Helper()
	s.Stop(Fast)
	s.Start()
}

// Promote makes a standby a primary on a new timeline and waits until it accepts writes.
func (s *Server) Promote() {
	s.t.Helper()
	if got := s.Query("", "SELECT pg_promote(true, 60)"); got != "t" {
		s.t.Fatalf("pg_promote says %q", got)
	}
}

// ConnString returns a libpq connection string for the superuser to a database, "postgres" where db is empty.
func (s *Server) ConnString(db string) string {
	if db == "" {
		db = "postgres"
	}
	host := s.Socket
	if s.opt.TCP {
		host = "127.0.0.1"
	}
	return fmt.Sprintf("host=%s port=%d user=postgres dbname=%s sslmode=disable", host, s.Port, db)
}

// Connect returns a connection that is closed when the test ends.
func (s *Server) Connect(db string) *pgx.Conn {
	s.t.Helper()
	conn, err := pgx.Connect(context.Background(), s.ConnString(db))
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

// Exec runs statements, each in its own transaction.
func (s *Server) Exec(db string, statements ...string) {
	s.t.Helper()
	ctx := context.Background()
	conn, err := pgx.Connect(ctx, s.ConnString(db))
	if err != nil {
		s.t.Fatal(err)
	}
	defer conn.Close(ctx) //nolint:errcheck // the statements' results are in already
	for _, q := range statements {
		if _, err := conn.Exec(ctx, q); err != nil {
			s.t.Fatalf("%s: %v", q, err)
		}
	}
}

// Query returns the result of a query as psql -At prints it: columns parted by "|", rows by a new line.
func (s *Server) Query(db, query string) string {
	s.t.Helper()
	ctx := context.Background()
	conn, err := pgx.Connect(ctx, s.ConnString(db))
	if err != nil {
		s.t.Fatal(err)
	}
	defer conn.Close(ctx) //nolint:errcheck // the result is in already
	results, err := conn.PgConn().Exec(ctx, query).ReadAll()
	if err != nil {
		s.t.Fatalf("%s: %v", query, err)
	}
	var b strings.Builder
	for _, r := range results {
		for _, row := range r.Rows {
			if b.Len() > 0 {
				b.WriteByte('\n')
			}
			for i, col := range row {
				if i > 0 {
					b.WriteByte('|')
				}
				b.Write(col)
			}
		}
	}
	return b.String()
}

// Tablespace makes a directory beside the data directory and a tablespace in it, and returns the directory.
func (s *Server) Tablespace(name string) string {
	s.t.Helper()
	dir := filepath.Join(s.Socket, "ts-"+name)
	if err := os.Mkdir(dir, 0o700); err != nil {
		s.t.Fatal(err)
	}
	Chown(s.t, dir)
	s.Exec("", "CREATE TABLESPACE "+pgx.Identifier{name}.Sanitize()+" LOCATION '"+dir+"'")
	return dir
}

// Until polls a query until it gives want, or fails the test after a minute.
func (s *Server) Until(t testing.TB, db, query, want string) {
	t.Helper()
	deadline := time.After(startTimeout)
	again := time.NewTicker(20 * time.Millisecond) // the server's state changes in another process: ask
	defer again.Stop()
	for {
		got := s.Query(db, query)
		if got == want {
			return
		}
		select {
		case <-deadline:
			t.Fatalf("%s still gives %q, want %q", query, got, want)
		case <-again.C:
		}
	}
}
