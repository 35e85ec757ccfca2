package e2e

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/holdfast-dr/holdfast/internal/pg/pgtest"
)

// mover is a load of everything that makes, moves, truncates and removes files in a cluster.
type mover struct {
	server *pgtest.Server
	dir    string // for tablespaces; empty: none
	pace   time.Duration
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu   sync.Mutex // guards done
	done map[string]int
}

var moverSchema = []string{
	"CREATE TABLE account (id int PRIMARY KEY, balance bigint NOT NULL, note text)",
	"INSERT INTO account SELECT i, 0, repeat(md5(i::text), 3) FROM generate_series(1, 20000) AS i",
	"CREATE TABLE ledger (id bigserial PRIMARY KEY, account int, amount int)",
	"CREATE TABLE rewritten (id int, v text)", "INSERT INTO rewritten SELECT i, md5(i::text) FROM generate_series(1, 5000) AS i",
	"CREATE TABLE truncated (id int, v text)", "CREATE INDEX ON truncated (id)",
	"CREATE TABLE grown (id bigserial, v text, big text)",
	"CREATE TABLE moved (id int PRIMARY KEY, v text)", "INSERT INTO moved SELECT i, repeat('m', 50) FROM generate_series(1, 3000) AS i",
	"CREATE TABLE frozen (id int, v text)",
	"CREATE UNLOGGED TABLE fleeting (id int, v text)", "CREATE TABLE switching (id int, v text)",
	"CREATE TABLE objects (id oid)", "CREATE TABLE promises (id int)",
	"CREATE SEQUENCE ticket",
	"CREATE DATABASE pattern",
}

// startMover makes the schema and begins to move.
func startMover(t *testing.T, s *pgtest.Server, dir string) *mover {
	t.Helper()
	return startPacedMover(t, s, dir, 0)
}

// startPacedMover is startMover with a pause after each work, so that whoever receives the log keeps up.
func startPacedMover(t *testing.T, s *pgtest.Server, dir string, pace time.Duration) *mover {
	t.Helper()
	s.Exec("", moverSchema...)
	s.Exec("pattern", "CREATE TABLE p AS SELECT i, md5(i::text) AS v FROM generate_series(1, 2000) AS i", "CREATE INDEX ON p (i)")
	return moveOn(t, s, dir, pace)
}

// moveOn begins to move in a copy of a cluster that has the schema.
func moveOn(t *testing.T, s *pgtest.Server, dir string, pace time.Duration) *mover {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	m := &mover{server: s, dir: dir, pace: pace, cancel: cancel, done: map[string]int{}}
	works := []func(ctx context.Context, c *pgx.Conn, n int) error{m.databases, m.rewrites, m.growth, m.indexes, m.kinds, m.business}
	if dir != "" {
		works = append(works, m.tablespaces)
	}
	for _, work := range works {
		m.wg.Go(func() { m.repeat(ctx, work) })
	}
	t.Cleanup(m.stop)
	return m
}

func (m *mover) stop() {
	m.cancel()
	m.wg.Wait()
}

// repeat does a work again and again. It meets crashes of the server, and errors that they leave behind, such as
// a name that is taken: it goes on with the next number.
func (m *mover) repeat(ctx context.Context, work func(ctx context.Context, c *pgx.Conn, n int) error) {
	var conn *pgx.Conn
	for n := 0; ctx.Err() == nil; n++ {
		pause(m.pace)
		if conn == nil || conn.IsClosed() {
			var err error
			if conn, err = pgx.Connect(ctx, m.server.ConnString("")); err != nil {
				pause(50 * time.Millisecond)
				continue
			}
		}
		// A statement under way is let come to its end: a cancelled one would be an abort, never a commit.
		if err := work(context.WithoutCancel(ctx), conn, n); err != nil && !conn.IsClosed() {
			conn.Close(context.WithoutCancel(ctx)) //nolint:errcheck // rolls back what was begun
		}
	}
	if conn != nil {
		conn.Close(context.WithoutCancel(ctx)) //nolint:errcheck // all is committed
	}
}

