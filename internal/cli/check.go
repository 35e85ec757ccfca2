package cli

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/repo"
	"github.com/holdfast-dr/holdfast/internal/store"
	"github.com/holdfast-dr/holdfast/internal/store/parity"
	"github.com/holdfast-dr/holdfast/internal/workspace"
)

// repoCheck looks whether what is stored is as it was stored.
type repoCheck struct {
	app      *app
	name     string
	readData bool
	sample   string
	repair   bool // the index
	heal     bool
	alone    bool
	wait     time.Duration
	patience time.Duration
	glass    breakGlass
}

func newRepoCheckCommand(a *app) *cobra.Command {
	r := &repoCheck{app: a}
	c := &cobra.Command{
		Use:   "check [REPOSITORY]",
		Short: "Look whether everything is there and as it was stored",
		Long: `Checks keys, index, snapshots with their signatures and trees, and the log. Every problem is named with the
snapshots and files that it touches; what no problem names is restorable. With --read-data every chunk is read,
decrypted, decoded and hashed; with --sample a random share of them.

With --repair-index the index is made whole first, and what says which part of it counts: the newest object under
collections/, without which nothing can be written. It is safe beside running agents, paused ones and dead ones, may
be interrupted at any time, and is finished by the next run, or by the next holdfast repo prune.

In a bucket with versioning, objects are found that a mark of deletion hides or another version covers, and that Holdfast has
not removed itself; earlier versions of them are there, and readers take them where a name leads to them.

With --repair what is damaged, missing or hidden is put back as an earlier version, the site's parity, or the replicas at other sites
have it, after it has proven to be what was stored. What they do not have under the same name, because they have gathered it in packs of
their own, stays: restores read it there. With --repair and --read-data, parity that lacks is written.

Exit code 3 means that damage was found, and stays.`,
		Example: "  holdfast repo check\n  holdfast repo check --read-data\n  holdfast repo check --sample 5%",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			r.name = strings.Join(args, "")
			return r.run(c.Context())
		},
	}
	f := c.Flags()
	f.BoolVar(&r.readData, "read-data", false, "read every byte")
	f.StringVar(&r.sample, "sample", "0%", "`share` of packs and log to read, at random")
	f.BoolVar(&r.heal, "repair", false, "put back what is damaged, missing or hidden, from earlier versions, by parity or from other sites")
	f.BoolVar(&r.repair, "repair-index", false, "first make lost or damaged index objects, and the end of a collection, anew from the packs")
	f.BoolVar(&r.alone, "alone", false, "promise that nobody else uses the repository: where --repair-index asks for it")
	f.DurationVar(&r.wait, "wait", 0, "how long --repair-index waits for writers that are at work")
	f.DurationVar(&r.patience, "patience", 0, "how long a writer may stay undecided before --repair-index aborts it (default 24h)")
	r.glass.addFlags(c)
	return c
}

type checked struct {
	*repo.CheckReport
	Healed     *repo.HealReport    `json:"healed,omitempty"` // before what is told was looked at
	Parity     *parity.Completion  `json:"parity,omitempty"`
	Repaired   *repo.RepairReport  `json:"repaired,omitempty"`
	Collection *repo.CollectReport `json:"collection,omitempty"` // that takes the place of one whose end was damaged
}

func (c checked) writeRepair(w io.Writer) {
	if r := c.Repaired; r != nil && len(r.Objects) > 0 {
		fmt.Fprintf(w, "made anew: %s, with %s that none named\n", count(len(r.Objects), "index object"), count(r.Packs, "pack"))
	}
	if c.Collection == nil {
		return
	}
	fmt.Fprintf(w, "collection %d takes the place of the damaged one: the repository can be written to; %s copied into new packs\n",
		c.Collection.Number, dr.Bytes(c.Collection.CopiedBytes))
	for _, p := range c.Collection.Problems {
		fmt.Fprintln(w, "note:", p)
	}
	for _, i := range c.Collection.Aborted {
		fmt.Fprintf(w, "aborted snapshot %s of %s, begun on %s at %s\n", i.ID, i.System, i.Host, i.Started.Format(time.DateTime))
	}
	for _, i := range c.Collection.Pending {
		fmt.Fprintf(w, "waiting for snapshot %s of %s, begun on %s at %s: the next holdfast repo prune finishes\n", i.ID, i.System, i.Host, i.Started.Format(time.DateTime))
	}
}

