package config

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strings"

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
	for _, name := range slices.Sorted(maps.Keys(c.Policies)) {
		checkPolicy(r, c.Policies[name])
	}
}

func (c *Config) checkRepository(r *report, repo Repository) {
	path := "repositories." + repo.Name
	if n := len(repo.Replicas); n != 1 {
		r.addAt(path+".replicas", fmt.Sprintf("repository %s has %d replicas", quote(repo.Name), n),
			"this version writes exactly one replica", "")
	}
	for i, rep := range repo.Replicas {
		if _, ok := c.Sites[rep.Site]; !ok {
			c.undeclared(r, index(path+".replicas", i)+".site", "site", rep.Site, slices.Sorted(maps.Keys(c.Sites)))
		}
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

// checkURLs refuses two repositories in one place: their objects would overwrite each other's.
func (c *Config) checkURLs(r *report) {
	seen := map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(c.Repositories)) {
		for i, rep := range c.Repositories[name].Replicas {
			place, _, _ := strings.Cut(strings.TrimRight(string(rep.URL), "/"), "?")
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
	if o := p.Objectives; o.RPO > 0 && p.Log.Stream && p.Log.Interval > o.RPO {
		r.addAt(path+".objectives.rpo", fmt.Sprintf("policy %s cannot meet its RPO of %s", quote(p.Name), printDuration(o.RPO)),
			"the log's tail waits up to "+printDuration(p.Log.Interval)+" (log.interval)", "choose a shorter log.interval, or a longer objective")
	}
	if o := p.Objectives; o.MTD > 0 && o.RTO > o.MTD {
		r.addAt(path+".objectives.rto", fmt.Sprintf("the RTO of policy %s is longer than its MTD", quote(p.Name)),
			fmt.Sprintf("%s is more than %s", printDuration(o.RTO), printDuration(o.MTD)), "the business is lost before the objective is; correct one of them")
	}
}
