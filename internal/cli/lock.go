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
)

// repoLock renews the retention of a replica's objects.
type repoLock struct {
	app  *app
	name string
	site string
	now  bool
}

func newRepoLockCommand(a *app) *cobra.Command {
	l := &repoLock{app: a}
	c := &cobra.Command{
		Use:   "lock [REPOSITORY]",
		Short: "Keep what is in a locked replica from being removed, for longer",
		Long: `Each object in a replica that has a lock is written with a retention. This command, and the agent each day, extends it
for everything that is still there, so that at no time less is left than the configuration's lock.for. It does so only where
that is due, about once in half of that time, and needs then one request for each object, and one for a thousand to list them.

It may be interrupted, repeated, and run beside anything; the next run goes on. Nothing is ever shortened.`,
		Example: "  holdfast repo lock\n  holdfast repo lock --now   # after lock.for, or lock.mode, was changed",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			l.name = strings.Join(args, "")
			return l.run(c.Context())
		},
	}
	c.Flags().BoolVar(&l.now, "now", false, "extend also what is not due")
	addSite(c, &l.site)
	return c
}

type lockRenewed struct {
	Repository string `json:"repository"`
	Place      string `json:"place"`
	*repo.LockReport
}

func (l lockRenewed) writeText(w io.Writer) error {
	if l.Due {
		fmt.Fprintf(w, "%s: %s, %s renewed\n", l.Place, count(l.Objects, "object"), fmt.Sprint(l.Renewed))
	}
	for _, name := range l.Hidden {
		fmt.Fprintln(w, "HIDDEN BY SOMEBODY, and renewed; holdfast repo check --repair puts it back:", name)
	}
	for _, name := range l.Doubted {
		fmt.Fprintln(w, "NOT RENEWED: no version is what was stored:", name)
	}
	_, err := fmt.Fprintf(w, "everything in %s is locked until %s at least; a renewal is due at %s (UTC)\n", l.Repository, l.Until.UTC().Format(time.DateTime), l.Next.UTC().Format(time.DateTime))
	return err
}

func (l *repoLock) run(ctx context.Context) error {
	w, err := l.app.workspace(nil)
	if err != nil {
		return err
	}
	w.Site = l.site
	defer w.Close() //nolint:errcheck // what was written is durable
	name, err := repositoryName(w.Config, l.name)
	if err != nil {
		return err
	}
	r, err := w.Repository(ctx, name)
	if err != nil {
		return err
	}
	progress, stop := l.app.progress()
	began := time.Now()
	report, err := r.RenewLock(ctx, repo.LockOptions{Now: l.now, Progress: progress})
	stop()
	w.RecordLock(ctx, r, l.site, report, began, err)
	if errors.Is(err, repo.ErrNoLock) {
		return dr.Fail("repo lock "+name, err, "set repositories."+name+".replicas[].lock, of a bucket with Object Lock")
	}
	if err != nil {
		return err
	}
	if err := l.app.emit(lockRenewed{name, r.Store().String(), report}); err != nil {
		return err
	}
	return checkFailed("repo lock "+name, len(report.Doubted)+len(report.Hidden))
}
