package boot

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/pg/control"
	"github.com/holdfast-dr/holdfast/internal/repo"
	"github.com/holdfast-dr/holdfast/internal/restore"
	"github.com/holdfast-dr/holdfast/internal/restore/confine"
	"github.com/holdfast-dr/holdfast/internal/restore/points"
	"github.com/holdfast-dr/holdfast/internal/restore/replay"
)

// Options say how a restored directory is started. The zero value starts it with the programs found on this
// machine, answering on a private socket only.
type Options struct {
	BinDir    string            // of PostgreSQL's programs; see FindBinaries
	Owner     *restore.Owner    // who runs it: the one that it was restored for
	Superuser string            // of the cluster; empty: postgres
	SocketDir string            // empty: a new private directory
	Listen    string            // listen_addresses; empty: the socket only
	Port      int               // 0: 5432
	Config    map[string]string // further settings of this run
	Session   map[string]string // of our own sessions, which the cluster's settings for roles and databases do not overrule
	Confine   *confine.Options  // nil: the server is free, and goes on when this process ends
	LogFile   string            // where the server's messages go; empty: beside the data directory, with ".log"
	Ending    restore.Ending    // that of the restore's settings
	Access    Access
	Settings  Settings
	// Log is the repository that the restore came from, whose log this process then serves to the server: its user
	// needs no access to the repository and its keys. nil: the restore_command is left to itself.
	Log      *repo.Repository
	Progress dr.ProgressFunc
}

// Access says who may connect once the recovery is done.
type Access bool

// The two ways.
const (
	LetOthersIn   Access = false // whom the cluster's own pg_hba.conf lets in
	KeepOthersOut Access = true  // only this process's user
)

func (o Options) superuser() string {
	if o.Superuser == "" {
		return "postgres"
	}
	return o.Superuser
}

// Start starts a restored directory, waits until it has recovered to the plan's target, and returns it running.
// After an error nothing runs. Where the plan goes to the log's end, the settings' Ending must be Follow.
func Start(ctx context.Context, dir string, p *points.Plan, o Options) (*Server, *Report, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, nil, err
	}
	if err := ready(dir, p, o); err != nil {
		return nil, nil, err
	}
	binDir, err := FindBinaries(p.Snapshot.Facts.Major(), o.BinDir)
	if err != nil {
		return nil, nil, err
	}
	b := &booting{dir: dir, binDir: binDir, plan: p, opts: o, report: newReport(p), access: access{dir, o.superuser(), o.Owner}}
	if err := b.access.lock(); err != nil {
		return nil, nil, fmt.Errorf("keep others out of %s: %w", dir, err)
	}
	stop, err := b.serveLog(ctx)
	if err != nil {
		return nil, nil, errors.Join(dr.Fail(fmt.Sprintf("serve the log to %q", dir), err, "see whom its pg_wal belongs to, and run this again"), b.access.unlock())
	}
	if err = b.tune(ctx); err == nil {
		err = b.run(ctx)
	}
	if stopErr := stop(); stopErr != nil {
		b.report.note("what served the log could not tidy up: %v", stopErr)
	}
	if err == nil {
		return b.server, b.report, nil
	}
	b.endPrefetcher(context.WithoutCancel(ctx))
	if b.server != nil {
		err = errors.Join(err, b.server.Stop(ctx))
	}
	_, unsetErr := replay.Unset(b.dir, o.Owner.Credential())
	return nil, nil, errors.Join(err, unsetErr, b.access.unlock())
}

// ready refuses what cannot be started, or must not be.
func ready(dir string, p *points.Plan, o Options) error {
	what := fmt.Sprintf("start %s in %q", p.System, dir)
	if restore.Unfinished(dir) {
		return &dr.Failure{What: what, Reason: "its restore was interrupted", Next: "run that restore again: it continues where it ended"}
	}
	if _, err := os.Stat(filepath.Join(dir, control.Path)); err != nil {
		return dr.Fail(what, err, "restore into it first")
	}
	if restore.IsLatest(p) && o.Ending != restore.Follow {
		return &dr.Failure{What: what, Reason: "a recovery to the log's end is watched as a standby, and its settings say otherwise", Next: "restore with the ending Follow"}
	}
	return nil
}

