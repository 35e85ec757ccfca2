package agent

import (
	"fmt"
	"strings"
	"time"

	"github.com/holdfast-dr/holdfast/internal/capture"
	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/geo"
	"github.com/holdfast-dr/holdfast/internal/pg/wal"
	"github.com/holdfast-dr/holdfast/internal/standby"
	"github.com/holdfast-dr/holdfast/internal/store/meter"
)

// Status is what an agent knows of itself: /status shows it as JSON.
type Status struct {
	Version string         `json:"version"`
	Host    string         `json:"host"`
	PID     int            `json:"pid"`
	Started time.Time      `json:"started"`
	Healthy bool           `json:"healthy"`
	Systems []SystemStatus `json:"systems"`
}

// SystemStatus is how one system's protection stands.
type SystemStatus struct {
	System     dr.SystemName `json:"system"`
	Repository string        `json:"repository"`
	Site       string        `json:"site"`
	// RecoveryPoint is the newest moment that can be recovered; zero while there is none.
	RecoveryPoint time.Time `json:"recoveryPoint,omitzero"`
	RPO           float64   `json:"rpoSeconds,omitempty"` // objectives; 0 where none is set
	RTO           float64   `json:"rtoSeconds,omitempty"`

	MinCopies int `json:"minCopies,omitempty"` // sites from which it shall be recoverable; 0: the policy asks for one

	Healthy bool     `json:"healthy"`
	Reasons []string `json:"reasons,omitempty"` // why not

	Task     string           `json:"task,omitempty"` // what is being done at the moment
	Phase    *dr.Progress     `json:"progress,omitempty"`
	State    State            `json:"state"`
	Stream   *StreamStatus    `json:"stream,omitempty"`       // nil where the policy streams no log
	Replicas []ReplicaStatus  `json:"replicas,omitempty"`     // at other sites
	Scrubs   []ScrubStatus    `json:"scrubs,omitempty"`       // of the replicas that are read over and over
	Standby  *standby.Status  `json:"standby,omitempty"`      // on this host, as who keeps it says; nil where there is none
	Tests    *TestStatus      `json:"restoreTests,omitempty"` // nil where none are run
	Failures map[string]int64 `json:"failures"`               // since the agent was started, by kind
	Store    *meter.Totals    `json:"store,omitempty"`        // what the agent asked of the store since it was started
}

// StreamStatus is how a system's log stream stands.
type StreamStatus struct {
	Connected    bool             `json:"connected"`
	Since        time.Time        `json:"since"` // of Connected
	Error        string           `json:"error,omitempty"`
	Timeline     wal.TimelineID   `json:"timeline,omitempty"`
	Received     wal.LSN          `json:"received"`
	Durable      wal.LSN          `json:"durable"`   // up to here the repository has the log
	SourceEnd    wal.LSN          `json:"sourceEnd"` // of the log at the source, when it last told
	Lag          dr.Bytes         `json:"lagBytes"`  // from Durable to SourceEnd
	Spooled      dr.Bytes         `json:"spooledBytes"`
	Slot         string           `json:"slot"`
	SlotRetained dr.Bytes         `json:"slotRetainedBytes"`
	SlotLimit    dr.Bytes         `json:"slotLimitBytes,omitempty"` // 0: there is none
	Synchronous  bool             `json:"synchronous"`
	Requests     int64            `json:"storeRequests"`
	Failures     int64            `json:"failures"` // connections that were lost or refused, and tries to store
	Gaps         []capture.LogGap `json:"gaps,omitempty"`
	Copies       *CopiesStatus    `json:"copies,omitempty"` // nil where the log goes to one site
}

// CopiesStatus is how the sites stand at which the log is written as it comes.
type CopiesStatus struct {
	Sync  int          `json:"sync"` // sites that hold it before it is acknowledged, as the policy says
	Sites []SiteStatus `json:"sites"`
	// Short is since when there are fewer; GaveUp tells that fewer suffice since.
	Short  time.Time `json:"short,omitzero"`
	GaveUp bool      `json:"gaveUp"`
}

// SiteStatus is how one of them stands.
type SiteStatus struct {
	Site   string    `json:"site"`
	Member bool      `json:"member"` // the log is written there; otherwise it has to catch up
	Since  time.Time `json:"since"`
	Error  string    `json:"error,omitempty"`
}

func copiesStatus(f geo.FanStatus, sync int) *CopiesStatus {
	out := &CopiesStatus{Sync: sync, GaveUp: f.GaveUp}
	if !f.Short.IsZero() {
		out.Short = f.Short.UTC()
	}
	for _, s := range f.Sites {
		one := SiteStatus{Site: s.Site, Member: s.Member, Since: s.Since.UTC()}
		if s.Err != nil && !s.Member {
			one.Error = s.Err.Error()
		}
		out.Sites = append(out.Sites, one)
	}
	return out
}

// away tells whether the log has not been written at a site for longer than a while.
func (c *CopiesStatus) away(site string, now time.Time) bool {
	if c == nil {
		return false
	}
	for _, s := range c.Sites {
		if away := now.Sub(s.Since); s.Site == site && !s.Member && (away > mirrorGrace || away < 0) {
			return true
		}
	}
	return false
}

