package config

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/holdfast-dr/holdfast/internal/dr"
)

// The names of what there is when nothing is declared.
const (
	defaultSite   = "here"
	defaultPolicy = "standard"
)

// complete puts in what depends on other keys, and gives everything its name.
func (c *Config) complete(r *report, root *yaml.Node) {
	if len(c.Sites) == 0 {
		c.Sites = map[string]dr.Site{defaultSite: {}}
	}
	if len(c.Policies) == 0 {
		var p Policy
		policy.decode(r, &yaml.Node{Kind: yaml.MappingNode, Line: root.Line, Column: root.Column}, "policies."+defaultPolicy, &p)
		c.Policies = map[string]Policy{defaultPolicy: p}
	}
	for name, s := range c.Sites {
		s.Name = name
		c.Sites[name] = s
	}
	for name, repo := range c.Repositories {
		repo.Name = name
		for i := range repo.Replicas {
			repo.Replicas[i].completeScrub()
		}
		c.Repositories[name] = repo
	}
	for name, p := range c.Policies {
		p.Name = name
		c.Policies[name] = p
	}
	for name, s := range c.Systems {
		s.Name = name
		if s.Postgres.Slot == "" {
			s.Postgres.Slot = slotFor(name)
		}
		c.Systems[name] = s
	}
}

const (
	// defaultScrub is the share of a directory that is read in a day. Elsewhere nothing is, since reading may be billed.
	defaultScrub = 0.05
	// DefaultWindow is in how much time every byte is to be read where the budget is in bytes.
	DefaultWindow = 30 * 24 * time.Hour
)

// completeScrub puts in what depends on the place, and on the budget.
func (r *Replica) completeScrub() {
	if r.Scrub.Budget.IsZero() {
		share := 0.0
		if strings.HasPrefix(string(r.URL), "file:") {
			share = defaultScrub
		}
		r.Scrub.Budget = dr.Daily(share)
	}
	if r.Scrub.Window == 0 && !r.Scrub.Budget.Off() {
		if r.Scrub.Window = max(r.Scrub.Budget.Round(), time.Hour); r.Scrub.Budget.Round() == 0 {
			r.Scrub.Window = DefaultWindow
		}
	}
}

// checkScrub refuses a promise that cannot be kept.
func checkScrub(r *report, path string, s Scrub) {
	if round := s.Budget.Round(); round > 0 && s.Window < round {
		r.addAt(path+".window", "a scrub window of "+printDuration(s.Window)+" is too short for its budget",
			fmt.Sprintf("with %s everything is read in %s", s.Budget, printDuration(round.Round(time.Hour))), "choose a longer window, or a larger budget")
	}
}

// slotFor returns the slot of a system that names none. A name that leaves no room for the prefix in
// PostgreSQL's 63 bytes is shortened, with a digest that keeps two such names apart.
func slotFor(name dr.SystemName) string {
	slot := "holdfast_" + strings.ReplaceAll(string(name), "-", "_")
	if len(slot) > 63 {
		digest := sha256.Sum256([]byte(name))
		slot = slot[:63-9] + "_" + hex.EncodeToString(digest[:4])
	}
	return slot
}

// check looks at what several keys say together.
func (c *Config) check(r *report) {
	for _, name := range slices.Sorted(maps.Keys(c.Repositories)) {
		c.checkRepository(r, c.Repositories[name])
	}
	c.checkURLs(r)
	for _, name := range c.SystemNames() {
		c.checkSystem(r, c.Systems[dr.SystemName(name)])
	}
	c.checkSlots(r)
	c.checkResidency(r)
	for _, name := range slices.Sorted(maps.Keys(c.Policies)) {
		checkPolicy(r, c.Policies[name])
	}
}

func (c *Config) checkRepository(r *report, repo Repository) {
	path := "repositories." + repo.Name
	if len(repo.Replicas) == 0 {
		r.addAt(path+".replicas", fmt.Sprintf("repository %s has no replica", quote(repo.Name)), "it is nowhere", "give it one")
	}
	at := map[string]bool{}
	for i, rep := range repo.Replicas {
		where := index(path+".replicas", i) + ".site"
		if _, ok := c.Sites[rep.Site]; !ok {
			c.undeclared(r, where, "site", rep.Site, slices.Sorted(maps.Keys(c.Sites)))
		}
		if at[rep.Site] {
			r.addAt(where, fmt.Sprintf("repository %s has two replicas at site %s", quote(repo.Name), quote(rep.Site)),
				"a site is lost as a whole", "name the site of each; declare another one where they can be lost apart")
		}
		at[rep.Site] = true
		if rep.Parity != 0 && (rep.Parity < 0.01 || rep.Parity > 0.9) {
			r.addAt(index(path+".replicas", i)+".parity", "parity of "+Fraction(rep.Parity).String(), "from 1% to 90% of the stored bytes can be kept", `write "5%", or keep a replica at another site`)
		}
		checkLock(r, index(path+".replicas", i), rep)
		checkScrub(r, index(path+".replicas", i)+".scrub", rep.Scrub)
	}
	k := repo.Keys
	switch {
	case k.PassphraseFile != "" && k.PassphraseEnvironment != "":
		r.addAt(path+".keys", "repository "+quote(repo.Name)+" names two places for one passphrase",
			"passphrase-file and passphrase-environment are both set", "remove one of them")
	case k.PassphraseFile == "" && k.PassphraseEnvironment == "" && len(k.IdentityFiles) == 0:
		r.addAt(path+".keys", "repository "+quote(repo.Name)+" names no key",
			"everything in a repository is encrypted", "set keys.passphrase-file, keys.passphrase-environment or keys.identity-files")
	}
}

