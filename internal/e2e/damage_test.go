package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/holdfast-dr/holdfast/internal/pg/pgtest"
)

// TestDamagedSnapshot restores a snapshot of which a bit has turned: everything that is lost is named, nothing can be
// started by accident, and who says so gets a running server with the rest.
func TestDamagedSnapshot(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Options{Version: "15"})
	w.run("repo", "init")
	w.server.Exec("", ledgerTable, "INSERT INTO book SELECT i::text, md5(i::text) FROM generate_series(1, 5000) AS i",
		"CREATE TABLE big AS SELECT i, md5(i::text) || md5((i * 7)::text) AS v FROM generate_series(1, 400000) AS i", "CHECKPOINT")
	table := w.server.Query("", "SELECT pg_relation_filepath('big')")
	w.run("snapshot", "create", system)
	w.turnABit()
	lost := "LOST: " + table + ", "

	refused := w.try("restore", system, "--to", w.dir+"/refused", "--start")
	if _, err := os.Stat(w.dir + "/refused/global/pg_control"); refused.code != 1 || !strings.Contains(refused.out, lost) || err == nil {
		t.Errorf("the restore ends with %d, %v:\n%s%s", refused.code, err, refused.out, refused.stderr)
	}
	kept := w.try("restore", system, "--to", w.dir+"/kept", "--keep-damaged", "--start", "-o", "json")
	if kept.code != 3 || !strings.Contains(kept.stderr, table) {
		t.Fatalf("the restore with --keep-damaged ends with %d:\n%s%s", kept.code, kept.out, kept.stderr)
	}
	r := decode[restored](t, kept.out)
	r.w, r.dir = w, w.dir+"/kept"
	if got := r.query("SELECT count(*) || ' ' || (SELECT count(*) < 400000 AND count(*) > 300000 FROM big) FROM book"); got != "5000 true" {
		t.Errorf("of the tables %q is there", got)
	}
	r.stop()
}

// turnABit turns one in the middle of the largest pack, where a table of 40 MB is.
func (w *world) turnABit() {
	w.t.Helper()
	packs, err := filepath.Glob(filepath.Join(w.dir, "repository", "packs", "*", "*", "*"))
	if err != nil || len(packs) == 0 {
		w.t.Fatalf("packs: %v, %v", packs, err)
	}
	largest, size := "", int64(0)
	for _, p := range packs {
		if fi, err := os.Stat(p); err == nil && fi.Size() > size {
			largest, size = p, fi.Size()
		}
	}
	b, err := os.ReadFile(largest)
	if err == nil {
		b[len(b)/2] ^= 4
		err = os.WriteFile(largest, b, 0o600)
	}
	if err != nil {
		w.t.Fatal(err)
	}
}
