package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/evidence"
	"github.com/holdfast-dr/holdfast/internal/workspace"
)

// evidenceVerify verifies logs of evidence, of the repository or in a pack.
type evidenceVerify struct {
	evidenceCommand
	kept []string
	keep string
	pack string
}

func newEvidenceVerifyCommand(a *app) *cobra.Command {
	v := &evidenceVerify{evidenceCommand: evidenceCommand{app: a}}
	c := &cobra.Command{
		Use:   "verify [SYSTEM …]",
		Short: "Prove that no record was changed, removed, reordered or made up",
		Long: `Reads every record of evidence at every site that answers, verifies its signature, computes the Merkle tree of each log, and compares
its roots with those that its signer has signed. That no record is missing at the end of a log show the other sites, the logs of other
signers, snapshots, which all tell how long it was; and the checkpoints that you kept: --keep writes those of today, and --checkpoint
compares with them later. What is recorded of snapshots is compared with those that are there.

With --pack it verifies an exported pack, and needs no repository. Exit code 3 means that something is not as it was signed.`,
		Example: "  holdfast evidence verify --keep checkpoints-2026-11\n  holdfast evidence verify --checkpoint checkpoints-2026-11\n  holdfast evidence verify --pack evidence.zip",
		RunE:    func(c *cobra.Command, args []string) error { return v.run(c.Context(), args) },
	}
	f := c.Flags()
	f.StringArrayVar(&v.kept, "checkpoint", nil, "compare with the checkpoints in a `file` that --keep, or an auditor, wrote; may be repeated")
	f.StringVar(&v.keep, "keep", "", "write the newest checkpoints to a `file` that does not exist")
	f.StringVar(&v.pack, "pack", "", "verify a pack in a `file` that holdfast evidence export wrote (zip or json), instead of the repository")
	v.addFlags(c)
	return c
}

func (v *evidenceVerify) run(ctx context.Context, systems []string) error {
	var kept []evidence.Sighting
	for _, file := range v.kept {
		content, err := os.ReadFile(file)
		var some []evidence.Sighting
		if err == nil {
			some, err = evidence.ParseKept(file, content)
		}
		if err != nil {
			return usage(dr.Fail("read the checkpoints in "+file, err, "give a file that holdfast evidence verify --keep wrote"))
		}
		kept = append(kept, some...)
	}
	if v.pack != "" {
		if len(systems) > 0 {
			return usage(errors.New("--pack verifies all that is in the pack: leave the systems out"))
		}
		p, err := readPack(v.pack)
		if err != nil {
			return dr.Fail("read the pack "+v.pack, err, "give a file that holdfast evidence export --format zip, or json, wrote")
		}
		return v.report(p.Verify(kept))
	}
	return v.with(ctx, func(w *workspace.Workspace, from []evidence.Source) error {
		_, verified, err := w.VerifyEvidence(ctx, from, systems, kept)
		if err != nil {
			return err
		}
		return v.report(verified)
	})
}

func readPack(path string) (*evidence.Pack, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	if bytes.HasPrefix(bytes.TrimSpace(b), []byte("{")) {
		return evidence.ReadJSON(b)
	}
	return evidence.ReadZip(bytes.NewReader(b), int64(len(b)))
}

func (v *evidenceVerify) report(verified evidence.Verified) error {
	if err := v.app.emit(verifiedLogs{verified}); err != nil {
		return err
	}
	if n := len(verified.Findings); n > 0 {
		return missed(dr.Fail("evidence verify", errors.New(count(n, "thing")+" not as it was signed"),
			"what one site has lost another may have: holdfast repo check --repair, holdfast geo copy; what all have lost somebody has removed"))
	}
	if v.keep == "" {
		return nil
	}
	f, err := os.OpenFile(v.keep, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return dr.Fail("keep the checkpoints", err, "name a file that does not exist: an older one is worth keeping too")
	}
	_, err = f.Write(verified.Checkpoints())
	return errors.Join(err, f.Sync(), f.Close())
}

// verifiedLogs is what verify prints.
type verifiedLogs struct{ evidence.Verified }

