package cli

import (
	"context"
	"fmt"
	"io"
	"math"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/holdfast-dr/holdfast/internal/capture"
	"github.com/holdfast-dr/holdfast/internal/config"
	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/pg"
	"github.com/holdfast-dr/holdfast/internal/workspace"
)

// snapshotCreate takes a snapshot now.
type snapshotCreate struct {
	app        *app
	checkpoint string
	full       bool
}

func newSnapshotCreateCommand(a *app) *cobra.Command {
	s := &snapshotCreate{app: a}
	c := &cobra.Command{
		Use:   "create SYSTEM",
		Short: "Take a snapshot now",
		Long: `Takes a snapshot of a running database: beside it from its data directory, or, where the configuration names
none, from afar over the replication protocol and SQL. When the command ends with 0 the snapshot is durable and can be
recovered alone: the log that it needs is in the repository too.

It reads what changed since the last snapshot: the pages that the log names, and the few files
that no log describes. Recovery then begins at the last checkpoint that the server has completed; nothing is asked of
the server unless there was none since the last snapshot. Where it is not certain what changed, it says why, and reads
everything. --full-scan reads everything, compares it with what the log told, and names every page that the log should
have told of: there must be none.

Some pages that the log did not name, drawn by chance, are compared each time, and it says how likely a change of which
the log did not tell stayed unseen. If one is found, everything is read and compared, and there is an alarm: the agent
and holdfast status tell of it until the snapshots that may lack such changes are gone, or --full-scan finds nothing more.

Every page's checksum is verified while it is read. A page that is damaged in the database is named and stored as
it is; the exit code is then 3.`,
		Example: "  holdfast snapshot create orders-db",
		Args:    cobra.ExactArgs(1),
		RunE:    func(c *cobra.Command, args []string) error { return s.run(c.Context(), args[0]) },
	}
	c.Flags().StringVar(&s.checkpoint, "checkpoint", "", "begin with a new checkpoint of this `kind`: fast or spread (default: only where one is needed, as configured)")
	c.Flags().BoolVar(&s.full, "full-scan", false, "read everything, and look for changes of which the log did not tell")
	return c
}

func (s *snapshotCreate) run(ctx context.Context, system string) error {
	o := workspace.SnapshotOptions{Checkpoint: config.Checkpoint(s.checkpoint)}
	if s.checkpoint != "" && o.Checkpoint != config.CheckpointFast && o.Checkpoint != config.CheckpointSpread {
		return usage(fmt.Errorf("--checkpoint %q: write fast or spread", s.checkpoint))
	}
	if s.full {
		o.Scan = capture.ScanFull
	}
	w, err := s.app.workspace(nil)
	if err != nil {
		return err
	}
	defer w.Close() //nolint:errcheck // what was written is durable
	sys, err := w.System(ctx, system)
	if err != nil {
		return err
	}
	progress, stop := s.app.progress()
	o.Progress = progress
	began := time.Now()
	report, err := w.Snapshot(ctx, sys, o)
	stop()
	w.RecordSnapshot(ctx, sys, report, began, err)
	if err != nil {
		return err
	}
	if err := s.app.emit(createdSnapshot{report}); err != nil {
		return err
	}
	if n := report.MissedPages; n > 0 {
		return missed(dr.Fail(fmt.Sprintf("snapshot %s of %s was taken, and holds everything", report.Snapshot.ID, system),
			fmt.Errorf("%s changed of which the log did not tell: earlier snapshots of what changed may lack such changes", count(int(n), "page")),
			"report the pages above with the server's version; restore from this snapshot or from one with --full-scan"))
	}
	if n := len(report.Problems); n > 0 {
		return missed(dr.Fail(fmt.Sprintf("snapshot %s of %s was taken", report.Snapshot.ID, system),
			fmt.Errorf("%w in the database itself: %s", errDamaged, count(n, "page")),
			"look at the pages above in the database; older snapshots may hold them intact"))
	}
	return nil
}

type createdSnapshot struct{ *capture.SnapshotReport }

func (c createdSnapshot) writeText(w io.Writer) error {
	m := c.Snapshot
	for _, p := range c.Problems {
		fmt.Fprintln(w, "DAMAGED:", p)
	}
	for _, m := range c.Missed {
		fmt.Fprintln(w, "MISSED:", m)
	}
	if more := c.MissedPages - int64(len(c.Missed)); more > 0 {
		fmt.Fprintf(w, "MISSED: and %d more\n", more)
	}
	for _, s := range c.Skipped {
		fmt.Fprintln(w, "not a part of the database, left out:", s)
	}
	fmt.Fprintf(w, "snapshot %s of %s: %s in %s\n", m.ID, m.System, dr.Bytes(m.Bytes), count(int(m.Files), "file"))
	fmt.Fprintf(w, "  new %s, stored as %s\n", dr.Bytes(m.Written.NewBytes), dr.Bytes(m.Written.StoredBytes))
	if c.FullScan != "" {
		fmt.Fprintf(w, "  everything was read: %s\n", c.FullScan)
	} else {
		fmt.Fprintf(w, "  what changed was read: %s\n", count(int(c.Pages), "page"))
	}
	switch {
	case c.NotCompared != "":
		fmt.Fprintf(w, "  not compared with what the log told: %s\n", c.NotCompared)
	case c.Unseen != nil:
		fmt.Fprintf(w, "  %s\n", unseen(c.Unread, c.Compared, c.Unseen))
	default:
		fmt.Fprintf(w, "  of which the log did not tell, compared: %s, %d of them changed in silence\n", count(int(c.Compared), "page"), c.MissedPages)
	}
	_, err := fmt.Fprintf(w, "  took %s: checkpoint %s, copy %s (%s/s), log %s\n", round(c.Total), round(c.Checkpoint), round(c.Copy),
		dr.Bytes(float64(m.Bytes)/max(c.Copy.Seconds(), 1e-3)), round(c.Log))
	return err
}

// unseen says how sure it is that the log told of everything.
func unseen(unread, compared int64, u *pg.Unseen) string {
	return fmt.Sprintf("of %s that the log did not name %d were compared: had it missed one, that stayed unseen with a chance of %s; had it missed 1 %% of them, %s; had it missed 0.1 %%, %s",
		count(int(unread), "page"), compared, percent(u.Page), percent(u.Hundredth), percent(u.Thousandth))
}

// percent rounds up: a chance is never said to be less than it is, but for what floating point makes of it.
func percent(p float64) string {
	return strconv.FormatFloat(math.Ceil(max(p*1e4-1e-6, 0))/100, 'f', -1, 64) + " %"
}

func round(d time.Duration) time.Duration { return d.Round(time.Millisecond) }