// do runs statements, one transaction each, and counts the kind once they are done.
func (m *mover) do(ctx context.Context, c *pgx.Conn, kind string, statements ...string) error {
	for _, q := range statements {
		if _, err := c.Exec(ctx, q); err != nil {
			return err
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.done[kind]++
	return nil
}

// kindsDone returns what was done at least once.
func (m *mover) kindsDone() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Sorted(maps.Keys(m.done))
}

func (m *mover) databases(ctx context.Context, c *pgx.Conn, n int) error {
	strategy, kind := "", "create database"
	if m.server.Version >= 15 {
		strategy, kind = " STRATEGY wal_log", "create database wal_log"
		if n%2 == 1 {
			strategy, kind = " STRATEGY file_copy", "create database file_copy"
		}
	}
	if err := m.do(ctx, c, kind, fmt.Sprintf("CREATE DATABASE copy%d TEMPLATE pattern%s", n, strategy)); err != nil {
		return err
	}
	inner, err := pgx.Connect(ctx, m.server.ConnString(fmt.Sprintf("copy%d", n)))
	if err != nil {
		return err
	}
	_, err = inner.Exec(ctx, "UPDATE p SET v = v || 'x' WHERE i % 3 = 0; CREATE TABLE q AS SELECT * FROM p")
	if err := inner.Close(ctx); err != nil {
		return err
	}
	if err != nil || n < 2 {
		return err
	}
	return m.do(ctx, c, "drop database", fmt.Sprintf("DROP DATABASE IF EXISTS copy%d", n-2))
}

func (m *mover) tablespaces(ctx context.Context, c *pgx.Conn, n int) error {
	name := fmt.Sprintf("space%d", n%3)
	var there bool
	if err := c.QueryRow(ctx, "SELECT EXISTS (SELECT FROM pg_tablespace WHERE spcname = $1)", name).Scan(&there); err != nil {
		return err
	}
	if there {
		if err := m.do(ctx, c, "move from tablespace", "ALTER TABLE moved SET TABLESPACE pg_default", "ALTER INDEX moved_pkey SET TABLESPACE pg_default",
			"DROP TABLE IF EXISTS in_"+name); err != nil {
			return err
		}
		return m.do(ctx, c, "drop tablespace", "CHECKPOINT", "DROP TABLESPACE "+name)
	}
	return m.do(ctx, c, "create tablespace",
		fmt.Sprintf("CREATE TABLESPACE %s LOCATION '%s'", name, filepath.Join(m.dir, name)),
		fmt.Sprintf("CREATE TABLE in_%s TABLESPACE %[1]s AS SELECT i, md5(i::text) FROM generate_series(1, 3000) AS i", name),
		"ALTER TABLE moved SET TABLESPACE "+name, "ALTER INDEX moved_pkey SET TABLESPACE "+name,
		"UPDATE moved SET v = v || 'y' WHERE id % 7 = 0", fmt.Sprintf("INSERT INTO in_%s VALUES (0, 'late')", name))
}

func (m *mover) rewrites(ctx context.Context, c *pgx.Conn, n int) error {
	if err := m.do(ctx, c, "vacuum full", "UPDATE rewritten SET v = md5(v) WHERE id % 5 = 1", "VACUUM FULL rewritten"); err != nil {
		return err
	}
	return m.do(ctx, c, "truncate", "TRUNCATE truncated", fmt.Sprintf("INSERT INTO truncated SELECT i, md5((i + %d)::text) FROM generate_series(1, 4000) AS i", n))
}

func (m *mover) growth(ctx context.Context, c *pgx.Conn, n int) error {
	if err := m.do(ctx, c, "extension", "INSERT INTO grown (v, big) SELECT md5(i::text), repeat(md5(i::text), 20) FROM generate_series(1, 4000) AS i"); err != nil {
		return err
	}
	if n%3 == 2 {
		return m.do(ctx, c, "truncation", "DELETE FROM grown WHERE id > (SELECT min(id) + 2000 FROM grown)", "VACUUM grown")
	}
	return nil
}

func (m *mover) indexes(ctx context.Context, c *pgx.Conn, n int) error {
	if err := m.do(ctx, c, "create index", "CREATE INDEX IF NOT EXISTS by_note ON account (note, balance)", "REINDEX INDEX by_note"); err != nil {
		return err
	}
	return m.do(ctx, c, "create index concurrently", "DROP INDEX by_note", fmt.Sprintf("CREATE INDEX CONCURRENTLY slow%d ON account (balance)", n),
		fmt.Sprintf("DROP INDEX CONCURRENTLY slow%d", n))
}

func (m *mover) kinds(ctx context.Context, c *pgx.Conn, n int) error {
	if err := m.do(ctx, c, "unlogged", "INSERT INTO fleeting SELECT i, 'gone' FROM generate_series(1, 500) AS i",
		"ALTER TABLE switching SET UNLOGGED", fmt.Sprintf("INSERT INTO switching SELECT %d, md5(i::text) FROM generate_series(1, 200) AS i", n),
		"ALTER TABLE switching SET LOGGED"); err != nil {
		return err
	}
	if err := m.copyFreeze(ctx, c, n); err != nil {
		return err
	}
	if err := m.do(ctx, c, "large object", fmt.Sprintf("INSERT INTO objects SELECT lo_from_bytea(0, decode(repeat(md5('%d'), 500), 'hex'))", n),
		"WITH d AS (DELETE FROM objects WHERE id IN (SELECT id FROM objects ORDER BY id LIMIT 1 OFFSET 5) RETURNING id) SELECT lo_unlink(id) FROM d"); err != nil {
		return err
	}
	if err := m.do(ctx, c, "prepared transaction", "BEGIN", fmt.Sprintf("INSERT INTO promises VALUES (%d)", n), fmt.Sprintf("PREPARE TRANSACTION 'p%d'", n)); err != nil {
		return err
	}
	if n > 2 {
		return m.do(ctx, c, "commit prepared", fmt.Sprintf("COMMIT PREPARED 'p%d'", n-2))
	}
	return nil
}

func (m *mover) copyFreeze(ctx context.Context, c *pgx.Conn, n int) error {
	if err := m.do(ctx, c, "copy", "BEGIN", "TRUNCATE frozen"); err != nil {
		return err
	}
	var b bytes.Buffer
	for i := range 2000 {
		fmt.Fprintf(&b, "%d\tfrozen %d\n", i, n)
	}
	if _, err := c.PgConn().CopyFrom(ctx, &b, "COPY frozen FROM STDIN (FREEZE)"); err != nil {
		return err
	}
	return m.do(ctx, c, "copy freeze", "COMMIT")
}

func (m *mover) business(ctx context.Context, c *pgx.Conn, n int) error {
	return m.do(ctx, c, "business", fmt.Sprintf("UPDATE account SET balance = balance + 1 WHERE id = %d", 1+n*37%20000),
		fmt.Sprintf("INSERT INTO ledger (account, amount) VALUES (%d, 1)", 1+n*37%20000), "SELECT nextval('ticket')")
}

// emptyDirectory removes what is in a directory, and keeps it.
func emptyDirectory(t *testing.T, dir string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
			t.Fatal(err)
		}
	}
}