func (v verifiedLogs) writeText(w io.Writer) error {
	var rows [][]string
	for _, l := range v.Logs {
		about := l.System
		if about == "" {
			about = "(repository)"
		}
		rows = append(rows, []string{about, l.Signer, l.Host, l.Since.UTC().Format(time.DateOnly), fmt.Sprint(l.Size), fmt.Sprint(l.Sightings), l.Root})
	}
	if err := table(w, []string{"ABOUT", "SIGNER", "HOST", "SINCE", "RECORDS", "SEEN BY OTHERS", "ROOT"}, rows); err != nil {
		return err
	}
	for _, n := range v.Notes {
		fmt.Fprintln(w, "note:", n)
	}
	for _, f := range v.Findings {
		fmt.Fprintln(w, f)
	}
	if len(v.Findings) == 0 {
		_, err := fmt.Fprintln(w, "every record is as it was signed, and none is missing that anybody has seen")
		return err
	}
	return nil
}

// evidenceExport writes a pack.
type evidenceExport struct {
	evidenceCommand
	format choice
	file   string
}

func newEvidenceExportCommand(a *app) *cobra.Command {
	e := &evidenceExport{evidenceCommand: evidenceCommand{app: a}, format: choice{value: "zip", of: []string{"zip", "html", "json"}}}
	c := &cobra.Command{
		Use:   "export [SYSTEM …]",
		Short: "Write evidence for an auditor, who needs neither the repository nor Holdfast",
		Long: `Writes the records about systems, or all of the repository's, of a time: zip is a folder with the records as they were signed, keys,
checkpoints, proofs, a page to be read, and a script that verifies it with Python and openssl; html is that page alone; json all of
it in one document. docs/evidence.md says how it is verified. Everything is verified before; what is found is in the pack too.

A record names systems, hosts, users, directories and the sizes of databases; it holds nothing of what is in them, and no keys.
Exit code 3 means that something is not as it was signed.`,
		Example: "  holdfast evidence export --from 2026-10-01 --to 2027-01-01 --file evidence-2026-q4.zip\n  holdfast evidence export orders-db --format html --file orders-db.html",
		RunE:    func(c *cobra.Command, args []string) error { return e.run(c.Context(), args) },
	}
	c.Flags().Var(&e.format, "format", "`format` of the pack: zip, html or json")
	c.Flags().StringVar(&e.file, "file", "", "`file` to write, which must not exist (default: standard output)")
	e.addTimes(c)
	e.addFlags(c)
	return c
}

func (e *evidenceExport) run(ctx context.Context, systems []string) error {
	from, to, err := e.times()
	if err != nil {
		return err
	}
	if e.file == "" && terminal(e.app.stdout) && e.format.value == "zip" {
		return usage(errors.New("a zip file is nothing for a terminal: add --file FILE"))
	}
	return e.with(ctx, func(w *workspace.Workspace, sources []evidence.Source) error {
		b, v, err := w.VerifyEvidence(ctx, sources, systems, nil)
		if err != nil {
			return err
		}
		p, err := b.Pack(v, from, to, time.Now())
		if err != nil {
			return err
		}
		var out bytes.Buffer
		switch e.format.value {
		case "zip":
			err = p.WriteZip(&out)
		case "html":
			err = p.WriteHTML(&out)
		default:
			var all []byte
			all, err = p.JSON()
			out.Write(all)
		}
		if err == nil {
			err = e.write(out.Bytes())
		}
		if err != nil {
			return dr.Fail("export the evidence", err, "name a file that does not exist, where there is room")
		}
		e.tell(p)
		return unverified(p.Findings)
	})
}

func (e *evidenceExport) write(b []byte) error {
	if e.file == "" {
		_, err := e.app.stdout.Write(b)
		return err
	}
	f, err := os.OpenFile(e.file, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	return errors.Join(err, f.Sync(), f.Close())
}

// tell says what was written; nothing where the pack itself is on standard output.
func (e *evidenceExport) tell(p *evidence.Pack) {
	if e.file == "" || e.app.quiet || e.app.json() {
		return
	}
	n, signers := 0, map[string]bool{}
	for _, l := range p.Logs {
		n += len(l.Records)
		signers[l.Signer] = true
	}
	var ids []string
	for id := range signers {
		ids = append(ids, id)
	}
	fmt.Fprintf(e.app.stdout, "%s in %s, of %s\n", count(n, "record"), e.file, count(len(signers), "signer"))
	if len(ids) > 0 {
		fmt.Fprintf(e.app.stdout, "tell the auditor by another way who signs: %s\n", strings.Join(ids, ", "))
	}
}
