package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/spf13/cobra"

	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/pg/cluster"
	"github.com/holdfast-dr/holdfast/internal/pg/stream"
	"github.com/holdfast-dr/holdfast/internal/repo"
	"github.com/holdfast-dr/holdfast/internal/restore/boot"
	"github.com/holdfast-dr/holdfast/internal/restore/points"
	"github.com/holdfast-dr/holdfast/internal/restore/replay"
	"github.com/holdfast-dr/holdfast/internal/store"
	"github.com/holdfast-dr/holdfast/internal/workspace"
)

func newDoctorCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "doctor [SYSTEM …]",
		Short: "Say what would stop a recovery today",
		Long: `Looks at everything that a recovery of the systems needs: the store, the keys, the newest snapshot, the log, the
database's settings, and PostgreSQL's programs on this machine; and whether the store's credentials can remove what is in it, which it
tries on an object of its own. Exit code 3 means that something would stop one.`,
		RunE: func(c *cobra.Command, args []string) error { return a.doctor(c.Context(), args) },
	}
}

// finding is one thing that was looked at.
type finding struct {
	System string `json:"system"`
	Level  string `json:"level"` // ok, warn, fail
	What   string `json:"what"`
	Reason string `json:"reason,omitempty"`
	Next   string `json:"next,omitempty"`
}

type findings []finding

func (f findings) writeText(w io.Writer) error {
	for _, x := range f {
		fmt.Fprintf(w, "%-4s %s: %s\n", x.Level, x.System, x.What)
		if x.Reason != "" {
			fmt.Fprintln(w, "     reason:", x.Reason)
		}
		if x.Next != "" {
			fmt.Fprintln(w, "     next:  ", x.Next)
		}
	}
	return nil
}

// examination collects the findings of one system.
type examination struct {
	system string
	found  findings
}

func (e *examination) ok(format string, args ...any) {
	e.found = append(e.found, finding{System: e.system, Level: "ok", What: fmt.Sprintf(format, args...)})
}

func (e *examination) warn(what, reason, next string) {
	e.found = append(e.found, finding{e.system, "warn", what, reason, next})
}

func (e *examination) fail(err error) {
	x := explain(err)
	e.found = append(e.found, finding{e.system, "fail", x.What, x.Reason, x.Next})
}

func (a *app) doctor(ctx context.Context, systems []string) error {
	w, err := a.workspace(nil)
	if err != nil {
		return err
	}
	defer w.Close() //nolint:errcheck // only read
	if len(systems) == 0 {
		systems = w.Config.SystemNames()
	}
	all := findings{}
	failed := 0
	for _, name := range systems {
		e := &examination{system: name}
		if err := e.run(ctx, w); err != nil {
			return err
		}
		for _, f := range e.found {
			if f.Level == "fail" {
				failed++
			}
		}
		all = append(all, e.found...)
	}
	if err := a.emit(all); err != nil {
		return err
	}
	if failed > 0 {
		return missed(dr.Fail("doctor", fmt.Errorf("%s would stop or spoil a recovery", count(failed, "thing")), "mend what is marked fail above"))
	}
	return nil
}

// run looks at one system. Its error is one that hinders looking at all.
func (e *examination) run(ctx context.Context, w *workspace.Workspace) error {
	if _, err := w.Config.System(e.system); err != nil {
		return err
	}
	s, err := w.System(ctx, e.system)
	if err != nil {
		e.fail(err)
		return ctx.Err()
	}
	e.repository(ctx, s)
	e.evidence(w, s)
	e.scrubbed(w, s)
	e.recoverable(ctx, s)
	e.database(ctx, s)
	return ctx.Err()
}

func (e *examination) repository(ctx context.Context, s workspace.System) {
	abilities, err := store.Probe(ctx, s.Repo.Store())
	switch {
	case err != nil:
		e.fail(err)
	case !abilities.ExclusiveCreate || !abilities.ListAfterWrite:
		e.warn(fmt.Sprintf("the store %s is weak", s.Repo.Store()),
			fmt.Sprintf("exclusive creation: %v, listing after writing: %v", abilities.ExclusiveCreate, abilities.ListAfterWrite),
			"prune only while nobody writes: holdfast repo prune --alone")
	default:
		e.ok("the store %s reads, writes, lists and creates exclusively", s.Repo.Store())
	}
	e.guarded(ctx, s)
	slots, err := s.Repo.Slots(ctx)
	switch {
	case err != nil:
		e.fail(err)
	case len(slots) == 1:
		e.warn("one key alone opens the repository", fmt.Sprintf("it is %q; if it is lost, everything is", slots[0].Name),
			"add an offline one: holdfast key add break-glass age1…")
	default:
		e.ok("%s open the repository", count(len(slots), "key"))
	}
}

