package capture

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"slices"
	"sort"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/pg"
	"github.com/holdfast-dr/holdfast/internal/pg/cluster"
	"github.com/holdfast-dr/holdfast/internal/pg/figure"
	"github.com/holdfast-dr/holdfast/internal/pg/wal"
	"github.com/holdfast-dr/holdfast/internal/repo"
)

// SnapshotConfig says what to take a snapshot of, and how.
type SnapshotConfig struct {
	System     string              // its name in the repository
	Group      repo.ResidencyGroup // "" is repo.DefaultGroup
	Connection string              // libpq connection string
	DataDir    string              // the data directory on this machine; empty: everything comes over Connection
	Checkpoint cluster.CheckpointMode
	// ForceCheckpoint begins every snapshot with a new checkpoint. Otherwise one that takes what changed begins at the
	// last checkpoint that the server has completed: it asks nothing of the server, and recovery replays as much more.
	ForceCheckpoint bool
	// AfterCheckpoint takes no snapshot where the server has completed no checkpoint since the last one: the error is
	// then ErrNoCheckpoint.
	AfterCheckpoint bool
	Scan            Scan
	// Found are pages that a try before found to have changed in silence, when it could not take the snapshot that has to
	// follow: it is taken now. Everything is read, and they are told of as if this one had found them.
	Found   []Missed
	Codec   repo.Codec // for relation files; may be nil
	Workers int        // 0: one for each processor that Go may use
	// WaitLog returns when the repository holds the log of a timeline up to end, or says why it will not. It
	// decides whether the snapshot can be restored alone, so the snapshot exists only after it returned nil.
	WaitLog func(ctx context.Context, tl wal.TimelineID, start, end wal.LSN) error
	// Evidence is what the snapshot tells of the log of evidence about the system; may be nil.
	Evidence *repo.EvidencePoint
	Figures  func(context.Context) *figure.Recorded // asks the source for what is kept beside the snapshot; nil: nothing
	Progress dr.ProgressFunc
	Log      *slog.Logger
}

// SnapshotReport says what a snapshot took, and how long its phases lasted.
type SnapshotReport struct {
	Snapshot   *repo.Manifest `json:"snapshot"`
	Checkpoint time.Duration  `json:"checkpointNs"` // until the server had begun the backup
	Copy       time.Duration  `json:"copyNs"`
	Log        time.Duration  `json:"logNs"` // end of the backup, and until the log up to it was durable
	Total      time.Duration  `json:"totalNs"`
	// FullScan says why everything was read; empty where only what changed was.
	FullScan string `json:"fullScan,omitempty"`
	Pages    int64  `json:"pages"` // pages of relations that were read and checked
	Torn     int64  `json:"torn"`  // pages that were read again because PostgreSQL was writing them
	// Unread is how many pages were taken from the snapshot before, at most: the log did not name them. Compared is how
	// many such pages were read all the same, or, of everything, differed and were compared; and Unseen how likely a
	// change of which the log did not tell stayed unseen, nil where everything was read.
	Unread   int64      `json:"unread,omitempty"`
	Compared int64      `json:"compared,omitempty"`
	Unseen   *pg.Unseen `json:"unseen,omitempty"`
	// Missed are the first of the pages that differ, MissedPages how many do: changes of which the log should have told.
	Missed      []Missed `json:"missed,omitempty"`
	MissedPages int64    `json:"missedPages,omitempty"`
	NotCompared string   `json:"notCompared,omitempty"` // why there was nothing to compare with
	// Problems are the pages and files that are damaged at the source. They are stored as they are.
	Problems []Problem `json:"problems,omitempty"`
	// Skipped are things in the data directory that no backup holds and PostgreSQL did not put there.
	Skipped []string `json:"skipped,omitempty"`
}

// Snapshot takes a snapshot of a PostgreSQL cluster. When it returns nil the snapshot exists, is durable and
// can be restored alone. After an error nothing exists; what was stored is found again by the next attempt, or
// removed by a collection.
func Snapshot(ctx context.Context, r *repo.Repository, cfg SnapshotConfig) (*SnapshotReport, error) {
	began := time.Now()
	cfg.setDefaults()
	conn, info, err := cfg.connect(ctx)
	if err != nil {
		return nil, fmt.Errorf("snapshot of %s: %w", cfg.System, err)
	}
	s := &snapshot{repo: r, cfg: cfg, conn: conn, info: info, report: &SnapshotReport{}}
	for _, m := range cfg.Found {
		s.missed.add(m)
	}
	defer func() { _ = s.conn.Close(context.WithoutCancel(ctx)) }() // the backup's end was checked
	if cfg.AfterCheckpoint {
		if err := needed(ctx, conn, r, cfg.System); err != nil {
			return nil, err
		}
	}
	s.w, err = r.Begin(ctx, cfg.System, cfg.Group)
	if err != nil {
		return nil, fmt.Errorf("snapshot of %s: %w", cfg.System, err)
	}
	err = s.take(ctx)
	if err = errors.Join(err, s.w.Close(context.WithoutCancel(ctx))); err != nil {
		if s.missed.count > 0 {
			err = &MissedError{s.missed.list, err}
		}
		return nil, fmt.Errorf("snapshot of %s: %w", cfg.System, err)
	}
	s.report.Total = time.Since(began)
	return s.report, nil
}

