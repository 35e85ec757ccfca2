package verify

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/holdfast-dr/holdfast/internal/pg/pgtest"
)

// A row of a table that no index knows is found by amcheck, and by nothing else: every page of it is as it must be.
func TestCheckFindsWhatPagesDoNotShow(t *testing.T) {
	w := newWorld(t, pgtest.Options{Version: "15"})
	if _, err := os.Stat(filepath.Join(w.s.BinDir, "..", "lib", "amcheck.so")); err != nil {
		t.Skip("this PostgreSQL has no amcheck")
	}
	w.s.Exec("",
		"CREATE TABLE orders AS SELECT i, md5(i::text) AS note FROM generate_series(1, 5000) AS i", "CREATE INDEX by_note ON orders (note)",
		"CREATE INDEX by_hash ON orders USING hash (i)", "CREATE TABLE long AS SELECT repeat(md5(i::text), 400) AS text FROM generate_series(1, 20) AS i",
		"CREATE DATABASE shop")
	whole := w.s
	w.snapshot()
	w.archive()
	test := func() *Result {
		t.Helper()
		_, p := w.plan(w.r, "latest")
		r, err := Run(t.Context(), w.r, p, Options{Depth: Check, Sandbox: w.base, RestoreCommand: w.restoreCommand(), BinDir: whole.BinDir})
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	r := test()
	if r.Outcome != Passed || r.Proven != Check || r.Figures.Indexes < 100 || r.Figures.Tables < 60 || r.Figures.Databases != 3 {
		t.Fatalf("%+v", r)
	}
	if left := strings.Join(r.NotCovered, "\n"); !strings.Contains(left, "1 indexes of the method hash") {
		t.Errorf("what amcheck does not know is not named: %s", left)
	}
	// The catalog says for a moment that there is no index.
	w.s.Exec("", "UPDATE pg_index SET indisready = false WHERE indexrelid = 'by_note'::regclass")
	w.s.Exec("", "INSERT INTO orders VALUES (0, 'unknown to its index')")
	w.s.Exec("", "UPDATE pg_index SET indisready = true WHERE indexrelid = 'by_note'::regclass")
	w.archive()
	r = test()
	if r.Outcome != Failed || r.Proven != Boot || r.ProblemCount != 1 || !strings.Contains(r.Problems[0].What, "by_note") {
		t.Errorf("%+v", r)
	}
	nothingLeft(t, w)
}