// scrubbed looks whether the bytes of each replica are read again.
func (e *examination) scrubbed(w *workspace.Workspace, s workspace.System) {
	for _, rep := range w.Config.CopiesOf(s.System) {
		one, err := stands(w, s.Repository, rep)
		switch {
		case err != nil:
			e.fail(err)
		case one.Never && rep.Scrub.Budget.Off():
			e.warn("nothing reads again what is stored at site "+rep.Site, "scrub is off there: in a bucket or on another host reading may be billed",
				"docs/cost.md has the price; then set repositories."+s.Repository+".replicas[].scrub.budget, or run holdfast repo scrub --once from a timer")
		case one.Never:
			e.warn("what is stored at site "+rep.Site+" was not read again from here yet", "its scrub budget is "+one.Budget, "see that holdfast agent runs")
		case len(one.Left) > 0:
			e.fail(dr.Fail(fmt.Sprintf("%s at site %s damaged or missing", count(len(one.Left), "object"), rep.Site), errors.New(one.Left[0].Object+": "+one.Left[0].Reason),
				"holdfast repo scrub --status names them; restores read what others have"))
		case one.By == "" && one.Late():
			e.warn("bytes at site "+rep.Site+" are overdue to be read again", shareOf(one.Overdue, one.Bytes)+" were not for "+days(one.Window)+" or longer", "see that holdfast agent runs; or choose a larger scrub.budget")
		default:
			e.ok("%s of the bytes at site %s were read again within %s", shareOf(one.Verified, one.Bytes), rep.Site, days(one.Window))
		}
	}
}

// guarded looks at who may remove what is in the repository: a thief of these credentials among them.
func (e *examination) guarded(ctx context.Context, s workspace.System) {
	g := store.GuardedOf(s.Repo.Store())
	if g == nil {
		return
	}
	settings, err := g.Settings(ctx)
	if err != nil {
		e.fail(err)
		return
	}
	locked := s.Repo.Lock() > 0
	for _, w := range repo.LockWarnings(settings, locked) {
		e.warn("the bucket", w, "see docs/credentials.md")
	}
	if !locked {
		e.warn("a thief of these credentials can remove everything", "nothing in "+s.Repo.Store().String()+" is locked",
			"let a replica have a lock: repositories."+s.Repository+".replicas[].lock")
		return
	}
	rights, err := g.Rights(ctx)
	if err != nil {
		e.fail(err)
		return
	}
	for _, r := range rights.Excess {
		e.warn("the credentials can do more than they should", "they may "+r, "take the right away: docs/credentials.md has the policies of a writer, a reader and a pruner")
	}
	if len(rights.Excess) == 0 {
		e.ok("the credentials may not %s", strings.Join(rights.Lacking, ", nor "))
	}
	for _, r := range rights.Unknown {
		e.warn("what the credentials may do is not known", "whether they may "+r, "compare their policy with docs/credentials.md")
	}
}

var (
	errNoSnapshot = errors.New("there is no snapshot")
	errNotUsable  = errors.New("the log does not reach the point at which the newest snapshot is consistent")
)

// recoverable looks at what could be recovered now.
func (e *examination) recoverable(ctx context.Context, s workspace.System) {
	v, err := points.Load(ctx, s.Repo, e.system)
	if err != nil {
		e.fail(err)
		return
	}
	for _, u := range v.Unread {
		e.fail(u)
	}
	if len(v.Snapshots) == 0 {
		e.fail(dr.Fail("nothing can be recovered", errNoSnapshot, "holdfast snapshot create "+e.system))
		return
	}
	newest := v.Snapshots[len(v.Snapshots)-1].Manifest
	if age, due := time.Since(newest.Finished), 2*s.Policy.Schedule.Interval(); due > 0 && age > due {
		e.warn(fmt.Sprintf("the newest snapshot %s is %s old", newest.ID, age.Round(time.Second)), fmt.Sprintf("the schedule is %s", s.Policy.Schedule), "see that holdfast agent runs")
	} else {
		e.ok("the newest snapshot %s is %s old", newest.ID, age.Round(time.Second))
	}
	plan, err := v.Plan(ctx, points.Target{Kind: points.Latest}, points.Timeline{}, points.RefuseLoss)
	switch {
	case err != nil:
		e.fail(err)
	case !plan.Range.Usable:
		e.fail(dr.Fail("the newest snapshot cannot be recovered", errNotUsable, "holdfast log status "+e.system))
	default:
		e.ok("recoverable up to %s UTC (timeline %d, %s)", stamp(plan.Range.ToTime), plan.Range.Timeline, plan.Range.To)
	}
	if a := alarmOf(v); a != nil {
		e.fail(dr.Fail("snapshots may lack changes", errors.New(a.String()),
			"report the pages with the server's version. Where an older snapshot and the log are kept, forget the doubtful ones: their moments are recovered from those. "+
				"To keep them, and end the alarm: holdfast snapshot create "+e.system+" --full-scan"))
	}
	programs, err := boot.FindBinaries(v.Snapshots[len(v.Snapshots)-1].Facts.Major(), s.Postgres.BinDirectory)
	if err != nil {
		e.fail(err)
		return
	}
	e.ok("PostgreSQL's programs for a recovery here are in %s", programs)
}

