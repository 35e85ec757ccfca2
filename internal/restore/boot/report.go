package boot

import (
	"context"
	"fmt"
	"time"

	"github.com/holdfast-dr/holdfast/internal/pg/wal"
	"github.com/holdfast-dr/holdfast/internal/repo"
	"github.com/holdfast-dr/holdfast/internal/restore/points"
	"github.com/holdfast-dr/holdfast/internal/restore/walserve"
)

// Phase is a part of a recovery and how long it took.
type Phase struct {
	Name string        `json:"name"`
	Took time.Duration `json:"tookNs"`
}

// Report says what a recovery reached.
type Report struct {
	System   string          `json:"system"`
	Snapshot repo.SnapshotID `json:"snapshot"`
	Target   points.Target   `json:"target"`
	Phases   []Phase         `json:"phases"`

	Replayed     wal.LSN        `json:"replayed"`              // the position that was replayed to
	Timeline     wal.TimelineID `json:"timeline"`              // on which the server writes now
	NewestCommit time.Time      `json:"newestCommit,omitzero"` // that was replayed, by the source's clock
	LogEnd       wal.LSN        `json:"logEnd"`                // of what the repository holds
	LogClock     time.Time      `json:"logClock,omitzero"`     // the source's clock there
	// RPO is what lies between the moment that was recovered and the log's end, by the source's clock. It is
	// zero where all of the log was replayed: what happened after the log's end nobody here can know, but for what came behind a gap
	// and could not be used.
	RPO   time.Duration   `json:"rpoNs"`
	Log   *walserve.Stats `json:"log,omitempty"` // how the log was served; nil where this process did not serve it
	Notes []string        `json:"notes,omitempty"`
}

func newReport(p *points.Plan) *Report {
	return &Report{System: p.System, Snapshot: p.Snapshot.Manifest.ID, Target: p.Target, LogEnd: p.Range.To, LogClock: p.Range.ToTime}
}

func (r *Report) note(format string, args ...any) {
	r.Notes = append(r.Notes, fmt.Sprintf(format, args...))
}

func (r *Report) replayed(s state) {
	r.Replayed = max(r.Replayed, s.replayed)
	if s.commit != nil {
		r.NewestCommit = s.commit.UTC()
	}
}

// phase ends the phase that runs and begins another.
func (b *booting) phase(name string) {
	now := time.Now()
	if n := len(b.report.Phases); n > 0 && !b.since.IsZero() {
		b.report.Phases[n-1].Took = now.Sub(b.since)
	}
	b.since = time.Time{}
	if name != "" {
		b.report.Phases, b.since = append(b.report.Phases, Phase{Name: name}), now
	}
}

// finish asks the recovered server what it is, and lets its own users in.
func (b *booting) finish(ctx context.Context) error {
	s, err := b.ask(ctx)
	if err != nil {
		return err
	}
	tl := int64(b.plan.Way.Timeline)
	if !s.recovering {
		err := b.conn.QueryRow(ctx, "SELECT ('x' || left(pg_walfile_name(pg_current_wal_insert_lsn()), 8))::bit(32)::int8").Scan(&tl)
		if err != nil {
			return err
		}
		if wal.TimelineID(tl) <= b.plan.Way.Timeline {
			return fmt.Errorf("the server writes on timeline %d, which is not new: the recovery did not take place", tl)
		}
		b.endPrefetcher(ctx)
	} else if b.opts.Log != nil && b.opts.Owner != nil {
		b.report.note("the recovery is paused, and its log is no longer served by us: until it ends, the server's user must be able to read the configuration, the keys and the repository")
	}
	b.report.Timeline = wal.TimelineID(tl)
	b.report.RPO = b.rpo()
	if err := b.noteSubscriptions(ctx); err != nil {
		return err
	}
	// All that is to be replayed is: also where the server is paused at its target, and nobody watches it later.
	if err := b.untune(ctx); err != nil {
		return err
	}
	if b.opts.Access == KeepOthersOut {
		return nil
	}
	if err := b.access.unlock(); err != nil {
		return err
	}
	if _, err := b.conn.Exec(ctx, "SELECT pg_reload_conf()"); err != nil {
		return err
	}
	b.report.note("the server runs with archive_mode off and private settings of this run: restart it by your service manager when it takes over")
	return nil
}

// noteSubscriptions says which subscriptions rest, or contact their publishers.
func (b *booting) noteSubscriptions(ctx context.Context) error {
	var names string
	var rest bool
	err := b.conn.QueryRow(ctx, "SELECT coalesce(string_agg(quote_ident(subname), ', ' ORDER BY subname), ''), current_setting('max_logical_replication_workers') = '0' FROM pg_subscription WHERE subenabled").Scan(&names, &rest)
	switch {
	case err != nil || names == "":
	case rest:
		b.report.note("the subscriptions %s rest (max_logical_replication_workers = 0), since their slots at the publishers may serve the original: when this server takes its place, ALTER SYSTEM RESET max_logical_replication_workers and restart it", names)
	default:
		b.report.note("the subscriptions %s run, and use their slots at the publishers", names)
	}
	return err
}

func (b *booting) rpo() time.Duration {
	recovered := b.report.NewestCommit
	switch b.plan.Target.Kind {
	case points.AtTime:
		recovered = b.plan.Target.Time
	case points.Latest, "":
		f := b.plan.Flight()
		if f == nil {
			return 0
		}
		return max(0, f.Last.Sub(b.report.LogClock))
	}
	if recovered.IsZero() {
		recovered = b.plan.Range.FromTime
	}
	return max(0, b.report.LogClock.Sub(recovered))
}
