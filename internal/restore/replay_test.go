package restore_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/holdfast-dr/holdfast/internal/pg/pgtest"
	"github.com/holdfast-dr/holdfast/internal/restore"
	"github.com/holdfast-dr/holdfast/internal/restore/boot"
)

// The server replays with settings that were chosen, and has its own again when it has recovered: to the end of the log, to
// a target, and where it is paused there.
func TestSettingsOfTheReplayAreTakenBack(t *testing.T) {
	for _, v := range pgtest.Versions(t) {
		t.Run(v, func(t *testing.T) {
			w := newWorld(t, pgtest.Options{Version: v, Conf: map[string]string{"max_wal_size": "256MB", "checkpoint_timeout": "7min"}})
			w.s.Exec("", "CREATE TABLE t AS SELECT generate_series(1, 10) AS i")
			w.snapshot(w.s)
			w.s.Exec("", "INSERT INTO t VALUES (11)")
			at := w.lsn("SELECT pg_current_wal_insert_lsn()")
			w.s.Exec("", "INSERT INTO t VALUES (12)")
			w.archive(w.s)
			for _, c := range []struct {
				name, target string
				ending       restore.Ending
				keep         boot.Settings
				chosen       bool
			}{
				{"end", "latest", restore.Follow, boot.ChooseSettings, true},
				{"target", at.String(), restore.Promote, boot.ChooseSettings, true},
				{"immediate", "immediate", restore.Promote, boot.ChooseSettings, true},
				{"pause", at.String(), restore.Pause, boot.ChooseSettings, true},
				{"kept", "latest", restore.Follow, boot.KeepSettings, false},
			} {
				t.Run(c.name, func(t *testing.T) { w.replays(t, c.name, c.target, c.ending, c.keep, c.chosen) })
			}
		})
	}
}

func (w *world) replays(t *testing.T, name, target string, ending restore.Ending, keep boot.Settings, chosen bool) {
	o := w.options(name)
	o.Settings.Ending = ending
	p := w.mustPlan(target)
	if _, err := restore.Run(t.Context(), w.r, p, o); err != nil {
		t.Fatal(err)
	}
	pgtest.Chown(t, w.dir)
	s, report, err := boot.Start(t.Context(), o.To, p, boot.Options{BinDir: w.s.BinDir, Owner: o.Owner, Ending: ending, Settings: keep, Log: w.r})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := s.Stop(t.Context()); err != nil {
			t.Error(err)
		}
	}()
	conn := s.ConnString("postgres")
	if got := ask(t, conn, "SELECT pg_is_in_recovery()"); (got == "true") != (ending == restore.Pause) {
		t.Errorf("in recovery: %s", got)
	}
	// The log of the server tells with what it replayed: the values that are taken back by the reload.
	log, err := os.ReadFile(s.LogFile)
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Contains(string(log), `parameter "max_wal_size" changed to "256MB"`) || strings.Contains(string(log), `parameter "max_wal_size" removed`); got != chosen {
		t.Errorf("max_wal_size was chosen: %v, want %v:\n%s", got, chosen, log)
	}
	if got := ask(t, conn, "SELECT current_setting('max_wal_size') || ' ' || current_setting('checkpoint_timeout') || ' ' || coalesce(current_setting('holdfast.replay', true), '')"); got != "256MB 7min " {
		t.Errorf("after the recovery the settings are %q", got)
	}
	// What only a restart takes back is in no file any more, and the report says so.
	if got := ask(t, conn, "SELECT setting FROM pg_file_settings WHERE name = 'shared_buffers' ORDER BY seqno DESC LIMIT 1"); got != "32MB" {
		t.Errorf("in the files shared_buffers is %s", got)
	}
	running := ask(t, conn, "SELECT current_setting('shared_buffers')")
	if (running != "32MB") != chosen || strings.Contains(strings.Join(report.Notes, "\n"), "shared_buffers is ") != chosen {
		t.Errorf("shared_buffers is %s, and the notes: %q", running, report.Notes)
	}
	if conf, err := os.ReadFile(filepath.Join(o.To, "postgresql.auto.conf")); err != nil || strings.Contains(string(conf), "begin replay") || !strings.Contains(string(conf), "restore_command") {
		t.Errorf("postgresql.auto.conf is now, %v:\n%s", err, conf)
	}
	if l := report.Log; l == nil || l.Segments == 0 || l.Unforeseen != 0 {
		t.Errorf("of the log is counted %+v; want every segment foreseen", l)
	}
}
