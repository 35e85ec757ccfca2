package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/holdfast-dr/holdfast/internal/pg/pgtest"
	"github.com/holdfast-dr/holdfast/internal/restore/replay"
)

// TestSettingsOfTheReplay recovers servers whose own settings are slow for a replay. What was chosen for it is in no file
// and in no server afterwards, and where the server is started by somebody else, it never was.
func TestSettingsOfTheReplay(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Options{Version: "15", Conf: map[string]string{"recovery_prefetch": "off", "maintenance_io_concurrency": "3"}})
	w.run("repo", "init")
	agent := w.agent()
	w.server.Exec("", ledgerTable)
	w.run("snapshot", "create", system)
	w.server.Exec("", "INSERT INTO book VALUES ('wanted', '')")
	w.logReaches(1, w.server.Query("", "SELECT pg_current_wal_flush_lsn()"))
	agent.stop()
	const settings = "current_setting('recovery_prefetch') || ' ' || current_setting('maintenance_io_concurrency') || ' ' || coalesce(current_setting('holdfast.replay', true), '')"
	const own = "off 3 "
	conf := func(r *restored) string { return read(filepath.Join(r.dir, "postgresql.auto.conf")) }

	r := w.restore("alone")
	if strings.Contains(conf(r), replay.BlockBegin) {
		t.Errorf("a directory that somebody else starts has settings that nobody takes back:\n%s", conf(r))
	}
	for _, keep := range []bool{false, true} {
		name, args := "chosen", []string{"--start"}
		if keep {
			name, args = "kept", []string{"--start", "--keep-settings"}
		}
		r := w.restore(name, args...)
		if got := r.query("SELECT " + settings); got != own || strings.Contains(conf(r), replay.BlockBegin) {
			t.Errorf("%s: after the recovery it has %q, and the file:\n%s", name, got, conf(r))
		}
		// A server says in its log which settings a reload has changed.
		if got := strings.Contains(read(r.dir+".log"), `parameter "recovery_prefetch" changed to "off"`); got == keep {
			t.Errorf("%s: settings were taken back: %v\n%s", name, got, read(r.dir+".log"))
		}
		// The rest is gone with the next restart, also by who starts it as it was started.
		w.program("pg_ctl", "-D", r.dir, "-m", "fast", "-w", "-l", filepath.Join(r.dir, "again.log"), "restart")
		if got := r.query("SELECT current_setting('shared_buffers')"); got != "32MB" {
			t.Errorf("%s: after a restart shared_buffers is %s", name, got)
		}
		r.stop()
	}

	// A restore that was killed leaves them. It is told of.
	if err := replay.Set(w.server.DataDir, serverUser(t), []replay.Setting{{Name: "maintenance_io_concurrency", Value: "128"}}); err != nil {
		t.Fatal(err)
	}
	for _, left := range []bool{true, false} {
		w.server.Exec("", "SELECT pg_reload_conf()")
		w.server.Until(t, "", "SELECT coalesce(current_setting('holdfast.replay', true), '') = 'on'", map[bool]string{true: "t", false: "f"}[left])
		if got := w.try("doctor"); strings.Contains(got.out, "the settings of its recovery") != left {
			t.Errorf("settings are left: %v, and doctor says:\n%s%s", left, got.out, got.stderr)
		}
		if _, err := replay.Unset(w.server.DataDir, serverUser(t)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Stat(filepath.Join(w.server.DataDir, "postgresql.auto.conf.holdfast")); err == nil {
		t.Error("a file was left behind")
	}
}
