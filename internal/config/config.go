package config

import (
	"maps"
	"slices"
	"time"

	"github.com/holdfast-dr/holdfast/internal/dr"
)

// Config is the whole of a holdfast.yaml, checked, with every default in place.
type Config struct {
	Path         string // the file it was read from
	Version      int
	Sites        map[string]dr.Site
	Repositories map[string]Repository
	Systems      map[dr.SystemName]System
	Policies     map[string]Policy
	Agent        Agent
}

// Repository is one logical store of snapshots and logs.
type Repository struct {
	Name     string
	Replicas []Replica // the first is the one that is written to; the others get copies. Each has a site of its own
	Keys     Keys
	Cache    string // directory for what may be read again; absolute
}

// Replica is the repository's copy at a site.
type Replica struct {
	Site   string
	URL    Location
	Parity Share // of the stored bytes, kept beside them; 0: none
	Lock   Lock
	Scrub  Scrub
}

// Scrub says how the agent reads a replica's bytes over and over.
type Scrub struct {
	Budget dr.Pace       // never zero: off where nothing is read
	Window time.Duration // in which each byte shall be read; 0 where nothing is read
}

// Lock says that what is in a replica cannot be removed for a time. The zero value is none.
type Lock struct {
	Mode LockMode
	For  time.Duration // each object, from its writing on, and as long as the repository needs it
}

// LockMode says who can end it early.
type LockMode string

// The modes of S3 Object Lock.
const (
	LockGovernance LockMode = "governance" // who has the right to bypass it
	LockCompliance LockMode = "compliance" // nobody
)

// Keys says where the secrets that open a repository are found.
type Keys struct {
	PassphraseFile        string
	PassphraseEnvironment string   // name of a variable
	IdentityFiles         []string // of age identities
}

// System is what is protected.
type System struct {
	Name       dr.SystemName
	Repository string
	Residency  string // residency group: whose data may share a pack with it
	// Jurisdictions are those of the sites at which its data may be; none means everywhere.
	Jurisdictions []string
	Policy        string
	Postgres      Postgres
	Verify        SystemVerify
}

// Postgres is a PostgreSQL cluster.
type Postgres struct {
	Connection    Connection
	DataDirectory string // absolute; empty means that it is read over the replication protocol (remote mode)
	BinDirectory  string // absolute; empty means to look for PostgreSQL's programs
	Slot          string // physical replication slot of the log stream
	Checkpoint    Checkpoint
}

// MayBeAt tells whether the system's data may be at a site.
func (s System) MayBeAt(site dr.Site) bool {
	return len(s.Jurisdictions) == 0 || slices.Contains(s.Jurisdictions, site.Jurisdiction)
}

// Local tells whether the cluster's files are read in place.
func (p Postgres) Local() bool { return p.DataDirectory != "" }

// Checkpoint is how a snapshot's first checkpoint is made.
type Checkpoint string

// The kinds of checkpoints, as PostgreSQL names them.
const (
	CheckpointFast   Checkpoint = "fast"
	CheckpointSpread Checkpoint = "spread"
)

// Policy says when and how a system is protected, and what is promised.
type Policy struct {
	Name       string
	Schedule   dr.Schedule
	Jitter     time.Duration
	Windows    dr.Windows
	Log        Log
	Copies     Copies
	Retention  dr.Retention
	Check      Check
	Verify     Verify
	Optimize   Optimize
	Objectives dr.Objective
}

// Timing returns when snapshots are due.
func (p Policy) Timing() dr.Timing {
	if p.Schedule.Continuous() {
		return dr.Timing{Schedule: p.Schedule, Windows: p.Windows} // the sources' checkpoints do not come all at once
	}
	return dr.Timing{Schedule: p.Schedule, Jitter: p.Jitter, Windows: p.Windows}
}

