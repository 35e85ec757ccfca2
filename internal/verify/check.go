package verify

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"golang.org/x/sync/errgroup"

	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/restore/boot"
)

// checkSchema is where the sandbox has amcheck: what a database of this name has of its own is none of ours.
const checkSchema = "holdfast_verify"

// checking is amcheck over all databases of a server.
type checking struct {
	*test
	server *boot.Server
	done   atomic.Int64
	mu     sync.Mutex // guards result
	left   map[string]int
}

// relation is what amcheck looks at.
type relation struct {
	OID   uint32
	Name  string
	Check string // a query of one row for each thing that is wrong, with its text; its parameter is the OID
	Index bool
}

// check looks at every table and every B-tree of every database with amcheck.
func (t *test) check(ctx context.Context, s *boot.Server, names []string) error {
	began := time.Now()
	c := &checking{test: t, server: s, left: map[string]int{}}
	for _, db := range names {
		if err := c.database(ctx, db); err != nil {
			return fmt.Errorf("check database %s: %w", db, err)
		}
	}
	r := t.result
	r.phase("amcheck", began)
	r.cover("amcheck of %d B-trees, each entry of a table looked up in them, and of %d tables with what they have out of line, in %d databases", r.Figures.Indexes, r.Figures.Tables, len(names))
	if t.plan.Snapshot.Facts.Major() < 14 {
		r.leave("the rows of tables: amcheck looks at them from version 14 on")
	}
	for method, n := range c.left {
		r.leave("%d indexes of the method %s, which amcheck does not know", n, method)
	}
	r.prove(Check)
	return nil
}

