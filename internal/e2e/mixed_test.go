package e2e

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-dr/holdfast/internal/pg/pgtest"
)

// spoil damages the largest object below a folder of a site, and removes the second largest.
func (w *world) spoil(folder string) {
	w.t.Helper()
	type object struct {
		path string
		size int64
	}
	var all []object
	err := filepath.WalkDir(filepath.Join(w.dir, folder), func(path string, d os.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			fi, err := d.Info()
			if err != nil {
				return err
			}
			all = append(all, object{path, fi.Size()})
		}
		return err
	})
	slices.SortFunc(all, func(a, b object) int { return int(b.size - a.size) })
	var b []byte
	if err == nil {
		b, err = os.ReadFile(all[0].path)
	}
	if err == nil {
		b[len(b)/2] ^= 4
		err = os.WriteFile(all[0].path, b, 0o600)
	}
	if err == nil {
		err = os.Remove(all[1].path)
	}
	if err != nil {
		w.t.Fatal(err)
	}
}

// TestMixedSites damages both sites, each in another place: a restore from either takes from the other what it lacks, and a
// check puts it back.
func TestMixedSites(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Options{Version: "15"})
	w.configure(setup{other: "file://" + w.dir + "/there"})
	w.run("repo", "init")
	agent := w.agent()
	w.server.Exec("", "CREATE TABLE big AS SELECT i, md5(i::text) || md5((i * 7)::text) AS v FROM generate_series(1, 150000) AS i", "CHECKPOINT")
	w.snapshot("--full-scan")
	w.server.Exec("", "UPDATE big SET v = md5(v) WHERE i % 4 = 0", "SELECT pg_switch_wal()")
	source := digest(t, w.server.ConnString, true)
	w.logReaches(1, w.server.Query("", "SELECT pg_current_wal_flush_lsn()"))
	w.server.Stop(pgtest.Fast)
	agent.stop()
	w.geoCopy()
	w.spoil("repository/packs")
	w.spoil("there/log") // both sites have it in the same parts
	for _, site := range []string{"here", "there"} {
		if r := w.try("repo", "check", "--site", site, "--read-data"); r.code != 3 {
			t.Errorf("site %s is damaged, and its check ends with %d", site, r.code)
		}
		r := w.restore("from-"+site, "--site", site, "--start")
		if d := cmp.Diff(source, digest(t, r.connString, false)); d != "" {
			t.Errorf("from site %s: -source +restored:\n%s", site, d)
		}
		if site == "here" && !strings.Contains(strings.Join(r.Notes, "\n"), "parts came from other sites") {
			t.Errorf("the restore says %q", r.Notes)
		}
		r.stop()
		type healed struct{ Healed struct{ Healed []string } }
		out := decode[healed](t, w.run("repo", "check", "--site", site, "--read-data", "--repair", "-o", "json"))
		if len(out.Healed.Healed) == 0 {
			t.Errorf("at site %s nothing was put back", site)
		}
		w.run("repo", "check", "--site", site, "--read-data")
	}
}
