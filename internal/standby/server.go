package standby

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/holdfast-dr/holdfast/internal/pg/control"
	"github.com/holdfast-dr/holdfast/internal/restore"
	"github.com/holdfast-dr/holdfast/internal/restore/boot"
)

// server is the standby's PostgreSQL: a child, or one that a run before this one left.
type server struct {
	dir    string
	pid    int
	exited chan struct{} // closed when a child has ended; nil for one that was found
}

// stopPatience is how long a server may take to stop before it is told to stop at once.
const stopPatience = time.Minute

// start starts the server, or finds it running.
func (x *run) start(ctx context.Context) error {
	x.phase(PhaseStarting)
	if err := x.writeAccess(); err != nil {
		return err
	}
	if pid := restore.RunningServer(x.o.Dir); pid != 0 {
		x.server = &server{dir: x.o.Dir, pid: pid}
		if x.listensHere() {
			x.log.Info("the server runs already, and goes on", "pid", pid)
			return syscall.Kill(pid, syscall.SIGHUP) // who may connect is written anew
		}
		x.log.Info("the server runs with another port or place; it is started again", "pid", pid)
		if err := errors.Join(x.server.stop(ctx), setUpstream(x.o.Dir, x.place.conninfo())); err != nil {
			return err
		}
	}
	d, err := readControl(ctx, x.o.Dir)
	if err != nil {
		return err
	}
	bin, err := boot.FindBinaries(d.Major(), x.o.BinDir)
	if err != nil {
		return err
	}
	out, err := os.OpenFile(x.logFile(), os.O_WRONLY|os.O_CREATE|os.O_APPEND|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	defer out.Close() //nolint:errcheck // the server has its own descriptor
	cmd := exec.Command(filepath.Join(bin, "postgres"), x.args(d)...)
	cmd.Stdout, cmd.Stderr, cmd.Dir, cmd.Env = out, out, "/", inherited(os.Environ())
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // it goes on when it was promoted, or we are killed
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("run postgres: %w", err)
	}
	s := &server{dir: x.o.Dir, pid: cmd.Process.Pid, exited: make(chan struct{})}
	go func() {
		_ = cmd.Wait() // why it ended is in its log
		close(s.exited)
	}()
	x.server = s
	return nil
}

// inherited returns what a server needs of an environment. The rest may hold what opens stores and repositories.
func inherited(environment []string) []string {
	return slices.DeleteFunc(environment, func(variable string) bool {
		name, _, _ := strings.Cut(variable, "=")
		switch name {
		case "PATH", "HOME", "USER", "LOGNAME", "LANG", "LANGUAGE", "TZ", "TMPDIR":
			return false
		}
		return !strings.HasPrefix(name, "LC_") && !strings.HasPrefix(name, "LD_") && !strings.HasPrefix(name, "PG_OOM_")
	})
}

// listensHere tells whether the server that runs listens where we would let it: postmaster.pid has the port in its fourth line, and
// the first socket's directory in the fifth.
func (x *run) listensHere() bool {
	b, err := os.ReadFile(filepath.Join(x.o.Dir, "postmaster.pid"))
	lines := strings.Split(string(b), "\n")
	return err == nil && len(lines) > 4 && lines[3] == strconv.Itoa(x.port()) && lines[4] == x.place.dir
}

func (x *run) logFile() string { return x.o.Dir + ".log" }

// args are the settings of this start.
func (x *run) args(d control.Data) []string {
	sockets := `"` + x.place.dir + `"`
	if x.o.SocketDir != "" {
		sockets += `,"` + x.o.SocketDir + `"`
	}
	set := map[string]string{
		"data_directory":          x.o.Dir,
		"hba_file":                filepath.Join(x.o.Dir, accessPrefix+"pg_hba.conf"),
		"ident_file":              filepath.Join(x.o.Dir, accessPrefix+"pg_ident.conf"),
		"external_pid_file":       "",
		"logging_collector":       "off",
		"log_destination":         "stderr",
		"port":                    strconv.Itoa(x.port()),
		"listen_addresses":        x.o.Listen,
		"unix_socket_directories": sockets,
		"hot_standby":             "on",
	}
	// The source's of today: they may have been raised since the snapshot, and a standby must not undercut them.
	for name, value := range d.Least {
		set[name] = strconv.Itoa(value)
	}
	args := []string{"-D", x.o.Dir}
	for name, value := range set {
		args = append(args, "-c", name+"="+value)
	}
	return args
}

func (x *run) port() int {
	if x.o.Port == 0 {
		return 5432
	}
	return x.o.Port
}

