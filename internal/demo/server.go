package demo

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/holdfast-dr/holdfast/internal/dr"
)

// server is a PostgreSQL of ours.
type server struct {
	bin, dir, socket string
	port             int
	pid              int
}

var errNoServer = errors.New("PostgreSQL's server programs are not in /usr/lib/postgresql/*/bin and not in PATH")

// findBin returns the directory of the newest installed server's programs.
func findBin(given string) (string, error) {
	if given != "" {
		return given, nil
	}
	dirs, err := filepath.Glob("/usr/lib/postgresql/*/bin")
	if err != nil {
		return "", err
	}
	slices.SortFunc(dirs, func(a, b string) int { return major(a) - major(b) })
	for _, dir := range slices.Backward(dirs) {
		if _, err := os.Stat(filepath.Join(dir, "initdb")); err == nil {
			return dir, nil
		}
	}
	path, err := exec.LookPath("initdb")
	if err != nil {
		return "", dr.Fail("find PostgreSQL", errNoServer, "apt-get install postgresql")
	}
	return filepath.Dir(path), nil
}

func major(dir string) int {
	n, err := strconv.Atoi(filepath.Base(filepath.Dir(dir)))
	if err != nil {
		return 0
	}
	return n
}

// init makes a cluster and starts it.
func (s *server) init(ctx context.Context) error {
	if err := s.run(ctx, "initdb", "-D", s.dir, "-U", "postgres", "-k", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"); err != nil {
		return err
	}
	settings := fmt.Sprintf("\nlisten_addresses = ''\nunix_socket_directories = '%s'\nport = %d\nmax_slot_wal_keep_size = '4GB'\nshared_buffers = 256MB\nmax_wal_size = 2GB\n", s.socket, s.port)
	f, err := os.OpenFile(filepath.Join(s.dir, "postgresql.conf"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(settings)
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := s.run(ctx, "pg_ctl", "-D", s.dir, "-l", s.dir+".log", "-w", "start"); err != nil {
		return err
	}
	pid, err := os.ReadFile(filepath.Join(s.dir, "postmaster.pid"))
	if err != nil {
		return err
	}
	first, _, _ := strings.Cut(string(pid), "\n")
	s.pid, err = strconv.Atoi(first)
	return err
}

func (s *server) run(ctx context.Context, program string, args ...string) error {
	cmd := exec.CommandContext(ctx, filepath.Join(s.bin, program), args...)
	// A server that pg_ctl starts would hold a pipe open for ever: its output goes to a file.
	log, err := os.Create(filepath.Join(s.socket, program+".out"))
	if err != nil {
		return err
	}
	defer log.Close() //nolint:errcheck // read back below by name
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Run(); err != nil {
		text, _ := os.ReadFile(log.Name()) //nolint:errcheck // only to say more
		return fmt.Errorf("%s: %w: %s", program, err, text)
	}
	return nil
}

func (s *server) connString() string {
	return fmt.Sprintf("host=%s port=%d user=postgres dbname=postgres", s.socket, s.port)
}

// kill9 kills the postmaster and all its children at once, as the loss of a machine would.
func (s *server) kill9() error {
	if s.pid == 0 {
		return nil
	}
	pids := append(children(s.pid), s.pid)
	var errs []error
	for _, p := range pids {
		if err := syscall.Kill(p, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			errs = append(errs, err)
		}
	}
	s.pid = 0
	return errors.Join(errs...)
}

// children returns the processes whose parent is pid.
func children(pid int) []int {
	var out []int
	dirs, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	for _, d := range dirs {
		child, err := strconv.Atoi(d.Name())
		if err != nil {
			continue
		}
		stat, err := os.ReadFile(filepath.Join("/proc", d.Name(), "stat"))
		if err != nil {
			continue
		}
		// pid (name) state ppid …: the name may hold anything, parentheses too (proc(5)).
		fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
		if len(fields) > 1 && fields[1] == strconv.Itoa(pid) {
			out = append(out, child)
		}
	}
	return out
}

// treeSize returns the bytes of the files below dir, as far as they can be read.
func treeSize(dir string) int64 {
	var sum int64
	_ = filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error { // what vanishes has no size
		if err == nil && e.Type().IsRegular() {
			if i, err := e.Info(); err == nil {
				sum += i.Size()
			}
		}
		return nil
	})
	return sum
}

var listenLine = regexp.MustCompile(`(?m)^  listen: .*$`)

// listenNowhere lets the agent take any free port: another one may run on this machine.
func listenNowhere(config string) error {
	text, err := os.ReadFile(config)
	if err != nil {
		return err
	}
	return os.WriteFile(config, listenLine.ReplaceAll(text, []byte(`  listen: "127.0.0.1:0"`)), 0o644)
}
