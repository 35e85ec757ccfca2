package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/evidence"
	"github.com/holdfast-dr/holdfast/internal/restore/points"
	"github.com/holdfast-dr/holdfast/internal/workspace"
)

func newEvidenceCommand(a *app) *cobra.Command {
	return group("evidence", "Show, verify and export signed records of what was executed",
		newEvidenceListCommand(a), newEvidenceShowCommand(a), newEvidenceVerifyCommand(a), newEvidenceExportCommand(a), newEvidenceDeliverCommand(a))
}

// evidenceCommand is what the commands of this group share.
type evidenceCommand struct {
	app        *app
	repository string
	glass      breakGlass
	from, to   string
}

func (e *evidenceCommand) addFlags(c *cobra.Command) {
	c.Flags().StringVar(&e.repository, "repository", "", "`name` of the repository, where the configuration has several")
	e.glass.addFlags(c)
}

func (e *evidenceCommand) addTimes(c *cobra.Command) {
	c.Flags().StringVar(&e.from, "from", "", "only what ended at this `time` or later (UTC, or with its zone)")
	c.Flags().StringVar(&e.to, "to", "", "only what ended before this `time`")
}

// with opens the replicas of the repository for f.
func (e *evidenceCommand) with(ctx context.Context, f func(w *workspace.Workspace, from []evidence.Source) error) error {
	w, err := e.app.workspace(&e.glass)
	if err != nil {
		return err
	}
	defer w.Close() //nolint:errcheck // only read
	name, err := repositoryName(w.Config, e.repository)
	if err != nil {
		return err
	}
	from, done, err := w.EvidenceSources(ctx, name)
	if err != nil {
		return err
	}
	defer done()
	return f(w, from)
}

// times reads --from and --to.
func (e *evidenceCommand) times() (from, to time.Time, err error) {
	for _, x := range []struct {
		flag, text string
		into       *time.Time
	}{{"--from", e.from, &from}, {"--to", e.to, &to}} {
		if x.text == "" {
			continue
		}
		t, err := points.ParseTarget(x.text)
		if err == nil && t.Kind != points.AtTime {
			err = errors.New("it is no time: write 2026-03-02T14:05:00Z")
		}
		if err != nil {
			return from, to, usage(fmt.Errorf("%s %q: %w", x.flag, x.text, err))
		}
		*x.into = t.Time
	}
	return from, to, nil
}

func newEvidenceListCommand(a *app) *cobra.Command {
	e := &evidenceCommand{app: a}
	var kind string
	c := &cobra.Command{
		Use:   "list [SYSTEM …]",
		Short: "List what was executed, by whom, and how it ended",
		Long: `Lists the records of evidence about systems, or, without one, all of the repository's: each snapshot, recovery, check, repair and
deletion, in the order in which they ended. Each record's signature is verified while it is read; that none is missing tells
holdfast evidence verify. The last column is how holdfast evidence show names a record.`,
		Example: "  holdfast evidence list orders-db --from 2026-11-01\n  holdfast evidence list --kind recovery",
		RunE: func(c *cobra.Command, args []string) error {
			from, to, err := e.times()
			if err != nil {
				return err
			}
			return e.with(c.Context(), func(_ *workspace.Workspace, sources []evidence.Source) error {
				b, err := evidence.Read(c.Context(), sources[:1], args, evidence.Once)
				if err != nil {
					return err
				}
				out := listRecords(b, func(r *evidence.Record) bool {
					at := r.Statement.Finished
					return !at.Before(from) && (to.IsZero() || at.Before(to)) && (kind == "" || string(r.Statement.Kind) == kind)
				})
				return errors.Join(a.emit(out), unverified(b.Findings))
			})
		},
	}
	c.Flags().StringVar(&kind, "kind", "", "only records of this `kind`, such as recovery")
	e.addTimes(c)
	e.addFlags(c)
	return c
}

// unverified is the error where findings are there.
func unverified(all []evidence.Finding) error {
	if len(all) == 0 {
		return nil
	}
	return missed(dr.Fail("evidence", errors.New(all[0].String()), "holdfast evidence verify tells all of it; holdfast repo check --repair puts back what another site has"))
}

// listedRecord is a record as list shows it.
type listedRecord struct {
	Record    string             `json:"record"`
	Log       string             `json:"log"`
	Index     uint64             `json:"index"`
	Statement evidence.Statement `json:"statement"`
}

type listedRecords []listedRecord

func listRecords(b *evidence.Book, want func(*evidence.Record) bool) listedRecords {
	out := listedRecords{}
	for _, l := range b.Logs {
		for _, r := range l.Records {
			if want(r) {
				out = append(out, listedRecord{l.Name(r), l.Origin, r.Index, r.Statement})
			}
		}
	}
	slices.SortStableFunc(out, func(a, b listedRecord) int { return a.Statement.Finished.Compare(b.Statement.Finished) })
	return out
}

func (l listedRecords) writeText(w io.Writer) error {
	var rows [][]string
	for _, x := range l {
		s := x.Statement
		rows = append(rows, []string{stamp(s.Finished), s.System, string(s.Kind), string(s.Outcome), s.By.User + "@" + s.By.Host, s.By.Program, x.Record})
	}
	return table(w, []string{"ENDED (UTC)", "SYSTEM", "KIND", "OUTCOME", "WHO", "WITH", "RECORD"}, rows)
}

