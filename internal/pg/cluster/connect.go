package cluster

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/holdfast-dr/holdfast/internal/dr"
)

// applicationName is how we appear in pg_stat_activity, pg_stat_replication and synchronous_standby_names.
const applicationName = "holdfast"

// maxMessage bounds one message of a server: the largest that we expect, a piece of the log or of a backup, has
// 128 KiB; a timeline history may be larger.
const maxMessage = 16 << 20

// Connect connects to a database with a libpq connection string (key=value or URI; the usual environment
// variables, password and service files hold). Timeouts that the role or the database set are switched off: a
// backup's session is idle for hours.
func Connect(ctx context.Context, connString string) (*pgx.Conn, error) {
	return ConnectTo(ctx, connString, "")
}

// ConnectTo is Connect to another database of the same server; empty: to that of the connection string.
func ConnectTo(ctx context.Context, connString, database string) (*pgx.Conn, error) {
	cfg, err := pgx.ParseConfig(connString)
	if err != nil {
		return nil, badConnString(err)
	}
	if database != "" {
		cfg.Database = database
	}
	return connect(ctx, cfg)
}

func connect(ctx context.Context, cfg *pgx.ConnConfig) (*pgx.Conn, error) {
	prepare(&cfg.Config)
	cfg.RuntimeParams["statement_timeout"] = "0"
	cfg.RuntimeParams["lock_timeout"] = "0"
	cfg.RuntimeParams["idle_in_transaction_session_timeout"] = "0"
	cfg.RuntimeParams["search_path"] = "pg_catalog"
	// No prepared statement is left behind in a connection pooler.
	cfg.DefaultQueryExecMode = pgx.QueryExecModeExec
	conn, err := pgx.ConnectConfig(ctx, cfg)
	if err != nil {
		return nil, connectError(&cfg.Config, err)
	}
	// Newer servers have more timeouts; set_config of one that is missing would be an error.
	_, err = conn.Exec(ctx, `SELECT set_config(name, '0', false) FROM pg_settings
		WHERE name IN ('idle_session_timeout', 'transaction_timeout')`)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("prepare the session: %w", err), conn.Close(context.WithoutCancel(ctx)))
	}
	return conn, nil
}

// ConnectReplication connects for the replication protocol: RemoteBackup, and the log stream.
func ConnectReplication(ctx context.Context, connString string) (*pgconn.PgConn, error) {
	cfg, err := pgconn.ParseConfig(connString)
	if err != nil {
		return nil, badConnString(err)
	}
	return connectReplication(ctx, cfg)
}

func connectReplication(ctx context.Context, cfg *pgconn.Config) (*pgconn.PgConn, error) {
	prepare(cfg)
	cfg.RuntimeParams["replication"] = "true"
	conn, err := pgconn.ConnectConfig(ctx, cfg)
	if err != nil {
		return nil, connectError(cfg, err)
	}
	conn.Frontend().SetMaxBodyLen(maxMessage)
	return conn, nil
}

// Hosts returns the servers that a connection string names, each by itself, whatever target_session_attrs asks for.
func Hosts(connString string) ([]Host, error) {
	cfg, err := pgx.ParseConfig(connString)
	if err != nil {
		return nil, badConnString(err)
	}
	all := append([]*pgconn.FallbackConfig{{Host: cfg.Host, Port: cfg.Port, TLSConfig: cfg.TLSConfig}}, cfg.Fallbacks...)
	var out []Host
	for _, one := range all {
		n := len(out) - 1
		if n >= 0 && out[n].cfg.Host == one.Host && out[n].cfg.Port == one.Port {
			out[n].cfg.Fallbacks = append(out[n].cfg.Fallbacks, one) // the same server without TLS, or with it
			continue
		}
		c := cfg.Copy()
		c.Host, c.Port, c.TLSConfig, c.Fallbacks, c.ValidateConnect = one.Host, one.Port, one.TLSConfig, nil, nil
		out = append(out, Host{c})
	}
	return out, nil
}

// Host is one server of a connection string.
type Host struct{ cfg *pgx.ConnConfig }

// Connect is the package's Connect to this server.
func (h Host) Connect(ctx context.Context) (*pgx.Conn, error) { return connect(ctx, h.cfg.Copy()) }

// ConnectReplication is the package's ConnectReplication to this server.
func (h Host) ConnectReplication(ctx context.Context) (*pgconn.PgConn, error) {
	return connectReplication(ctx, h.cfg.Config.Copy())
}

func prepare(cfg *pgconn.Config) {
	if cfg.RuntimeParams["application_name"] == "" {
		cfg.RuntimeParams["application_name"] = applicationName
	}
	cfg.RuntimeParams["client_encoding"] = "UTF8"
}

func badConnString(err error) error {
	return dr.Fail("the connection string of the database cannot be read", err,
		`write it as libpq does: "host=db1 port=5432 user=holdfast dbname=postgres"`)
}

// connectError says where and why; the password is in none of the errors of pgconn.
func connectError(cfg *pgconn.Config, err error) error {
	what := fmt.Sprintf("connect to PostgreSQL at %s:%d as %s", cfg.Host, cfg.Port, cfg.User)
	next := "see that the server runs and that host and port are right"
	var pgErr *pgconn.PgError
	if errors.As(err, &pgErr) {
		switch pgErr.Code {
		case "28000", "28P01": // no pg_hba.conf entry, or a wrong password
			next = "see that pg_hba.conf lets this user in (for the log stream and remote snapshots: a line for \"replication\"), and the password"
		case "53300":
			next = "raise max_connections or max_wal_senders, or free a connection"
		case "57P03":
			next = "wait until the server has started up"
		case "3D000":
			next = "name an existing database, such as dbname=postgres"
		case "42501":
			next = fmt.Sprintf("ALTER ROLE %s REPLICATION;", quoteName(cfg.User))
		}
		err = &ServerError{pgErr}
	}
	return dr.Fail(what, err, next)
}

// ServerError is an error that PostgreSQL sent; it prints without severity and SQLSTATE.
type ServerError struct{ PgError *pgconn.PgError }

func (e *ServerError) Error() string {
	if e.PgError.Detail != "" {
		return e.PgError.Message + " (" + e.PgError.Detail + ")"
	}
	return e.PgError.Message
}

// Unwrap returns the *pgconn.PgError.
func (e *ServerError) Unwrap() error { return e.PgError }

func quoteName(s string) string { return pgx.Identifier{s}.Sanitize() }
