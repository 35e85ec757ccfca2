package partial

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/repo"
	"github.com/holdfast-dr/holdfast/internal/restore"
	"github.com/holdfast-dr/holdfast/internal/restore/boot"
	"github.com/holdfast-dr/holdfast/internal/restore/points"
)

// Format is that of a dump in a file.
type Format string

// The formats.
const (
	Custom Format = "custom" // for pg_restore
	Plain  Format = "plain"  // SQL, for psql
)

// Options say which part is wanted, and where it goes: to File, or Into a running server.
type Options struct {
	Database string // to be dumped, or holds Table
	Table    string // SCHEMA.TABLE, each as it is or in double quotes; empty: the whole database

	File   string // a new file
	Format Format // of File; empty: Custom
	Into   string // libpq connection string of an existing database

	Sandbox        string // directory that gets the sandbox; empty: the temporary directory
	RestoreCommand string
	BinDir         string // of PostgreSQL's programs, pg_dump among them; see boot.FindBinaries
	User           string // who runs the sandbox's server; see restore.ChooseOwner
	Superuser      string // of the cluster; empty: postgres
	Progress       dr.ProgressFunc

	pattern string // Table for pg_dump
}

// Result is what an extraction did.
type Result struct {
	Recovery *boot.Report  `json:"recovery"`
	Phases   []boot.Phase  `json:"phases"`
	File     string        `json:"file,omitempty"`
	Took     time.Duration `json:"tookNs"`
	Notes    []string      `json:"notes,omitempty"`
}

// Extract recovers the plan's cluster in a sandbox and brings the wanted part to where it is to go. The
// sandbox, which takes as much room as the cluster, is gone when it returns; where it was killed, the next one removes it.
func Extract(ctx context.Context, r *repo.Repository, p *points.Plan, o Options) (_ *Result, err error) {
	began := time.Now()
	tools, err := o.check(p)
	if err != nil {
		return nil, err
	}
	notes := removeAbandoned(ctx, o.Sandbox)
	box, err := o.makeSandbox()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, box.remove()) }()

	files, err := restore.Run(ctx, r, p, restore.Options{
		To: filepath.Join(box.dir, "data"), Owner: box.owner, Progress: o.Progress,
		Settings: restore.Settings{RestoreCommand: o.RestoreCommand, Ending: restore.EndingOf(p)},
	})
	if err != nil {
		return nil, err
	}
	result := &Result{Phases: []boot.Phase{{Name: "files", Took: files.Took}}, Notes: append(notes, files.Notes...)}
	server, report, err := boot.Start(ctx, files.To, p, boot.Options{
		BinDir: tools.dir, Owner: box.owner, Superuser: o.Superuser, Ending: restore.EndingOf(p), Access: boot.KeepOthersOut, Progress: o.Progress,
		LogFile: filepath.Join(box.dir, "log"), Config: sandboxConfig(), Log: r,
		Settings: boot.KeepSettings, // the memory is that of the database beside which it runs
	})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, server.Stop(ctx)) }()
	result.Recovery, result.Phases = report, append(result.Phases, report.Phases...)

	dumping := time.Now()
	if err := o.checkDatabase(ctx, server, p); err != nil {
		return nil, err
	}
	if o.File != "" {
		result.File = o.File
		err = tools.toFile(ctx, server, o)
	} else {
		err = tools.into(ctx, server, o)
	}
	if err != nil {
		return nil, err
	}
	result.Phases = append(result.Phases, boot.Phase{Name: "dump", Took: time.Since(dumping)})
	result.Took = time.Since(began)
	return result, nil
}

// sandboxConfig is for a server that is thrown away, and must not speak to anybody.
func sandboxConfig() map[string]string {
	return map[string]string{
		"archive_mode":                    "off",
		"archive_command":                 "",
		"fsync":                           "off",
		"autovacuum":                      "off",
		"max_logical_replication_workers": "0", // subscriptions stay silent
		"ssl":                             "off",
	}
}

func (o *Options) check(p *points.Plan) (tools, error) {
	what := fmt.Sprintf("extract from %s", p.System)
	switch {
	case o.Database == "":
		return tools{}, dr.Fail(what, errors.New("no database was named"), "add --database NAME, also for a table")
	case (o.File == "") == (o.Into == ""):
		return tools{}, dr.Fail(what, errors.New("it goes either to a file or into a server"), "give one of the two")
	}
	if o.Table != "" {
		var err error
		if o.pattern, err = tablePattern(o.Table); err != nil {
			return tools{}, dr.Fail(what, err, `write it as SCHEMA.TABLE; a name with a dot or a quote stands in double quotes, as in SQL: '"My.Schema".orders'`)
		}
	}
	if o.File != "" {
		if _, err := os.Lstat(o.File); err == nil {
			return tools{}, dr.Fail(what, fmt.Errorf("%q exists already", o.File), "name a new file")
		}
	}
	dir, err := boot.FindBinaries(p.Snapshot.Facts.Major(), o.BinDir)
	if err != nil {
		return tools{}, err
	}
	return findTools(dir, p.Snapshot.Facts.Major(), *o)
}

// checkDatabase says which databases there were, where the wanted one was not.
func (o Options) checkDatabase(ctx context.Context, s *boot.Server, p *points.Plan) error {
	conn, err := pgx.Connect(ctx, s.ConnString("postgres"))
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx)) //nolint:errcheck // the answer is in
	rows, err := conn.Query(ctx, "SELECT datname FROM pg_database WHERE datallowconn ORDER BY datname")
	if err != nil {
		return err
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return err
	}
	for _, n := range names {
		if n == o.Database {
			return nil
		}
	}
	return &dr.Failure{
		What:   fmt.Sprintf("extract database %q from %s: there was none at %s", o.Database, p.System, p.Target),
		Reason: "the databases then were " + strings.Join(names, ", "),
		Next:   "correct --database, or choose another moment with --at",
	}
}
