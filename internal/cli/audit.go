package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/pg/incremental"
)

// newAuditCommand checks what other programs have stored.
func newAuditCommand(a *app) *cobra.Command {
	return group("audit", "Check backups that other programs took", newAuditPGIncrementalCommand(a))
}

func newAuditPGIncrementalCommand(a *app) *cobra.Command {
	var logs []string
	var room string
	c := &cobra.Command{
		Use:   "pg-incremental BACKUP...",
		Short: "Look whether a chain of pg_basebackup --incremental is whole",
		Long: `Checks base backups of PostgreSQL 17 and 18 that build on one another, the full one first, for the defects for
which PostgreSQL's release notes of November 2026 say that existing incremental backups should not be trusted: blocks
that changed and are not in the backup, pages that come back from before a truncation, visibility maps that are
stale. Files, manifests and pages are checked too. Nothing is written, no server and no configuration is needed.

The backups are directories in plain format, or in tar format as pg_basebackup -Ft writes them, also compressed (.gz,
.lz4, .zst). Those are unpacked for the check, into the folder for temporary files or that of --unpack, which takes as
much room as the whole chain; what was unpacked is removed at the end. With --wal, a folder of WAL segments (an archive, not compressed), it is
proven for each block that changed between two backups that the newer one has it; without it, what the pages
themselves tell is checked, and the output says what was not.

Exit code 3 means that something was found: the chain up to that backup should not be trusted. Take a new full backup.`,
		Example: "  holdfast audit pg-incremental /backup/full /backup/monday /backup/tuesday --wal /archive",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return a.auditIncremental(c.Context(), incremental.Options{Backups: args, WAL: logs, Unpack: room})
		},
	}
	c.Flags().StringArrayVar(&logs, "wal", nil, "`folder` with WAL segments, besides each backup's pg_wal; may be repeated")
	c.Flags().StringVar(&room, "unpack", "", "`folder` in which backups in tar format are unpacked for the check (default: that for temporary files)")
	return c
}

func (a *app) auditIncremental(ctx context.Context, o incremental.Options) error {
	report, err := incremental.Run(ctx, o)
	if err != nil {
		return err
	}
	if err := a.emit(audited{report}); err != nil {
		return err
	}
	if n := len(report.Findings) + report.Omitted; n > 0 {
		return missed(dr.Fail("audit pg-incremental", errors.New(count(n, "finding")+" in this chain"),
			"do not trust it: take a new full backup, from a server of at least 18.7 or of 17 of the same day"))
	}
	return nil
}

// audited prints a report.
type audited struct{ *incremental.Report }

func (r audited) writeText(w io.Writer) error {
	fmt.Fprintf(w, "PostgreSQL %d, system %s\n", r.Version, r.SystemID)
	for _, b := range r.Backups {
		kind := "full"
		if b.Incremental {
			kind = fmt.Sprintf("from %s", b.From)
		}
		if b.Archive != "" {
			kind += ", in tar format (" + b.Archive + ")"
		}
		fmt.Fprintf(w, "backup %s: %s, timeline %d, %s to %s, %s with %s (%d by checksum), %s carrying %s\n", b.Path, kind, b.Timeline, b.Start, b.End,
			count(b.Files, "file"), b.Bytes, b.Checksummed, count(b.Increments, "incremental file"), count(int(min(b.Carried, 1<<31)), "block"))
	}
	for _, f := range r.Findings {
		writeFinding(w, f)
	}
	if r.Omitted > 0 {
		fmt.Fprintf(w, "and %s more\n", count(r.Omitted, "finding"))
	}
	fmt.Fprintf(w, "checked: %s of the image; %s that recovery restores were let off; %s that no backup has are zeros\n",
		count(int(min(r.Pages, 1<<31)), "page"), count(r.Restored, "missing block"), count(int(min(r.Filled, 1<<31)), "block"))
	for _, l := range r.Ranges {
		if l.Read && l.Purpose == "changes" {
			fmt.Fprintf(w, "checked: every block that the log changed from %s to %s, before %s\n", l.Start, l.End, l.Backup)
		}
	}
	for _, g := range r.Gaps {
		fmt.Fprintln(w, "not covered:", g)
	}
	for _, p := range r.Problems {
		fmt.Fprintf(w, "looked for: %s: %s (%s)\n", p.Name, p.What, p.Source)
	}
	_, err := fmt.Fprintln(w, count(len(r.Findings)+r.Omitted, "finding"))
	return err
}

func writeFinding(w io.Writer, f incremental.Finding) {
	mark := "SUSPICION"
	if f.Proof {
		mark = "DAMAGED"
	}
	where := strings.TrimSuffix(f.Backup+": "+f.Path, ": ")
	fmt.Fprintf(w, "%s: %s: %s", mark, f.Kind, where)
	if f.Count > 0 {
		blocks := strings.Trim(fmt.Sprint(f.Blocks), "[]")
		if f.Count > len(f.Blocks) {
			blocks += " …"
		}
		fmt.Fprintf(w, ", %s: %s", count(f.Count, "block"), blocks)
	}
	fmt.Fprintf(w, "\n  reason: %s\n", f.Reason)
	if f.LSN != 0 {
		fmt.Fprintf(w, "  changed by the log at about %s\n", f.LSN)
	}
	if f.Problem != "" {
		fmt.Fprintf(w, "  known as: %s\n", f.Problem)
	}
}