// database looks at the source: a recovery of today's data needs it to be captured today.
func (e *examination) database(ctx context.Context, s workspace.System) {
	conn, err := cluster.Connect(ctx, s.Postgres.Connection.DSN())
	if err != nil {
		e.fail(err)
		return
	}
	defer conn.Close(context.WithoutCancel(ctx)) //nolint:errcheck // only asked
	info, err := cluster.Identify(ctx, conn)
	if err == nil {
		err = info.Check()
	}
	need := cluster.ForReplication
	if s.Postgres.Local() {
		need |= cluster.ForBackup
	}
	if err == nil {
		err = cluster.CheckPrivileges(ctx, conn, info, need)
	}
	if err == nil && s.Postgres.Local() {
		err = info.CheckLocal(s.Postgres.DataDirectory, info.SystemID)
	}
	if err != nil {
		e.fail(err)
		return
	}
	e.ok("PostgreSQL %s answers and can be captured", info.Version())
	if !s.Postgres.Local() {
		if err := cluster.CheckPrivileges(ctx, conn, info, cluster.ForFiles); err != nil {
			x := explain(err)
			e.warn("every snapshot from afar reads everything", x.Reason, x.Next)
		}
	}
	if !info.Checksums {
		e.warn("page checksums are off", "damage of the disk is found only when somebody reads the page", "pg_checksums --enable while the server is stopped")
	}
	e.replayed(ctx, conn)
	if s.Policy.Log.Stream {
		e.slot(ctx, s, info)
	}
}

// replayed warns of a server that was recovered by a restore which was killed before it took its settings back.
func (e *examination) replayed(ctx context.Context, conn *pgx.Conn) {
	var left bool
	err := conn.QueryRow(ctx, "SELECT coalesce(current_setting($1, true), '') <> '' AND NOT pg_is_in_recovery()", replay.Marker).Scan(&left)
	if err != nil {
		e.fail(err)
	}
	if left {
		e.warn("the server still has the settings of its recovery", "holdfast restore --start was killed before it could take them back",
			fmt.Sprintf("take the lines from %q to %q out of postgresql.auto.conf, then SELECT pg_reload_conf();", replay.BlockBegin, replay.BlockEnd))
	}
}

func (e *examination) slot(ctx context.Context, s workspace.System, info cluster.Info) {
	conn, err := cluster.Connect(ctx, s.Postgres.Connection.DSN())
	if err != nil {
		e.fail(err)
		return
	}
	defer conn.Close(context.WithoutCancel(ctx)) //nolint:errcheck // only asked
	name := workspace.SlotName(s.System)
	slot, ok, err := stream.ReadSlot(ctx, conn, name)
	switch {
	case err != nil:
		e.fail(err)
	case !ok:
		e.fail(dr.Fail("the log is not received", fmt.Errorf("the server has no replication slot %s", name), "start holdfast agent"))
	case slot.Lost():
		e.fail(dr.Fail("the log has a gap", fmt.Errorf("replication slot %s was lost", name), "start holdfast agent: it begins anew; then take a snapshot"))
	case !slot.Active:
		e.fail(dr.Fail("the log is not received", fmt.Errorf("nobody uses replication slot %s, and the server keeps %s for it", name, dr.Bytes(slot.Retained)), "start holdfast agent"))
	default:
		e.ok("the log is received through slot %s", name)
	}
	if ok && info.Settings.MaxSlotWALKeepSize < 0 {
		e.warn("nothing bounds the log that the server keeps for the slot", "max_slot_wal_keep_size is -1: if Holdfast is away for long, the server's disk fills",
			"ALTER SYSTEM SET max_slot_wal_keep_size = '40GB'; SELECT pg_reload_conf();")
	}
}
