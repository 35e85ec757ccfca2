package capture

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/holdfast-dr/holdfast/internal/pg"
	"github.com/holdfast-dr/holdfast/internal/pg/cluster"
	"github.com/holdfast-dr/holdfast/internal/pg/wal"
	"github.com/holdfast-dr/holdfast/internal/pg/wal/changed"
	"github.com/holdfast-dr/holdfast/internal/repo"
	"github.com/holdfast-dr/holdfast/internal/store"
)

// A snapshot of what changed takes everything from the one before, except the pages that the log names between the
// points where recovery from the two begins, and the few files that no log describes. docs/decisions/0013 says why
// that is right; changed.Map what the log tells, and what not.

// Scan says what a snapshot reads.
type Scan string

// The ways.
const (
	ScanChanged Scan = ""     // what changed since the last snapshot; everything where that is not known for certain
	ScanFull    Scan = "full" // everything, compared with what the log told
)

// doubtError says why a snapshot has to read everything.
type doubtError struct{ reason string }

func (e *doubtError) Error() string { return e.reason }

func doubtf(format string, args ...any) error { return &doubtError{fmt.Sprintf(format, args...)} }

// base is the snapshot from which another one takes what did not change.
type base struct {
	manifest *repo.Manifest
	facts    *pg.Facts
	way      *wal.Timelines // of the server now
}

// base returns the newest snapshot of the system. A *doubtError says why there is none that can serve.
func (s *snapshot) base(ctx context.Context) (*base, error) {
	m, err := s.repo.LatestSnapshot(ctx, s.cfg.System)
	if err != nil {
		return nil, err
	}
	s.latest = m
	b, err := s.baseOf(ctx, m)
	var doubt *doubtError
	if !errors.As(err, &doubt) || m == nil {
		return b, err
	}
	// An optimization may have put another snapshot of the same moment in its place since we looked.
	now, again := s.repo.LatestSnapshot(ctx, s.cfg.System)
	if again != nil || now == nil || now.ID == m.ID {
		return nil, errors.Join(err, again)
	}
	return s.baseOf(ctx, now)
}

// baseOf looks whether a snapshot can serve as the base; nil is no snapshot.
func (s *snapshot) baseOf(ctx context.Context, m *repo.Manifest) (*base, error) {
	if m == nil {
		return nil, doubtf("it is the first snapshot")
	}
	f, err := pg.ParseFacts(m.Engine, m.Facts)
	if err != nil {
		return nil, doubtf("the snapshot before: %v", err)
	}
	i := s.info
	switch {
	case f.SystemID != i.SystemID:
		return nil, doubtf("the snapshot before is of another cluster (system identifier %d)", f.SystemID)
	case f.Major() != i.Major():
		return nil, doubtf("the snapshot before is of PostgreSQL %d", f.Major())
	case f.Checksums != i.Checksums:
		return nil, doubtf("data checksums were switched since the snapshot before, which no log describes")
	case f.PageSize != repo.PageSize || i.BlockSize != repo.PageSize:
		return nil, doubtf("its pages have %d bytes", i.BlockSize)
	case m.Group != s.cfg.Group:
		return nil, doubtf("the snapshot before belongs to the residency group %q", m.Group)
	case len(m.Problems) > 0:
		return nil, doubtf("the snapshot before has damaged pages; they are looked at again")
	}
	b := &base{manifest: m, facts: f}
	if b.way, err = s.way(ctx); err != nil {
		return nil, doubtf("the history of timeline %d: %v", i.Timeline, err)
	}
	// What the snapshot before read of a timeline behind the point where it was left did not happen.
	if !b.way.IsAncestor(f.Timeline, f.StartLSN) || !b.way.IsAncestor(f.StopTimeline, f.StopLSN) {
		return nil, doubtf("timeline %d was left before %s, where the snapshot before ends", f.StopTimeline, f.StopLSN)
	}
	switch ok, err := s.w.MayCarry(ctx, m); {
	case err != nil:
		return nil, err
	case !ok:
		return nil, doubtf("a collection that is under way may be about to remove what only the snapshot before needs")
	}
	return b, nil
}

// way returns how the server's timeline came to be.
func (s *snapshot) way(ctx context.Context) (*wal.Timelines, error) {
	if s.info.Timeline == 1 {
		return &wal.Timelines{Timeline: 1}, nil
	}
	var content []byte
	err := errors.New("it is not at hand")
	if s.cfg.DataDir != "" {
		content, err = os.ReadFile(filepath.Join(s.cfg.DataDir, "pg_wal", wal.HistoryName(s.info.Timeline)))
	}
	if err != nil { // or removed by hand, perhaps: what receives the log has stored it
		content, err = s.repo.Log(s.cfg.System).File(ctx, pg.HistoryFile(s.info.Timeline))
	}
	if err != nil {
		return nil, err
	}
	return wal.ParseHistory(s.info.Timeline, content)
}