func (c checked) writeText(w io.Writer) error {
	c.writeRepair(w)
	if c.Healed != nil {
		for _, name := range c.Healed.Healed {
			fmt.Fprintln(w, "put back:", name)
		}
		for _, l := range c.Healed.Left {
			fmt.Fprintf(w, "not put back: %s\n  reason: %s\n", l.Object, l.Reason)
		}
	}
	if p := c.Parity; p != nil && p.Written+p.Removed > 0 {
		fmt.Fprintf(w, "parity written: of %s, %s; removed: of %d that are gone\n", count(p.Written, "object"), dr.Bytes(p.Bytes), p.Removed)
	}
	for _, p := range c.Problems {
		fmt.Fprintf(w, "DAMAGED: %s\n  reason: %s\n", p.Object, p.Reason)
		for _, s := range p.Snapshots {
			fmt.Fprintln(w, "  touches snapshot", s)
		}
		if more := p.SnapshotCount - len(p.Snapshots); more > 0 {
			fmt.Fprintf(w, "  and %s more\n", count(more, "snapshot"))
		}
		for _, f := range p.Paths {
			fmt.Fprintln(w, "  touches file", f)
		}
		if more := p.PathCount - len(p.Paths); more > 0 {
			fmt.Fprintf(w, "  and %s more\n", count(more, "file"))
		}
	}
	for _, n := range c.Warnings {
		fmt.Fprintln(w, "WARNING:", n)
	}
	for _, n := range c.Notes {
		fmt.Fprintln(w, "note:", n)
	}
	_, err := fmt.Fprintf(w, "%s, %s, %s (%d read), %s (%d read), %s read: %s\n", count(c.Systems, "system"), count(c.Snapshots, "snapshot"),
		count(c.Packs, "pack"), c.PacksRead, count(c.LogExtents, "log object"), c.ExtentsRead, dr.Bytes(c.ReadBytes), count(len(c.Problems), "problem"))
	return err
}

func parseShare(s string) (float64, error) {
	number, percent := strings.CutSuffix(s, "%")
	v, err := strconv.ParseFloat(number, 64)
	if percent {
		v /= 100
	}
	if err != nil || v < 0 || v > 1 {
		return 0, usage(fmt.Errorf("--sample %q: write a share such as 5%%", s))
	}
	return v, nil
}

// mend repairs the end of the last collection, and then the index objects.
func (r *repoCheck) mend(ctx context.Context, repository *repo.Repository, progress dr.ProgressFunc, out *checked) error {
	abilities, err := store.Probe(ctx, repository.Store())
	if err != nil {
		return err
	}
	options := repo.CollectOptions{
		Wait: r.wait, Patience: r.patience, NoExclusiveCreate: !abilities.ExclusiveCreate, ListsLate: !abilities.ListAfterWrite, Alone: r.alone, Progress: progress,
	}
	if repository.CollectionDamaged(ctx) {
		if out.Collection, err = repository.RepairCollection(ctx, options); err != nil {
			return err
		}
	}
	out.Repaired, err = repository.RebuildIndex(ctx)
	return err
}

// putBack heals what a check has found, and looks again.
func (r *repoCheck) putBack(ctx context.Context, w *workspace.Workspace, repository *repo.Repository, name string, o repo.CheckOptions, out *checked) error {
	var err error
	out.CheckReport, out.Healed, err = w.PutBack(ctx, repository, name, out.CheckReport, func() (*repo.CheckReport, error) { return repository.Check(ctx, o) })
	return err
}

// completeParity writes the parity that lacks, of what a check has found to be right.
func completeParity(ctx context.Context, st store.Store, problems []repo.Problem) (*parity.Completion, error) {
	if !parity.Has(st) {
		return nil, nil //nolint:nilnil // nothing was to be done
	}
	damaged := func(name string) bool {
		// Some problems are of all objects whose names begin so.
		return slices.ContainsFunc(problems, func(p repo.Problem) bool { return strings.HasPrefix(name, p.Object) })
	}
	c, err := parity.Complete(ctx, st, damaged, len(problems) > 0)
	return &c, err
}

// lacking notes that objects have no parity.
func (c *checked) lacking(ctx context.Context, st store.Store) error {
	if !parity.Has(st) {
		return nil
	}
	n, err := parity.Lacking(ctx, st)
	if n > 0 {
		c.Notes = append(c.Notes, count(n, "object")+" without parity: holdfast repo check --read-data --repair writes it")
	}
	return err
}

func (r *repoCheck) run(ctx context.Context) error {
	o := repo.CheckOptions{ReadData: r.readData}
	var err error
	if o.Sample, err = parseShare(r.sample); err != nil {
		return err
	}
	w, err := r.app.workspace(&r.glass)
	if err != nil {
		return err
	}
	defer w.Close() //nolint:errcheck // only read
	name, err := repositoryName(w.Config, r.name)
	if err != nil {
		return err
	}
	repository, err := w.Repository(ctx, name)
	if err != nil {
		return err
	}
	var out checked
	progress, stop := r.app.progress()
	o.Progress = progress
	began := time.Now()
	if r.repair {
		err = r.mend(ctx, repository, progress, &out)
		w.RecordRepair(ctx, repository, nil, out.Repaired, out.Collection, began, err)
	}
	if err != nil {
		stop()
		return err
	}
	began = time.Now()
	out.CheckReport, err = repository.Check(ctx, o)
	w.RecordCheck(ctx, repository, out.CheckReport, began, err)
	if err == nil && r.heal && len(out.Problems) > 0 {
		began = time.Now()
		err = r.putBack(ctx, w, repository, name, o, &out)
		w.RecordRepair(ctx, repository, out.Healed, nil, nil, began, err)
	}
	if err == nil && r.heal && r.readData {
		out.Parity, err = completeParity(ctx, repository.Store(), out.Problems)
	} else if err == nil {
		err = out.lacking(ctx, repository.Store())
	}
	stop()
	if err != nil {
		return err
	}
	if err := r.app.emit(out); err != nil {
		return err
	}
	return checkFailed("repo check "+name, len(out.Problems))
}
