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
	"github.com/holdfast-dr/holdfast/internal/repo"
	"github.com/holdfast-dr/holdfast/internal/store"
	"github.com/holdfast-dr/holdfast/internal/workspace"
)

// repoPrune applies retention and gives space back.
type repoPrune struct {
	site     string
	app      *app
	name     string
	dryRun   bool
	keep     bool
	alone    bool
	wait     time.Duration
	patience time.Duration
	confirm  string
}

func newRepoPruneCommand(a *app) *cobra.Command {
	p := &repoPrune{app: a}
	c := &cobra.Command{
		Use:   "prune [REPOSITORY]",
		Short: "Apply retention, and remove what no snapshot needs",
		Long: `Forgets the snapshots that the policies do not keep, removes the log that no kept snapshot needs, and then
collects: objects that nothing refers to are condemned, writers that are at work are waited for, and only then is
anything deleted. It is safe beside running agents, paused ones and dead ones, and may be interrupted at any time:
the next run goes on.

Where a writer is still undecided the command ends without deleting; the next run finishes. --patience says how long
a writer may stay so before it is aborted.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			p.name = strings.Join(args, "")
			return p.run(c.Context())
		},
	}
	f := c.Flags()
	f.BoolVar(&p.dryRun, "dry-run", false, "show what would be done, and change nothing")
	f.BoolVar(&p.keep, "keep-snapshots", false, "apply no retention; only collect what nothing refers to")
	f.BoolVar(&p.alone, "alone", false, "promise that nobody else writes: needed where the store has no exclusive creation")
	f.DurationVar(&p.wait, "wait", 0, "how long to wait for writers that are at work")
	f.DurationVar(&p.patience, "patience", 0, "how long a writer may stay undecided before it is aborted (default 24h)")
	addSite(c, &p.site)
	f.StringVar(&p.confirm, "confirm", "", "the `name` of the repository, instead of the question")
	return c
}

type pruned struct {
	Repository string               `json:"repository"`
	DryRun     bool                 `json:"dryRun"`
	Retention  []workspace.Retained `json:"retention"`
	Log        []prunedLog          `json:"log"`
	Collection *repo.CollectReport  `json:"collection"`
}

type prunedLog struct {
	System  string   `json:"system"`
	Extents int      `json:"extents"`
	Bytes   dr.Bytes `json:"bytes"`
}

func (p pruned) writeText(w io.Writer) error {
	verb := "removed"
	if p.DryRun {
		verb = "would remove"
	}
	for _, r := range p.Retention {
		fmt.Fprintf(w, "%s: %s kept, %s %d\n", r.System, count(len(r.Kept), "snapshot"), verb, len(r.Forgotten))
		for _, id := range r.Forgotten {
			fmt.Fprintf(w, "  %s %s\n", verb, id)
		}
	}
	for _, l := range p.Log {
		fmt.Fprintf(w, "%s: %s of log %s, %s\n", l.System, count(l.Extents, "object"), verb, l.Bytes)
	}
	c := p.Collection
	fmt.Fprintf(w, "%s of %s %s, %s; %s copied into new packs\n", count(c.RemovedPacks, "pack"), fmt.Sprint(c.Packs), verb, dr.Bytes(c.RemovedBytes), dr.Bytes(c.CopiedBytes))
	for _, i := range c.Aborted {
		fmt.Fprintf(w, "aborted snapshot %s of %s, begun on %s at %s\n", i.ID, i.System, i.Host, i.Started.Format(time.DateTime))
	}
	for _, i := range c.Pending {
		fmt.Fprintf(w, "waiting for snapshot %s of %s, begun on %s at %s: run it again later\n", i.ID, i.System, i.Host, i.Started.Format(time.DateTime))
	}
	return nil
}

func (p *repoPrune) run(ctx context.Context) error {
	w, err := p.app.workspace(nil)
	if err != nil {
		return err
	}
	w.Site = p.site
	defer w.Close() //nolint:errcheck // what was written is durable
	name, err := repositoryName(w.Config, p.name)
	if err != nil {
		return err
	}
	r, err := w.Repository(ctx, name)
	if err != nil {
		return err
	}
	out := pruned{Repository: name, DryRun: p.dryRun, Retention: []workspace.Retained{}, Log: []prunedLog{}}
	if !p.dryRun {
		plan, err := p.plan(ctx, w, name)
		if err != nil {
			return err
		}
		if err := p.app.confirm(plan, name, p.confirm); err != nil {
			return err
		}
	}
	abilities, err := store.Probe(ctx, r.Store())
	if err != nil {
		return err
	}
	options := repo.CollectOptions{
		Wait: p.wait, Patience: p.patience, NoExclusiveCreate: !abilities.ExclusiveCreate, ListsLate: !abilities.ListAfterWrite, Alone: p.alone, DryRun: p.dryRun,
	}
	if err := r.MayCollect(options); err != nil {
		return err
	}
	if out.Retention, out.Log, err = p.systems(ctx, w, name, !p.dryRun); err != nil {
		return err
	}
	progress, stop := p.app.progress()
	options.Progress = progress
	began := time.Now()
	out.Collection, err = r.Collect(ctx, options)
	stop()
	if !p.dryRun {
		w.RecordCollection(ctx, r, out.Collection, began, err)
	}
	if err != nil {
		return err
	}
	if !p.dryRun {
		err = p.roll(ctx, r)
	}
	return errors.Join(p.app.emit(out), err)
}

// roll makes many snapshots quick to list.
func (p *repoPrune) roll(ctx context.Context, r *repo.Repository) error {
	systems, err := r.Systems(ctx)
	for _, s := range systems {
		_, failed := r.Roll(ctx, s.Name)
		err = errors.Join(err, failed)
	}
	return err
}

// plan says in one line what retention will do.
func (p *repoPrune) plan(ctx context.Context, w *workspace.Workspace, name string) (string, error) {
	retained, _, err := p.systems(ctx, w, name, false)
	forget, keep := 0, 0
	for _, r := range retained {
		forget, keep = forget+len(r.Forgotten), keep+len(r.Kept)
	}
	return fmt.Sprintf("repository %s: %s will be forgotten, %d kept, and what nothing needs removed", name, count(forget, "snapshot"), keep), err
}

// systems applies the policies of the repository's systems.
func (p *repoPrune) systems(ctx context.Context, w *workspace.Workspace, name string, apply bool) ([]workspace.Retained, []prunedLog, error) {
	retained, logs := []workspace.Retained{}, []prunedLog{}
	if p.keep {
		return retained, logs, nil
	}
	for _, n := range w.Config.SystemNames() {
		s, err := w.System(ctx, n)
		if err != nil {
			return retained, logs, err
		}
		if s.Repository != name {
			continue
		}
		one, err := w.Retain(ctx, s, workspace.Retention(apply))
		if err != nil {
			return retained, logs, err
		}
		retained = append(retained, one)
		if !apply {
			continue
		}
		n, bytes, err := w.RetainLog(ctx, s)
		if err != nil {
			return retained, logs, err
		}
		logs = append(logs, prunedLog{one.System, n, dr.Bytes(bytes)})
	}
	return retained, logs, nil
}
