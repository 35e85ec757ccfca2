package mount_test

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"testing"

	"github.com/holdfast-dr/holdfast/internal/pg/pgtest"
	"github.com/holdfast-dr/holdfast/internal/restore"
	"github.com/holdfast-dr/holdfast/internal/restore/mount"
	"github.com/holdfast-dr/holdfast/internal/restore/walserve"
	"github.com/holdfast-dr/holdfast/internal/store/local"
)

const (
	roleEnv  = "HOLDFAST_TEST_MOUNT" // begin or resume: this process is the one that serves a mount
	repoEnv  = "HOLDFAST_TEST_REPO"
	toEnv    = "HOLDFAST_TEST_TO"
	logEnv   = "HOLDFAST_TEST_WAL" // directory of the log
	slowRate = 4 << 20             // so that a hydration lasts through a few crashes
)

func TestMain(m *testing.M) {
	if os.Getenv(roleEnv) == "fetch" {
		os.Exit(fetchMain())
	}
	if os.Getenv(roleEnv) != "" {
		if err := childMain(os.Getenv(roleEnv)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	flag.Parse()
	os.Exit(m.Run())
}

// fetchMain is a restore_command whose log is served by who watches the recovery.
func fetchMain() int {
	r := walserve.Fetch(context.Background(), os.Args[1], os.Args[2], walserve.FetchOptions{
		Open:            func(context.Context) (*walserve.Source, error) { return nil, errors.New("nobody serves the log") },
		StartPrefetcher: func(string) (<-chan struct{}, error) { return nil, errors.New("nobody serves the log") },
	})
	return r.ExitCode()
}

// watched are the settings of a server whose recovery boot watches.
func (w *world) watched() restore.Settings {
	w.t.Helper()
	bin := w.path("holdfast-test")
	if out, err := exec.Command("cp", os.Args[0], bin).CombinedOutput(); err != nil {
		w.t.Fatalf("%v: %s", err, out)
	}
	if err := os.Chmod(bin, 0o755); err != nil {
		w.t.Fatal(err)
	}
	return restore.Settings{RestoreCommand: "env " + roleEnv + "=fetch " + bin + " %f %p", Ending: restore.Follow}
}

// childMain serves a mount until it is told to end, or killed. With the end of its hydration it says so.
func childMain(role string) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	go func() { // not by a death signal: that comes when the thread ends which has started us, and hydration's threads end
		_, _ = io.Copy(io.Discard, os.Stdin)
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	}()
	st, err := local.Open(os.Getenv(repoEnv), local.Options{})
	if err != nil {
		return err
	}
	r, err := openRepository(ctx, st)
	if err != nil {
		return err
	}
	dir := os.Getenv(toEnv)
	owner, err := restore.ChooseOwner(dir, "")
	if err != nil {
		return err
	}
	o := mount.Options{Owner: owner, Rate: slowRate, Settings: restore.Settings{RestoreCommand: "cp " + os.Getenv(logEnv) + "/%f \"%p\"", Ending: restore.Promote}}
	var m *mount.Mount
	if role == "begin" {
		p, err := plan(ctx, r)
		if err != nil {
			return err
		}
		m, err = mount.Begin(ctx, r, p, dir, o)
		if err != nil {
			return err
		}
	} else {
		if _, err := mount.Clear(ctx, dir); err != nil {
			return err
		}
		if m, err = mount.Resume(ctx, r, dir, o); err != nil {
			return err
		}
	}
	fmt.Println("mounted")
	if err := m.Hydrate(ctx); err != nil && ctx.Err() == nil {
		return err
	} else if err == nil {
		fmt.Println("whole")
	}
	<-ctx.Done()
	if err := m.Close(); err != nil {
		return err
	}
	return r.Close()
}

// child is such a process.
type child struct {
	t    testing.TB
	cmd  *exec.Cmd
	said *bufio.Scanner
	err  *strings.Builder
}

// mounting starts one, and waits until it has mounted.
func (w *world) mounting(role, dir string) *child {
	w.t.Helper()
	c := &child{t: w.t, cmd: exec.Command(os.Args[0]), err: &strings.Builder{}}
	c.cmd.Env = append(os.Environ(), roleEnv+"="+role, repoEnv+"="+w.dir, toEnv+"="+dir, logEnv+"="+w.path("wal"))
	c.cmd.Stderr = c.err
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		w.t.Fatal(err)
	}
	if _, err := c.cmd.StdinPipe(); err != nil { // is closed when this process ends, however that comes
		w.t.Fatal(err)
	}
	if err := c.cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	c.said = bufio.NewScanner(out)
	w.t.Cleanup(c.kill)
	c.until("mounted")
	return c
}

func (c *child) until(word string) {
	c.t.Helper()
	for c.said.Scan() {
		if c.said.Text() == word {
			return
		}
	}
	c.t.Fatalf("the process that serves the mount has ended before it said %q: %s", word, c.err)
}

func (c *child) kill() {
	_ = c.cmd.Process.Kill() // it may be gone
	_ = c.cmd.Wait()         // that it was killed is known
}

// end unmounts.
func (c *child) end() {
	c.t.Helper()
	if err := c.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		c.t.Fatal(err)
	}
	if err := c.cmd.Wait(); err != nil {
		c.t.Fatalf("%v: %s", err, c.err)
	}
}

// server is one on a mount, whose syncs count.
func (w *world) server(dir, walSync string) *pgtest.Server {
	w.t.Helper()
	_ = os.Remove(dir + "/postmaster.pid") // of a server that was killed; its number may be another process's by now
	return pgtest.Open(w.t, dir, pgtest.Options{Version: "15", Conf: map[string]string{"fsync": "on", "checkpoint_timeout": "30s", "max_wal_size": "64MB", "shared_buffers": "8MB", "wal_sync_method": walSync}})
}
