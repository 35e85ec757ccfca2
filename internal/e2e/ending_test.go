package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/holdfast-dr/holdfast/internal/pg/pgtest"
)

// TestEndingsOfARecovery restores to a point at which the server pauses, or stops, instead of being promoted.
func TestEndingsOfARecovery(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Options{Version: "15"})
	w.run("repo", "init")
	agent := w.agent()
	w.server.Exec("", ledgerTable)
	w.run("snapshot", "create", system)
	w.server.Exec("", "INSERT INTO book VALUES ('wanted', '')")
	point := w.server.Query("", "SELECT pg_current_wal_insert_lsn()")
	w.server.Exec("", "INSERT INTO book VALUES ('mistake', '')")
	w.logReaches(1, w.server.Query("", "SELECT pg_current_wal_flush_lsn()"))
	w.server.Stop(pgtest.Fast)
	agent.stop()
	const state = "SELECT string_agg(entry, ',') || ' ' || pg_is_in_recovery() FROM book"

	t.Run("pause", func(t *testing.T) {
		r := w.restore("paused", "--at", point, "--action", "pause")
		s := pgtest.Open(t, r.dir, pgtest.Options{Version: "15"})
		s.Start()
		s.Until(t, "", "SELECT pg_is_wal_replay_paused()", "t")
		if got := s.Query("", state); got != "wanted true" {
			t.Errorf("paused it has %q", got)
		}
		s.Exec("", "SELECT pg_wal_replay_resume()")
		s.Until(t, "", "SELECT pg_is_in_recovery()", "f")
		s.Exec("", "INSERT INTO book VALUES ('new', '')")
	})
	t.Run("pause, started", func(t *testing.T) {
		r := w.restore("watched", "--at", point, "--action", "pause", "--start")
		if got := r.query(state); got != "wanted true" {
			t.Errorf("paused it has %q", got)
		}
		r.exec("SELECT pg_wal_replay_resume()")
		w.until("it accepts writes", func() bool { return r.query("SELECT pg_is_in_recovery()") == "false" })
		r.stop()
	})
	t.Run("shutdown", func(t *testing.T) {
		r := w.restore("stopped", "--at", point, "--action", "shutdown")
		s := pgtest.Open(t, r.dir, pgtest.Options{Version: "15"})
		if err := s.Launch(); err != nil {
			t.Fatal(err)
		}
		s.WaitExit()
		if log := s.Log(); !strings.Contains(log, "shutdown at recovery target") {
			t.Errorf("it did not stop at its target:\n%s", log)
		}
	})
	// What cannot be had is refused, and nothing is promoted instead.
	for _, args := range [][]string{
		{"--action", "shutdown", "--start", "--at", point}, {"--action", "pause"}, {"--action", "shutdown"}, {"--action", "pause", "--start"}, {"--action", "sleep"},
	} {
		to := filepath.Join(w.dir, "refused")
		if got := w.try(append([]string{"restore", system, "--to", to}, args...)...); got.code != 2 || !strings.Contains(got.stderr, "--action") {
			t.Errorf("%v ends with %d: %s", args, got.code, got.stderr)
		}
	}
}

// TestConfigurationElsewhere protects a server whose configuration is not in its data directory, as Debian's are. The
// restored one starts with what it cannot do without, and says where the rest is missing.
func TestConfigurationElsewhere(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Options{Version: "15", Conf: map[string]string{"max_connections": "220", "max_prepared_transactions": "7"}})
	w.server.Stop(pgtest.Fast)
	etc, conf := w.mkdir("etc"), map[string]string{"max_connections": "220", "max_prepared_transactions": "7", "max_slot_wal_keep_size": "2GB"}
	for file, setting := range map[string]string{"postgresql.conf": "config_file", "pg_hba.conf": "hba_file", "pg_ident.conf": "ident_file"} {
		conf[setting] = filepath.Join(etc, file)
		if err := os.Rename(filepath.Join(w.server.DataDir, file), conf[setting]); err != nil {
			t.Fatal(err)
		}
	}
	w.server = pgtest.Open(t, w.server.DataDir, pgtest.Options{Version: "15", Conf: conf})
	w.server.Start()
	for _, remote := range []bool{false, true} {
		w.configure(setup{remote: remote})
		if !remote {
			w.run("repo", "init")
			w.server.Exec("", ledgerTable)
		}
		w.server.Exec("", "INSERT INTO book SELECT 'entry ' || count(*), '' FROM book")
		agent := w.agent()
		w.run("snapshot", "create", system)
		w.logReaches(1, w.server.Query("", "SELECT pg_current_wal_flush_lsn()"))
		want := w.server.Query("", "SELECT count(*) FROM book")
		agent.stop()
		r := w.restore("back", "--start")
		if notes := strings.Join(append(r.Notes, r.Files.Notes...), "\n"); !strings.Contains(notes, "no postgresql.conf") || !strings.Contains(notes, "no pg_hba.conf") {
			t.Errorf("remote %v: the notes do not tell of the missing files: %q", remote, notes)
		}
		// Its rules let in local users under their own names: the servers' user is one.
		out := w.launch(w.server.Bin("psql"), "-X", "-At", "-h", r.Server.Socket, "-p", "5432", "-U", "postgres", "-c",
			"SELECT count(*), pg_is_in_recovery(), current_setting('max_connections'), current_setting('max_prepared_transactions'), current_setting('listen_addresses') FROM book").wait()
		if out.out != want+"|f|220|7|\n" {
			t.Errorf("remote %v: the restored server says %q, %s", remote, out.out, out.stderr)
		}
		r.stop()
		r.remove()
	}
}