// Log says how a system's change log is protected.
type Log struct {
	Stream      bool          // receive it over the replication protocol
	Interval    time.Duration // the longest that the unfinished tail waits before it is put into the repository
	Acknowledge Acknowledge
	SpoolLimit  dr.Bytes
}

// Acknowledge is the place in which the log must be durable before the primary is told that it is.
type Acknowledge string

// The places of Acknowledge.
const (
	AcknowledgeRepository Acknowledge = "repository"
	AcknowledgeSpool      Acknowledge = "spool"
)

// Copies says at which sites a system's data is, and how many of them suffice.
type Copies struct {
	Sites    []string      // of the repository's replicas, those that get copies; none: all at which the data may be
	Min      int           // sites from which the system can be recovered, the first included: fewer are an alarm; at least 1
	Sync     int           // sites that hold a part of the log before it is acknowledged; at least 1
	Patience time.Duration // how long so many are waited for before fewer suffice; 0: for ever
}

// Check says how often stored bytes are read back, and how many of them.
type Check struct {
	Schedule dr.Schedule
	Sample   Fraction
}

// Optimize says how the fragmentation of snapshots is bounded.
type Optimize struct {
	Budget Share // of what snapshots have stored
}

// Share is a part of a whole, from 0 up. It prints as a percentage.
type Share float64

// Fraction is a part of a whole, from 0 to 1. It prints as a percentage.
type Fraction float64

// Agent says how `holdfast agent` runs on this machine.
type Agent struct {
	Listen string   // host:port of metrics and health
	State  string   // directory of what must survive a restart; absolute
	Memory dr.Bytes // budget for buffers
	Prune  bool     // apply retention, collect, and replace snapshots: whatever removes something
}

// System returns the system of that name. The error lists what there is.
func (c *Config) System(name string) (System, error) {
	if s, ok := c.Systems[dr.SystemName(name)]; ok {
		return s, nil
	}
	return System{}, c.unknown("system", name, c.SystemNames())
}

// Repository returns the repository of that name. The error lists what there is.
func (c *Config) Repository(name string) (Repository, error) {
	if r, ok := c.Repositories[name]; ok {
		return r, nil
	}
	return Repository{}, c.unknown("repository", name, slices.Sorted(maps.Keys(c.Repositories)))
}

// RepositoryOf returns the repository of a system of c.
func (c *Config) RepositoryOf(s System) Repository { return c.Repositories[s.Repository] }

// PolicyOf returns the policy of a system of c.
func (c *Config) PolicyOf(s System) Policy { return c.Policies[s.Policy] }

// Replica returns the replica of a repository at a site; the first one where site is empty. The error lists what there is.
func (c *Config) Replica(r Repository, site string) (Replica, error) {
	var sites []string
	for _, rep := range r.Replicas {
		if site == "" || rep.Site == site {
			return rep, nil
		}
		sites = append(sites, rep.Site)
	}
	return Replica{}, c.unknown("replica of "+r.Name+" at site", site, sites)
}

// CopiesOf returns the replicas of a system's repository that get its data, the first one of the repository first.
func (c *Config) CopiesOf(s System) (out []Replica) {
	sites := c.PolicyOf(s).Copies.Sites
	for i, rep := range c.RepositoryOf(s).Replicas {
		if i == 0 || s.MayBeAt(c.Sites[rep.Site]) && (len(sites) == 0 || slices.Contains(sites, rep.Site)) {
			out = append(out, rep)
		}
	}
	return out
}

// SystemNames returns the names of all systems, sorted.
func (c *Config) SystemNames() []string {
	var names []string
	for name := range c.Systems {
		names = append(names, string(name))
	}
	slices.Sort(names)
	return names
}

func (c *Config) unknown(what, name string, known []string) error {
	return &dr.Failure{
		What:   what + " " + quote(name) + " is not in " + c.Path,
		Reason: "it declares " + listing(what, known),
		Next:   suggestion(name, known, "name one of them, or declare it there"),
		Err:    errUnknownName,
	}
}
