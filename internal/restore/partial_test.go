package restore_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/holdfast-dr/holdfast/internal/pg/pgtest"
	"github.com/holdfast-dr/holdfast/internal/restore/partial"
)

func TestExtractADatabaseAndATable(t *testing.T) {
	w := newWorld(t, pgtest.Options{Version: "15"})
	w.s.Bin("pg_dump") // skips where there are no client programs
	w.s.Exec("", "CREATE DATABASE shop", "CREATE DATABASE copy", "CREATE DATABASE copy2")
	w.s.Exec("shop", "CREATE SCHEMA s", `CREATE TABLE s."Orders" AS SELECT generate_series(1, 1000) AS i`, "CREATE TABLE other AS SELECT 1 AS i")
	w.snapshot(w.s)
	w.s.Exec("shop", `INSERT INTO s."Orders" VALUES (1001)`)
	at := now(w.s)
	w.s.Exec("shop", `DROP TABLE s."Orders"`)
	w.archive(w.s)
	pgtest.Chown(t, w.dir)
	o := partial.Options{Database: "shop", Sandbox: w.base, RestoreCommand: w.restoreCommand(), BinDir: w.s.BinDir}

	o.Table, o.Into = "s.Orders", w.s.ConnString("copy")
	w.s.Exec("copy", "CREATE SCHEMA s")
	if _, err := partial.Extract(t.Context(), w.r, w.mustPlan(at), o); err != nil {
		t.Fatal(err)
	}
	if got := w.s.Query("copy", `SELECT max(i) FROM s."Orders"`); got != "1001" {
		t.Errorf("the table has %s, want 1001", got)
	}
	if got := w.s.Query("copy", "SELECT to_regclass('other') IS NULL"); got != "t" {
		t.Error("another table came along")
	}

	o.Table, o.Into, o.File, o.Format = "", "", filepath.Join(w.base, "shop.sql"), partial.Plain
	if _, err := partial.Extract(t.Context(), w.r, w.mustPlan(at), o); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(o.File); err != nil || len(b) < 1000 {
		t.Errorf("the dump has %d bytes: %v", len(b), err)
	}
	o.Database, o.File = "shpo", filepath.Join(w.base, "none")
	_, err := partial.Extract(t.Context(), w.r, w.mustPlan("latest"), o)
	golden(t, w, "no-database", err)
	left, err := filepath.Glob(filepath.Join(w.base, "holdfast-sandbox-*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}
