package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/holdfast-dr/holdfast/internal/capture"
	"github.com/holdfast-dr/holdfast/internal/config"
	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/geo"
	"github.com/holdfast-dr/holdfast/internal/pg/cluster"
	"github.com/holdfast-dr/holdfast/internal/pg/wal"
	"github.com/holdfast-dr/holdfast/internal/repo"
	"github.com/holdfast-dr/holdfast/internal/workspace"
)

const (
	// streamRetry is between two tries to begin a stream that cannot begin: the repository does not open, or the
	// log is another cluster's. (A stream that has begun reconnects by itself.)
	streamRetry = 15 * time.Second
	// takeoverWait is how long a slot that is in use, as far as anybody can see by ourselves, is waited for: a
	// server notices only after wal_sender_timeout, 60 s by default, that a killed agent's connection is dead.
	takeoverWait = 150 * time.Second
	// keysEvery is how often a stream asks whether the keys were rotated; it costs two small requests.
	keysEvery = 5 * time.Minute
)

// errRotated ends a session, so that the next one uses the keys of today.
var errRotated = errors.New("the keys were rotated")

// systemStream is the log stream of a system with everything that it needs. Its workspace is its own: it is
// closed and opened anew without asking anybody.
type systemStream struct {
	ws       *workspace.Workspace
	open     func(site string) *workspace.Workspace // one of its own
	system   config.System
	policy   config.Policy
	blocks   int
	takeover time.Duration
	log      *slog.Logger

	// mu guards what follows. Not held during I/O.
	mu      sync.Mutex
	current *capture.LogStream // nil while none could begin
	fan     *geo.Fan           // where the log is written to; nil while no stream goes to several sites
	err     error              // why not
	since   time.Time          // of err
	lost    int64              // failures of streams that are gone, and connections lost
	proven  time.Time          // by the marks of the repository, when the stream began
	rotate  context.CancelCauseFunc
}

var _ logStream = (*systemStream)(nil)

// run receives the log until ctx ends: then it has stored and acknowledged the tail, or the error says up to where.
// Before that it returns only with ErrSecondAgent.
func (s *systemStream) run(ctx context.Context) error {
	for {
		session, cancel := context.WithCancelCause(ctx)
		s.mu.Lock()
		s.rotate = cancel
		s.mu.Unlock()
		err := s.session(session, cancel)
		again := errors.Is(context.Cause(session), errRotated) || rotated(err)
		cancel(nil)
		s.ended(err)
		switch {
		case ctx.Err() != nil, errors.Is(err, ErrSecondAgent):
			return errors.Join(err, s.ws.Close())
		case again:
			s.log.Info("the repository's keys were rotated: it is opened anew", dr.KeyRepository, s.system.Repository)
			if err := s.ws.Reopen(s.system.Repository); err != nil {
				s.log.Warn("the repository could not be closed", dr.KeyError, err)
			}
			continue
		}
		s.log.Error("the log stream cannot begin", dr.KeyError, err, dr.KeyNext, dr.Advice(err))
		wait(ctx, streamRetry)
	}
}

// ended notes that there is no stream at the moment.
func (s *systemStream) ended(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.current != nil {
		s.lost += s.current.Status().LogStatus.Failures
	}
	s.current, s.fan = nil, nil
	if s.since.IsZero() || s.err == nil {
		s.since = time.Now()
	}
	s.err = err
	if err != nil {
		s.lost++
	}
}

// reopen makes the stream use the keys of today.
func (s *systemStream) reopen() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.rotate != nil {
		s.rotate(errRotated)
	}
}

