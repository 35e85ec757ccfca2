package partial

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/restore/boot"
)

// tools are PostgreSQL's client programs of one version.
type tools struct{ dir string }

// safeMinor is the first minor release of each major version whose pg_dump does not let a hostile database
// write commands into a dump (CVE-2025-8714 and CVE-2025-8715, PostgreSQL's release of August 2025).
var safeMinor = map[int]int{13: 22, 14: 19, 15: 14, 16: 10, 17: 6, 18: 0}

var versionLine = regexp.MustCompile(`PostgreSQL\) (\d+)\.(\d+)`)

// findTools looks for pg_dump beside the server's programs, and for pg_restore where it is needed.
func findTools(dir string, major int, o Options) (tools, error) {
	needed := []string{"pg_dump"}
	if o.Into != "" {
		needed = append(needed, "pg_restore")
	}
	for _, name := range needed {
		out, err := exec.Command(filepath.Join(dir, name), "--version").Output()
		if err != nil {
			return tools{}, &dr.Failure{
				What:   fmt.Sprintf("a part of a cluster is dumped with %s, which is not in %s", name, dir),
				Reason: err.Error(),
				Next:   fmt.Sprintf("apt-get install postgresql-client-%d, or name the directory of its programs with --bin-dir", major),
			}
		}
		m := versionLine.FindSubmatch(out)
		if m == nil {
			continue // a version that is not released yet
		}
		have, _ := strconv.Atoi(string(m[1]))
		minor, _ := strconv.Atoi(string(m[2]))
		if least, known := safeMinor[have]; known && minor < least {
			return tools{}, &dr.Failure{
				What:   fmt.Sprintf("%s %d.%d is refused", filepath.Join(dir, name), have, minor),
				Reason: "it lets a hostile database run commands where its dump is restored (CVE-2025-8714)",
				Next:   fmt.Sprintf("update it to %d.%d or newer", have, least),
			}
		}
	}
	return tools{dir}, nil
}

// dump prepares pg_dump of the wanted part.
func (t tools) dump(ctx context.Context, s *boot.Server, o Options, args ...string) *exec.Cmd {
	args = append(args, "--dbname="+s.ConnString(o.Database), "--no-password")
	if o.Table != "" {
		args = append(args, "--table="+o.pattern)
	}
	return command(ctx, filepath.Join(t.dir, "pg_dump"), args...)
}

func command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	return cmd
}

// toFile writes the dump under a temporary name: a dump that is there is whole.
func (t tools) toFile(ctx context.Context, s *boot.Server, o Options) error {
	format := o.Format
	if format == "" {
		format = Custom
	}
	part := o.File + ".part"
	cmd := t.dump(ctx, s, o, "--format="+string(format), "--file="+part)
	if err := run(cmd); err != nil {
		return errors.Join(o.explainDump(err), os.RemoveAll(part))
	}
	f, err := os.Open(part)
	if err == nil {
		err = errors.Join(f.Sync(), f.Close())
	}
	if err != nil {
		return err
	}
	return os.Rename(part, o.File)
}

// into pipes the dump into a running server, in one transaction: all of it arrives, or nothing.
func (t tools) into(ctx context.Context, s *boot.Server, o Options) error {
	target, password, err := withoutPassword(o.Into)
	if err != nil {
		return err
	}
	dump := t.dump(ctx, s, o, "--format=custom")
	load := command(ctx, filepath.Join(t.dir, "pg_restore"), "--exit-on-error", "--single-transaction", "--no-password", "--dbname="+target)
	if password != "" {
		load.Env = append(load.Env, "PGPASSWORD="+password) // an argument could be seen by every user
	}
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	dump.Stdout, load.Stdin = w, r
	var said bytes.Buffer
	load.Stderr = &said
	if err := load.Start(); err != nil {
		return errors.Join(err, r.Close(), w.Close())
	}
	// Only the reader may hold this end: once it has ended, the dump's writes fail instead of waiting for nobody.
	closeErr := r.Close()
	dumpErr := run(dump)
	closeErr = errors.Join(closeErr, w.Close())
	loadErr := explain("pg_restore", load.Wait(), said.String())
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case dumpErr != nil && (loadErr == nil || !brokenPipe(dumpErr)):
		return o.explainDump(dumpErr) // pg_restore complains only of what it did not get
	case loadErr != nil:
		return dr.Fail(fmt.Sprintf("bring %s into the target", o.part()), loadErr, "nothing of it is there: mend what the reason names, or take it to a file with --dump")
	}
	return closeErr
}

// brokenPipe tells whether pg_dump ended because nobody read what it wrote.
func brokenPipe(err error) bool {
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		if status, ok := exit.Sys().(syscall.WaitStatus); ok && status.Signaled() && status.Signal() == syscall.SIGPIPE {
			return true
		}
	}
	return strings.Contains(err.Error(), "Broken pipe")
}

// part names what is wanted.
func (o Options) part() string {
	if o.Table != "" {
		return fmt.Sprintf("table %s of database %q", o.Table, o.Database)
	}
	return fmt.Sprintf("database %q", o.Database)
}

// explainDump says what to do where pg_dump did not dump.
func (o Options) explainDump(err error) error {
	what := "extract " + o.part()
	if strings.Contains(err.Error(), "no matching tables") {
		return dr.Fail(what+": there was none", err, "correct --table SCHEMA.TABLE, in which capitals count, or choose another moment with --at")
	}
	return dr.Fail(what, err, "mend what the reason names, and run this again")
}

func run(cmd *exec.Cmd) error {
	var said bytes.Buffer
	cmd.Stderr = &said
	return explain(filepath.Base(cmd.Path), cmd.Run(), said.String())
}

func explain(name string, err error, said string) error {
	if err == nil {
		return nil
	}
	lines := strings.Split(strings.TrimSpace(said), "\n")
	for _, l := range lines {
		if _, message, ok := strings.Cut(l, "error: "); ok {
			return fmt.Errorf("%s: %s", name, message)
		}
	}
	return fmt.Errorf("%s: %w: %s", name, err, lines[len(lines)-1])
}

var passwordSetting = regexp.MustCompile(`(^|\s)password\s*=\s*('(\\.|[^'\\])*'|\S+)`)

// withoutPassword takes the password out of a connection string.
func withoutPassword(conn string) (rest, password string, err error) {
	cfg, err := pgconn.ParseConfig(conn)
	if err != nil {
		return "", "", dr.Fail("the connection string of the target cannot be read", err, `write it as libpq does: "host=db1 user=app dbname=orders"`)
	}
	if u, err := url.Parse(conn); err == nil && strings.HasPrefix(u.Scheme, "postgres") {
		if u.User != nil {
			u.User = url.User(u.User.Username())
		}
		q := u.Query()
		q.Del("password")
		u.RawQuery = q.Encode()
		return u.String(), cfg.Password, nil
	}
	return passwordSetting.ReplaceAllString(conn, " "), cfg.Password, nil
}
