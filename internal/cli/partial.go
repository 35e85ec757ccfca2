package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/pflag"

	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/repo"
	"github.com/holdfast-dr/holdfast/internal/restore/boot"
	"github.com/holdfast-dr/holdfast/internal/restore/partial"
	"github.com/holdfast-dr/holdfast/internal/restore/points"
	"github.com/holdfast-dr/holdfast/internal/workspace"
)

// partialFlags say which part of a system is wanted, where not the whole.
type partialFlags struct {
	database string
	table    string
	dump     string
	format   string
	into     string
	sandbox  string
}

func (p *partialFlags) addFlags(f *pflag.FlagSet) {
	f.StringVar(&p.database, "database", "", "restore this `database` alone, or the one that holds --table")
	f.StringVar(&p.table, "table", "", "restore this `SCHEMA.TABLE` alone")
	f.StringVar(&p.dump, "dump", "", "new `file` for the dump of --database or --table")
	f.StringVar(&p.format, "dump-format", "custom", "`format` of --dump: custom (for pg_restore) or plain (SQL)")
	f.StringVar(&p.into, "into", "", "connection `string` of a running database that the part is put into, instead of --dump")
	f.StringVar(&p.sandbox, "sandbox", "", "`directory` for the throw-away recovery, which takes as much room as the system")
}

func (p *partialFlags) wanted() bool { return p.database != "" || p.table != "" }

// extracted is what a partial restore prints.
type extracted struct {
	*partial.Result
	System string `json:"system"`
	Part   string `json:"part"`
	Doubt  string `json:"doubt,omitempty"`
}

func (e extracted) writeText(w io.Writer) error {
	if e.Doubt != "" {
		fmt.Fprintln(w, "DOUBTFUL:", e.Doubt)
	}
	for _, n := range e.Notes {
		fmt.Fprintln(w, "note:", n)
	}
	for _, p := range e.Phases {
		fmt.Fprintf(w, "  %-24s %10s\n", p.Name, round(p.Took))
	}
	where := "is in " + e.File
	if e.File == "" {
		where = "is in the running database"
	}
	_, err := fmt.Fprintf(w, "%s of %s, as it was at %s (newest commit %s UTC), %s; took %s\n", e.Part, e.System,
		e.Recovery.Target, stamp(e.Recovery.NewestCommit), where, round(e.Took))
	return err
}

// checkPartial refuses flags that say nothing about a part.
func (r *restoreFlags) checkPartial(system string) error {
	p := &r.partial
	if r.to != "" || r.delta != "" || r.start {
		return usage(dr.Fail("restore a part of "+system, errors.New("--to, --delta and --start are for the whole"), "say where the part goes with --dump or --into"))
	}
	if p.format != string(partial.Custom) && p.format != string(partial.Plain) {
		return usage(fmt.Errorf("--dump-format %q: write custom or plain", p.format))
	}
	return nil
}

// runPartial brings a part back; o says to which moment, and how.
func (r *restoreFlags) runPartial(ctx context.Context, w *workspace.Workspace, repository *repo.Repository, system string, o workspace.RecoverOptions) error {
	p := &r.partial
	defer w.Help(repository, system)()
	v, err := points.Load(ctx, repository, system)
	if err != nil {
		return err
	}
	plan, err := v.Plan(ctx, o.Target, o.Timeline, o.Loss)
	if err != nil {
		return err
	}
	began := time.Now()
	progress, stop := r.app.progress()
	result, err := partial.Extract(ctx, repository, plan, partial.Options{
		Database: p.database, Table: p.table, File: p.dump, Format: partial.Format(p.format), Into: p.into,
		Sandbox: p.sandbox, RestoreCommand: o.RestoreCommand, BinDir: o.BinDir, User: o.Owner, Progress: progress,
	})
	stop()
	part := "database " + p.database
	if p.table != "" {
		part = "table " + p.table + " of " + part
	}
	var reached *boot.Report
	var phases []boot.Phase
	if result != nil {
		reached, phases = result.Recovery, result.Phases
	}
	w.RecordPart(ctx, repository, system, part, o, plan.Snapshot.Manifest, reached, phases, began, err)
	if err != nil {
		return err
	}
	return r.app.emit(extracted{result, system, part, plan.Doubt})
}
