package verify

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/holdfast-dr/holdfast/internal/pg/pgtest"
)

// A backup that would call out, load what it brings, and lock us out: a test boots it all the same, nothing of it takes place, and
// nothing is left behind.
func TestBootOfAHostileBackup(t *testing.T) {
	w := newWorld(t, pgtest.Options{Version: "15", Checksums: true})
	marker := filepath.Join(w.base, "marker")
	w.s.Exec("",
		"CREATE TABLE orders AS SELECT generate_series(1, 1000) AS i",
		"ALTER ROLE postgres IN DATABASE template1 SET session_preload_libraries = 'nobody_has_this'",
		"CREATE FUNCTION tell() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN EXECUTE 'COPY (SELECT 1) TO PROGRAM ''touch "+marker+"'''; END $$",
		"CREATE EVENT TRIGGER tell ON ddl_command_start EXECUTE FUNCTION tell()",
		"ALTER DATABASE template1 SET statement_timeout = 1",
	)
	conf := "\narchive_mode = always\narchive_command = 'touch " + marker + "'\nrestore_command = 'touch " + marker + "'\n" +
		"shared_preload_libraries = 'pg_cron, nobody_has_this'\nssl = on\nssl_passphrase_command = 'touch " + marker + "'\n" +
		"log_destination = 'csvlog'\nlogging_collector = on\ninclude_if_exists = '/nowhere'\nport = 1\nhba_file = '/nowhere'\n"
	appendTo(t, filepath.Join(w.s.DataDir, "postgresql.conf"), conf)
	appendTo(t, filepath.Join(w.s.DataDir, "postgresql.auto.conf"), "primary_conninfo = 'host=192.0.2.1'\narchive_cleanup_command = 'touch "+marker+"'\n")
	w.snapshot()
	w.s.Exec("", "INSERT INTO orders VALUES (1001)")
	w.archive()
	_, p := w.plan(w.r, "latest")
	r, err := Run(t.Context(), w.r, p, Options{Depth: Boot, Sandbox: w.base, RestoreCommand: w.restoreCommand(), BinDir: w.s.BinDir})
	if err != nil {
		t.Fatal(err)
	}
	if r.Outcome != Passed || r.Proven != Boot || r.RTO == 0 || r.Figures.Databases != 2 || r.Sandbox == nil {
		t.Fatalf("%+v", r)
	}
	if os.Geteuid() == 0 && len(r.Sandbox.Missing) == 0 && !(r.Sandbox.Network && r.Sandbox.Processes && r.Sandbox.OwnUser) {
		t.Errorf("as root it has the walls %+v, and nothing is said to be missing", r.Sandbox)
	}
	if !strings.Contains(strings.Join(r.Notes, "\n"), "pg_cron, nobody_has_this") {
		t.Errorf("what is not loaded is not named: %q", r.Notes)
	}
	if _, err := os.Stat(marker); err == nil {
		t.Error("something of the backup was run")
	}
	if g := r.Sandbox.Group; g != "" {
		if _, err := os.Stat(g); err == nil {
			t.Errorf("the control group %s is left", g)
		}
	}
	nothingLeft(t, w)
}

func appendTo(t *testing.T, path, text string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString(text); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

// nothingLeft looks for sandboxes, their servers and their sockets.
func nothingLeft(t *testing.T, w *world) {
	t.Helper()
	left, err := filepath.Glob(filepath.Join(w.base, sandboxPrefix+"*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	procs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range procs {
		if cwd, err := os.Readlink(filepath.Join(p, "cwd")); err == nil && strings.HasPrefix(cwd, filepath.Join(w.base, sandboxPrefix)) {
			t.Errorf("process %s is left in %s", filepath.Base(p), cwd)
		}
	}
}

func mountable() bool {
	_, err := os.Stat("/dev/fuse")
	return err == nil && os.Geteuid() == 0
}

// On a mount a test that boots fetches little of a database whose log is short, and proves a sample of it.
func TestBootOnAMount(t *testing.T) {
	if !mountable() {
		t.Skip("to mount for a server takes root and /dev/fuse")
	}
	w := newWorld(t, pgtest.Options{Version: "15", Checksums: true})
	w.s.Exec("", "CREATE TABLE orders AS SELECT i, md5(i::text) AS note, repeat('x', 200) AS padding FROM generate_series(1, 200000) AS i", "CHECKPOINT")
	w.snapshot()
	w.s.Exec("", "INSERT INTO orders VALUES (0)")
	w.archive()
	_, p := w.plan(w.r, "latest")
	r, err := Run(t.Context(), w.r, p, Options{
		Depth: Boot, Sample: 0.01, Sandbox: w.base, RestoreCommand: w.restoreCommand(), BinDir: w.s.BinDir, Opener: Mount{Log: slog.New(slog.DiscardHandler)},
	})
	if err != nil {
		t.Fatal(err)
	}
	if r.Outcome != Passed || r.Proven != Boot || r.Way != "instant mount" || r.Figures.Fetched == 0 {
		t.Fatalf("%+v", r)
	}
	t.Logf("%s of %s were fetched, %s read for the sample; RTO %s: %v", r.Figures.Fetched, r.Figures.Bytes, r.Figures.Read, r.RTO, r.Phases)
	// Half of this cluster are the catalogs of its databases, as of any small one.
	if r.Figures.Fetched > r.Figures.Bytes/4 {
		t.Errorf("%s of %s were fetched", r.Figures.Fetched, r.Figures.Bytes)
	}
	nothingLeft(t, w)
}
