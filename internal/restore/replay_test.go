package restore_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/holdfast-dr/holdfast/internal/dr"

	"github.com/holdfast-dr/holdfast/internal/pg/pgtest"
	"github.com/holdfast-dr/holdfast/internal/restore"
	"github.com/holdfast-dr/holdfast/internal/restore/boot"
	"github.com/holdfast-dr/holdfast/internal/restore/points"
	"github.com/holdfast-dr/holdfast/internal/restore/replay"
)

// The server replays with settings that were chosen, and has its own again when it has recovered: to the end of the log, to
// a target, and where it is paused there. Versions that gain nothing by it get none.
func TestSettingsOfTheReplayAreTakenBack(t *testing.T) {
	for _, v := range pgtest.Versions(t) {
		t.Run(v, func(t *testing.T) {
			w := newWorld(t, pgtest.Options{Version: v, Conf: map[string]string{"maintenance_io_concurrency": "7"}})
			w.s.Exec("", "CREATE TABLE t AS SELECT generate_series(1, 10) AS i")
			w.snapshot(w.s)
			w.s.Exec("", "INSERT INTO t VALUES (11)")
			at := w.lsn("SELECT pg_current_wal_insert_lsn()").String()
			w.s.Exec("", "INSERT INTO t VALUES (12)")
			w.archive(w.s)
			for _, c := range []replayCase{
				{"end", "latest", restore.Follow, boot.ChooseSettings},
				{"target", at, restore.Promote, boot.ChooseSettings},
				{"immediate", "immediate", restore.Promote, boot.ChooseSettings},
				{"pause", at, restore.Pause, boot.ChooseSettings},
				{"kept", "latest", restore.Follow, boot.KeepSettings},
			} {
				if w.s.Version < 15 && c.name != "end" && c.name != "pause" {
					continue // nothing is chosen for any target, and so nothing can be kept
				}
				t.Run(c.name, func(t *testing.T) { w.replays(t, c) })
			}
		})
	}
}

type replayCase struct {
	name, target string
	ending       restore.Ending
	settings     boot.Settings
}

