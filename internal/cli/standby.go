package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/holdfast-dr/holdfast/internal/config"
	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/standby"
)

func newStandbyCommand(a *app) *cobra.Command {
	return group("standby", "Keep a database continuously recovered from the repository, ready to take over",
		newStandbyRunCommand(a), newStandbyStatusCommand(a), newStandbyPromoteCommand(a))
}

// runStandby keeps a standby.
type runStandby struct {
	app         *app
	settings    standby.Settings
	tablespaces []string
	primary     string
	rebuild     bool
}

func newStandbyRunCommand(a *app) *cobra.Command {
	r := &runStandby{app: a}
	c := &cobra.Command{
		Use:   "run SYSTEM --to DIR",
		Short: "Keep a standby until interrupted, or promoted",
		Long: `Restores the newest snapshot into a directory, starts the source's version of PostgreSQL on it as a hot standby, and serves it the
log of the repository as that grows: no connection to the source is needed. A directory that a run before left is gone on with, and so is
a server that still runs there. Where the repository's log has a gap, or the source has gone on from an earlier moment, the directory is
brought back to a newer snapshot by what differs. A store that does not answer is waited for.

With --primary the log comes from that server by streaming replication, once the end of the repository's is reached, and from the
repository while the server does not answer. The connection is made by this command, as a role that may replicate; its password is
kept in a passfile (~/.pgpass), a service file or PGPASSWORD, and comes neither to the standby's server nor to its files. Nothing is kept
back for it at the primary: no slot is used.

Interrupted, it stops the server. holdfast standby promote makes the server a primary, which then goes on without this command. Asked to
keep that as a standby once more, it refuses, with exit code 4. Run it as the user that runs PostgreSQL, and as a service: when it is
killed, it goes on where it was.`,
		Example: "  holdfast standby run orders-db --to /var/lib/postgresql/15/standby --port 5433\n  holdfast standby run orders-db --site zurich --to ./standby --listen '*'\n" +
			"  holdfast standby run orders-db --to ./standby --primary 'host=db1 user=replicator passfile=/etc/holdfast/pgpass'",
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error { return r.run(c.Context(), args[0]) },
	}
	f, s := c.Flags(), &r.settings
	addSite(c, &s.Site)
	f.StringVar(&s.Dir, "to", "", "data `directory` of the standby")
	f.IntVar(&s.Port, "port", 0, "`port` of the server (default 5432)")
	f.StringVar(&s.Listen, "listen", "", "`addresses` that the server listens on (default: sockets only)")
	f.StringVar(&s.SocketDir, "socket", "", "`directory` of a socket for others, beside the private one")
	f.StringVar(&s.Superuser, "superuser", "", "`name` of the cluster's superuser (default postgres)")
	f.StringVar(&s.BinDir, "bin-directory", "", "`directory` of PostgreSQL's programs (default: as configured, else where packages put them)")
	f.DurationVar(&s.Every, "every", time.Second, "`time` between two looks at the repository's log, which bounds the lag")
	f.StringVar(&r.primary, "primary", "", "`connection` string of a server from which the log comes sooner, without a password")
	f.StringArrayVar(&r.tablespaces, "tablespace", nil, "`NAME=DIR`: where to put a tablespace (by name, OID or old location); may be repeated")
	f.BoolVar(&r.rebuild, "rebuild", false, "make a stopped cluster of this system that is no standby one: what only it has is lost")
	return c
}

func (r *runStandby) run(ctx context.Context, system string) error {
	if r.settings.Dir == "" {
		return usage(dr.Fail("standby run "+system, errors.New("no directory was given"), "add --to DIR"))
	}
	if r.settings.Every < 10*time.Millisecond {
		return usage(errors.New("--every: write 10ms or more"))
	}
	var err error
	if r.settings.Tablespaces, err = parsePairs("--tablespace", r.tablespaces); err != nil {
		return err
	}
	if r.settings.Primary, err = config.ParseConnection(r.primary); err != nil {
		return usage(fmt.Errorf("--primary: %w", err))
	}
	r.settings.System = system
	done, err := r.app.keepStandby(ctx, r.settings, standby.Rebuild(r.rebuild), nil)
	if errors.Is(err, standby.ErrNoStandby) {
		return withExit(err, exitNoStandby)
	}
	if err != nil || done == nil {
		return err
	}
	return r.app.emit(promoted{done})
}

// keepStandby runs a standby at the site of its settings.
func (a *app) keepStandby(ctx context.Context, s standby.Settings, rebuild standby.Rebuild, p *standby.Promotion) (*standby.Promoted, error) {
	w, err := a.workspace(&breakGlass{site: s.Site})
	if err != nil {
		return nil, err
	}
	defer w.Close() //nolint:errcheck // only read
	if c, err := w.Config.System(s.System); err == nil && s.BinDir == "" {
		s.BinDir = c.Postgres.BinDirectory
	}
	progress, stop := a.progress()
	defer stop()
	return standby.Run(ctx, standby.Options{Settings: s, Workspace: w, Rebuild: rebuild, Promote: p, Log: a.logger(), Progress: progress})
}

func newStandbyStatusCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "status [SYSTEM …]",
		Short: "Show how far this host's standbys have come, and how far they are behind",
		Long: `Shows what the standby's server has executed: the position, and the last commit. LAG is from that commit to the newest one that the
repository is known to hold, with the bytes that are still to be replayed; LOG AGE is how long ago, by the source's clock, the repository
was known to hold everything, or the primary to have sent it. LOG FROM is where it comes from now. Exit code 3 means that a standby does not follow.`,
		RunE: func(c *cobra.Command, args []string) error { return a.standbyStatus(c.Context(), args) },
	}
}

