package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/holdfast-dr/holdfast/internal/capture"
	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/pg/cluster"
	"github.com/holdfast-dr/holdfast/internal/pg/stream"
	"github.com/holdfast-dr/holdfast/internal/pg/wal"
	"github.com/holdfast-dr/holdfast/internal/repo"
	"github.com/holdfast-dr/holdfast/internal/workspace"
)

func newLogCommand(a *app) *cobra.Command {
	return group("log", "Receive a system's change log, and see how far it is", newLogStatusCommand(a), newLogStreamCommand(a))
}

func newLogStreamCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "stream SYSTEM",
		Short: "Receive the log until interrupted",
		Long: `Receives the log through the system's replication slot and stores it, as the agent does, until it is interrupted;
then the tail is stored and acknowledged. Run the agent instead wherever you can: it does this and all the rest.`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			w, err := a.workspace(nil)
			if err != nil {
				return err
			}
			defer w.Close() //nolint:errcheck // what was written is durable
			s, err := w.System(c.Context(), args[0])
			if err != nil {
				return err
			}
			if n := s.Policy.Copies.Sync; n > 1 {
				return &dr.Failure{
					What:   "receive the log of " + args[0],
					Reason: fmt.Sprintf("its policy wants it at %d sites before it is acknowledged, and this command writes to one", n),
					Next:   "run the agent, which writes to all",
				}
			}
			cfg, err := w.StreamConfig(c.Context(), s)
			if err != nil {
				return err
			}
			return errors.Join(capture.StreamLog(c.Context(), cfg), closeSpool(cfg.Spool))
		},
	}
}

func closeSpool(s *capture.Spool) error {
	if s == nil {
		return nil
	}
	return s.Close()
}

// logStatus is what is known of a system's log, in the repository and at the server.
type logStatus struct {
	System    string           `json:"system"`
	Timelines []timelineStatus `json:"timelines"`
	Gaps      []capture.LogGap `json:"gaps,omitempty"`
	Server    *serverLog       `json:"server,omitempty"`
	ServerErr string           `json:"serverError,omitempty"`
}

type timelineStatus struct {
	Timeline wal.TimelineID `json:"timeline"`
	From     wal.LSN        `json:"from"`
	To       wal.LSN        `json:"to"`
	Extents  int            `json:"extents"`
	Stored   dr.Bytes       `json:"storedBytes"`
	Holes    int            `json:"holes"`
	Mark     wal.LSN        `json:"mark"`
	MarkTime time.Time      `json:"markTime,omitzero"`
}

type serverLog struct {
	Timeline wal.TimelineID `json:"timeline"`
	End      wal.LSN        `json:"end"`
	Lag      dr.Bytes       `json:"lagBytes"` // what the repository lacks of it
	Slot     string         `json:"slot"`
	Active   bool           `json:"active"`
	Retained string         `json:"retained,omitempty"`
}

func newLogStatusCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "status SYSTEM",
		Short: "Show what the repository holds of the log, and how far the server is ahead",
		Args:  cobra.ExactArgs(1),
		RunE:  func(c *cobra.Command, args []string) error { return a.logStatus(c.Context(), args[0]) },
	}
}

func (a *app) logStatus(ctx context.Context, system string) error {
	w, err := a.workspace(nil)
	if err != nil {
		return err
	}
	defer w.Close() //nolint:errcheck // only read
	s, err := w.System(ctx, system)
	if err != nil {
		return err
	}
	out := logStatus{System: system, Timelines: []timelineStatus{}}
	log := s.Repo.Log(system)
	streams, err := log.Streams(ctx)
	if err != nil {
		return err
	}
	for _, st := range streams {
		t, err := timelineOf(ctx, log, st)
		if err != nil {
			return err
		}
		out.Timelines = append(out.Timelines, t)
	}
	if out.Gaps, err = capture.ReadLogGaps(ctx, log); err != nil {
		return err
	}
	if out.Server, err = serverLogOf(ctx, s, out.Timelines); err != nil {
		out.ServerErr = err.Error()
	}
	return a.emit(out)
}

func timelineOf(ctx context.Context, log *repo.Log, st repo.StreamID) (timelineStatus, error) {
	t := timelineStatus{Timeline: wal.TimelineID(st)}
	extents, err := log.Extents(ctx, st, 0)
	if err != nil {
		return t, err
	}
	for _, e := range extents {
		t.Extents++
		t.Stored += dr.Bytes(e.Stored)
	}
	if ranges := repo.Merge(extents); len(ranges) > 0 {
		t.From, t.To, t.Holes = wal.LSN(ranges[0].Start), wal.LSN(ranges[len(ranges)-1].End), len(ranges)-1
	}
	m, ok, err := log.Mark(ctx, st)
	if ok {
		t.Mark, t.MarkTime = wal.LSN(m.LSN), m.Source
	}
	return t, err
}

func serverLogOf(ctx context.Context, s workspace.System, stored []timelineStatus) (*serverLog, error) {
	conn, err := cluster.Connect(ctx, s.Postgres.Connection.DSN())
	if err != nil {
		return nil, err
	}
	defer conn.Close(context.WithoutCancel(ctx)) //nolint:errcheck // only asked
	info, err := cluster.Identify(ctx, conn)
	if err != nil {
		return nil, err
	}
	out := &serverLog{Timeline: info.Timeline, End: info.LSN, Slot: workspace.SlotName(s.System), Lag: dr.Bytes(info.LSN)}
	for _, t := range stored {
		if t.Timeline == info.Timeline {
			out.Lag = dr.Bytes(max(int64(info.LSN)-int64(t.To), 0))
		}
	}
	slot, ok, err := stream.ReadSlot(ctx, conn, out.Slot)
	if err == nil && ok {
		out.Active, out.Retained = slot.Active, capture.SlotText(slot)
	}
	return out, err
}

func (l logStatus) writeText(w io.Writer) error {
	var rows [][]string
	for _, t := range l.Timelines {
		rows = append(rows, []string{fmt.Sprint(t.Timeline), t.From.String(), t.To.String(), fmt.Sprint(t.Extents), t.Stored.String(), fmt.Sprint(t.Holes), t.Mark.String(), stamp(t.MarkTime)})
	}
	if err := table(w, []string{"TIMELINE", "FROM", "TO", "OBJECTS", "STORED", "GAPS", "MARK", "MARK TIME (UTC)"}, rows); err != nil {
		return err
	}
	for _, g := range l.Gaps {
		fmt.Fprintln(w, "GAP:", g)
	}
	switch {
	case l.ServerErr != "":
		fmt.Fprintln(w, "the server cannot be asked:", l.ServerErr)
	case l.Server.Retained == "":
		fmt.Fprintf(w, "the server is on timeline %d at %s; it has no slot %s: nobody receives the log\n", l.Server.Timeline, l.Server.End, l.Server.Slot)
	default:
		verb := "nobody receives through it"
		if l.Server.Active {
			verb = "it is in use"
		}
		fmt.Fprintf(w, "the server is on timeline %d at %s, %s ahead; %s; %s\n", l.Server.Timeline, l.Server.End, l.Server.Lag, l.Server.Retained, verb)
	}
	return nil
}