// session opens what the stream needs and receives the log.
func (s *systemStream) session(ctx context.Context, cancel context.CancelCauseFunc) error {
	ws, closeWorkspace, err := s.farthest(ctx)
	if err != nil {
		return err
	}
	defer closeWorkspace()
	sys, err := ws.System(ctx, string(s.system.Name))
	if err != nil {
		return err
	}
	cfg, err := ws.FannedStream(ctx, sys, s.log)
	if err != nil {
		return err
	}
	proven, err := newestMark(ctx, cfg.Log)
	if err != nil {
		return errors.Join(err, cfg.Close(ctx))
	}
	changed := make(chan struct{}, 1)
	cfg.Blocks, cfg.StopTimeout, cfg.Logger = s.blocks, stopTimeout, s.log
	cfg.Changed = func() {
		select {
		case changed <- struct{}{}:
		default:
		}
	}
	stream := capture.NewLogStream(cfg.StreamConfig)
	s.mu.Lock()
	s.current, s.fan, s.err, s.since, s.proven = stream, cfg.Fan, nil, time.Time{}, proven
	s.mu.Unlock()
	var watch sync.WaitGroup
	watching, stop := context.WithCancel(ctx)
	watch.Go(func() { s.watch(watching, cancel, stream, changed) })
	watch.Go(func() { s.watchKeys(watching, cancel, sys.Repo) })
	err = stream.Run(ctx)
	stop()
	watch.Wait()
	if cause := context.Cause(ctx); errors.Is(cause, ErrSecondAgent) {
		err = cause
	}
	return errors.Join(err, cfg.Close(ctx))
}

// newestMark returns the moment up to which the newest mark proves the log.
func newestMark(ctx context.Context, log *repo.Log) (time.Time, error) {
	streams, err := log.Streams(ctx)
	if err != nil || len(streams) == 0 {
		return time.Time{}, err
	}
	m, _, err := log.Mark(ctx, streams[len(streams)-1])
	return m.Source, err
}

// watch counts lost connections, and gives up where another agent holds the slot: this one would only wait to
// take it over at the other's first weakness. Once connected, the slot is ours.
func (s *systemStream) watch(ctx context.Context, giveUp context.CancelCauseFunc, stream *capture.LogStream, changed <-chan struct{}) {
	var ours bool
	var first time.Time // when the slot was first seen in use
	for {
		select {
		case <-ctx.Done():
			return
		case <-changed:
		}
		st := stream.Status()
		ours = ours || st.Connected || st.SourceEnd > 0 // the second where the connection has come and gone by now
		if st.Connected {
			continue
		}
		s.mu.Lock()
		s.lost++
		s.mu.Unlock()
		if ours || !slotInUse(st.ConnErr) {
			continue
		}
		if first.IsZero() {
			first = time.Now()
		}
		h, err := slotHolder(ctx, s.system.Postgres.Connection.DSN(), workspace.SlotName(s.system))
		if err != nil || h.pid == 0 || h.near && time.Since(first) < s.takeover {
			continue
		}
		giveUp(h.refusal(s.system))
		return
	}
}

// watchKeys ends the session where the keys were rotated: what is written with the old ones can be read by those
// who should no longer be able to.
func (s *systemStream) watchKeys(ctx context.Context, end context.CancelCauseFunc, r *repo.Repository) {
	for {
		if wait(ctx, keysEvery); ctx.Err() != nil {
			return
		}
		// A store that does not answer says nothing about keys.
		if err := r.Refresh(ctx); rotated(err) {
			end(errRotated)
			return
		}
	}
}

// slotInUse tells whether a server refused to start because somebody uses the slot (object_in_use).
func slotInUse(err error) bool {
	var pgErr *pgconn.PgError
	return errors.As(err, &pgErr) && pgErr.Code == "55006"
}

// holderOfSlot is who uses a replication slot.
type holderOfSlot struct {
	pid   int32 // of the server's process; 0: nobody uses it
	near  bool  // it comes from the address that we come from: what a killed agent left, perhaps
	where string
	since time.Time
}