// changes takes the snapshot on top of b. After a *doubtError nothing of it counts.
func (s *snapshot) changes(ctx context.Context, b *base) (cluster.Result, error) {
	began := time.Now()
	a, err := s.begin(ctx, b)
	if err != nil {
		return cluster.Result{}, err
	}
	defer a.abort()
	s.report.Checkpoint = time.Since(began)
	began = time.Now()
	m, err := s.changedSince(ctx, b, a)
	if err != nil {
		return cluster.Result{}, err
	}
	c := &changedFiles{s: s, base: b, m: m, reader: s.repo.Reader()}
	if err := c.save(ctx); err != nil {
		return cluster.Result{}, err
	}
	// What is taken from the snapshot before may be as new as its end: a standby may be behind that.
	if lsn := b.facts.StopLSN; lsn > 0 {
		s.least = logPosition{b.way.At(lsn - 1), lsn}
	}
	s.report.Copy = time.Since(began)
	began = time.Now()
	result, err := a.finish(ctx)
	if err == nil {
		err = s.checkSince(ctx, b, result)
	}
	s.report.Log = time.Since(began)
	for _, path := range slices.Sorted(maps.Keys(c.edits)) {
		s.edits = append(s.edits, c.edits[path])
	}
	return result, err
}

// changedSince returns what the log says between the two beginnings.
func (s *snapshot) changedSince(ctx context.Context, b *base, a *anchor) (*changed.Map, error) {
	if a.start < b.facts.StartLSN {
		return nil, doubtf("recovery would begin at %s, before the beginning of the snapshot before", a.start)
	}
	if !b.way.IsAncestor(a.timeline, a.start) {
		return nil, doubtf("the server's last checkpoint lies on timeline %d, which its history leaves before %s", a.timeline, a.start)
	}
	if err := s.waitFor(ctx, a.timeline, a.start, a.start); err != nil {
		return nil, err
	}
	m, err := s.mapOf(ctx, b, b.facts.StartLSN, a.start)
	if err != nil {
		return nil, err
	}
	for _, d := range m.Doubts {
		if d.Kind == changed.NoFullPageWrites {
			continue // pages that were read torn before are mended by what is read now; checkSince looks at the rest
		}
		return nil, doubtf("the log at %s: %s", d.At, d.Reason)
	}
	return m, nil
}

// waitFor waits for what only the repository has of the log: a snapshot from afar cannot read the rest at the server.
func (s *snapshot) waitFor(ctx context.Context, tl wal.TimelineID, from, to wal.LSN) error {
	if s.cfg.DataDir != "" || s.cfg.WaitLog == nil {
		return nil
	}
	if err := s.cfg.WaitLog(ctx, tl, from, to); err != nil {
		return fmt.Errorf("the log from %s to %s: %w", from, to, err)
	}
	return nil
}

// checkSince proves that replay mends what was read while it was written.
func (s *snapshot) checkSince(ctx context.Context, b *base, r cluster.Result) error {
	if r.Stop <= r.Start {
		return nil
	}
	if err := s.waitFor(ctx, b.way.At(r.Stop-1), r.Start, r.Stop); err != nil {
		return err
	}
	m, err := s.mapOf(ctx, b, r.Start, r.Stop)
	if err != nil {
		return err
	}
	for _, d := range m.Doubts {
		if d.Kind == changed.NoFullPageWrites {
			return doubtf("full_page_writes was off at %s, so that pages which are read while they are written would stay torn", d.At)
		}
	}
	return nil
}

// mapOf returns what the log between two positions changed.
func (s *snapshot) mapOf(ctx context.Context, b *base, from, to wal.LSN) (*changed.Map, error) {
	if from == to {
		return &changed.Map{Timeline: b.way.At(from), Start: from, End: from}, nil // no log is asked for, which may not be there yet
	}
	cfg := ChangesConfig{SegmentSize: s.info.WALSegmentSize, SystemID: s.info.SystemID, PageSize: s.info.BlockSize, Keep: true}
	if s.cfg.DataDir != "" {
		cfg.Files = func(tl wal.TimelineID, at wal.LSN) (io.ReadCloser, error) {
			return openLogFiles(s.cfg.DataDir, s.info.WALSegmentSize, tl, at), nil
		}
	}
	var give time.Time
	for at := wal.LSN(0); ; {
		m, err := ChangedBlocks(ctx, s.repo.Log(s.cfg.System), b.way, cfg, from, to)
		var unknown *ChangesError
		if !errors.As(err, &unknown) {
			return m, err
		}
		// What the server has removed was received; it may have come into the repository since it was looked for. And what
		// receives the log replaces pieces by what is finished.
		if unknown.At > at {
			at, give = unknown.At, time.Now().Add(logPatience)
		}
		moving := errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, store.ErrNotExist)
		if !moving || time.Now().After(give) {
			return nil, doubtf("what changed since the snapshot before is not known: %v", err)
		}
		select {
		case <-time.After(logPause):
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// logPatience is how long a snapshot waits for log that the repository does not have and that does not come nearer: longer
// than a stream takes from receiving it to storing it.
const (
	logPatience = 3 * time.Second
	logPause    = 200 * time.Millisecond
)

// newTablespaces tells whether tablespaces came since the snapshot before. Whether replay makes them again depends on
// where recovery begins, which only a backup that the server knows of tells.
func (b *base) newTablespaces(now []cluster.Tablespace) bool {
	return slices.ContainsFunc(now, func(t cluster.Tablespace) bool {
		return !slices.ContainsFunc(b.facts.Tablespaces, func(o pg.Tablespace) bool { return o.OID == t.OID })
	})
}

// isOwn tells whether a path in a snapshot is something else than a relation in a database's folder.
func isOwn(path string) bool {
	name := path[strings.LastIndexByte(path, '/')+1:]
	return name == "" || name[0] < '0' || name[0] > '9'
}
