package partial

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/pg"
	"github.com/holdfast-dr/holdfast/internal/pg/pgtest"
	"github.com/holdfast-dr/holdfast/internal/repo"
	"github.com/holdfast-dr/holdfast/internal/restore/boot"
	"github.com/holdfast-dr/holdfast/internal/restore/points"
)

// standing is a sandbox's server from which parts are dumped: one that stands already, since how it came about is Extract's.
type standing struct {
	*pgtest.Server
	boot *boot.Server
	plan *points.Plan
}

func start(t *testing.T) standing {
	t.Helper()
	s := pgtest.Start(t, pgtest.Options{Version: "15"})
	s.Bin("pg_dump") // skips where there are no client programs
	plan := &points.Plan{System: "orders-db", Snapshot: points.Snapshot{Manifest: &repo.Manifest{}, Facts: &pg.Facts{Version: 150000}}}
	return standing{s, &boot.Server{Socket: s.Socket, Port: s.Port}, plan}
}

// extract dumps a part as Extract does when the sandbox stands.
func (s standing) extract(ctx context.Context, o Options) error {
	o.BinDir = s.BinDir
	t, err := o.check(s.plan)
	if err != nil {
		return err
	}
	if err := o.checkDatabase(ctx, s.boot, s.plan); err != nil {
		return err
	}
	if o.File != "" {
		return t.toFile(ctx, s.boot, o)
	}
	return t.into(ctx, s.boot, o)
}

// Whatever a database, a schema or a table is called, exactly that one is dumped.
func TestNames(t *testing.T) {
	s := start(t)
	const db = `Sh"op 'ö\ $x`
	const inConnString = `'Sh"op \'ö\\ $x'`
	s.Exec("", `CREATE DATABASE "Sh""op 'ö\ $x"`, `CREATE DATABASE target`)
	tables := map[string]string{ // as it is asked for, and as SQL has it
		"orders": `public.orders`, "public.Orders": `public."Orders"`, `public."ORDERS"`: `public."ORDERS"`, "public.größe": `public."größe"`,
		"public.a*": `public."a*"`, "public.ab": `public.ab`, "public.a$b": `public."a$b"`, "public.a.b": `public."a.b"`,
		`"My.Schema"."Ta""ble"`: `"My.Schema"."Ta""ble"`, "My.orders": `"My".orders`, "日本.表": `"日本"."表"`, "public.with space": `public."with space"`,
		"public.-x": `public."-x"`, "public.[ab]": `public."[ab]"`, "public.a|b": `public."a|b"`,
	}
	s.Exec(inConnString, `CREATE SCHEMA "My.Schema"`, `CREATE SCHEMA "My"`, `CREATE SCHEMA "日本"`)
	for asked, name := range tables {
		s.Exec(inConnString, fmt.Sprintf("CREATE TABLE %s AS SELECT $$%s$$ AS marker", name, asked))
	}
	dir := t.TempDir()
	n := 0
	for asked, name := range tables {
		n++
		file := filepath.Join(dir, fmt.Sprint(n))
		if err := s.extract(t.Context(), Options{Database: db, Table: asked, File: file, Format: Plain}); err != nil {
			t.Errorf("%s: %v", asked, err)
			continue
		}
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Count(string(b), "CREATE TABLE "); got != 1 || !strings.Contains(string(b), "CREATE TABLE "+name+" (") || !strings.Contains(string(b), "\n"+asked+"\n") {
			t.Errorf("the dump of %s has %d tables: %s", asked, got, b)
		}
	}
	s.Exec("target", `CREATE SCHEMA "My.Schema"`)
	if err := s.extract(t.Context(), Options{Database: db, Table: `"My.Schema"."Ta""ble"`, Into: s.ConnString("target")}); err != nil {
		t.Fatal(err)
	}
	if got := s.Query("target", `SELECT marker FROM "My.Schema"."Ta""ble"`); got != `"My.Schema"."Ta""ble"` {
		t.Errorf("the table has %q", got)
	}
}

// What is not there is named with the next step, and nothing is written.
func TestNotThere(t *testing.T) {
	s := start(t)
	s.Exec("", "CREATE DATABASE shop", "CREATE DATABASE target", "CREATE TABLE orders AS SELECT 1")
	dir := t.TempDir()
	for name, o := range map[string]Options{
		`no database "shpo"`:     {Database: "shpo"},
		`no database "Shop"`:     {Database: "Shop"},
		"no table public.orders": {Database: "shop", Table: "public.orders"},
		"no table Orders":        {Database: "postgres", Table: "Orders"},
		"no table none.orders":   {Database: "postgres", Table: "none.orders"},
	} {
		toFile, into := o, o
		toFile.File, into.Into = filepath.Join(dir, "dump"), s.ConnString("target")
		for _, o := range []Options{toFile, into} {
			err := s.extract(t.Context(), o)
			var f *dr.Failure
			if !errors.As(err, &f) || f.Next == "" || !strings.Contains(f.What, strings.TrimPrefix(name, "no ")) || strings.Contains(err.Error(), "pg_restore") {
				t.Errorf("%s: %v", name, err)
			}
		}
		if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
			t.Errorf("%s: left behind: %v, %v", name, left, err)
		}
	}
	if got := s.Query("target", "SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace"); got != "0" {
		t.Errorf("the target has %s relations", got)
	}
}