func (c *checking) database(ctx context.Context, db string) error {
	var relations []relation
	err := in(ctx, c.server, db, func(conn *pgx.Conn) (err error) {
		schema, err := c.extension(ctx, conn)
		if err == nil {
			relations, err = c.relations(ctx, conn, schema)
		}
		return err
	})
	if err != nil {
		return err
	}
	todo := make(chan relation)
	eg, ctx := errgroup.WithContext(ctx)
	eg.Go(func() error {
		defer close(todo)
		for _, r := range relations {
			select {
			case todo <- r:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		return nil
	})
	for range min(runtime.GOMAXPROCS(0), max(len(relations), 1)) {
		eg.Go(func() error {
			return in(ctx, c.server, db, func(conn *pgx.Conn) error {
				for r := range todo {
					if err := c.relation(ctx, conn, db, r); err != nil {
						return err
					}
				}
				return nil
			})
		})
	}
	return eg.Wait()
}

// extension makes amcheck in the sandbox, where the database has none, and returns its schema.
func (c *checking) extension(ctx context.Context, conn *pgx.Conn) (schema string, err error) {
	err = conn.QueryRow(ctx, "SELECT n.nspname::text FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = 'amcheck'").Scan(&schema)
	switch {
	case err == nil:
		_, err = conn.Exec(ctx, "ALTER EXTENSION amcheck UPDATE")
		return schema, err
	case !errors.Is(err, pgx.ErrNoRows):
		return "", err
	}
	var there bool
	if err := conn.QueryRow(ctx, "SELECT EXISTS (SELECT FROM pg_available_extensions WHERE name = 'amcheck')").Scan(&there); err != nil {
		return "", err
	}
	if major := c.plan.Snapshot.Facts.Major(); !there {
		return "", &dr.Failure{
			What: fmt.Sprintf("PostgreSQL %d has no amcheck on this machine", major), Reason: "its control file is not in the directory of extensions",
			Next: fmt.Sprintf("install it: Debian has it in postgresql-%d, Red Hat in postgresql%d-contrib; or test with --depth boot", major, major),
		}
	}
	_, err = conn.Exec(ctx, "CREATE SCHEMA "+checkSchema+"; CREATE EXTENSION amcheck SCHEMA "+checkSchema)
	return checkSchema, err
}

// relations returns what there is to be checked in a database, the large ones first.
func (c *checking) relations(ctx context.Context, conn *pgx.Conn, schema string) ([]relation, error) {
	at := pgx.Identifier{schema}.Sanitize() + "."
	var unique, gin bool
	err := conn.QueryRow(ctx, `SELECT EXISTS (SELECT FROM pg_proc WHERE proname = 'bt_index_check' AND pronargs = 3 AND pronamespace = $1::regnamespace),
		EXISTS (SELECT FROM pg_proc WHERE proname = 'gin_index_check' AND pronamespace = $1::regnamespace)`, pgx.Identifier{schema}.Sanitize()).Scan(&unique, &gin)
	if err != nil {
		return nil, err
	}
	btree := "SELECT ''::text WHERE " + at + "bt_index_check($1::oid::regclass, true) IS NULL"
	if unique {
		btree = "SELECT ''::text WHERE " + at + "bt_index_check($1::oid::regclass, true, true) IS NULL"
	}
	heap := `SELECT format('block %s, item %s, column %s: %s', blkno, coalesce(offnum, 0), coalesce(attnum, 0), msg)
		FROM ` + at + `verify_heapam($1::oid::regclass, false, true, 'none', NULL, NULL)`
	// Temporary tables are those of sessions that have ended with the source. An index that is not valid is none.
	rows, err := conn.Query(ctx, `SELECT c.oid, c.oid::regclass::text, c.relkind::text, coalesce(a.amname::text, '') FROM pg_class c
		LEFT JOIN pg_am a ON a.oid = c.relam LEFT JOIN pg_index i ON i.indexrelid = c.oid
		WHERE c.relpersistence <> 't' AND (c.relkind IN ('r', 'm', 't') OR c.relkind = 'i' AND i.indisvalid AND i.indisready) ORDER BY c.relpages DESC, c.oid`)
	if err != nil {
		return nil, err
	}
	var out []relation
	var r relation
	var kind, method string
	_, err = pgx.ForEachRow(rows, []any{&r.OID, &r.Name, &kind, &method}, func() error {
		r.Index, r.Check = kind == "i", ""
		switch {
		case kind == "i" && method == "btree":
			r.Check = btree
		case kind == "i" && method == "gin" && gin:
			r.Check = "SELECT ''::text WHERE " + at + "gin_index_check($1::oid::regclass) IS NULL"
		case kind != "i" && method == "heap" && c.plan.Snapshot.Facts.Major() >= 14:
			r.Check = heap
		}
		if r.Check != "" {
			out = append(out, r)
		} else if r.Index {
			c.left[method]++
		}
		return nil
	})
	return out, err
}

// relation checks one, and notes what is wrong with it. An error means that the check could not be done.
func (c *checking) relation(ctx context.Context, conn *pgx.Conn, db string, r relation) error {
	if c.opts.Progress != nil {
		c.opts.Progress(dr.Progress{Phase: "checking " + db, Done: dr.Bytes(c.done.Add(1))})
	}
	what := fmt.Sprintf("%s in database %s", r.Name, db)
	rows, err := conn.Query(ctx, r.Check, r.OID)
	var found []string
	if err == nil {
		found, err = pgx.CollectRows(rows, pgx.RowTo[string])
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if r.Index {
		c.result.Figures.Indexes++
	} else {
		c.result.Figures.Tables++
	}
	for _, f := range found {
		if f != "" { // the answer of a check that returns nothing
			c.result.problem(Check, what, "%s", f)
		}
	}
	var pgErr *pgconn.PgError
	switch {
	case err == nil:
	case !errors.As(err, &pgErr) || ctx.Err() != nil:
		return err
	case damaged(pgErr):
		reason := pgErr.Message
		if pgErr.Detail != "" {
			reason += " (" + pgErr.Detail + ")"
		}
		c.result.problem(Check, what, "%s", reason)
	default: // a function of an index that needs what the sandbox does not have, for one
		c.result.leave("%s: amcheck could not look at it: %s", what, pgErr.Message)
	}
	return nil
}

// damaged tells an error that says that data is not as it must be: of the classes XX (internal and corruption) and 58 (files), from
// errcodes.txt.
func damaged(e *pgconn.PgError) bool {
	return len(e.Code) == 5 && (e.Code[:2] == "XX" || e.Code[:2] == "58")
}