// booting is one Start.
type booting struct {
	dir, binDir string
	plan        *points.Plan
	opts        Options
	access      access
	report      *Report
	server      *Server
	conn        *pgx.Conn
	own         replay.Server    // what the server has by itself
	chosen      []replay.Setting // what it has for its replay
	since       time.Time
}

func (b *booting) run(ctx context.Context) error {
	err := b.attempt(ctx, !restore.IsLatest(b.plan))
	if !errors.Is(err, errExited) {
		return err
	}
	if note := b.endedEarly(); note != "" {
		b.report.note("%s", note)
		if err := restore.FollowToEnd(b.dir, b.opts.Owner); err != nil {
			return err
		}
		if err = b.attempt(ctx, false); !errors.Is(err, errExited) {
			return err
		}
	}
	return b.died()
}

// attempt starts the server once and waits for the recovery's end: at its target, or watched to the log's end.
func (b *booting) attempt(ctx context.Context, target bool) error {
	b.phase("start")
	var err error
	if b.server, err = launch(b.dir, b.binDir, b.opts); err != nil {
		return err
	}
	if b.conn, err = b.server.connect(ctx); err != nil {
		return b.explain(err)
	}
	defer b.conn.Close(context.WithoutCancel(ctx)) //nolint:errcheck // the results are in
	b.phase("log replay")
	if target {
		err = b.awaitTarget(ctx)
	} else {
		err = b.awaitEnd(ctx)
	}
	if err != nil {
		return b.explain(err)
	}
	b.phase("first query")
	if err := b.finish(ctx); err != nil {
		return b.explain(err)
	}
	b.phase("")
	return nil
}

// explain tells a server that has ended from other errors.
func (b *booting) explain(err error) error {
	if errors.Is(err, errExited) {
		return errExited
	}
	var pgErr *pgconn.PgError
	if !errors.As(err, &pgErr) {
		// A cut connection is most often the first sign of a server that is ending.
		select {
		case <-b.server.exited:
			return errExited
		case <-time.After(2 * time.Second):
		}
		return err
	}
	return dr.Fail(fmt.Sprintf("start %s in %q", b.plan.System, b.dir), errors.New(pgErr.Message),
		"see "+b.server.LogFile+"; a superuser with another name than "+b.opts.superuser()+" is given with --superuser")
}

func startingUp(err error) bool {
	var pgErr *pgconn.PgError
	if errors.As(err, &pgErr) {
		return pgErr.Code == "57P03"
	}
	return true // no socket yet
}

const endedEarlyMessage = "recovery ended before configured recovery target was reached"

// endedEarly tells, for a person, why the end of the log is the target although the server did not see that; empty: it is not.
// PostgreSQL sees that it is at a target by the record behind it, and there is none.
func (b *booting) endedEarly() string {
	if !strings.Contains(b.server.lastWords(), endedEarlyMessage) {
		return ""
	}
	switch t := b.plan.Target; {
	case t.Kind == points.AtTime:
		// The log is known to cover the target: what it holds is what there was at that time.
		return "nothing was committed between the newest commit and the target; the log was replayed to its end"
	case t.Kind == points.Immediate, t.Kind == points.AtLSN && t.LSN == b.plan.Snapshot.Facts.StopLSN:
		// A log that ends before the snapshot does not end a recovery: the server says so.
		return "no log follows the snapshot's end; the log was replayed to its end"
	}
	return ""
}

// died is the error for a server that ended by itself: what it said last, ours first.
func (b *booting) died() error {
	f := &dr.Failure{
		What: fmt.Sprintf("start %s in %q: the server ended its recovery with an error", b.plan.System, b.dir),
		Next: "see " + b.server.LogFile,
	}
	lines := strings.Split(b.server.lastWords(), "\n")
	for i := len(lines) - 1; i >= 0; i-- {
		if what, ok := strings.CutPrefix(lines[i], "holdfast: "); ok && i+2 < len(lines) {
			f.What = fmt.Sprintf("start %s in %q: %s", b.plan.System, b.dir, what)
			f.Reason = strings.TrimPrefix(lines[i+1], "  reason: ")
			f.Next = strings.TrimPrefix(lines[i+2], "  next:   ")
			return f
		}
	}
	for i := len(lines) - 1; i >= 0; i-- {
		if _, message, ok := strings.Cut(lines[i], "FATAL:  "); ok && !strings.Contains(message, "the database system is") {
			f.Reason = message
			break
		}
	}
	return f
}