func (c *SnapshotConfig) setDefaults() {
	if c.Group == "" {
		c.Group = repo.DefaultGroup
	}
	if c.Workers == 0 {
		c.Workers = runtime.GOMAXPROCS(0)
	}
	if c.Progress == nil {
		c.Progress = func(dr.Progress) {}
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
}

// connect returns a connection to a server that can be protected: what would make the snapshot worthless is
// found out before the first byte is read.
func (c *SnapshotConfig) connect(ctx context.Context) (*pgx.Conn, cluster.Info, error) {
	conn, err := cluster.Connect(ctx, c.Connection)
	if err != nil {
		return nil, cluster.Info{}, err
	}
	info, err := cluster.Identify(ctx, conn)
	if err == nil {
		err = info.Check()
	}
	need := cluster.ForReplication
	if c.DataDir != "" {
		need = cluster.ForBackup
	}
	if err == nil {
		err = cluster.CheckPrivileges(ctx, conn, info, need)
	}
	if err == nil && c.DataDir != "" {
		err = info.CheckLocal(c.DataDir, info.SystemID)
	}
	if err != nil {
		return nil, info, errors.Join(err, conn.Close(context.WithoutCancel(ctx)))
	}
	return conn, info, nil
}

// snapshot is one attempt.
type snapshot struct {
	repo      *repo.Repository
	cfg       SnapshotConfig
	w         *repo.Writer
	conn      *pgx.Conn
	info      cluster.Info
	report    *SnapshotReport
	entries   []treeEntry     // in no order until they are put into the tree
	links     []string        // paths of the tablespaces' links that were met
	size      int64           // about how many bytes there are to read
	latest    *repo.Manifest  // the snapshot before; nil: there is none
	before    *base           // that, or
	beforeErr error           // why it cannot serve
	missed    missedPages     // what changed in silence
	edits     []repo.TreeEdit // where it takes what changed: what differs from the snapshot before
	files     clusterFiles    // where they are read, but for BASE_BACKUP
	least     logPosition     // the log has to be replayed so far at least, before what is taken over is consistent
}

// treeEntry is a finished entry. About 200 bytes are kept for each file of the cluster, and 32 for each 128 MiB
// of it: the one thing whose memory grows with the database.
type treeEntry struct {
	path  string
	entry *repo.Entry
}

func (s *snapshot) take(ctx context.Context) error {
	result, before, err := s.content(ctx)
	if err != nil {
		return interrupted(err)
	}
	s.report.dropMended(uint64(result.Start), uint64(result.Stop))
	end, err := cluster.Identify(ctx, s.conn) // a standby may follow another timeline than at the start
	if err != nil {
		return interrupted(err)
	}
	began := time.Now()
	if s.cfg.DataDir != "" && result.Stop > s.least.lsn { // up to there it came with the snapshot before
		if err := s.bringTail(ctx, end.Timeline, result.Start, s.behind(result.Stop, end.LSN)); err != nil {
			return fmt.Errorf("the log from %s to %s: %w", result.Start, result.Stop, err)
		}
	}
	if s.cfg.WaitLog != nil {
		if err := s.cfg.WaitLog(ctx, end.Timeline, result.Start, result.Stop); err != nil {
			return fmt.Errorf("the log from %s to %s: %w", result.Start, result.Stop, err)
		}
	}
	s.report.Log += time.Since(began)
	m, err := s.manifest(ctx, before, result)
	if err != nil {
		return err
	}
	if s.cfg.Scan == ScanFull || s.missed.count > 0 {
		if err := s.w.Finish(ctx); err != nil {
			return err
		}
		if err := s.prove(ctx, m, result.Start); err != nil { // what was stored is right all the same
			s.report.NotCompared = err.Error()
		}
	}
	s.report.Missed, s.report.MissedPages = s.missed.list, s.missed.count
	if m.Facts, err = s.facts(ctx, result, end.Timeline); err != nil {
		return err
	}
	s.report.Snapshot = m
	return s.w.Commit(ctx, m)
}

// content stores what the snapshot consists of: what changed since the snapshot before, which it returns, or everything.
func (s *snapshot) content(ctx context.Context) (cluster.Result, *base, error) {
	s.before, s.beforeErr = s.base(ctx)
	switch {
	case s.cfg.Scan == ScanFull:
		s.report.FullScan = askedFor
	case s.missed.count > 0:
		s.report.FullScan = foundBySample + s.missed.list[0].String()
	default:
		b, err := s.before, s.beforeErr
		var result cluster.Result
		if err == nil {
			err = s.openFiles(ctx)
		}
		if err == nil {
			result, err = s.changes(ctx, b)
			s.files.close(ctx)
		}
		var doubt *doubtError
		if !errors.As(err, &doubt) {
			return result, b, err
		}
		// What was stored so far is found again by its content.
		s.entries, s.edits, s.links, s.least = nil, nil, nil, logPosition{}
		s.report = &SnapshotReport{FullScan: doubt.reason}
		s.cfg.Log.Info("the snapshot reads everything", dr.KeySystem, s.cfg.System, dr.KeyReason, doubt.reason)
		if err := s.again(ctx); err != nil {
			return cluster.Result{}, nil, err
		}
		if s.missed.count > 0 {
			s.before, s.beforeErr = s.base(ctx) // what is read now is compared: the server may have another history by now
		}
	}
	s.size = cluster.DatabaseBytes(ctx, s.conn)
	if s.cfg.DataDir == "" {
		result, err := s.remote(ctx)
		return result, nil, err
	}
	result, err := s.local(ctx)
	return result, nil, err
}

const askedFor = "it was asked for"

// openFiles finds a way to read single pages.
func (s *snapshot) openFiles(ctx context.Context) error {
	if s.cfg.DataDir != "" {
		s.files = localFiles{s.cfg.DataDir}
		return nil
	}
	if err := cluster.CheckPrivileges(ctx, s.conn, s.info, cluster.ForFiles); err != nil {
		return lacking(err)
	}
	host, err := oneHost(ctx, s.cfg.Connection)
	if err != nil {
		return err
	}
	files, err := openSQLFiles(ctx, host, s.info, s.workers()+1)
	if err != nil {
		return sqlError(err)
	}
	s.files = files
	return nil
}

// workers returns how many read what changed.
func (s *snapshot) workers() int {
	if s.cfg.DataDir == "" {
		return min(s.cfg.Workers, maxSQLWorkers)
	}
	return s.cfg.Workers
}

// again connects anew: a backup that was given up takes its connection with it, and the server may have been promoted.
func (s *snapshot) again(ctx context.Context) error {
	conn, info, err := s.cfg.connect(ctx)
	if err == nil && info.SystemID != s.info.SystemID {
		err = errors.Join(fmt.Errorf("the connection leads to another cluster now (system identifier %d)", info.SystemID), conn.Close(context.WithoutCancel(ctx)))
	}
	if err != nil {
		return err
	}
	_ = s.conn.Close(context.WithoutCancel(ctx)) // nothing of it counts
	s.conn, s.info = conn, info
	return nil
}

// manifest puts the entries into the tree and describes the snapshot, but for its facts.
func (s *snapshot) manifest(ctx context.Context, before *base, result cluster.Result) (*repo.Manifest, error) {
	m := &repo.Manifest{
		Engine: pg.Engine, Evidence: s.cfg.Evidence,
		// A server reads whole segments.
		Log: repo.LogRange{Stream: repo.StreamID(result.Timeline), Start: uint64(s.info.WALSegmentSize.Floor(result.Start)), End: uint64(result.Stop)},
	}
	for _, p := range s.report.Problems {
		m.Problems = append(m.Problems, p.String())
	}
	s.leaveOutNewTablespaces(result.Tablespaces)
	if before != nil {
		for _, e := range s.entries {
			s.edits = append(s.edits, repo.TreeEdit{Path: e.path, Entry: e.entry})
		}
		slices.SortFunc(s.edits, func(a, b repo.TreeEdit) int { return strings.Compare(a.Path, b.Path) })
		return m, s.w.EditTree(ctx, before.manifest, s.edits, m)
	}
	sort.Slice(s.entries, func(i, j int) bool { return s.entries[i].path < s.entries[j].path })
	tree := s.w.NewTree(ctx)
	for _, e := range s.entries {
		if err := tree.Add(e.path, e.entry); err != nil {
			return nil, err
		}
	}
	return m, tree.Finish(m)
}

// leaveOutNewTablespaces removes what was met of tablespaces that did not exist when the backup began. Replay makes
// them anew, and fails where a directory with files stands in the place of the link that it makes.
func (s *snapshot) leaveOutNewTablespaces(known []cluster.Tablespace) {
	was := map[string]bool{}
	for _, t := range known {
		was[fmt.Sprintf("pg_tblspc/%d", t.OID)] = true
	}
	for _, link := range s.links {
		if was[link] {
			continue
		}
		within := func(path string) bool { return path == link || strings.HasPrefix(path, link+"/") }
		s.entries = slices.DeleteFunc(s.entries, func(e treeEntry) bool { return within(e.path) })
		s.edits = slices.DeleteFunc(s.edits, func(e repo.TreeEdit) bool { return within(e.Path) })
	}
}
