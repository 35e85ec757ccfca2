package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/holdfast-dr/holdfast/internal/config"
	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/repo/scrub"
	"github.com/holdfast-dr/holdfast/internal/workspace"
)

// repoScrub reads replicas over and over.
type repoScrub struct {
	app    *app
	name   string
	site   string
	budget paceFlag
	once   bool
	within time.Duration
	status bool
}

// paceFlag reads paces as holdfast.yaml does.
type paceFlag struct{ dr.Pace }

func (p *paceFlag) Type() string { return "PACE" }

func (p *paceFlag) Set(s string) (err error) {
	p.Pace, err = dr.ParsePace(s)
	return err
}

func newRepoScrubCommand(a *app) *cobra.Command {
	r := &repoScrub{app: a}
	c := &cobra.Command{
		Use:   "scrub [REPOSITORY]",
		Short: "Read every byte again, at a pace, and put back what is damaged",
		Long: `Reads the replicas of a repository over and over, what was not read for longest first, and proves each object: it is opened, decoded
and hashed. What is damaged or missing is put back as holdfast repo check --repair does it, and read again. It is told which share of
the bytes was read within the window, and with which chance damage of an age is not seen yet.

The agent does this by itself where the configuration has a budget (repositories.….replicas[].scrub); in a directory it is 5% a day. Without
--once and --for this command goes on until it is interrupted. It may be killed at any time, and goes on where it was. One process of a
host at a time reads a replica.

Exit code 3 means that damage was found, and stays.`,
		Example: "  holdfast repo scrub --status\n  holdfast repo scrub --once --budget 100%/day\n  holdfast repo scrub --for 2h --budget 50GiB/day --site there",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			r.name = strings.Join(args, "")
			return r.run(c.Context())
		},
	}
	f := c.Flags()
	f.Var(&r.budget, "budget", "how much to read: a share such as 5%/day, or bytes such as 50GiB/day or 20MiB/s (default: the configuration's)")
	f.BoolVar(&r.once, "once", false, "read a day's budget at once, without pauses, and end: for a timer; surveys, where they are due, come on top")
	f.DurationVar(&r.within, "for", 0, "end after this `duration`")
	f.BoolVar(&r.status, "status", false, "only say how it stands, as this host knows")
	f.StringVar(&r.site, "site", "", "read the replica at this `site` alone, instead of all of them")
	return c
}

// scrubbed is how a replica stands.
type scrubbed struct {
	Repository string `json:"repository"`
	Site       string `json:"site"`
	Budget     string `json:"budget"`
	Never      bool   `json:"never,omitempty"` // this host knows nothing of it
	*scrub.Statement
}

type scrubs []scrubbed

func (l scrubs) writeText(w io.Writer) error {
	for _, s := range l {
		if s.Never {
			fmt.Fprintf(w, "%s at %s: never read from this host (budget: %s)\n", s.Repository, s.Site, s.Budget)
			continue
		}
		s.write(w)
	}
	return nil
}

func (s scrubbed) write(w io.Writer) {
	fmt.Fprintf(w, "%s at %s: %s in %s, read at %s: every byte within %s\n", s.Repository, s.Site, dr.Bytes(s.Bytes), count(s.Objects, "object"), s.Budget, days(s.Window))
	fmt.Fprintf(w, "  %s read within that time and found good; %s younger, and not read yet; %s overdue\n", shareOf(s.Verified, s.Bytes), shareOf(s.Young, s.Bytes), shareOf(s.Overdue, s.Bytes))
	fmt.Fprintf(w, "  the oldest reading is %s; on average a byte was read %s%s ago\n", oldestOf(s.Statement), atLeast(s.Oldest), days(s.MeanAge))
	var chances []string
	for _, u := range s.Unseen {
		chances = append(chances, fmt.Sprintf("%s old %.1f%%", days(u.Age), 100*u.Share))
	}
	fmt.Fprintf(w, "  chance that damage is not seen yet: %s\n", strings.Join(chances, ", "))
	if s.By != "" {
		fmt.Fprintf(w, "  the agent of %s reads it\n", s.By)
	}
	if s.Error != "" {
		fmt.Fprintf(w, "  nothing can be read since %s: %s\n", stamp(s.Failing), s.Error)
	}
	if s.Read > 0 || s.Found > 0 {
		fmt.Fprintf(w, "  the last run read %s, found %s damaged or missing, and put back %d\n", dr.Bytes(s.Read), count(int(s.Found), "object"), s.Healed)
	}
	for _, name := range s.Repairs {
		fmt.Fprintln(w, "  put back:", name)
	}
	for _, p := range s.Left {
		fmt.Fprintf(w, "DAMAGED: %s\n  reason: %s\n", p.Object, p.Reason)
		if p.Snapshots > 0 {
			fmt.Fprintf(w, "  touches %s; holdfast repo check names them\n", count(p.Snapshots, "snapshot"))
		}
	}
}

// oldestOf says when the byte was read for which that is longest ago.
func oldestOf(s *scrub.Statement) string {
	if s.Oldest.IsZero() {
		return "of an unknown age, never read"
	}
	return "from " + stamp(s.Oldest) + " (UTC)"
}

