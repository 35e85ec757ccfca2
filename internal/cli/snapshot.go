package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/pg"
	"github.com/holdfast-dr/holdfast/internal/pg/wal"
	"github.com/holdfast-dr/holdfast/internal/repo"
	"github.com/holdfast-dr/holdfast/internal/store"
)

func newSnapshotCommand(a *app) *cobra.Command {
	return group("snapshot", "Take, list, compare and forget snapshots",
		newSnapshotCreateCommand(a), newSnapshotListCommand(a), newSnapshotShowCommand(a),
		newSnapshotDiffCommand(a), newSnapshotForgetCommand(a))
}

// shownSnapshot is a snapshot as commands print it.
type shownSnapshot struct {
	System   string          `json:"system"`
	ID       repo.SnapshotID `json:"id"`
	Error    string          `json:"error,omitempty"`
	Manifest *repo.Manifest  `json:"manifest,omitempty"`
	Engine   string          `json:"engineVersion,omitempty"`
	Start    wal.LSN         `json:"-"`
	Stop     wal.LSN         `json:"-"`
	Log      string          `json:"log,omitempty"`
	facts    *pg.Facts

	Unseen        *pg.Unseen          `json:"unseen,omitempty"`
	Fragmentation *repo.Fragmentation `json:"fragmentation,omitempty"` // for snapshot show
}

func showSnapshot(system string, l repo.Listed) shownSnapshot {
	s := shownSnapshot{System: system, ID: l.ID, Manifest: l.Manifest}
	if l.Err != nil {
		s.Error = l.Err.Error()
		return s
	}
	f, err := pg.ParseFacts(l.Manifest.Engine, l.Manifest.Facts)
	if err != nil {
		s.Error = err.Error()
		return s
	}
	s.facts, s.Start, s.Stop, s.Unseen = f, f.StartLSN, f.StopLSN, f.Audit.Unseen()
	s.Engine = fmt.Sprintf("PostgreSQL %d.%d", f.Major(), f.Version%10000)
	s.Log = fmt.Sprintf("timeline %d, %s to %s", f.Timeline, f.StartLSN, f.StopLSN)
	return s
}

type shownSnapshots []shownSnapshot

func (l shownSnapshots) writeText(w io.Writer) error {
	var rows [][]string
	for _, s := range l {
		if s.Error != "" {
			rows = append(rows, []string{s.System, string(s.ID), "DAMAGED: " + s.Error, "", "", "", ""})
			continue
		}
		m := s.Manifest
		rows = append(rows, []string{
			s.System, string(s.ID), m.Finished.Format(time.DateTime), m.Finished.Sub(m.Started).Round(time.Millisecond).String(),
			dr.Bytes(m.Bytes).String(), dr.Bytes(m.Written.StoredBytes).String(), s.Log,
		})
	}
	return table(w, []string{"SYSTEM", "SNAPSHOT", "FINISHED (UTC)", "TOOK", "SIZE", "ADDED", "LOG"}, rows)
}

func newSnapshotListCommand(a *app) *cobra.Command {
	var glass breakGlass
	c := &cobra.Command{
		Use:   "list [SYSTEM]",
		Short: "List the snapshots of one system or of all",
		Args:  cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return a.listSnapshots(c.Context(), &glass, strings.Join(args, ""))
		},
	}
	glass.addFlags(c)
	return c
}

func (a *app) listSnapshots(ctx context.Context, glass *breakGlass, system string) error {
	w, err := a.workspace(glass)
	if err != nil {
		return err
	}
	defer w.Close() //nolint:errcheck // only read
	out := shownSnapshots{}
	damaged := 0
	one := func(r *repo.Repository, system string) error {
		list, err := r.Snapshots(ctx, system)
		if err != nil {
			return err
		}
		for _, l := range list {
			s := showSnapshot(system, l)
			if s.Error != "" {
				damaged++
			}
			out = append(out, s)
		}
		return nil
	}
	if system != "" {
		r, err := a.repositoryOf(ctx, w, system)
		if err == nil {
			err = one(r, system)
		}
		if err != nil {
			return err
		}
		return errors.Join(a.emit(out), checkFailed("snapshot list", damaged))
	}
	for name := range w.Config.Repositories {
		r, err := w.Repository(ctx, name)
		if err != nil {
			return err
		}
		systems, err := r.Systems(ctx)
		if err != nil {
			return err
		}
		for _, s := range systems {
			if err := one(r, s.Name); err != nil {
				return err
			}
		}
	}
	return errors.Join(a.emit(out), checkFailed("snapshot list", damaged))
}

