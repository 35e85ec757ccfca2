package boot

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/holdfast-dr/holdfast/internal/restore"
	"github.com/holdfast-dr/holdfast/internal/restore/confine"
)

// Server is a PostgreSQL that was started here. It goes on when this process ends.
type Server struct {
	Dir     string `json:"dir"`
	Socket  string `json:"socket"` // directory of the socket
	Port    int    `json:"port"`
	PID     int    `json:"pid"`
	LogFile string `json:"logFile"`

	// Walls are those of a server that is confined; nil: it is not.
	Walls *confine.Walls `json:"walls,omitempty"`

	opts    Options
	process *os.Process
	exited  <-chan struct{} // closed when it has ended
	ownSock bool            // Socket was made for it
}

// launch runs postgres in a session of its own.
func launch(dir, binDir string, o Options) (*Server, error) {
	s := &Server{Dir: dir, Port: o.Port, Socket: o.SocketDir, LogFile: o.LogFile, opts: o}
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
	if err := s.begin(filepath.Join(binDir, "postgres"), out); err != nil {
		return nil, fmt.Errorf("run postgres: %w", err)
	}
	s.PID = s.process.Pid
	return s, nil
}

// begin runs the program, confined where that is asked for.
func (s *Server) begin(postgres string, out *os.File) error {
	prepare := func() *exec.Cmd {
		cmd := exec.Command(postgres, s.args()...)
		cmd.Stdout, cmd.Stderr, cmd.Dir = out, out, "/"
		return cmd
	}
	if c := s.opts.Confine; c != nil {
		started, err := confine.Start(*c, s.opts.Owner.Credential(), prepare)
		if err == nil {
			s.process, s.exited, s.Walls = started.Process, started.Exited, started.Walls
		}
		return err
	}
	cmd, exited := prepare(), make(chan struct{})
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Credential: s.opts.Owner.Credential()}
	if err := cmd.Start(); err != nil {
		return err
	}
	s.process, s.exited = cmd.Process, exited
	go func() {
		_ = cmd.Wait() // why it ended is in its log
		close(exited)
	}()
	return nil
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
	return fmt.Sprintf("host='%s' port=%d user='%s' dbname='%s' sslmode=disable application_name=holdfast%s",
		quote.Replace(s.Socket), s.Port, quote.Replace(s.opts.superuser()), quote.Replace(db), s.session())
}

// session returns the settings of our sessions. They overrule those that the cluster has for a role or a database, which the
// command line does not (guc.h, GucSource).
func (s *Server) session() string {
	if len(s.opts.Session) == 0 {
		return ""
	}
	var b strings.Builder
	for _, k := range slices.Sorted(maps.Keys(s.opts.Session)) {
		b.WriteString(" -c " + k + "=" + strings.NewReplacer(`\`, `\\`, " ", `\ `).Replace(s.opts.Session[k]))
	}
	return " options='" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(b.String()[1:]) + "'"
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
	if err := s.process.Signal(syscall.SIGINT); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case <-s.exited:
	case <-ctx.Done():
		_ = s.process.Signal(syscall.SIGQUIT) // it may be gone by now
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
