package figure

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/holdfast-dr/holdfast/internal/pg/wal"
)

// Question asks a database for one value. One of SQL and Table is set.
type Question struct {
	Name     string
	Database string
	SQL      string // a statement that returns one row with one value
	Table    string // SCHEMA.TABLE: the number of its rows and a digest of them, whatever their order
}

// Answer is what a database said.
type Answer struct {
	Name  string  `json:"name"`
	Value *string `json:"value,omitempty"` // as PostgreSQL prints it; nil: NULL, or there is none
	Error string  `json:"error,omitempty"` // why there is none
}

// Recorded are answers of the source.
type Recorded struct {
	At        time.Time    `json:"at"` // by the source's clock
	Databases []InDatabase `json:"databases"`
}

// InDatabase are the answers of one database, all of one MVCC snapshot.
type InDatabase struct {
	Database string   `json:"database"`
	LSN      wal.LSN  `json:"lsn"`  // everything that the snapshot sees lies before it
	MVCC     string   `json:"mvcc"` // pg_snapshot
	Answers  []Answer `json:"answers"`
}

// LSN returns the position to recover to, so that most of the answers can be compared: the last one.
func (r *Recorded) LSN() (at wal.LSN) {
	for _, d := range r.Databases {
		at = max(at, d.LSN)
	}
	return at
}

// Of returns the answers of a database; nil where it was not asked.
func (r *Recorded) Of(database string) *InDatabase {
	for i := range r.Databases {
		if r.Databases[i].Database == database {
			return &r.Databases[i]
		}
	}
	return nil
}

// Statement returns the SQL of a question.
func (q Question) Statement() string {
	if q.Table == "" {
		return q.SQL
	}
	name := pgx.Identifier(strings.SplitN(q.Table, ".", 2)).Sanitize()
	return "SELECT count(*) || ' rows, digest ' || coalesce(sum(hashtextextended(t::text, 0)), 0) FROM " + name + " AS t"
}

// settings make the text of a value depend on the value alone.
const settings = `SET LOCAL search_path = public; SET LOCAL "TimeZone" = 'UTC'; SET LOCAL "DateStyle" = 'ISO, YMD'; SET LOCAL "IntervalStyle" = 'postgres';
	SET LOCAL extra_float_digits = 1; SET LOCAL bytea_output = 'hex'; SET LOCAL lc_monetary = 'C'; SET LOCAL lc_numeric = 'C'; SET LOCAL xmloption = 'content'`

// Reading is a session's transaction, read only and of one MVCC snapshot, in which questions are asked.
type Reading struct{ conn *pgx.Conn }

// Begin begins a reading, whose statements may take so long each; 0: for ever.
func Begin(ctx context.Context, conn *pgx.Conn, limit time.Duration) (*Reading, error) {
	_, err := conn.Exec(ctx, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; "+settings+fmt.Sprintf("; SET LOCAL statement_timeout = %d", limit.Milliseconds()))
	return &Reading{conn}, err
}

// Ask returns the answer to a question. The error is of the connection: what the database does not like is in the answer.
func (r *Reading) Ask(ctx context.Context, q Question) (Answer, error) {
	a := Answer{Name: q.Name}
	if _, err := r.conn.Exec(ctx, "SAVEPOINT question"); err != nil {
		return a, err
	}
	value, err := r.one(ctx, q.Statement())
	if err != nil {
		if r.conn.IsClosed() || ctx.Err() != nil {
			return a, err
		}
		a.Error = err.Error()
	} else if value != nil {
		text := string(value)
		a.Value = &text
	}
	_, err = r.conn.Exec(ctx, "ROLLBACK TO SAVEPOINT question")
	return a, err
}

// one returns the one value of a statement as text, nil for NULL. The extended protocol takes no more than one statement.
func (r *Reading) one(ctx context.Context, sql string) ([]byte, error) {
	result := r.conn.PgConn().ExecParams(ctx, sql, nil, nil, nil, nil).Read()
	switch {
	case result.Err != nil:
		return nil, result.Err
	case len(result.Rows) != 1 || len(result.Rows[0]) != 1:
		columns := len(result.FieldDescriptions)
		return nil, fmt.Errorf("it returns %d rows of %d columns, and not one value", len(result.Rows), columns)
	}
	return result.Rows[0][0], nil
}

// End ends a reading.
func (r *Reading) End(ctx context.Context) error {
	_, err := r.conn.Exec(ctx, "ROLLBACK")
	return err
}

// Record asks the source. connect opens a session of a database, which is closed again. What cannot be asked is in the answers.
func Record(ctx context.Context, questions []Question, limit time.Duration, connect func(ctx context.Context, database string) (*pgx.Conn, error)) *Recorded {
	var names []string
	by := map[string][]Question{}
	for _, q := range questions {
		if by[q.Database] == nil {
			names = append(names, q.Database)
		}
		by[q.Database] = append(by[q.Database], q)
	}
	out := &Recorded{At: time.Now().UTC()}
	for _, name := range names {
		d := InDatabase{Database: name}
		if err := d.record(ctx, by[name], limit, connect); err != nil {
			d.Answers = nil
			for _, q := range by[name] {
				d.Answers = append(d.Answers, Answer{Name: q.Name, Error: err.Error()})
			}
		}
		out.Databases = append(out.Databases, d)
	}
	return out
}

func (d *InDatabase) record(ctx context.Context, questions []Question, limit time.Duration, connect func(context.Context, string) (*pgx.Conn, error)) (err error) {
	conn, err := connect(ctx, d.Database)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close(context.WithoutCancel(ctx))) }()
	r, err := Begin(ctx, conn, limit)
	if err != nil {
		return err
	}
	var lsn string
	if err := conn.QueryRow(ctx, "SELECT pg_current_snapshot()::text, pg_current_wal_insert_lsn()::text").Scan(&d.MVCC, &lsn); err != nil {
		return err
	}
	if d.LSN, err = wal.ParseLSN(lsn); err != nil {
		return err
	}
	// A record that begins there: a recovery knows by it that it has reached the position.
	if _, err := conn.Exec(ctx, "SELECT pg_logical_emit_message(false, 'holdfast', 'figures')"); err != nil {
		return err
	}
	for _, q := range questions {
		a, err := r.Ask(ctx, q)
		if err != nil {
			return err
		}
		d.Answers = append(d.Answers, a)
	}
	return r.End(ctx)
}

// CommittedBeyond returns how many transactions a recovered server has that an MVCC snapshot of its source did not see. It has to be
// asked before the server writes anything itself.
func CommittedBeyond(ctx context.Context, conn *pgx.Conn, mvcc string) (n int64, err error) {
	err = conn.QueryRow(ctx, `WITH s AS (SELECT $1::text::pg_snapshot AS s)
		SELECT count(*) FROM (SELECT pg_snapshot_xip(s) AS x FROM s UNION ALL
			SELECT x::text::xid8 FROM s, generate_series(pg_snapshot_xmax(s)::text::int8, pg_snapshot_xmax(pg_current_snapshot())::text::int8 - 1) AS x) AS t
		WHERE pg_xact_status(x) = 'committed'`, mvcc).Scan(&n)
	return n, err
}