func (x *run) superuser() string {
	if x.o.Superuser == "" {
		return "postgres"
	}
	return x.o.Superuser
}

// accessPrefix begins the names of the files that say who may connect.
const accessPrefix = "holdfast_"

// writeAccess writes who may connect: whom the cluster's own files let in, and this process's user as the superuser, proven by
// the kernel. PostgreSQL takes the first line that matches: ours is the last, unless we were not let in. It lies beside the cluster's own
// file, since what that includes is named relative to it.
func (x *run) writeAccess() error {
	me, err := user.Current()
	if err != nil {
		return err
	}
	for name, line := range map[string]string{
		"pg_hba.conf":   fmt.Sprintf("local all %q peer map=holdfast\n", x.superuser()),
		"pg_ident.conf": fmt.Sprintf("holdfast %q %q\n", me.Username, x.superuser()),
	} {
		own, err := os.ReadFile(filepath.Join(x.o.Dir, name))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		parts := [][]byte{fmt.Appendf(nil, "# Written by holdfast standby at each start, out of %s of the data directory and a line of its own.", name), own, []byte(line)}
		if x.lockedOut {
			parts[1], parts[2] = parts[2], parts[1]
		}
		if err := replaceFile(filepath.Join(x.o.Dir, accessPrefix+name), bytes.Join(parts, []byte("\n"))); err != nil {
			return err
		}
	}
	return nil
}

func (x *run) connString(db string) string {
	quote := strings.NewReplacer(`\`, `\\`, `'`, `\'`)
	return fmt.Sprintf("host='%s' port=%d user='%s' dbname='%s' sslmode=disable application_name=holdfast",
		quote.Replace(x.place.dir), x.port(), quote.Replace(x.superuser()), quote.Replace(db))
}

// alive tells whether the server still runs.
func (s *server) alive() bool {
	if s.exited == nil {
		return restore.RunningServer(s.dir) == s.pid
	}
	select {
	case <-s.exited:
		return false
	default:
		return true
	}
}

// stop stops the server, fast, and after a minute at once. It may have ended by itself.
func (s *server) stop(ctx context.Context) error {
	if s == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopPatience)
	defer cancel()
	if err := syscall.Kill(s.pid, syscall.SIGINT); err != nil && !errors.Is(err, syscall.ESRCH) {
		return err
	}
	again := time.NewTicker(20 * time.Millisecond) // one that is no child tells nobody when it ends
	defer again.Stop()
	for s.alive() {
		select {
		case <-again.C:
		case <-ctx.Done():
			_ = syscall.Kill(s.pid, syscall.SIGQUIT) // it may be gone by now
			ctx = context.WithoutCancel(ctx)
		}
	}
	return nil
}

// lastWords returns why the server ended, as its log says.
func (x *run) lastWords() string {
	f, err := os.Open(x.logFile())
	if err != nil {
		return err.Error()
	}
	defer f.Close() //nolint:errcheck // only read
	const most = 16 << 10
	if size, err := f.Seek(0, 2); err == nil {
		_, _ = f.Seek(max(0, size-most), 0)
	}
	b := make([]byte, most)
	n, _ := f.Read(b)
	lines := bytes.Split(b[:n], []byte("\n"))
	for i := len(lines) - 1; i >= 0; i-- {
		for _, level := range []string{"FATAL:  ", "PANIC:  "} {
			if _, message, ok := bytes.Cut(lines[i], []byte(level)); ok && !bytes.Contains(message, []byte("the database system is")) {
				return string(message)
			}
		}
	}
	return "its log does not say why: " + x.logFile()
}

// connect connects to the server, within a moment.
func (x *run) connect(ctx context.Context) (*pgx.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	conn, err := pgx.Connect(ctx, x.connString("postgres"))
	var refused *pgconn.PgError
	if errors.As(err, &refused) && strings.HasPrefix(refused.Code, "28") && !x.lockedOut { // invalid authorization specification
		x.lockedOut = true
		err = errors.Join(err, x.writeAccess(), syscall.Kill(x.server.pid, syscall.SIGHUP))
	}
	if err != nil {
		return nil, err
	}
	// A promotion takes its time, whatever limits the cluster sets its sessions.
	_, err = conn.Exec(ctx, "SELECT set_config(name, '0', false) FROM pg_settings WHERE name IN ('statement_timeout', 'transaction_timeout', 'idle_session_timeout')")
	if err != nil {
		return nil, errors.Join(err, conn.Close(context.WithoutCancel(ctx)))
	}
	return conn, nil
}