func newEvidenceShowCommand(a *app) *cobra.Command {
	e := &evidenceCommand{app: a}
	c := &cobra.Command{
		Use:     "show RECORD",
		Short:   "Show all that a record says",
		Long:    "Shows one record of evidence, as holdfast evidence list names it, after its signature was verified. With -o json it has the signed\nenvelope too.",
		Example: "  holdfast evidence show orders-db/1f3a55c0/17",
		Args:    cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			system, index, err := parseRecord(args[0])
			if err != nil {
				return usage(err)
			}
			return e.with(c.Context(), func(_ *workspace.Workspace, sources []evidence.Source) error {
				b, err := evidence.Read(c.Context(), sources, []string{system}, evidence.Once)
				if err != nil {
					return err
				}
				for _, l := range b.Logs {
					for _, r := range l.Records {
						if r.Index == index && l.Name(r) == args[0] {
							return a.emit(shownRecord{listedRecord{l.Name(r), l.Origin, r.Index, r.Statement}, fmt.Sprintf("%x", r.Hash), string(r.Envelope), string(r.Checkpoint), r.Sites})
						}
					}
				}
				if err := unverified(b.Findings); err != nil {
					return err
				}
				return dr.Fail("evidence show "+args[0], errors.New("there is no such record"), "holdfast evidence list names them")
			})
		},
	}
	e.addFlags(c)
	return c
}

// parseRecord reads SYSTEM/SIGNER/NUMBER. The system is empty for records of the repository.
func parseRecord(text string) (system string, index uint64, err error) {
	parts := strings.Split(text, "/")
	if len(parts) == 3 && len(parts[1]) == 8 {
		index, err = strconv.ParseUint(parts[2], 10, 62)
	} else {
		err = errors.New("it has not three parts")
	}
	if err != nil {
		return "", 0, fmt.Errorf("%q is no record: write SYSTEM/SIGNER/NUMBER, as holdfast evidence list does", text)
	}
	if parts[0] == "repository" {
		return "", index, nil
	}
	return parts[0], index, nil
}

// shownRecord is what show prints.
type shownRecord struct {
	listedRecord
	Hash       string   `json:"hash"`
	Envelope   string   `json:"envelope"`
	Checkpoint string   `json:"checkpoint"`
	Sites      []string `json:"sites"`
}

func (r shownRecord) writeText(w io.Writer) error {
	s := r.Statement
	fmt.Fprintf(w, "%s: %s %s\n", r.Record, s.Kind, s.Outcome)
	if s.Reason != "" {
		fmt.Fprintln(w, "  reason:", s.Reason)
	}
	fmt.Fprintf(w, "  from %s to %s UTC\n", stamp(s.Started), stamp(s.Finished))
	fmt.Fprintf(w, "  by %s on %s, with %s", s.By.User, s.By.Host, s.By.Program)
	if s.Site != "" {
		fmt.Fprintf(w, ", at site %s", s.Site)
	}
	fmt.Fprintf(w, "\n  signed by %s, and verified\n", s.By.Signer)
	for _, x := range s.Subjects {
		fmt.Fprintf(w, "  about %s (sha256 %s)\n", x.Name, x.Digest["sha256"])
	}
	for _, f := range s.Facts {
		fmt.Fprintf(w, "  %s: %s\n", f.Name, f.Text)
	}
	for _, f := range s.Figures {
		fmt.Fprintf(w, "  %s: %s\n", f.Name, f)
	}
	for _, p := range s.Phases {
		fmt.Fprintf(w, "  phase %s: %s\n", p.Name, round(time.Duration(p.Seconds*float64(time.Second))))
	}
	for _, c := range s.Covered {
		fmt.Fprintln(w, "  covered:", c)
	}
	for _, c := range s.NotCovered {
		fmt.Fprintln(w, "  NOT covered:", c)
	}
	_, err := fmt.Fprintf(w, "  hash %s\n", r.Hash)
	return err
}

func newEvidenceDeliverCommand(a *app) *cobra.Command {
	e := &evidenceCommand{app: a}
	c := &cobra.Command{
		Use:   "deliver",
		Short: "Store records in the repository that wait on this host",
		Long: `Records that no replica could take when something was executed wait in agent.state on that host. They are stored with whatever is
recorded there next, by the agent or by a command, or by this one.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return e.with(c.Context(), func(w *workspace.Workspace, sources []evidence.Source) error {
				r, err := w.Recorder()
				if err != nil {
					return err
				}
				n, err := r.Deliver(c.Context(), sources[0].Repo)
				return errors.Join(err, a.emit(deliveredRecords{n}))
			})
		},
	}
	e.addFlags(c)
	return c
}

type deliveredRecords struct {
	Delivered int `json:"delivered"`
}

func (d deliveredRecords) writeText(w io.Writer) error {
	_, err := fmt.Fprintf(w, "%s stored\n", count(d.Delivered, "record"))
	return err
}