// placeAt returns what of a URL says where a replica is. Servers of one's own may have buckets of one name, one at each site.
func placeAt(address string) string {
	place, query, _ := strings.Cut(strings.TrimRight(address, "/"), "?")
	if q, err := url.ParseQuery(query); err == nil && q.Has("endpoint") {
		place += " at " + strings.TrimRight(q.Get("endpoint"), "/")
	}
	return place
}

// shortestLock leaves a renewal, which the agent does in the last half, more than a week end.
const shortestLock = 7 * 24 * time.Hour

// checkLock refuses a lock that the place cannot keep.
func checkLock(r *report, path string, rep Replica) {
	l := rep.Lock
	if l == (Lock{}) {
		return
	}
	what := "the replica at site " + quote(rep.Site) + " cannot be locked so"
	switch {
	case !strings.HasPrefix(string(rep.URL), "s3:"):
		r.addAt(path+".lock", what, "its place is no S3 bucket: in others this holdfast cannot retain what it writes",
			"keep a replica in an S3 bucket with Object Lock, or leave lock out")
	case l.Mode == "":
		r.addAt(path+".lock", what, "it lacks the key mode", "write mode: governance, or mode: compliance")
	case l.For == 0:
		r.addAt(path+".lock", what, "it lacks the key for", "write for: 30d")
	case l.For < shortestLock:
		r.addAt(path+".lock.for", what, printDuration(l.For)+" is shorter than "+printDuration(shortestLock)+", in which nobody may notice that the agent renews nothing", "write for: 30d")
	}
}

// checkURLs refuses two repositories in one place: their objects would overwrite each other's.
func (c *Config) checkURLs(r *report) {
	seen := map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(c.Repositories)) {
		for i, rep := range c.Repositories[name].Replicas {
			place := placeAt(string(rep.URL))
			if first, ok := seen[place]; ok {
				r.addAt(index("repositories."+name+".replicas", i)+".url",
					fmt.Sprintf("repositories %s and %s are in the same place", quote(first), quote(name)),
					"a place holds one replica", "give one of them another directory or prefix")
			}
			seen[place] = name
		}
	}
}

func (c *Config) checkSystem(r *report, s System) {
	path := "systems." + string(s.Name)
	if _, ok := c.Repositories[s.Repository]; !ok {
		c.undeclared(r, path+".repository", "repository", s.Repository, slices.Sorted(maps.Keys(c.Repositories)))
	}
	if _, ok := c.Policies[s.Policy]; !ok {
		c.undeclared(r, path+".policy", "policy", s.Policy, slices.Sorted(maps.Keys(c.Policies)))
	}
	c.checkCopies(r, s)
	c.checkAssertions(r, s)
}

// checkCopies refuses a policy that asks for more sites than its systems have.
func (c *Config) checkCopies(r *report, s System) {
	repo, known := c.Repositories[s.Repository]
	p, ok := c.Policies[s.Policy]
	if !known || !ok || len(repo.Replicas) == 0 {
		return
	}
	path := "policies." + p.Name + ".copies"
	sites := make([]string, 0, len(repo.Replicas))
	for _, rep := range repo.Replicas {
		sites = append(sites, rep.Site)
	}
	for i, name := range p.Copies.Sites {
		if !slices.Contains(sites, name) {
			c.undeclared(r, index(path+".sites", i), "replica of repository "+quote(repo.Name)+" at site", name, sites)
		}
	}
	n := len(c.CopiesOf(s))
	for _, k := range []struct {
		key  string
		want int
	}{{"min", p.Copies.Min}, {"sync", p.Copies.Sync}} {
		if k.want > n {
			r.addAt(path+"."+k.key, fmt.Sprintf("policy %s asks for %d sites, and system %s has %d", quote(p.Name), k.want, quote(string(s.Name)), n),
				"its data goes to the replicas of repository "+quote(repo.Name)+" that its jurisdictions and copies.sites allow",
				"give the repository a replica at another site, or ask for fewer")
		}
	}
}

