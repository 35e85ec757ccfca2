package agent

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/holdfast-dr/holdfast/internal/config"
	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/geo"
	"github.com/holdfast-dr/holdfast/internal/pg/wal"
	"github.com/holdfast-dr/holdfast/internal/repo"
	"github.com/holdfast-dr/holdfast/internal/workspace"
)

const (
	// copyAll is how often a site is compared as a whole, whether or not anything came: some thirty requests.
	copyAll = time.Hour
	// copyNews is how often somebody else's snapshots are looked for: one request.
	copyNews = 10 * time.Minute
	// mirrorRetry is before the second try; it doubles up to mirrorPatience.
	mirrorRetry    = time.Second
	mirrorPatience = time.Minute
	// mirrorGrace is how far a site may be behind before the system counts as ill.
	mirrorGrace = 10 * time.Minute
)

// ReplicaStatus is how the copy of a system at another site stands.
type ReplicaStatus struct {
	Site          string          `json:"site"`
	RecoveryPoint time.Time       `json:"recoveryPoint,omitzero"` // zero until the first copy of this process, and where no snapshot is there
	Snapshot      repo.SnapshotID `json:"snapshot,omitempty"`     // the newest that was copied
	Copied        dr.Bytes        `json:"copiedBytes"`            // since the agent was started
	Failures      int64           `json:"failures"`
	Since         time.Time       `json:"since"` // since when all tries failed, or the last one that succeeded
	Error         string          `json:"error,omitempty"`
}

// seen is what is at home at a moment, as its keeper knows without asking the store.
type seen struct {
	snapshot repo.SnapshotID
	site     string // where it was taken, if not at home
	timeline wal.TimelineID
	durable  wal.LSN
}

// mirror keeps a system's copy at a site: it brings snapshots when they are taken, and what of the log is not written there as it
// comes. When nothing of that is left the site joins those at which it is.
type mirror struct {
	open   func(site string) *workspace.Workspace // one of its own
	system config.System
	site   string
	home   string
	fan    func() *geo.Fan          // where the log is written to; nil while it is not
	every  time.Duration            // between two looks
	look   func() (seen, time.Time) // what is at home, and the moment to which that can be recovered
	log    *slog.Logger
	lock   *siteLock // nil: there is none

	brought repo.SnapshotID // that was taken elsewhere, and is at home since

	mu     sync.Mutex // guards status
	status ReplicaStatus
}

// copyState is what a mirror knows of the site while it is in reach.
type copyState struct {
	ws      *workspace.Workspace // at from
	from    string               // the site that has everything
	replica *workspace.Replica
	done    seen      // of which everything is there
	all     time.Time // when everything was compared
	news    time.Time // when snapshots were looked for
	newest  repo.SnapshotID
	ends    geo.Ends
}

// run copies until ctx ends.
func (m *mirror) run(ctx context.Context) {
	m.note(func(s *ReplicaStatus) { s.Site, s.Since = m.site, time.Now().UTC() })
	var c copyState
	defer func() { m.close(&c) }()
	retry := mirrorRetry
	for ctx.Err() == nil {
		m.lock.renew(ctx, m.log.With("site", m.site))
		err := m.round(ctx, &c)
		if ctx.Err() != nil {
			return
		}
		if err == nil {
			retry = mirrorRetry
			wait(ctx, m.every)
			continue
		}
		m.failed(err)
		m.close(&c) // begin anew: keys may have been rotated, or the place replaced
		m.log.Debug("copying is tried again", dr.KeyError, err, "in", retry)
		wait(ctx, retry)
		retry = min(2*retry, mirrorPatience)
	}
}

// close ends what is known of the site.
func (m *mirror) close(c *copyState) {
	if c.replica != nil {
		c.replica.Close()
	}
	if c.ws != nil {
		if err := c.ws.Close(); err != nil {
			m.log.Debug("a repository could not be closed", dr.KeyError, err)
		}
	}
	*c = copyState{}
}