type standbyStatuses []standby.Status

func (l standbyStatuses) writeText(w io.Writer) error {
	var rows [][]string
	for _, s := range l {
		lag, age := "-", "-"
		if s.Phase == standby.PhaseFollowing {
			lag = fmt.Sprintf("%s, %s", s.Lag.Round(time.Millisecond), s.LagBytes)
		}
		if !s.LogTime.IsZero() {
			age = s.LogAge.Round(100 * time.Millisecond).String()
		}
		problem := s.Problem
		if problem == "" && s.Severed != "" {
			problem = "none; but the primary cannot be used: " + s.Severed
		}
		rows = append(rows, []string{s.System, s.Directory, string(s.Phase), s.Replayed.String(), stamp(s.LastCommit), lag, age, string(s.LogFrom), problem})
	}
	return table(w, []string{"SYSTEM", "DIRECTORY", "STATE", "REPLAYED", "LAST COMMIT (UTC)", "LAG", "LOG AGE", "LOG FROM", "PROBLEM"}, rows)
}

func (a *app) standbyStatus(ctx context.Context, systems []string) error {
	w, err := a.workspace(nil)
	if err != nil {
		return err
	}
	defer w.Close() //nolint:errcheck // only read
	named := len(systems) > 0
	if !named {
		systems = w.Config.SystemNames()
	}
	out, bad := standbyStatuses{}, 0
	for _, name := range systems {
		if _, err := w.Config.System(name); err != nil {
			return err
		}
		s, ok, err := standby.Ask(ctx, w, name)
		if err != nil {
			return err
		}
		if !ok && named {
			return dr.Fail("standby status "+name, errors.New("no standby of it was ever kept with this agent.state"), "holdfast standby run "+name+" --to DIR")
		}
		if !ok {
			continue
		}
		if s.Phase != standby.PhaseFollowing && s.Phase != standby.PhasePromoted || s.Problem != "" {
			bad++
		}
		out = append(out, s)
	}
	if err := a.emit(out); err != nil {
		return err
	}
	if bad > 0 {
		return missed(dr.Fail("standby status", errors.New(count(bad, "standby")+" of "+fmt.Sprint(len(out))+" cannot take over as it should"), "see what is told as its problem"))
	}
	return nil
}

func newStandbyPromoteCommand(a *app) *cobra.Command {
	var p standby.Promotion
	c := &cobra.Command{
		Use:   "promote SYSTEM",
		Short: "Make this host's standby a primary, with all that the repository holds",
		Long: `Lets the standby replay everything that the repository holds at this moment, promotes it, and waits until it takes writes. It works whether
standby run runs or not; that ends, and the server goes on. What is known to be missing is told before, and refused but for --accept-loss.

It is refused while the source accepts writes at its configured connection, asked from this host: one that does not answer counts as gone,
and so does one that is configured by a local socket and runs elsewhere. That the source cannot come back is your part: fence it first.
The new primary begins a timeline that the repository does not know, archives nothing, and is protected by nobody until an agent is
pointed at it.`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error { return a.promoteStandby(c.Context(), args[0], p) },
	}
	c.Flags().BoolVar(&p.AcceptLoss, "accept-loss", false, "promote although log is missing, or the repository does not answer")
	c.Flags().BoolVar(&p.BesidePrimary, "beside-primary", false, "promote although the source accepts writes")
	return c
}

func (a *app) promoteStandby(ctx context.Context, system string, p standby.Promotion) error {
	began := time.Now()
	done, err := a.askPromotion(ctx, system, p)
	a.recordPromotion(ctx, system, p, done, began, err)
	if err != nil {
		return err
	}
	return a.emit(promoted{done})
}

func (a *app) askPromotion(ctx context.Context, system string, p standby.Promotion) (*standby.Promoted, error) {
	w, err := a.workspace(nil)
	if err != nil {
		return nil, err
	}
	defer w.Close() //nolint:errcheck // only read
	if _, err := w.Config.System(system); err != nil {
		return nil, err
	}
	done, ok, err := standby.Promote(ctx, w, system, p)
	if ok || err != nil {
		return done, err
	}
	s, err := standby.Left(w, system)
	if err != nil {
		return nil, err
	}
	return a.keepStandby(ctx, s, standby.KeepOthers, &p)
}

// promoted is what a promotion prints.
type promoted struct{ *standby.Promoted }

func (p promoted) writeText(w io.Writer) error {
	fmt.Fprintf(w, "the standby of %s in %s is a primary now, on timeline %d\n", p.System, p.Directory, p.Timeline)
	for _, ph := range p.Phases {
		fmt.Fprintf(w, "  %-24s %10s\n", ph.Name, round(ph.Took))
	}
	fmt.Fprintf(w, "RTO %s; replayed to %s, newest commit %s UTC\n", round(p.RTO), p.Replayed, stamp(p.NewestCommit))
	if p.Missing == "" {
		fmt.Fprintln(w, "nothing that the repository is known to have held is missing")
	} else {
		fmt.Fprintln(w, "MISSING:", p.Missing)
	}
	fmt.Fprintln(w, "note: it runs with archive_mode off and settings of this run: restart it by your service manager when it takes over")
	fmt.Fprintln(w, "note: nobody protects it: point the system's connection and data-directory at it, and start an agent")
	_, err := fmt.Fprintf(w, "the server runs (pid %d): psql '%s'\n", p.PID, p.Connection)
	return err
}