// checkSlots refuses two systems that would take each other's log.
func (c *Config) checkSlots(r *report) {
	seen := map[string]string{}
	for _, name := range c.SystemNames() {
		p := c.Systems[dr.SystemName(name)].Postgres
		slot := string(p.Connection) + "\x00" + p.Slot
		if first, ok := seen[slot]; ok {
			r.addAt("systems."+name+".postgres.slot",
				fmt.Sprintf("systems %s and %s use the same slot %s of the same server", quote(first), quote(name), quote(p.Slot)),
				"a replication slot follows one reader", "give one of them another slot")
		}
		seen[slot] = name
	}
}

func (c *Config) undeclared(r *report, path, what, name string, known []string) {
	r.addAt(path, fmt.Sprintf("%s %s is not declared", what, quote(name)), "the file declares "+listing(what, known),
		suggestion(name, known, ""))
}

func checkPolicy(r *report, p Policy) {
	path := "policies." + p.Name
	if interval := p.Schedule.Interval(); !p.Schedule.Continuous() && p.Jitter > 0 && p.Jitter >= interval {
		r.addAt(path+".jitter", fmt.Sprintf("the jitter of policy %s is not shorter than its schedule's interval", quote(p.Name)),
			fmt.Sprintf("snapshots are due every %s and would begin up to %s late", printDuration(interval), printDuration(p.Jitter)),
			"choose a jitter below "+printDuration(interval))
	}
	if p.Copies.Sync > 1 && p.Log.Acknowledge == AcknowledgeSpool {
		r.addAt(path+".log.acknowledge", fmt.Sprintf("policy %s acknowledges the log before any site has it", quote(p.Name)),
			fmt.Sprintf("log.acknowledge is spool, and copies.sync asks for %d sites", p.Copies.Sync), "set log.acknowledge to repository, or leave copies.sync out")
	}
	if o := p.Objectives; o.RPO > 0 && p.Log.Stream && p.Log.Interval > o.RPO {
		r.addAt(path+".objectives.rpo", fmt.Sprintf("policy %s cannot meet its RPO of %s", quote(p.Name), printDuration(o.RPO)),
			"the log's tail waits up to "+printDuration(p.Log.Interval)+" (log.interval)", "choose a shorter log.interval, or a longer objective")
	}
	if o := p.Objectives; o.MTD > 0 && o.RTO > o.MTD {
		r.addAt(path+".objectives.rto", fmt.Sprintf("the RTO of policy %s is longer than its MTD", quote(p.Name)),
			fmt.Sprintf("%s is more than %s", printDuration(o.RTO), printDuration(o.MTD)), "the business is lost before the objective is; correct one of them")
	}
}

// checkResidency refuses systems whose data would have to be where it may not be. Packs hold data of all systems of a residency
// group, so that these may be at the same sites.
func (c *Config) checkResidency(r *report) {
	type group struct{ repository, residency string }
	first := map[group]System{}
	for _, name := range c.SystemNames() {
		s := c.Systems[dr.SystemName(name)]
		path := "systems." + name + ".jurisdictions"
		for i, j := range s.Jurisdictions {
			if !slices.ContainsFunc(slices.Collect(maps.Values(c.Sites)), func(site dr.Site) bool { return site.Jurisdiction == j }) {
				c.undeclared(r, index(path, i), "jurisdiction", j, c.jurisdictions())
			}
		}
		if replicas := c.Repositories[s.Repository].Replicas; len(replicas) > 0 {
			if site, ok := c.Sites[replicas[0].Site]; ok && !s.MayBeAt(site) {
				r.addAt(path, fmt.Sprintf("the data of system %s may not be in repository %s", quote(name), quote(s.Repository)),
					fmt.Sprintf("that is written to at site %s, whose jurisdiction is %s", quote(site.Name), quote(site.Jurisdiction)),
					"use a repository whose first replica is at a site that is allowed, or allow this one")
			}
		}
		g := group{s.Repository, s.Residency}
		other, ok := first[g]
		if !ok {
			first[g] = s
			continue
		}
		if !slices.Equal(c.allowed(s), c.allowed(other)) {
			r.addAt(path, fmt.Sprintf("systems %s and %s may not be at the same sites, and share packs", quote(string(other.Name)), quote(name)),
				fmt.Sprintf("both are of residency group %s in repository %s", quote(s.Residency), quote(s.Repository)),
				"give one of them another residency group, or both the same jurisdictions")
		}
	}
}

// allowed returns the sites at which a system's data may be.
func (c *Config) allowed(s System) []string {
	var sites []string
	for _, name := range slices.Sorted(maps.Keys(c.Sites)) {
		if s.MayBeAt(c.Sites[name]) {
			sites = append(sites, name)
		}
	}
	return sites
}

func (c *Config) jurisdictions() []string {
	seen := map[string]bool{}
	for _, s := range c.Sites {
		if s.Jurisdiction != "" {
			seen[s.Jurisdiction] = true
		}
	}
	return slices.Sorted(maps.Keys(seen))
}
