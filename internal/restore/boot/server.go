package boot

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/holdfast-dr/holdfast/internal/restore"
)

// Server is a PostgreSQL that was started here. It goes on when this process ends.
type Server struct {
	Dir     string `json:"dir"`
	Socket  string `json:"socket"` // directory of the socket
	Port    int    `json:"port"`
	PID     int    `json:"pid"`
	LogFile string `json:"logFile"`

	opts    Options
	cmd     *exec.Cmd
	exited  chan struct{} // closed when it has ended
	ownSock bool          // Socket was made for it
}

// launch runs postgres in a session of its own.
func launch(dir, binDir string, o Options) (*Server, error) {
	s := &Server{Dir: dir, Port: o.Port, Socket: o.SocketDir, LogFile: o.LogFile, opts: o, exited: make(chan struct{})}
	if s.Port == 0 {
		s.Port = 5432
	}
	if s.LogFile == "" {
		s.LogFile = dir + ".log"
	}
	if s.Socket == "" {
		var err error
		if s.Socket, err = os.MkdirTemp("", "holdfast-"); err != nil {
			return nil, err
		}
		s.ownSock = true
		if err := give(s.Socket, o.Owner); err != nil {
			return nil, err
		}
	}
	out, err := OpenLog(s.LogFile)
	if err != nil {
		return nil, err
	}
	defer out.Close() //nolint:errcheck // the server has its own descriptor
	s.cmd = exec.Command(filepath.Join(binDir, "postgres"), s.args()...)
	s.cmd.Stdout, s.cmd.Stderr, s.cmd.Dir = out, out, "/"
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Credential: o.Owner.Credential()}
	if err := s.cmd.Start(); err != nil {
		return nil, fmt.Errorf("run postgres: %w", err)
	}
	s.PID = s.cmd.Process.Pid
	go func() {
		_ = s.cmd.Wait() // why it ended is in its log
		close(s.exited)
	}()
	return s, nil
}

// OpenLog opens the file of a process's messages. It may lie where others may put links: none is followed.
func OpenLog(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0o600)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && (!info.Mode().IsRegular() || info.Sys().(*syscall.Stat_t).Nlink != 1) {
		err = fmt.Errorf("%s is a link or no file: messages are not written there", path)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

func give(path string, o *restore.Owner) error {
	if o == nil {
		return nil
	}
	return os.Lchown(path, o.UID, o.GID)
}

// args are settings that only this run of the server has: the directory's own configuration stays as it is.
func (s *Server) args() []string {
	sockets := s.Socket
	set := map[string]string{
		"hba_file":          filepath.Join(s.Dir, "pg_hba.conf"),
		"ident_file":        filepath.Join(s.Dir, "pg_ident.conf"),
		"data_directory":    s.Dir,
		"external_pid_file": "",
		"logging_collector": "off", // what it says on its way up is read by us
		"log_destination":   "stderr",
		"lc_messages":       "C",
		"port":              strconv.Itoa(s.Port),
	}
	if s.opts.Listen == "" {
		set["listen_addresses"] = ""
	} else {
		set["listen_addresses"] = s.opts.Listen
	}
	set["unix_socket_directories"] = sockets
	for k, v := range s.opts.Config {
		set[k] = v
	}
	args := []string{"-D", s.Dir}
	for k, v := range set {
		args = append(args, "-c", k+"="+v)
	}
	return args
}

// ConnString returns a libpq connection string for the superuser to a database.
func (s *Server) ConnString(db string) string {
	quote := strings.NewReplacer(`\`, `\\`, `'`, `\'`)
	return fmt.Sprintf("host='%s' port=%d user='%s' dbname='%s' sslmode=disable application_name=holdfast",
		quote.Replace(s.Socket), s.Port, quote.Replace(s.opts.superuser()), quote.Replace(db))
}

// connect tries until the server answers, or has ended.
func (s *Server) connect(ctx context.Context) (*pgx.Conn, error) {
	again := time.NewTicker(10 * time.Millisecond) // it tells nobody when it is ready: ask
	defer again.Stop()
	for {
		conn, err := pgx.Connect(ctx, s.ConnString("postgres"))
		if err == nil {
			return conn, nil
		}
		if !startingUp(err) {
			return nil, err
		}
		select {
		case <-s.exited:
			return nil, errExited
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-again.C:
		}
	}
}

var errExited = errors.New("the server has ended")

// Stop stops the server: fast, and after a minute at once.
func (s *Server) Stop(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	if err := s.cmd.Process.Signal(syscall.SIGINT); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case <-s.exited:
	case <-ctx.Done():
		_ = s.cmd.Process.Signal(syscall.SIGQUIT) // it may be gone by now
		<-s.exited
	}
	if s.ownSock {
		return os.RemoveAll(s.Socket)
	}
	return nil
}

// lastWords returns the end of the server's log.
func (s *Server) lastWords() string {
	b, err := os.ReadFile(s.LogFile)
	if err != nil {
		return err.Error()
	}
	return string(b[max(0, len(b)-64<<10):])
}