func (w *world) replays(t *testing.T, c replayCase) {
	o := w.options(c.name)
	o.Settings.Ending = c.ending
	p := w.mustPlan(c.target)
	if _, err := restore.Run(t.Context(), w.r, p, o); err != nil {
		t.Fatal(err)
	}
	pgtest.Chown(t, w.dir)
	conf := filepath.Join(o.To, "postgresql.auto.conf")
	before, err := os.ReadFile(conf)
	if err != nil {
		t.Fatal(err)
	}
	during := ""
	s, report, err := boot.Start(t.Context(), o.To, p, boot.Options{
		BinDir: w.s.BinDir, Owner: o.Owner, Ending: c.ending, Settings: c.settings, Log: w.r,
		Progress: func(dr.Progress) {
			if b, err := os.ReadFile(conf); err == nil && during == "" {
				during = string(b)
			}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := s.Stop(t.Context()); err != nil {
			t.Error(err)
		}
	}()
	conn := s.ConnString("postgres")
	if got := ask(t, conn, "SELECT pg_is_in_recovery()"); (got == "true") != (c.ending == restore.Pause) {
		t.Errorf("in recovery: %s", got)
	}
	chosen := c.settings == boot.ChooseSettings && w.s.Version >= 15
	if got := strings.Contains(during, "maintenance_io_concurrency = '128'"); got != chosen {
		t.Errorf("while it replays settings are chosen: %v, want %v:\n%s", got, chosen, during)
	}
	// A server says in its log which settings a reload has changed.
	if got := strings.Contains(readLog(t, s), `parameter "maintenance_io_concurrency" changed to "7"`); got != chosen {
		t.Errorf("settings were taken back: %v, want %v:\n%s", got, chosen, readLog(t, s))
	}
	if got := ask(t, conn, "SELECT current_setting('maintenance_io_concurrency') || ' ' || coalesce(current_setting('holdfast.replay', true), '') || ' ' || (SELECT count(*) FROM pg_file_settings WHERE name = 'holdfast.replay')"); got != "7  0" {
		t.Errorf("after the recovery the settings are %q", got)
	}
	// What only a restart takes back is told.
	larger := c.settings == boot.ChooseSettings && c.ending == restore.Follow && w.s.Version >= 14
	if got := ask(t, conn, "SELECT current_setting('shared_buffers') || ' ' || (SELECT string_agg(setting, ',' ORDER BY seqno) FROM pg_file_settings WHERE name = 'shared_buffers')"); strings.HasPrefix(got, "32MB ") == larger || !strings.HasSuffix(got, " 128MB,32MB") {
		t.Errorf("shared_buffers, and what the files say: %s; larger: %v", got, larger)
	}
	if got := strings.Contains(strings.Join(report.Notes, "\n"), "then it is its own again, 32.0 MiB"); got != larger {
		t.Errorf("the notes tell of shared_buffers: %v, want %v: %q", got, larger, report.Notes)
	}
	if after, err := os.ReadFile(conf); err != nil || string(after) != string(before) {
		t.Errorf("postgresql.auto.conf was\n%s\nand is now, %v:\n%s", before, err, after)
	}
	if l := report.Log; l == nil || l.Segments == 0 || l.Unforeseen != 0 {
		t.Errorf("of the log is counted %+v; want every segment foreseen", l)
	}
}

func readLog(t *testing.T, s *boot.Server) string {
	t.Helper()
	b, err := os.ReadFile(s.LogFile)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

const (
	targetEnv = "HOLDFAST_TEST_TARGET"
	socketEnv = "HOLDFAST_TEST_SOCKET" // directory
)

// bootMain starts a restored directory, and kills itself when the server answers, or when it has recovered.
func bootMain() int {
	ctx := context.Background()
	fail := func(err error) int {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	r, err := openRepository(ctx, os.Getenv(repoEnv))
	if err != nil {
		return fail(err)
	}
	v, err := points.Load(ctx, r, system)
	if err != nil {
		return fail(err)
	}
	target, err := points.ParseTarget(os.Getenv(targetEnv))
	if err != nil {
		return fail(err)
	}
	p, err := v.Plan(ctx, target, points.Timeline{}, points.RefuseLoss)
	if err != nil {
		return fail(err)
	}
	dir, socket := os.Getenv(toEnv), os.Getenv(socketEnv)
	owner, err := restore.ChooseOwner(dir, "")
	if err != nil {
		return fail(err)
	}
	_, _, err = boot.Start(ctx, dir, p, boot.Options{
		BinDir: os.Getenv(binEnv), Owner: owner, SocketDir: socket, Log: r,
		Progress: func(dr.Progress) {
			if os.Getenv(killEnv) == "answers" || hasRecovered(ctx, socket) {
				syscall.Kill(os.Getpid(), syscall.SIGKILL)
				select {}
			}
		},
	})
	return fail(err)
}

func hasRecovered(ctx context.Context, socket string) bool {
	c, err := pgx.Connect(ctx, localTo(socket))
	if err != nil {
		return false
	}
	defer c.Close(ctx)
	var recovering bool
	return c.QueryRow(ctx, "SELECT pg_is_in_recovery()").Scan(&recovering) == nil && !recovering
}

func localTo(socket string) string {
	return fmt.Sprintf("host=%s port=5432 user=postgres dbname=postgres sslmode=disable", socket)
}

// A start that is killed leaves a server that goes on, recovers by itself and works. The next start, and the next restore,
// take the settings of its replay back.
func TestKilledStart(t *testing.T) {
	w := newWorld(t, pgtest.Options{Version: "15", Conf: map[string]string{"maintenance_io_concurrency": "7"}})
	w.s.Exec("", "CREATE TABLE t AS SELECT generate_series(1, 10) AS i")
	w.snapshot(w.s)
	w.s.Exec("", "INSERT INTO t VALUES (11)")
	at := w.lsn("SELECT pg_current_wal_insert_lsn()").String()
	w.s.Exec("", "INSERT INTO t VALUES (12)")
	w.archive(w.s)
	for _, kill := range []string{"answers", "recovered"} {
		for _, again := range []string{"started", "restored"} {
			t.Run(kill+", then "+again, func(t *testing.T) { w.killedStart(t, at, kill, again == "restored") })
		}
	}
}

func (w *world) killedStart(t *testing.T, at, kill string, delta bool) {
	o := w.options(strings.ReplaceAll(t.Name(), "/", "-"))
	p := w.mustPlan(at)
	if _, err := restore.Run(t.Context(), w.r, p, o); err != nil {
		t.Fatal(err)
	}
	pgtest.Chown(t, w.dir)
	// Before the server: there it is as if nothing had happened yet.
	if err := replay.Set(o.To, o.Owner.Credential(), []replay.Setting{{Name: "maintenance_io_concurrency", Value: "99"}}); err != nil {
		t.Fatal(err)
	}
	socket := pgtest.TempDir(t)
	child := exec.Command(w.bin)
	child.Env = append(os.Environ(), roleEnv+"=boot", repoEnv+"="+w.dir, toEnv+"="+o.To, binEnv+"="+w.s.BinDir, killEnv+"="+kill, targetEnv+"="+at, socketEnv+"="+socket)
	out, err := child.CombinedOutput()
	if child.ProcessState == nil || child.ProcessState.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Fatalf("the child was not killed: %v\n%s", err, out)
	}
	pid := serverIn(t, o.To)
	stopped := false
	defer func() {
		if !stopped {
			stopServer(t, pid)
		}
	}()
	again, late := time.NewTicker(20*time.Millisecond), time.After(time.Minute)
	defer again.Stop()
	for !hasRecovered(t.Context(), socket) {
		select {
		case <-again.C:
		case <-late:
			t.Fatal("the server does not recover without the one that started it")
		}
	}
	if got := ask(t, localTo(socket), "SELECT current_setting('holdfast.replay', true) || ' ' || current_setting('maintenance_io_concurrency') || ' ' || (SELECT max(i) FROM t)"); got != "on 128 11" {
		t.Errorf("it is left with %q", got)
	}
	stopServer(t, pid)
	stopped = true

	if delta {
		o.Mode = restore.Delta
		if _, err := restore.Run(t.Context(), w.r, p, o); err != nil {
			t.Fatal(err)
		}
		if conf, err := os.ReadFile(filepath.Join(o.To, "postgresql.auto.conf")); err != nil || strings.Contains(string(conf), replay.Marker) {
			t.Errorf("a restore leaves the settings, %v:\n%s", err, conf)
		}
	}
	s, _, err := boot.Start(t.Context(), o.To, p, boot.Options{BinDir: w.s.BinDir, Owner: o.Owner, Log: w.r})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := s.Stop(t.Context()); err != nil {
			t.Error(err)
		}
	}()
	if got := ask(t, s.ConnString("postgres"), "SELECT coalesce(current_setting('holdfast.replay', true), '') || ' ' || current_setting('maintenance_io_concurrency') || ' ' || (SELECT max(i) FROM t)"); got != " 7 11" {
		t.Errorf("after the second start it has %q", got)
	}
}

// serverIn returns the process of the server that runs in a directory.
func serverIn(t *testing.T, dir string) int {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, "postmaster.pid"))
	if err != nil {
		t.Fatal(err)
	}
	line, _, _ := strings.Cut(string(b), "\n")
	pid, err := strconv.Atoi(line)
	if err != nil {
		t.Fatal(err)
	}
	return pid
}

// stopServer stops a server that is nobody's child here.
func stopServer(t *testing.T, pid int) {
	t.Helper()
	again, late := time.NewTicker(20*time.Millisecond), time.After(time.Minute)
	defer again.Stop()
	for sig := syscall.SIGINT; syscall.Kill(pid, sig) == nil; sig = 0 {
		select {
		case <-again.C:
		case <-late:
			t.Fatalf("the server %d does not end", pid)
		}
	}
}