// illness says what is wrong with the sites at which the log is written.
func (c *CopiesStatus) illness(now time.Time) (out []string) {
	if c == nil {
		return nil
	}
	for _, s := range c.Sites {
		if c.away(s.Site, now) {
			out = append(out, fmt.Sprintf("the log is not written at site %s since %s: %s", s.Site, s.Since.Format(time.RFC3339), oneLine(s.Error)))
		}
	}
	if !c.GaveUp {
		return out
	}
	var members, others []string
	for _, s := range c.Sites {
		if s.Member {
			members = append(members, s.Site)
		} else {
			others = append(others, s.Site+": "+oneLine(s.Error))
		}
	}
	return append(out, fmt.Sprintf("since %s the log is acknowledged with %d of %d sites (%s); %s",
		c.Short.Format(time.RFC3339), len(members), c.Sync, strings.Join(members, ", "), strings.Join(others, "; ")))
}

// streamStatus says of a stream what others need to know.
func streamStatus(s capture.StreamStatus) *StreamStatus {
	out := &StreamStatus{
		Connected: s.Connected, Since: s.Since.UTC(), Timeline: s.Timeline, Received: s.ReceivedLSN, Durable: s.Stored,
		SourceEnd: s.SourceEnd, Lag: s.Lag, Spooled: s.Spooled, Slot: s.Slot.Name, SlotRetained: dr.Bytes(s.Slot.Retained),
		Synchronous: s.Sync, Requests: s.Requests, Gaps: s.Gaps,
	}
	if s.Slot.Safe >= 0 {
		out.SlotLimit = dr.Bytes(s.Slot.Retained + s.Slot.Safe)
	}
	if err := s.Problem(); err != nil {
		out.Error = err.Error()
	}
	return out
}

const (
	// streamGrace is how long a log stream may be away before the system counts as ill: a restart of the server
	// is no alarm.
	streamGrace = 2 * time.Minute
	// snapshotGrace is how long a snapshot may be overdue: it runs, or is tried again.
	snapshotGrace = 2 * time.Hour
)

// illnesses says what is wrong with a system at a moment; nothing means that it is protected as its policy says.
func illnesses(s SystemStatus, refused error, now time.Time) []string {
	var out []string
	add := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	if refused != nil {
		add("%s", oneLine(refused.Error()))
	}
	if st := s.Stream; st != nil {
		away := now.Sub(st.Since)
		switch {
		case !st.Connected && (away > streamGrace || away < 0):
			add("the log is not received since %s: %s", st.Since.Format(time.RFC3339), oneLine(st.Error))
		case st.Connected && st.Error != "":
			add("%s", oneLine(st.Error))
		}
	}
	if r := s.State.Snapshot; r.Failures > maxRetries {
		add("the last %d tries to take a snapshot failed: %s", r.Failures, oneLine(r.Error))
	} else if next := s.State.Next; !next.IsZero() && now.Sub(next) > snapshotGrace && !s.State.Snapshot.Running {
		add("a snapshot is overdue since %s", next.Format(time.RFC3339))
	}
	if f := s.State.Found; len(f) > 0 {
		add("pages changed of which the log did not tell, and no snapshot was taken since that holds them: %s", f[0])
	}
	if s.State.Alarm != nil {
		add("%s", s.State.Alarm)
	}
	if s.State.Damage != "" {
		add("the repository: %s", s.State.Damage)
	}
	if s.Stream != nil {
		out = append(out, s.Stream.Copies.illness(now)...)
	}
	for _, r := range s.Replicas {
		out = append(out, r.illness(s, now)...)
	}
	out = append(out, s.Tests.illness()...)
	if n := s.recoverable(now); n < s.MinCopies && !s.RecoveryPoint.IsZero() {
		add("it can be recovered from %d sites, and its policy asks for %d", n, s.MinCopies)
	}
	if r := s.State.Check; r.Failures > maxRetries {
		add("the last %d tries to check the repository failed: %s", r.Failures, oneLine(r.Error))
	}
	return out
}

// recoverable returns from how many sites the system can be recovered, as far as is known.
func (s SystemStatus) recoverable(now time.Time) int {
	n := 1
	if s.Stream != nil && s.Stream.Copies.away(s.Site, now) {
		n = 0 // the first site is behind
	}
	for _, r := range s.Replicas {
		if len(r.illness(s, now)) == 0 {
			n++
		}
	}
	return n
}

// illness says what is wrong with the copy of a system at another site.
func (r ReplicaStatus) illness(s SystemStatus, now time.Time) []string {
	behind := s.RecoveryPoint.Sub(r.RecoveryPoint)
	switch away := now.Sub(r.Since); {
	case r.Error != "" && (away > mirrorGrace || away < 0):
		return []string{fmt.Sprintf("nothing can be copied to site %s since %s: %s", r.Site, r.Since.Format(time.RFC3339), oneLine(r.Error))}
	case s.RecoveryPoint.IsZero() || r.Error != "":
	case r.RecoveryPoint.IsZero() && away > mirrorGrace:
		return []string{fmt.Sprintf("site %s cannot be recovered from yet: the first copy was begun at %s", r.Site, r.Since.Format(time.RFC3339))}
	case !r.RecoveryPoint.IsZero() && behind > mirrorGrace:
		return []string{fmt.Sprintf("site %s is behind: it can be recovered from up to %s", r.Site, r.RecoveryPoint.Format(time.RFC3339))}
	}
	return nil
}

func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }

// sentence is the line that systemctl status shows.
func (s Status) sentence() string {
	var busy, ill []string
	for _, sys := range s.Systems {
		if sys.Task != "" {
			busy = append(busy, sys.Task+" of "+string(sys.System))
		}
		if !sys.Healthy {
			ill = append(ill, string(sys.System)+": "+strings.Join(sys.Reasons, "; "))
		}
	}
	switch {
	case len(ill) > 0:
		return strings.Join(ill, " | ")
	case len(busy) > 0:
		return "running: " + strings.Join(busy, ", ")
	}
	return fmt.Sprintf("protecting %d systems", len(s.Systems))
}
