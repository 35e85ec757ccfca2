package e2e

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/holdfast-dr/holdfast/internal/pg/pgtest"
)

// instant is a system that was recovered on a mount.
type instant struct {
	restored
	MountPID int
	Resumed  bool
}

func (w *world) instant(args ...string) *instant {
	w.t.Helper()
	r := &instant{restored: restored{w: w}}
	out := w.run(append(args, "-o", "json")...)
	if err := json.Unmarshal([]byte(out), r); err != nil {
		w.t.Fatalf("recover printed no JSON: %v\n%s", err, out)
	}
	return r
}

// TestInstantRecovery walks the way of somebody whose database is gone: it is recovered on a mount, with a tablespace; takes writes;
// the process that serves the mount is killed; it is resumed, becomes whole, is finished, and is then a plain directory.
func TestInstantRecovery(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("to mount for a server takes root")
	}
	if _, err := os.Stat("/dev/fuse"); err != nil {
		t.Skip("this machine has no /dev/fuse")
	}
	w := newWorld(t, pgtest.Options{Version: "15"})
	w.run("repo", "init")
	agent := w.agent()
	w.server.Tablespace("far")
	w.server.Exec("", "CREATE TABLE t AS SELECT generate_series(1, 50000) AS i", "CREATE TABLE f TABLESPACE far AS SELECT generate_series(1, 50000) AS i")
	w.run("snapshot", "create", system)
	w.server.Exec("", "INSERT INTO t VALUES (60000)", "UPDATE f SET i = i + 1 WHERE i % 100 = 0", "SELECT pg_switch_wal()")
	w.server.Stop(pgtest.Fast)
	agent.stop()
	w.root = true
	dir := filepath.Join(w.dir, "main")
	t.Cleanup(func() {
		for _, d := range []string{dir, filepath.Join(dir+"_tablespaces", "16384")} {
			_ = unix.Unmount(d, unix.MNT_DETACH) // after a failure it may still be there
		}
	})
	sums := "(SELECT sum(i) FROM t) + (SELECT sum(i) FROM f)"
	begin := []string{"recover", system, "--instant", "--to", dir, "--rate", "1MiB"}
	r := w.instant(begin...)
	if got := r.query("SELECT max(i) FROM t"); got != "60000" {
		t.Errorf("the newest row is %s, want 60000", got)
	}
	want := r.query("SELECT " + sums)
	execute(t, r.connString("postgres"), "CREATE TABLE n AS SELECT 7 AS i")
	if r := w.try("mount", "finish", dir); r.code == 0 {
		t.Error("finished before it was whole")
	}
	if r := w.try(begin...); r.code == 0 || !strings.Contains(r.stderr, "served by a running process") {
		t.Errorf("mounted twice: exit %d\n%s", r.code, r.stderr)
	}

	if err := syscall.Kill(r.MountPID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	w.until("the mount is dead", func() bool {
		var st unix.Statfs_t
		return errors.Is(unix.Statfs(dir, &st), unix.ENOTCONN)
	})
	if r := w.try("mount", "list"); r.code != 3 || !w.lists(dir, "DEAD") {
		t.Errorf("a dead mount is listed with exit %d as\n%s", r.code, r.out)
	}
	r = w.instant("mount", "resume", dir)
	if !r.Resumed {
		t.Error("it does not say that it goes on")
	}
	if got := r.query("SELECT " + sums + " + (SELECT i FROM n)"); got != add(want, 7) {
		t.Errorf("after the crash the sums are %s, want %s", got, add(want, 7))
	}
	w.until("the mount is whole", func() bool { return w.lists(dir, "whole") })
	w.run("mount", "finish", dir)
	w.root = false
	w.program("pg_ctl", "-D", dir, "-m", "fast", "-w", "stop")
	w.program("pg_checksums", "--check", "-D", dir)
	s := w.open(dir)
	s.Start()
	if got := s.Query("", "SELECT "+sums+" + (SELECT i FROM n)"); got != add(want, 7) {
		t.Errorf("on the plain directory the sums are %s, want %s", got, add(want, 7))
	}
	s.Stop(pgtest.Fast)
	w.root = true

	r = w.instant("recover", system, "--instant", "--to", dir+"-again")
	if got := r.query("SELECT " + sums); got != want {
		t.Errorf("recovered once more the sums are %s, want %s", got, want)
	}
	w.run("mount", "abort", dir+"-again", "--confirm", dir+"-again")
	if all, err := os.ReadDir(dir + "-again"); err != nil || len(all) > 0 {
		t.Errorf("abort leaves %v, %v", all, err)
	}
}

// lists tells whether mount list shows a directory in a state. Other tests have their mounts on this machine.
func (w *world) lists(dir, state string) bool {
	for line := range strings.Lines(w.try("mount", "list").out) {
		if words := strings.Fields(line); slices.Contains(words, dir) && slices.Contains(words, state) {
			return true
		}
	}
	return false
}

func add(sum string, n int64) string {
	was, err := strconv.ParseInt(sum, 10, 64)
	if err != nil {
		return err.Error()
	}
	return strconv.FormatInt(was+n, 10)
}
