package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/holdfast-dr/holdfast/internal/demo"
	"github.com/holdfast-dr/holdfast/internal/dr"
)

// demoFlags are those of the demonstration.
type demoFlags struct {
	app  *app
	dir  string
	bin  string
	keep bool
	load time.Duration
	rows int

	regions bool
}

func newDemoCommand(a *app) *cobra.Command {
	d := &demoFlags{app: a}
	c := &cobra.Command{
		Use:   "demo",
		Short: "Watch a real PostgreSQL being protected, destroyed and recovered",
		Long: `Makes a throw-away PostgreSQL with a running workload, protects it, kills it with -9 and deletes its data directory
while writes go on, recovers it, and compares every commit that the server had acknowledged with what came back. Takes
less than two minutes, and leaves nothing behind.

With --regions the repository has a replica at each of three sites, and the first site is lost with all that is in it: the database, the
agent with its state, and the replica. It is recovered from the site that has most. The sites are directories of this machine,
so that they are no distance apart.`,
		Example: "  holdfast demo\n  holdfast demo --regions",
		Args:    cobra.NoArgs,
		RunE:    func(c *cobra.Command, _ []string) error { return d.run(c.Context()) },
	}
	f := c.Flags()
	f.StringVar(&d.dir, "dir", "", "`directory` for everything (default: a new temporary one)")
	f.StringVar(&d.bin, "bin-directory", "", "`directory` of PostgreSQL's programs (default: the newest installed)")
	f.BoolVar(&d.keep, "keep", false, "leave the directory behind")
	f.DurationVar(&d.load, "load", 10*time.Second, "how `long` the writers write before the disaster")
	f.BoolVar(&d.regions, "regions", false, "three sites, of which the one with the database is lost")
	f.IntVar(&d.rows, "rows", 1_000_000, "`number` of rows of the table that is protected")
	return c
}

type demonstrated struct {
	*demo.Result
	took time.Duration
}

func (d demonstrated) writeText(w io.Writer) error {
	_, err := fmt.Fprintf(w, "\ndone in %s\n", d.took.Round(100*time.Millisecond))
	return err
}

func (d *demoFlags) run(ctx context.Context) (err error) {
	began := time.Now()
	self, err := os.Executable()
	if err != nil {
		return err
	}
	if d.dir == "" {
		// A short path: sockets are in it (sun_path has 108 bytes).
		if d.dir, err = os.MkdirTemp("", "hf-demo-"); err != nil {
			return err
		}
		if !d.keep {
			defer func() { err = errors.Join(err, os.RemoveAll(d.dir)) }()
		}
	}
	if os.Geteuid() == 0 {
		return d.asPostgres(ctx, self)
	}
	out := d.app.stdout
	if d.app.json() {
		out = d.app.stderr
	}
	result, err := demo.Run(ctx, demo.Options{Self: self, Dir: d.dir, Bin: d.bin, Load: d.load, Rows: d.rows, Out: out, Regions: d.regions})
	if err != nil {
		return err
	}
	return d.app.emit(demonstrated{result, time.Since(began)})
}

// asPostgres runs the same command again as the user postgres: PostgreSQL refuses to run as root.
func (d *demoFlags) asPostgres(ctx context.Context, self string) error {
	u, err := user.Lookup("postgres")
	if err != nil {
		return dr.Fail("demo", errors.New("PostgreSQL refuses to run as root, and there is no user postgres"), "run it as another user, or apt-get install postgresql")
	}
	uid, err1 := strconv.Atoi(u.Uid)
	gid, err2 := strconv.Atoi(u.Gid)
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	// The program may lie where postgres cannot reach it, below a home directory.
	copied := filepath.Join(d.dir, "holdfast")
	if err := copyProgram(self, copied); err != nil {
		return err
	}
	if err := errors.Join(os.Chmod(d.dir, 0o700), os.Chown(d.dir, uid, gid)); err != nil {
		return err
	}
	args := []string{"-o", d.app.output.value, "demo", "--dir", d.dir, "--bin-directory", d.bin, "--load", d.load.String(), "--rows", strconv.Itoa(d.rows), "--regions=" + strconv.FormatBool(d.regions)}
	cmd := exec.CommandContext(ctx, copied, args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = d.dir, d.app.stdout, d.app.stderr
	cmd.Env = append(os.Environ(), "HOME="+d.dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = time.Minute
	err = cmd.Run()
	var failed *exec.ExitError
	if errors.As(err, &failed) {
		return withExit(errors.New("the demonstration failed; its message stands above"), failed.ExitCode())
	}
	return err
}

func copyProgram(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close() //nolint:errcheck // only read
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}
