package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/restore"
	"github.com/holdfast-dr/holdfast/internal/restore/boot"
	"github.com/holdfast-dr/holdfast/internal/restore/points"
	"github.com/holdfast-dr/holdfast/internal/workspace"
)

// restoreFlags are those of a recovery.
type restoreFlags struct {
	app         *app
	glass       breakGlass
	to          string
	at          string
	timeline    string
	tablespaces []string
	delta       string
	start       bool
	port        int
	listen      string
	acceptLoss  bool
	keepDamage  bool
	archiving   bool

	subscriptions bool
	keepSettings  bool
	owner         string
	binDir        string
	action        string
	partial       partialFlags
}

func newRestoreCommand(a *app) *cobra.Command {
	r := &restoreFlags{app: a}
	c := &cobra.Command{
		Use:   "restore SYSTEM --to DIR",
		Short: "Bring a system back, whole or in part, to any moment",
		Long: `Restores the newest snapshot that suffices into a directory, from which PostgreSQL recovers to the moment that
--at names. With --start the server is started, its recovery watched to its end, and the phases printed with their
times, and what was lost.

It never writes onto a running cluster, into a directory that is not empty (except with --delta, or to continue its
own interrupted run), or to the source's tablespaces. A recovery to the end of the log never opens the database for
writes where log is missing that once was there, unless --accept-loss says so. What was on its way to a site when whoever wrote it was
lost is no such loss: the recovery ends before it, and says what came of it.

Without --start the directory is ready for pg_ctl start. Run it as the user that will run PostgreSQL: the server
fetches its log through the same configuration. With --start this command hands the log to the server, so that root may
run it with a configuration, keys and a repository that only root can read; a server that is paused at its target
(--action pause) then fetches for itself.`,
		Example: `  holdfast restore orders-db --to /var/lib/postgresql/15/main --start
  holdfast restore orders-db --to /tmp/then --at '2026-03-02 14:05:00' --start --port 5433
  holdfast restore orders-db --repo s3://bucket/hf?region=eu-central-1 --identity break-glass.key --to ./pgdata
  holdfast restore orders-db --database shop --table public.orders --at '2026-03-02 14:05:00' --dump orders.dump`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error { return r.run(c.Context(), args[0]) },
	}
	f := c.Flags()
	r.addRecoveryFlags(f)
	f.StringVar(&r.delta, "delta", "", "bring an existing, stopped data directory to the moment, writing only what differs, as its `way` of knowing: log (the default: what the logs say, where they prove it) or compare (every byte)")
	f.Lookup("delta").NoOptDefVal = "log"
	f.BoolVar(&r.start, "start", false, "start the server, wait until it has recovered, and report")
	f.BoolVar(&r.keepDamage, "keep-damaged", false, "finish although the repository has lost something: lost parts of files become zeros, and all that is lost is listed")
	f.StringVar(&r.action, "action", "promote", "what the server does at a target: promote, pause or, without --start, shutdown")
	r.partial.addFlags(f)
	r.glass.addFlags(c)
	return c
}

// addRecoveryFlags adds those that every recovery of a whole system has.
func (r *restoreFlags) addRecoveryFlags(f *pflag.FlagSet) {
	f.StringVar(&r.to, "to", "", "`directory` to restore into")
	f.StringVar(&r.at, "at", "latest", "`moment`: latest, immediate, a time (UTC, or with its zone), an LSN, or name:RESTORE_POINT")
	f.StringVar(&r.timeline, "timeline", "latest", "`timeline` to follow: latest, current (the snapshot's), or a number")
	f.StringArrayVar(&r.tablespaces, "tablespace", nil, "`NAME=DIR`: where to put a tablespace (by name, OID or old location); may be repeated")
	f.IntVar(&r.port, "port", 0, "`port` of the started server (default 5432)")
	f.StringVar(&r.listen, "listen", "", "`addresses` that the started server listens on (default: its socket only)")
	f.BoolVar(&r.acceptLoss, "accept-loss", false, "open the database although log is missing that once was there")
	f.BoolVar(&r.archiving, "keep-archiving", false, "keep the source's archive_mode (default: off, so that a copy never writes into its archive)")
	f.BoolVar(&r.subscriptions, "keep-subscriptions", false, "let the cluster's subscriptions run (default: they rest, so that a copy never uses the slots of its original at the publishers)")
	f.BoolVar(&r.keepSettings, "keep-settings", false, "let the started server replay with its own settings (default: it has more memory, and reads further ahead, until it has recovered)")
	f.StringVar(&r.owner, "owner", "", "`user` whom the files belong to, when run as root (default: the target's owner, or postgres)")
	f.StringVar(&r.binDir, "bin-directory", "", "`directory` of PostgreSQL's programs (default: as configured, else where packages put them)")
}