func slotHolder(ctx context.Context, connection, slot string) (h holderOfSlot, err error) {
	conn, err := cluster.Connect(ctx, connection)
	if err != nil {
		return h, err
	}
	defer conn.Close(context.WithoutCancel(ctx)) //nolint:errcheck // only asked
	var address, name string
	var since *time.Time
	err = conn.QueryRow(ctx, `
		SELECT s.active_pid, r.pid IS NULL OR r.client_addr IS NOT DISTINCT FROM inet_client_addr(),
		       coalesce(host(r.client_addr), 'the server''s own machine'), coalesce(r.application_name, ''), r.backend_start
		FROM pg_replication_slots s LEFT JOIN pg_stat_replication r ON r.pid = s.active_pid
		WHERE s.slot_name = $1 AND s.active_pid IS NOT NULL`, slot).Scan(&h.pid, &h.near, &address, &name, &since)
	if errors.Is(err, pgx.ErrNoRows) {
		return h, nil
	}
	h.where = fmt.Sprintf("%q at %s", name, address)
	if since != nil {
		h.since = *since
	}
	return h, err
}

func (h holderOfSlot) refusal(s config.System) error {
	return &dr.Failure{
		What: fmt.Sprintf("agent: %s is protected by another agent: somebody receives its log", s.Name),
		Reason: fmt.Sprintf("replication slot %s is used by %s since %s (the server's process %d)",
			workspace.SlotName(s), h.where, h.since.UTC().Format(time.RFC3339), h.pid),
		Next: "stop that one; or, if both shall receive the log, give this one a slot of its own in systems." + string(s.Name) + ".postgres.slot",
		Err:  ErrSecondAgent,
	}
}

func (s *systemStream) status() *StreamStatus {
	s.mu.Lock()
	stream, fan, err, since, lost := s.current, s.fan, s.err, s.since, s.lost
	s.mu.Unlock()
	if stream == nil {
		out := &StreamStatus{Slot: workspace.SlotName(s.system), Since: since.UTC(), Failures: lost}
		if err != nil {
			out.Error = err.Error()
		}
		return out
	}
	st := stream.Status()
	out := streamStatus(st)
	out.Failures = lost + st.LogStatus.Failures
	if fan != nil {
		out.Copies = copiesStatus(fan.Status(), s.policy.Copies.Sync)
	}
	return out
}

// sites returns where the log is written to; nil while no stream goes to several sites.
func (s *systemStream) sites() *geo.Fan {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.fan
}

func (s *systemStream) recoveryPoint() time.Time {
	s.mu.Lock()
	stream, proven := s.current, s.proven
	s.mu.Unlock()
	if stream != nil {
		proven = later(proven, stream.Status().StoredClock)
	}
	return proven
}

const (
	// reachPoll is how often a waiting snapshot looks how far the stream is.
	reachPoll = 50 * time.Millisecond
	// reachPatience is how long it waits while the log does not come nearer.
	reachPatience = 15 * time.Minute
)

// reached waits until the stream has stored the log up to a position.
func (s *systemStream) reached(ctx context.Context, end wal.LSN) error {
	var last wal.LSN
	moved := time.Now()
	for {
		at := s.status().Durable
		switch {
		case at >= end:
			return nil
		case at > last:
			last, moved = at, time.Now()
		case time.Since(moved) > reachPatience:
			return fmt.Errorf("it is stored up to %s, and for %s nothing was added", at, reachPatience)
		}
		if wait(ctx, reachPoll); ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
}

// connected waits until the log is received.
func (s *systemStream) connected(ctx context.Context, limit time.Duration) error {
	deadline := time.Now().Add(limit)
	for {
		st := s.status()
		switch {
		case st.Connected:
			return nil
		case time.Now().After(deadline) && st.Error != "":
			return fmt.Errorf("the log is not received, and without it a snapshot cannot be restored: %s", oneLine(st.Error))
		case time.Now().After(deadline):
			return errors.New("the log is not received yet, and without it a snapshot cannot be restored")
		}
		if wait(ctx, reachPoll); ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
}