// A target that refuses is named with its reason at once, however much there is to send, and has nothing of it.
func TestTargetRefuses(t *testing.T) {
	s := start(t)
	s.Exec("", "CREATE DATABASE shop", "CREATE DATABASE target", "CREATE DATABASE taken", "CREATE ROLE nobody LOGIN", "REVOKE CREATE ON SCHEMA public FROM public",
		"CREATE ROLE locked LOGIN CONNECTION LIMIT 0")
	s.Exec("taken", "CREATE TABLE zz (i int)")
	s.Exec("shop", "CREATE TABLE orders AS SELECT i, md5(i::text) FROM generate_series(1, 200000) AS i", "CREATE TABLE zz AS SELECT 1")
	conn := func(db, user string) string {
		return strings.Replace(s.ConnString(db), "user=postgres", "user="+user, 1)
	}
	for reason, target := range map[string]string{
		"does not exist":               s.ConnString("nowhere"),
		"already exists":               s.ConnString("taken"),
		"too many connections":         conn("target", "locked"),
		"permission denied":            conn("target", "nobody"),
		"No such file or directory":    "host=/nonexistent dbname=target user=postgres",
		"Connection refused":           "host=127.0.0.1 port=1 dbname=target user=postgres",
		"connection string of the tar": "port=many",
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		err := s.extract(ctx, Options{Database: "shop", Into: target})
		if ctx.Err() != nil {
			t.Errorf("%s: it did not come to an end", reason)
		}
		cancel()
		var f *dr.Failure
		if !errors.As(err, &f) || f.Next == "" || !strings.Contains(err.Error(), reason) || strings.Contains(err.Error(), "pg_dump") {
			t.Errorf("%s: %v", reason, err)
		}
	}
	for db, want := range map[string]string{"target": "0", "taken": "1"} {
		if got := s.Query(db, "SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'"); got != want {
			t.Errorf("%s has %s tables, want %s", db, got, want)
		}
	}
}

func TestCheck(t *testing.T) {
	s := start(t)
	dir := t.TempDir()
	file := filepath.Join(dir, "dump")
	if err := os.WriteFile(file, []byte("of yesterday"), 0o600); err != nil {
		t.Fatal(err)
	}
	for reason, o := range map[string]Options{
		"no database was named": {File: filepath.Join(dir, "new")},
		"to a file or into":     {Database: "postgres"},
		"either to a file":      {Database: "postgres", File: filepath.Join(dir, "new"), Into: "dbname=postgres"},
		"exists already":        {Database: "postgres", File: file},
		"a quote is not closed": {Database: "postgres", Table: `public."x`, File: filepath.Join(dir, "new")},
	} {
		var f *dr.Failure
		if err := s.extract(t.Context(), o); !errors.As(err, &f) || f.Next == "" || !strings.Contains(err.Error(), reason) {
			t.Errorf("%s: %v", reason, err)
		}
	}
	if b, err := os.ReadFile(file); err != nil || string(b) != "of yesterday" {
		t.Errorf("a file that was there has %q (%v)", b, err)
	}
	if _, err := os.Stat(filepath.Join(dir, "new")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a refused extraction left a file (%v)", err)
	}
	// A directory without pg_restore, and one with a pg_dump that has a known hole.
	bin := t.TempDir()
	script := func(name, says string) {
		if err := os.WriteFile(filepath.Join(bin, name), []byte("#!/bin/sh\necho '"+says+"'\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	script("pg_dump", "pg_dump (PostgreSQL) 15.18")
	o := Options{Database: "postgres", Into: "dbname=postgres"}
	if _, err := findTools(bin, 15, o); err == nil || !strings.Contains(err.Error(), "pg_restore") || !strings.Contains(err.Error(), "postgresql-client-15") {
		t.Errorf("without pg_restore: %v", err)
	}
	script("pg_restore", "pg_restore (PostgreSQL) 15.13 (Debian 15.13-1)")
	if _, err := findTools(bin, 15, o); err == nil || !strings.Contains(err.Error(), "15.14 or newer") {
		t.Errorf("with an old pg_restore: %v", err)
	}
	script("pg_restore", "pg_restore (PostgreSQL) 15.14")
	if _, err := findTools(bin, 15, o); err != nil {
		t.Error(err)
	}
}