// options turns the flags into what Recover takes.
func (r *restoreFlags) options(system string, w *workspace.Workspace) (workspace.RecoverOptions, error) {
	o := workspace.RecoverOptions{To: r.to, Owner: r.owner, BinDir: r.binDir, Archiving: restore.Archiving(r.archiving), Subscriptions: restore.Subscriptions(r.subscriptions), Loss: points.Loss(r.acceptLoss)}
	var err error
	if o.Target, err = points.ParseTarget(r.at); err != nil {
		return o, usage(err)
	}
	if o.Timeline, err = points.ParseTimeline(r.timeline); err != nil {
		return o, usage(err)
	}
	if o.Tablespaces, err = parsePairs("--tablespace", r.tablespaces); err != nil {
		return o, err
	}
	if o.Ending, err = r.ending(o.Target); err != nil {
		return o, err
	}
	if o.Mode, err = r.mode(); err != nil {
		return o, err
	}
	if r.keepDamage {
		o.Damage = restore.KeepDamage
	}
	if s, err := w.Config.System(system); err == nil && o.BinDir == "" {
		o.BinDir = s.Postgres.BinDirectory
	}
	if r.start {
		o.Boot = &boot.Options{Port: r.port, Listen: r.listen, Settings: boot.Settings(r.keepSettings)}
	}
	o.RestoreCommand, err = r.app.restoreCommand(system, &r.glass)
	return o, err
}

// mode reads --delta, which once was a flag without a value.
func (r *restoreFlags) mode() (restore.Mode, error) {
	switch r.delta {
	case "", "false":
		return restore.Fresh, nil
	case "log", "true":
		return restore.Delta, nil
	case "compare":
		return restore.Compare, nil
	}
	return "", usage(fmt.Errorf("--delta=%s: write --delta, --delta=log or --delta=compare", r.delta))
}

// ending reads --action. Without a target PostgreSQL knows no other end of a recovery than the promotion: to ask for
// another one and to get that would be the worst of answers.
func (r *restoreFlags) ending(target points.Target) (restore.Ending, error) {
	e := restore.Ending(r.action)
	switch {
	case r.action == "promote":
		return restore.Promote, nil
	case e != restore.Pause && e != restore.Shutdown:
		return e, usage(fmt.Errorf("--action %q: write promote, pause or shutdown", r.action))
	case r.start && e == restore.Shutdown:
		return e, usage(errors.New("--action shutdown with --start: a server that is started is not shut down again; leave one of them out"))
	case target.Kind == points.Latest:
		return e, usage(dr.Fail("--action "+r.action+" needs a target", errors.New("a recovery to the end of the log ends with the promotion"), "name a moment with --at, or leave --action out"))
	}
	return e, nil
}

func parsePairs(flag string, texts []string) (map[string]string, error) {
	out := map[string]string{}
	for _, t := range texts {
		k, v, ok := strings.Cut(t, "=")
		if !ok || k == "" || v == "" {
			return nil, usage(fmt.Errorf("%s %q: write NAME=DIRECTORY", flag, t))
		}
		out[k] = v
	}
	return out, nil
}

func (r *restoreFlags) run(ctx context.Context, system string) error {
	if r.partial.wanted() {
		if err := r.checkPartial(system); err != nil {
			return err
		}
	} else if r.to == "" {
		return usage(dr.Fail("restore "+system, errors.New("no directory was given"), "add --to DIR"))
	}
	w, err := r.app.workspace(&r.glass)
	if err != nil {
		return err
	}
	defer w.Close() //nolint:errcheck // only read
	o, err := r.options(system, w)
	if err != nil {
		return err
	}
	repository, err := r.app.repositoryOf(ctx, w, system)
	if err != nil {
		return err
	}
	if r.partial.wanted() {
		return r.runPartial(ctx, w, repository, system, o)
	}
	progress, stop := r.app.progress()
	o.Progress = progress
	began := time.Now()
	rec, err := w.Recover(ctx, repository, system, o)
	stop()
	w.RecordRecovery(ctx, repository, system, o, rec, began, err)
	var damage *restore.DamageError
	if errors.As(err, &damage) && (!r.start || rec.Server != nil || !damage.Startable) {
		return r.reportDamage(system, rec, damage)
	}
	if err != nil {
		return err
	}
	return r.app.emit(recovered{Recovery: rec, System: system, Started: r.start, Total: rec.RTO()})
}