// findSnapshot returns the snapshot with this ID, an unambiguous beginning of one, or "latest".
func findSnapshot(ctx context.Context, r *repo.Repository, system, id string) (repo.Listed, error) {
	list, err := r.Snapshots(ctx, system)
	if err != nil {
		return repo.Listed{}, err
	}
	if id == "latest" && len(list) > 0 {
		return list[len(list)-1], nil
	}
	var found []repo.Listed
	for _, l := range list {
		if strings.HasPrefix(string(l.ID), id) && id != "" {
			found = append(found, l)
		}
	}
	what := fmt.Sprintf("snapshot %q of %s", id, system)
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return repo.Listed{}, dr.Fail(what, store.ErrNotExist, "holdfast snapshot list "+system+" shows those that there are")
	}
	return repo.Listed{}, usage(dr.Fail(what, fmt.Errorf("%d snapshots begin so", len(found)), "write more of the ID"))
}

func newSnapshotShowCommand(a *app) *cobra.Command {
	var glass breakGlass
	c := &cobra.Command{
		Use:   "show SYSTEM [SNAPSHOT]",
		Short: "Show what a snapshot holds and where its recovery begins",
		Args:  cobra.RangeArgs(1, 2),
		RunE: func(c *cobra.Command, args []string) error {
			id := "latest"
			if len(args) == 2 {
				id = args[1]
			}
			w, err := a.workspace(&glass)
			if err != nil {
				return err
			}
			defer w.Close() //nolint:errcheck // only read
			r, err := a.repositoryOf(c.Context(), w, args[0])
			if err != nil {
				return err
			}
			l, err := findSnapshot(c.Context(), r, args[0], id)
			if err != nil {
				return err
			}
			if l.Err != nil {
				return l.Err
			}
			s := showSnapshot(args[0], l)
			root, err := l.Manifest.RootID()
			if err != nil {
				return err
			}
			// What cannot be read is for repo check to tell of: the rest is shown all the same.
			if f, err := r.Reader().Fragmentation(c.Context(), root); err == nil {
				s.Fragmentation = &f
			}
			return a.emit(s)
		},
	}
	glass.addFlags(c)
	return c
}

func (s shownSnapshot) writeText(w io.Writer) error {
	m := s.Manifest
	rows := [][2]string{
		{"system", s.System},
		{"snapshot", string(s.ID)},
		{"engine", s.Engine},
		{"host", m.Host},
		{"started", m.Started.Format(time.RFC3339)},
		{"finished", m.Finished.Format(time.RFC3339)},
		{"files", fmt.Sprint(m.Files)},
		{"size", dr.Bytes(m.Bytes).String()},
		{"new", fmt.Sprintf("%s in %s, stored as %s", dr.Bytes(m.Written.NewBytes), count(int(m.Written.NewChunks), "chunk"), dr.Bytes(m.Written.StoredBytes))},
		{"needs log", s.Log},
		{"group", string(m.Group)},
		{"signer", m.Signer},
	}
	if m.Rewrites != "" {
		rows = append(rows, [2]string{"rewrites", string(m.Rewrites)})
	}
	if f := s.Fragmentation; f != nil {
		rows = append(rows, [2]string{"fragments", fmt.Sprintf("%.2f pages decoded for each, %d of %d pages come from %d units", f.Ratio(), f.Patched, f.Pages, f.Units)})
	}
	if s.facts != nil {
		rows = append(rows, [2]string{"cluster", fmt.Sprintf("system identifier %d, checksums %v", s.facts.SystemID, s.facts.Checksums)})
		for _, t := range s.facts.Tablespaces {
			rows = append(rows, [2]string{"tablespace", fmt.Sprintf("%s (%d) at %s", t.Name, t.OID, t.Location)})
		}
	}
	rows = append(rows, s.audit()...)
	for _, p := range m.Problems {
		rows = append(rows, [2]string{"PROBLEM", p})
	}
	for _, r := range rows {
		if _, err := fmt.Fprintf(w, "%-11s %s\n", r[0], r[1]); err != nil {
			return err
		}
	}
	return nil
}

