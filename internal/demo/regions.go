package demo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"time"

	"github.com/holdfast-dr/holdfast/internal/dr"
)

// siteNames are the sites of the demonstration with regions; the primary is at the first. holdfast init calls it so.
var siteNames = []string{"here", "north", "south"}

// Site is what a site holds, as geo status says.
type Site struct {
	Name      string        `json:"site"`
	Snapshots int           `json:"snapshots"`
	Point     time.Time     `json:"newestRecoveryPoint,omitzero"`
	Lag       time.Duration `json:"lagNs"` // behind the newest of all sites
	Missing   int           `json:"missing"`
	Problem   string        `json:"problem,omitempty"`
}

// replicas returns the directories of the repository's replicas.
func (d *demo) replicas() []string {
	if !d.o.Regions {
		return []string{filepath.Join(d.o.Dir, "repository")}
	}
	var dirs []string
	for _, name := range siteNames {
		dirs = append(dirs, filepath.Join(d.o.Dir, "site-"+name))
	}
	return dirs
}

var (
	siteLine    = regexp.MustCompile(`(?m)^  here: \{\}.*$`)
	replicaLine = regexp.MustCompile(`(?m)^      - \{site: here,.*$`)
)

// spread gives the repository a replica at each site.
func (d *demo) spread() error {
	text, err := os.ReadFile(d.config)
	if err != nil {
		return err
	}
	sites, replicas := "", ""
	for i, name := range siteNames[1:] {
		sites += fmt.Sprintf("\n  %s: {}", name)
		replicas += fmt.Sprintf("\n      - {site: %s, url: %q}", name, "file://"+d.replicas()[i+1])
	}
	for what, more := range map[*regexp.Regexp]string{siteLine: sites, replicaLine: replicas} {
		at := what.FindIndex(text)
		if at == nil {
			return fmt.Errorf("%s has no line that matches %s", d.config, what)
		}
		text = append(text[:at[1]:at[1]], append([]byte(more), text[at[1]:]...)...)
	}
	return os.WriteFile(d.config, text, 0o644)
}

// sites asks what each site holds. Where one of them is gone that is no error here.
func (d *demo) sites(ctx context.Context) ([]Site, error) {
	out, err := d.holdfast(ctx, "-o", "json", "geo", "status")
	var all []Site
	if json.Unmarshal(out, &all) == nil && len(all) > 0 {
		return all, nil
	}
	return nil, errors.Join(err, fmt.Errorf("geo status printed %q", out))
}

// waitCopies waits until every site can be recovered from.
func (d *demo) waitCopies(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	tick := time.NewTicker(300 * time.Millisecond)
	defer tick.Stop()
	for {
		all, err := d.sites(ctx)
		if err != nil {
			return err
		}
		ready := 0
		for _, s := range all {
			if s.Problem == "" && s.Missing == 0 {
				ready++
			}
		}
		if ready == len(siteNames) {
			d.say("   holdfast geo status: %d sites hold it", ready)
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("the agent copied the snapshot to %d of %d sites: %w", ready, len(siteNames), context.Cause(ctx))
		}
	}
}

// look finds out from which site to recover: the one that goes farthest.
func (d *demo) look(ctx context.Context) error {
	all, err := d.sites(ctx)
	if err != nil {
		return err
	}
	d.say("   holdfast geo status")
	var best Site
	for _, s := range all {
		switch {
		case s.Problem != "":
			d.say("     %-6s gone", s.Name)
			continue
		case s.Point.After(best.Point):
			best = s
		}
		d.say("     %-6s recoverable to %s UTC, %s before the disaster", s.Name, s.Point.UTC().Format("15:04:05.000"),
			max(d.ledger.disaster.Sub(s.Point), 0).Round(time.Millisecond))
	}
	d.result.Sites, d.result.From = all, best.Name
	if best.Name == "" {
		return dr.Fail("recover at another site", errors.New("no other site holds anything"), "see the agent's log in "+d.o.Dir)
	}
	return nil
}
