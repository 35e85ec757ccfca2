package restore_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-dr/holdfast/internal/pg/pgtest"
	"github.com/holdfast-dr/holdfast/internal/restore/partial"
	"github.com/holdfast-dr/holdfast/internal/restore/points"
)

func TestExtractADatabaseAndATable(t *testing.T) {
	w := newWorld(t, pgtest.Options{Version: "15"})
	w.s.Bin("pg_dump") // skips where there are no client programs
	w.s.Exec("", "CREATE DATABASE shop", "CREATE DATABASE copy", "CREATE DATABASE copy2")
	w.s.Exec("shop", "CREATE SCHEMA s", `CREATE TABLE s."Orders" AS SELECT generate_series(1, 1000) AS i`, "CREATE TABLE other AS SELECT 1 AS i")
	w.snapshot(w.s)
	w.s.Exec("shop", `INSERT INTO s."Orders" VALUES (1001)`)
	at := now(w.s)
	w.s.Exec("shop", `DROP TABLE s."Orders"`)
	w.archive(w.s)
	pgtest.Chown(t, w.dir)
	o := partial.Options{Database: "shop", Sandbox: w.base, RestoreCommand: w.restoreCommand(), BinDir: w.s.BinDir}

	o.Table, o.Into = "s.Orders", w.s.ConnString("copy")
	w.s.Exec("copy", "CREATE SCHEMA s")
	if _, err := partial.Extract(t.Context(), w.r, w.mustPlan(at), o); err != nil {
		t.Fatal(err)
	}
	if got := w.s.Query("copy", `SELECT max(i) FROM s."Orders"`); got != "1001" {
		t.Errorf("the table has %s, want 1001", got)
	}
	if got := w.s.Query("copy", "SELECT to_regclass('other') IS NULL"); got != "t" {
		t.Error("another table came along")
	}

	o.Table, o.Into, o.File, o.Format = "", "", filepath.Join(w.base, "shop.sql"), partial.Plain
	if _, err := partial.Extract(t.Context(), w.r, w.mustPlan(at), o); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(o.File); err != nil || len(b) < 1000 {
		t.Errorf("the dump has %d bytes: %v", len(b), err)
	}
	o.Database, o.File = "shpo", filepath.Join(w.base, "none")
	_, err := partial.Extract(t.Context(), w.r, w.mustPlan("latest"), o)
	golden(t, w, "no-database", err)
	left, err := filepath.Glob(filepath.Join(w.base, "holdfast-sandbox-*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// A sandbox whose server is killed, or an extraction that is called off, in the middle of the dump leaves no file, no server
// and no sandbox behind.
func TestKilledSandbox(t *testing.T) {
	w := newWorld(t, pgtest.Options{Version: "15"})
	pgDump := w.s.Bin("pg_dump") // skips where there are no client programs
	w.s.Exec("", "CREATE TABLE orders AS SELECT generate_series(1, 1000) AS i", "CREATE DATABASE copy")
	w.snapshot(w.s)
	w.archive(w.s)
	pgtest.Chown(t, w.dir)
	plan := w.mustPlan("latest")
	// The server's programs, but a pg_dump that says where it is and does something before it begins.
	bin, at := filepath.Join(w.base, "bin"), filepath.Join(w.base, "at")
	pid := "$(head -n 1 " + w.base + "/holdfast-sandbox-*/data/postmaster.pid)"
	for name, does := range map[string]string{
		"killed":     "echo " + pid + " > " + at + "; kill -9 " + pid,
		"called off": "echo " + pid + " > " + at + ".new; mv " + at + ".new " + at + "; exec sleep 600",
	} {
		t.Run(name, func(t *testing.T) {
			w.wrap(bin, pgDump, does)
			for _, into := range []bool{false, true} {
				o := partial.Options{Database: "postgres", Sandbox: w.base, RestoreCommand: w.restoreCommand(), BinDir: bin}
				if o.File = filepath.Join(w.base, "orders.dump"); into {
					o.File, o.Into = "", w.s.ConnString("copy")
				}
				ctx, cancel := context.WithCancel(t.Context())
				ended := make(chan error, 1)
				go func() { _, err := partial.Extract(ctx, w.r, plan, o); ended <- err }()
				server := waitForFile(t, at, ended)
				if name == "called off" {
					cancel()
				}
				if err := <-ended; err == nil {
					t.Error("it came to its end")
				}
				cancel()
				left, err := filepath.Glob(filepath.Join(w.base, "holdfast-sandbox-*"))
				dumps, _ := filepath.Glob(filepath.Join(w.base, "orders.dump*"))
				if err != nil || len(left)+len(dumps) > 0 {
					t.Errorf("left behind: %v, %v (%v)", left, dumps, err)
				}
				if _, err := os.Stat(filepath.Join("/proc", server)); !errors.Is(err, fs.ErrNotExist) {
					t.Errorf("the sandbox's server %s still runs", server)
				}
				if err := os.Remove(at); err != nil {
					t.Fatal(err)
				}
			}
			if got := w.s.Query("copy", "SELECT to_regclass('orders') IS NULL"); got != "t" {
				t.Error("the target has the table")
			}
		})
	}
}

// What an extraction leaves that is killed itself, a running server and all of a cluster, the next one removes; not what
// another one works in.
func TestKilledExtraction(t *testing.T) {
	w := newWorld(t, pgtest.Options{Version: "15"})
	pgDump := w.s.Bin("pg_dump") // skips where there are no client programs
	w.s.Exec("", "CREATE TABLE orders AS SELECT generate_series(1, 1000) AS i")
	w.snapshot(w.s)
	w.archive(w.s)
	pgtest.Chown(t, w.dir)
	bin, at := filepath.Join(w.base, "bin"), filepath.Join(w.base, "at")
	w.wrap(bin, pgDump, "head -n 5 "+w.base+"/holdfast-sandbox-*/data/postmaster.pid > "+at+"; kill -9 $PPID")
	cmd := exec.Command(w.bin)
	cmd.Env = append(os.Environ(), roleEnv+"=extract", repoEnv+"="+w.dir, toEnv+"="+w.base, binEnv+"="+bin)
	if out, err := cmd.CombinedOutput(); err == nil || !strings.Contains(err.Error(), "killed") {
		t.Fatalf("the extraction was not killed: %v\n%s", err, out)
	}
	b, err := os.ReadFile(at)
	lines := strings.Split(string(b), "\n")
	if err != nil || len(lines) < 5 {
		t.Fatalf("%q, %v", b, err)
	}
	pid, socket := filepath.Join("/proc", lines[0]), lines[4]
	for _, path := range []string{pid, socket, filepath.Join(lines[1], "PG_VERSION")} {
		if _, err := os.Stat(path); err != nil {
			t.Errorf("it left nothing to remove: %v", err)
		}
	}
	busy := filepath.Join(w.base, "holdfast-sandbox-busy")
	if err := os.Mkdir(busy, 0o700); err != nil {
		t.Fatal(err)
	}
	held, err := os.Open(busy)
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	if err := unix.Flock(int(held.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	o := partial.Options{Database: "postgres", File: filepath.Join(w.base, "orders.dump"), Sandbox: w.base, RestoreCommand: w.restoreCommand(), BinDir: w.s.BinDir}
	result, err := partial.Extract(t.Context(), w.r, w.mustPlan("latest"), o)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(strings.Join(result.Notes, "\n"), filepath.Dir(lines[1])) {
		t.Errorf("the notes do not name the sandbox that was left: %q", result.Notes)
	}
	for _, path := range []string{pid, socket, filepath.Dir(lines[1])} {
		if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s is still there (%v)", path, err)
		}
	}
	if _, err := os.Stat(busy); err != nil {
		t.Errorf("another one's sandbox was removed: %v", err)
	}
}

// wrap makes a directory of the server's programs in which pg_dump first does something else.
func (w *world) wrap(bin, pgDump, does string) {
	w.t.Helper()
	programs, err := filepath.Glob(filepath.Join(w.s.BinDir, "*"))
	if err = errors.Join(err, os.RemoveAll(bin), os.Mkdir(bin, 0o755)); err != nil {
		w.t.Fatal(err)
	}
	for _, p := range programs {
		if p == pgDump {
			continue
		}
		if err := os.Symlink(p, filepath.Join(bin, filepath.Base(p))); err != nil {
			w.t.Fatal(err)
		}
	}
	script := "#!/bin/sh\n[ \"$1\" = --version ] && exec " + pgDump + " \"$@\"\n" + does + "\nexec " + pgDump + " \"$@\"\n"
	if err := os.WriteFile(filepath.Join(bin, "pg_dump"), []byte(script), 0o755); err != nil {
		w.t.Fatal(err)
	}
}

// extractMain is an extraction that its pg_dump kills.
func extractMain() int {
	ctx := context.Background()
	r, err := openRepository(ctx, os.Getenv(repoEnv))
	if err != nil {
		return 2
	}
	v, err := points.Load(ctx, r, system)
	if err != nil {
		return 2
	}
	p, err := v.Plan(ctx, points.Target{}, points.Timeline{}, points.RefuseLoss)
	if err != nil {
		return 2
	}
	base := os.Getenv(toEnv)
	_, err = partial.Extract(ctx, r, p, partial.Options{
		Database: "postgres", File: filepath.Join(base, "killed.dump"), Sandbox: base, BinDir: os.Getenv(binEnv),
		RestoreCommand: fmt.Sprintf("env %s=fetch %s=%s %s %%f %%p", roleEnv, repoEnv, os.Getenv(repoEnv), os.Args[0]),
	})
	fmt.Fprintln(os.Stderr, err)
	return 1
}

// waitForFile waits until a file has a line, and returns it. What is to write it must not end before.
func waitForFile(t *testing.T, path string, ended <-chan error) string {
	t.Helper()
	again := time.NewTicker(10 * time.Millisecond)
	defer again.Stop()
	for {
		if b, err := os.ReadFile(path); err == nil && strings.HasSuffix(string(b), "\n") {
			return strings.TrimSpace(string(b))
		}
		select {
		case <-again.C:
		case err := <-ended:
			t.Fatalf("it ended before: %v", err)
		}
	}
}