// reportDamage lists all that is lost, beside what was restored.
func (r *restoreFlags) reportDamage(system string, rec *workspace.Recovery, damage *restore.DamageError) error {
	result := recovered{Recovery: rec, System: system, Started: rec.Server != nil, Total: rec.RTO(), unfinished: !damage.Startable}
	if err := r.app.emit(result); err != nil {
		return err
	}
	if damage.Startable {
		return missed(damage)
	}
	return damage
}

// recovered is what restore prints.
type recovered struct {
	*workspace.Recovery
	System  string        `json:"system"`
	Started bool          `json:"started"`
	Total   time.Duration `json:"rtoNs"`

	unfinished bool // the directory cannot be started
}

// writeDelta says how a delta restore knew what to write.
func writeDelta(w io.Writer, d *restore.DeltaReport) {
	switch {
	case d == nil:
	case d.Compared != "":
		fmt.Fprintf(w, "every byte of the directory was compared: %s\n", d.Compared)
	default:
		fmt.Fprintf(w, "the logs told what had changed since %s: %s written, %s not looked at; a sample of %s was as they say\n",
			d.Since, count(int(d.Rewritten), "page"), count(int(d.Files), "file"), count(int(d.Sampled), "page"))
	}
}

func (r recovered) writeText(w io.Writer) error {
	f := r.Files
	fmt.Fprintf(w, "restored snapshot %s of %s into %s: %s in %s", r.Snapshot, r.System, f.To, dr.Bytes(f.Bytes), count(int(f.Files), "file"))
	if f.Kept > 0 {
		fmt.Fprintf(w, ", %s were right already", dr.Bytes(f.Kept))
	}
	fmt.Fprintln(w)
	if r.Doubt != "" {
		fmt.Fprintln(w, "DOUBTFUL:", r.Doubt)
	}
	writeDelta(w, f.Delta)
	for name, dir := range f.Tablespaces {
		fmt.Fprintf(w, "tablespace %s is in %s\n", name, dir)
	}
	for _, l := range f.Lost {
		fmt.Fprintf(w, "LOST: %s: %s\n", l, l.Reason)
	}
	for _, p := range f.Old {
		fmt.Fprintf(w, "LEFT: %s is of the cluster that was there before\n", p)
	}
	for _, d := range f.Damaged {
		fmt.Fprintf(w, "LOST: %s, %d bytes from byte %d on: %s\n", d.File, d.Length, d.Offset, d.Reason)
	}
	for _, n := range append(append([]string{}, r.Notes...), f.Notes...) {
		fmt.Fprintln(w, "note:", n)
	}
	if r.unfinished {
		_, err := fmt.Fprintf(w, "the directory cannot be started: it has no pg_control until the rest is there\n")
		return err
	}
	if r.Boot == nil {
		_, err := fmt.Fprintf(w, "files took %s; start the server on it, and it recovers to %s\n", round(f.Took), r.Target)
		return err
	}
	for _, n := range r.Boot.Notes {
		fmt.Fprintln(w, "note:", n)
	}
	if l := r.Boot.Log; l != nil && l.Ready < l.Segments {
		fmt.Fprintf(w, "note: the replay asked for %s of the log, and waited %s for %d of them\n", count(l.Segments, "segment"), round(l.Waited), l.Segments-l.Ready)
	}
	for _, p := range r.Phases {
		fmt.Fprintf(w, "  %-24s %10s\n", p.Name, round(p.Took))
	}
	fmt.Fprintf(w, "RTO %s, RPO %s (newest commit %s UTC, timeline %d)\n", round(r.Total), round(r.Boot.RPO), stamp(r.Boot.NewestCommit), r.Boot.Timeline)
	_, err := fmt.Fprintf(w, "the server runs (pid %d): psql '%s'\n", r.Server.PID, r.Server.ConnString("postgres"))
	return err
}
