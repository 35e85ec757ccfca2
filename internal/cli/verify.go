package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/holdfast-dr/holdfast/internal/config"
	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/evidence"
	"github.com/holdfast-dr/holdfast/internal/verify"
	"github.com/holdfast-dr/holdfast/internal/workspace"
)

// verifyFlags are those of a restore test.
type verifyFlags struct {
	app     *app
	glass   breakGlass
	at      string
	depth   choice
	way     choice
	sample  string
	sandbox string
	owner   string
	binDir  string
	cleanup bool
}

func newVerifyCommand(a *app) *cobra.Command {
	v := &verifyFlags{app: a}
	c := &cobra.Command{
		Use:   "verify SYSTEM",
		Short: "Prove that a moment can be recovered, by recovering it in a sandbox",
		Long: `Tests a recovery point, as deep as is asked for; each depth includes those before it:

  objects  all that the snapshot and the log up to the point need is there, opens, decodes and has its ID
  pages    every page is as PostgreSQL accepts it (its checksum, where the cluster has data checksums), pg_control fits
  boot     the server's own programs start on it in a sandbox, replay to the point, and answer: a measured RTO
  check    amcheck finds every B-tree, with every row of its table, and every table of every database to be sound
  query    the system's assertions in holdfast.yaml hold: values, ranges, ages, the figures that the source had

--at recorded tests the newest moment for which figures of the source were recorded, so that they can be compared.

The sandbox's server has no network, archives nothing, follows nobody, and believes nothing of the configuration that the
snapshot has; run as root it has a user that nobody else has. It takes as much room as the system, for as long as the test
runs. What could not be kept apart is said, and so is what a test does not cover.

Exit code 3 means that the point was tested and something is wrong with it; 1 that it could not be tested.`,
		Example: `  holdfast verify orders-db
  holdfast verify orders-db --depth pages --sample 5%
  holdfast verify orders-db --depth boot --at random --sandbox /var/tmp
  holdfast verify --cleanup`,
		Args: func(_ *cobra.Command, args []string) error {
			if v.cleanup && len(args) == 0 || len(args) == 1 {
				return nil
			}
			return fmt.Errorf("name one system, not %d", len(args))
		},
		RunE: func(c *cobra.Command, args []string) error {
			if v.cleanup {
				return v.clean(c.Context())
			}
			return v.run(c.Context(), args[0])
		},
	}
	var depths []string
	for _, d := range verify.Depths {
		depths = append(depths, string(d))
	}
	v.way = choice{of: []string{string(config.VerifyRestore), string(config.VerifyMount)}}
	v.depth = choice{value: string(verify.Pages), of: depths}
	f := c.Flags()
	f.StringVar(&v.at, "at", "latest", "`moment`: latest, random, recorded, immediate, a time (UTC, or with its zone), an LSN, or name:RESTORE_POINT")
	f.Var(&v.depth, "depth", "how deep: "+strings.Join(depths, ", "))
	f.StringVar(&v.sample, "sample", "", "how much of the files' content is read for objects and pages: a `part`, chosen anew each time (default 100%; with a server on a mount 1%)")
	f.Var(&v.way, "way", "how the files come into the sandbox: restore writes all of them; mount fetches what the server asks for (default: as configured)")
	f.StringVar(&v.sandbox, "sandbox", "", "`directory` for the throw-away recovery, which takes as much room as the system (default: as configured, else that of temporary files)")
	f.StringVar(&v.owner, "owner", "", "`user` who runs the sandbox's server, when run as root (default: one that nobody else has)")
	f.StringVar(&v.binDir, "bin-directory", "", "`directory` of PostgreSQL's programs (default: as configured, else where packages put them)")
	f.BoolVar(&v.cleanup, "cleanup", false, "only remove what tests have left whose process was killed")
	v.glass.addFlags(c)
	return c
}

// tested is what verify prints.
type tested struct{ *verify.Result }

func (t tested) writeText(w io.Writer) error {
	for _, n := range t.Notes {
		fmt.Fprintln(w, "note:", n)
	}
	for _, p := range t.Problems {
		fmt.Fprintf(w, "PROBLEM (%s): %s\n", p.Depth, p)
	}
	if more := t.ProblemCount - len(t.Problems); more > 0 {
		fmt.Fprintf(w, "PROBLEM: and %d more\n", more)
	}
	for _, c := range t.Covered {
		fmt.Fprintln(w, "covered:", c)
	}
	for _, c := range t.NotCovered {
		fmt.Fprintln(w, "not covered:", c)
	}
	for _, a := range t.Asserted {
		state := "holds"
		if a.Left != "" {
			state = "not compared"
		} else if !a.Holds {
			state = "DOES NOT HOLD"
		}
		fmt.Fprintf(w, "assertion %s: %s\n", a.Name, state)
	}
	for _, p := range t.Phases {
		fmt.Fprintf(w, "  %-24s %10s\n", p.Name, round(p.Took))
	}
	if t.RTO > 0 {
		if t.Figures.Fetched < t.Figures.Bytes {
			fmt.Fprintf(w, "the server ran on %s that were fetched of its %s\n", t.Figures.Fetched, t.Figures.Bytes)
		}
		fmt.Fprintf(w, "RTO %s by %s, RPO %s (newest commit %s UTC)\n", round(t.RTO), t.Way, round(t.RPO), stamp(t.NewestCommit))
	}
	proven := "nothing is proven"
	if t.Proven != "" {
		proven = "proven to the depth " + string(t.Proven)
	}
	if sample := t.Summary().Sample; t.Proven != "" && sample > 0 {
		proven += fmt.Sprintf(", of a sample of %.3g%%", sample*100)
	}
	_, err := fmt.Fprintf(w, "%s of %s, snapshot %s: %s, %s; took %s\n", t.Target, t.System, t.Snapshot, strings.ToUpper(string(t.Outcome)), proven, round(t.Took))
	return err
}