// audit says what was not read, and how sure it is that the log told of everything.
func (s shownSnapshot) audit() (rows [][2]string) {
	if s.facts == nil || s.facts.Audit == nil {
		return nil
	}
	a := s.facts.Audit
	switch {
	case a.FullScan != "" && a.Compared > 0:
		rows = append(rows, [2]string{"read", fmt.Sprintf("everything: %s; %s compared of which the log did not tell", a.FullScan, count(int(a.Compared), "page"))})
	case a.FullScan != "":
		rows = append(rows, [2]string{"read", "everything: " + a.FullScan})
	default:
		rows = append(rows, [2]string{"read", "what changed; " + unseen(a.Unread, a.Compared, s.Unseen)})
	}
	for _, p := range a.Pages {
		rows = append(rows, [2]string{"MISSED", p})
	}
	if a.Alarm != nil && a.Alarm.Snapshot != string(s.ID) {
		rows = append(rows, [2]string{"alarm", fmt.Sprintf("snapshot %s found %s of which the log did not tell", a.Alarm.Snapshot, count(int(a.Alarm.Missed), "page"))})
	}
	return rows
}

// forgotten is what snapshot forget did, or would do.
type forgotten struct {
	System    string            `json:"system"`
	Snapshots []repo.SnapshotID `json:"snapshots"`
	DryRun    bool              `json:"dryRun"`
	Left      int               `json:"left"`
}

func (f forgotten) writeText(w io.Writer) error {
	verb := "forgot"
	if f.DryRun {
		verb = "would forget"
	}
	for _, id := range f.Snapshots {
		fmt.Fprintf(w, "%s %s of %s\n", verb, id, f.System)
	}
	_, err := fmt.Fprintf(w, "%s of %s left; repo prune gives the space back\n", count(f.Left, "snapshot"), f.System)
	return err
}

func newSnapshotForgetCommand(a *app) *cobra.Command {
	f := &forget{app: a}
	c := &cobra.Command{
		Use:   "forget SYSTEM SNAPSHOT [SNAPSHOT …]",
		Short: "Make snapshots cease to exist",
		Long: `Removes the named snapshots. Their moments can no longer be recovered, unless an older snapshot and an unbroken
log reach them. The space comes back with the next repo prune. Retention does this by itself; see policies in
holdfast.yaml. Without a terminal, --confirm SYSTEM is required.`,
		Args: cobra.MinimumNArgs(2),
		RunE: func(c *cobra.Command, args []string) error { return f.run(c.Context(), args[0], args[1:]) },
	}
	c.Flags().BoolVar(&f.dryRun, "dry-run", false, "show what would be done")
	c.Flags().StringVar(&f.confirm, "confirm", "", "the `name` of the system, instead of the question")
	return c
}

type forget struct {
	app     *app
	dryRun  bool
	confirm string
}

func (f *forget) run(ctx context.Context, system string, ids []string) error {
	w, err := f.app.workspace(nil)
	if err != nil {
		return err
	}
	defer w.Close() //nolint:errcheck // what was written is durable
	r, err := f.app.repositoryOf(ctx, w, system)
	if err != nil {
		return err
	}
	list, err := r.Snapshots(ctx, system)
	if err != nil {
		return err
	}
	out := forgotten{System: system, DryRun: f.dryRun}
	var chosen []repo.Listed
	for _, id := range ids {
		l, err := findSnapshot(ctx, r, system, id)
		if err != nil {
			return err
		}
		out.Snapshots, chosen = append(out.Snapshots, l.ID), append(chosen, l)
	}
	out.Left = len(list) - len(out.Snapshots)
	if f.dryRun {
		return f.app.emit(out)
	}
	plan := fmt.Sprintf("%s of %s will be forgotten, %d left", count(len(out.Snapshots), "snapshot"), system, out.Left)
	if err := f.app.confirm(plan, system, f.confirm); err != nil {
		return err
	}
	began, gone := time.Now(), []repo.Listed{}
	for _, l := range chosen {
		if err = r.Forget(ctx, system, l.ID); err != nil {
			break
		}
		gone = append(gone, l)
	}
	w.RecordForgotten(ctx, r, system, gone, "a person asked for it", began, err)
	if err != nil {
		return err
	}
	return f.app.emit(out)
}