// atLeast is said of a mean in which unknown ages are counted from when they were met.
func atLeast(oldest time.Time) string {
	if oldest.IsZero() {
		return "at least "
	}
	return ""
}

// scrubbed adds how the replicas of a system stand that this host reads, and what is damaged in them.
func (s *systemStatus) scrubbed(w *workspace.Workspace, sys workspace.System) {
	for _, rep := range w.Config.CopiesOf(sys.System) {
		one, err := stands(w, sys.Repository, rep)
		if err != nil || one.Never {
			continue
		}
		s.Scrubs = append(s.Scrubs, one)
		if n := len(one.Left); n > 0 && s.Problem == "" {
			s.Problem = fmt.Sprintf("%s at site %s damaged: holdfast repo scrub --status", count(n, "object"), rep.Site)
		}
	}
}

func shareOf(part, whole int64) string {
	if whole == 0 {
		return "0%"
	}
	return fmt.Sprintf("%.1f%%", 100*float64(part)/float64(whole))
}

// days prints a long duration.
func days(d time.Duration) string {
	if d < 48*time.Hour {
		return d.Round(time.Minute).String()
	}
	return fmt.Sprintf("%.1f days", d.Hours()/24)
}

func (r *repoScrub) run(ctx context.Context) error {
	c, err := r.app.config()
	if err != nil {
		return err
	}
	name, err := repositoryName(c, r.name)
	if err != nil {
		return err
	}
	conf, err := c.Repository(name)
	if err != nil {
		return err
	}
	replicas := conf.Replicas
	if r.site != "" {
		one, err := c.Replica(conf, r.site)
		if err != nil {
			return err
		}
		replicas = []config.Replica{one}
	}
	if r.once && r.within > 0 {
		return usage(errors.New("--once ends by itself: leave --for out"))
	}
	out := make(scrubs, 0, len(replicas))
	if r.status {
		w := workspace.New(c, r.app.logger())
		for _, rep := range replicas {
			one, err := stands(w, name, rep)
			if err != nil {
				return err
			}
			out = append(out, one)
		}
		return r.end(name, out)
	}
	replicas, err = r.chosen(replicas)
	if err != nil {
		return err
	}
	out, err = r.read(ctx, c, name, replicas)
	if err != nil {
		return errors.Join(r.app.emit(out), err)
	}
	return r.end(name, out)
}

// chosen leaves out replicas that are not to be read.
func (r *repoScrub) chosen(all []config.Replica) (out []config.Replica, err error) {
	for _, rep := range all {
		if r.budget.IsZero() && !rep.Scrub.Budget.Off() || !r.budget.Off() {
			out = append(out, rep)
		}
	}
	if len(out) == 0 {
		return nil, usage(errors.New("nothing is to be read: give --budget, or set repositories.….replicas[].scrub.budget"))
	}
	return out, nil
}

// stands says how a replica stands, as this host knows.
func stands(w *workspace.Workspace, name string, rep config.Replica) (scrubbed, error) {
	st, err := w.ScrubStatement(name, rep.Site, time.Now())
	out := scrubbed{Repository: name, Site: rep.Site, Budget: rep.Scrub.Budget.String(), Statement: &st}
	if errors.Is(err, fs.ErrNotExist) || err == nil && st.Listed.IsZero() {
		return scrubbed{Repository: name, Site: rep.Site, Budget: out.Budget, Never: true}, nil
	}
	return out, err
}

// read reads replicas side by side: each is at a place of its own.
func (r *repoScrub) read(ctx context.Context, c *config.Config, name string, replicas []config.Replica) (scrubs, error) {
	if r.within > 0 {
		var stop context.CancelFunc
		ctx, stop = context.WithTimeout(ctx, r.within)
		defer stop()
	}
	out := make(scrubs, len(replicas))
	var eg errgroup.Group
	for i, rep := range replicas {
		eg.Go(func() error {
			w := workspace.New(c, r.app.logger())
			w.Site = rep.Site
			defer w.Close() //nolint:errcheck // what was put back is durable
			out[i] = scrubbed{Repository: name, Site: rep.Site, Budget: rep.Scrub.Budget.String(), Never: true}
			s, err := w.Scrub(ctx, name, scrub.Options{Pace: r.budget.Pace, Once: r.once})
			if err != nil {
				return err
			}
			err = s.Run(ctx)
			err = errors.Join(err, s.Close())
			st := s.Statement()
			out[i].Never, out[i].Budget, out[i].Statement = false, st.Pace, &st
			return err
		})
	}
	return out, eg.Wait()
}

func (r *repoScrub) end(name string, out scrubs) error {
	if err := r.app.emit(out); err != nil {
		return err
	}
	left := map[string]bool{}
	for _, s := range out {
		if s.Statement != nil {
			for _, p := range s.Left {
				left[s.Site+"/"+p.Object] = true
			}
		}
	}
	return checkFailed("repo scrub "+name, len(left))
}