// cleaned is what verify --cleanup prints.
type cleaned struct {
	Removed []string `json:"removed"`
}

func (c cleaned) writeText(w io.Writer) error {
	for _, n := range c.Removed {
		fmt.Fprintln(w, n)
	}
	if len(c.Removed) == 0 {
		fmt.Fprintln(w, "nothing is left of tests whose process was killed")
	}
	return nil
}

func (v *verifyFlags) clean(ctx context.Context) error {
	in := map[string]bool{v.sandbox: true}
	if c, err := v.app.config(); err == nil && v.sandbox == "" { // without one, what is in the usual place
		for _, p := range c.Policies {
			in[p.Verify.Sandbox] = true
		}
	}
	var out cleaned
	for _, dir := range slices.Sorted(maps.Keys(in)) {
		out.Removed = append(out.Removed, verify.Cleanup(ctx, dir)...)
	}
	return v.app.emit(out)
}

func (v *verifyFlags) run(ctx context.Context, system string) error {
	w, err := v.app.workspace(&v.glass)
	if err != nil {
		return err
	}
	defer w.Close() //nolint:errcheck // only read
	o, err := v.options(w, system)
	if err != nil {
		return err
	}
	r, err := v.app.repositoryOf(ctx, w, system)
	if err != nil {
		return err
	}
	point, err := verify.Choose(ctx, r, system, v.at)
	if err != nil {
		return err
	}
	o.Unread, o.PlanTook = point.Unread, point.Took
	progress, stop := v.app.progress()
	o.Progress = progress
	result, err := verify.Run(ctx, r, point.Plan, o)
	stop()
	if err != nil {
		return err
	}
	v.keep(w, system, result)
	st := result.Statement()
	st.Subjects = []evidence.Subject{workspace.SnapshotSubject(point.Plan.Snapshot.Manifest)}
	w.Record(ctx, r, st)
	if err := v.app.emit(tested{result}); err != nil {
		return err
	}
	if result.Outcome == verify.Failed {
		return missed(dr.Fail(fmt.Sprintf("verify %s: %s", system, count(result.ProblemCount, "problem")), errors.New(result.Problems[0].String()),
			"holdfast repo check says what else it touches; another replica is tested with --site"))
	}
	return nil
}

// options are those of the configuration, and of the flags.
func (v *verifyFlags) options(w *workspace.Workspace, system string) (o verify.Options, err error) {
	if s, err := w.Config.System(system); err == nil {
		o = verify.FromConfig(s, w.Config.PolicyOf(s), v.app.logger())
	}
	if v.way.value != "" {
		o.Opener = verify.OpenerOf(config.VerifyWay(v.way.value), v.app.logger())
	}
	o.Depth, o.User, o.Site = verify.Depth(v.depth.value), v.owner, v.glass.site
	o.Sandbox, o.BinDir = cmp.Or(v.sandbox, o.Sandbox), cmp.Or(v.binDir, o.BinDir)
	sample := v.sample
	if sample == "" {
		sample = "100%"
		if o.Depth.Includes(verify.Boot) && o.Opener != nil && !o.Opener.Whole() {
			sample = "1%" // what the server asks for is read besides
		}
	}
	if o.Sample, err = parsePart(sample); err != nil {
		return o, usage(fmt.Errorf("--sample %q: %w", v.sample, err))
	}
	o.RestoreCommand, err = v.app.restoreCommand(system, &v.glass)
	return o, err
}

// keep keeps what a test found on this host. A person who may not write there has the result all the same.
func (v *verifyFlags) keep(w *workspace.Workspace, system string, r *verify.Result) {
	if err := verify.Keep(w.SystemPath(system), r.Summary()); err != nil {
		r.Notes = append(r.Notes, fmt.Sprintf("this test is not kept, so that status and recovery-points do not show it: %v", err))
	}
}

// parsePart reads "5%".
func parsePart(s string) (float64, error) {
	n, ok := strings.CutSuffix(s, "%")
	f, err := strconv.ParseFloat(n, 64)
	if !ok || err != nil || !(f > 0 && f <= 100) {
		return 0, errors.New(`write a percentage, such as "5%"`)
	}
	return f / 100, nil
}