// round copies what came since the last one, if anything did.
func (m *mirror) round(ctx context.Context, c *copyState) error {
	now, point := m.look()
	fan := m.fan()
	from, member := m.home, false
	if fan != nil {
		from, member = fan.Source(), fan.Has(ctx, m.site)
	}
	atHome := m.site == m.home && (fan == nil || member)
	if atHome && now.site != "" && now.snapshot != m.brought {
		from, atHome = now.site, false // it was taken while home was away, and may have ended when that was back
	}
	if atHome || from == m.site || from == "" {
		m.close(c) // nobody has more
		m.done(point, m.read().Snapshot)
		return nil
	}
	if c.from != from {
		m.close(c)
		c.from = from
	}
	joins := fan != nil && !member
	whole := c.replica == nil || joins || now.snapshot != c.done.snapshot || now.timeline != c.done.timeline || !member && len(c.ends) == 0 || time.Since(c.all) > copyAll
	var err error
	archived := false
	if !whole && time.Since(c.news) > copyNews {
		whole, err = c.replica.Behind(ctx, c.newest)
		// Of log that comes by archive_command nobody tells the agent.
		c.news, archived = time.Now(), !whole && !member && now.durable == 0
	}
	switch {
	case err != nil:
	case whole:
		err = m.copy(ctx, c)
	case now.durable != c.done.durable && !member || archived:
		c.ends, err = c.replica.Tail(ctx, c.ends)
	}
	if err == nil && joins {
		c.ends, err = c.replica.Join(ctx, fan, m.site, from, c.ends, c.ws)
	}
	if err != nil {
		return err
	}
	c.done, m.brought = now, now.snapshot
	m.done(point, c.newest)
	return nil
}

// done notes a round that has succeeded.
func (m *mirror) done(point time.Time, newest repo.SnapshotID) {
	m.note(func(s *ReplicaStatus) {
		if s.Error != "" {
			m.log.Info("the site is in reach again", "site", m.site)
		}
		s.RecoveryPoint, s.Snapshot, s.Since, s.Error = point.UTC(), newest, time.Now().UTC(), ""
		if newest == "" && m.site != m.home {
			s.RecoveryPoint = time.Time{}
		}
	})
}

// copy compares everything.
func (m *mirror) copy(ctx context.Context, c *copyState) error {
	began := time.Now()
	if c.replica == nil {
		if c.ws == nil {
			c.ws = m.open(c.from)
		}
		s, err := c.ws.System(ctx, string(m.system.Name))
		if err != nil {
			return err
		}
		if c.replica, err = c.ws.Replica(ctx, s, m.site, ""); err != nil {
			return err
		}
	}
	report, err := c.replica.Copy(ctx, nil)
	m.note(func(s *ReplicaStatus) { s.Copied += dr.Bytes(report.Bytes) })
	if len(report.Snapshots) > 0 {
		m.log.Info("snapshots copied", "site", m.site, "count", len(report.Snapshots), dr.KeySnapshot, report.Snapshots[0], dr.KeyBytes, report.Bytes)
	}
	for _, id := range report.Refused {
		m.log.Debug("a snapshot was forgotten there, and stays away", "site", m.site, dr.KeySnapshot, id)
	}
	c.all, c.news, c.ends, c.newest = began, began, report.Ends, report.Newest
	return err
}

func (m *mirror) failed(err error) {
	m.note(func(s *ReplicaStatus) {
		if s.Error == "" {
			m.log.Warn("copying to another site fails; it is tried again", "site", m.site, dr.KeyError, err, dr.KeyNext, dr.Advice(err))
			s.Since = time.Now().UTC()
		}
		s.Failures, s.Error = s.Failures+1, err.Error()
	})
}

func (m *mirror) note(change func(*ReplicaStatus)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	change(&m.status)
}

func (m *mirror) read() ReplicaStatus {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.status
}
