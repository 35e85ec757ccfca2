package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-dr/holdfast/internal/pg/pgtest"
)

// rot clears two sectors of every object below folders of the repository.
func (w *world) rot(folders ...string) (n int) {
	w.t.Helper()
	for _, folder := range folders {
		err := filepath.WalkDir(filepath.Join(w.dir, "repository", folder), func(path string, d os.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() {
				return err
			}
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			for _, at := range []int{len(b) / 5, len(b) / 2} {
				at &^= 511 // sectors do not lie over the border of a block
				clear(b[at:min(at+512, len(b))])
			}
			n++
			return os.WriteFile(path, b, 0o600)
		})
		if err != nil {
			w.t.Fatal(err)
		}
	}
	return n
}

// TestParity lets every object rot of which a recovery is made, at a site that has no other: it is recovered all the same, and a check puts
// all of them back.
func TestParity(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Options{Version: "15"})
	w.configure(setup{})
	b, err := os.ReadFile(w.config)
	if err != nil {
		t.Fatal(err)
	}
	w.config = w.write("holdfast.yaml", strings.Replace(string(b), "{site: here, ", "{site: here, parity: 5%, ", 1))
	w.run("repo", "init")
	agent := w.agent()
	w.server.Exec("", "CREATE TABLE big AS SELECT i, md5(i::text) AS v FROM generate_series(1, 100000) AS i", "CHECKPOINT")
	w.snapshot("--full-scan")
	w.server.Exec("", "UPDATE big SET v = md5(v) WHERE i % 4 = 0", "SELECT pg_switch_wal()")
	source := digest(t, w.server.ConnString, true)
	w.logReaches(1, w.server.Query("", "SELECT pg_current_wal_flush_lsn()"))
	w.server.Stop(pgtest.Fast)
	agent.stop()
	w.run("repo", "check", "--read-data")

	n := w.rot("packs", "log")
	type checked struct {
		Problems []struct{ Object string }
		Healed   struct{ Healed []string }
		Parity   struct{ Written, Removed int }
	}
	if r := w.try("repo", "check", "--read-data"); r.code != 3 {
		t.Errorf("%d objects are damaged, and the check ends with %d", n, r.code)
	}
	r := w.restore("restored", "--start")
	if d := cmp.Diff(source, digest(t, r.connString, false)); d != "" {
		t.Errorf("-source +restored:\n%s", d)
	}
	r.stop()
	out := decode[checked](t, w.run("repo", "check", "--read-data", "--repair", "-o", "json"))
	if len(out.Healed.Healed) != n || len(out.Problems) > 0 || out.Parity.Written > 0 {
		t.Errorf("%d objects were damaged; %d were put back, and then there are %d problems; parity was written for %d", n, len(out.Healed.Healed), len(out.Problems), out.Parity.Written)
	}
	w.run("repo", "check", "--read-data")

	if err := os.RemoveAll(filepath.Join(w.dir, "repository", "parity")); err != nil {
		t.Fatal(err)
	}
	if out = decode[checked](t, w.run("repo", "check", "--read-data", "--repair", "-o", "json")); out.Parity.Written < n {
		t.Errorf("parity of all was lost, and written of %d objects; there are more than %d", out.Parity.Written, n)
	}
	w.rot("packs")
	w.run("repo", "check", "--read-data", "--repair")

	// What opens the repository is opened from its parity, and put back.
	n = w.rot("holdfast.json", "epochs", "keys")
	if r := w.try("repo", "check"); r.code != 3 || !strings.Contains(r.stderr, "read from its parity") {
		t.Errorf("a check of a rotten marker ends with %d\n%s", r.code, r.stderr)
	}
	r = w.restore("opened", "--start")
	if d := cmp.Diff(source, digest(t, r.connString, false)); d != "" {
		t.Errorf("-source +restored:\n%s", d)
	}
	r.stop()
	out = decode[checked](t, w.run("repo", "check", "--repair", "-o", "json"))
	if n != 3 || len(out.Healed.Healed) != n || len(out.Problems) > 0 {
		t.Errorf("of %d objects that open the repository %q were put back", n, out.Healed.Healed)
	}
	if r := w.try("repo", "check"); r.code != 0 || strings.Contains(r.stderr, "parity") {
		t.Errorf("then a check ends with %d\n%s", r.code, r.stderr)
	}
}
