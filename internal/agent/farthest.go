package agent

import (
	"context"
	"sync"
	"time"

	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/geo"
	"github.com/holdfast-dr/holdfast/internal/repo"
	"github.com/holdfast-dr/holdfast/internal/workspace"
)

// sitePatience is how long a site is waited for before a stream begins without it.
const sitePatience = 20 * time.Second

// farthest returns a workspace at the site whose log goes farthest, from which the stream goes on: a site that was away lacks
// what the others have got since. close ends what was opened.
func (s *systemStream) farthest(ctx context.Context) (_ *workspace.Workspace, closeIt func(), _ error) {
	others := s.ws.Others(workspace.System{System: s.system, Policy: s.policy})
	if len(others) == 0 {
		return s.ws, func() {}, nil
	}
	type candidate struct {
		ws     *workspace.Workspace
		stream repo.StreamID
		end    uint64
		err    error
	}
	all := []*candidate{{ws: s.ws}}
	for _, rep := range others {
		all = append(all, &candidate{ws: s.open(rep.Site)})
	}
	near, stop := context.WithTimeout(ctx, sitePatience)
	defer stop()
	var g sync.WaitGroup
	for _, c := range all {
		g.Go(func() {
			sys, err := c.ws.System(near, string(s.system.Name))
			if err == nil {
				c.stream, c.end, err = geo.LogEnd(near, sys.Repo.Log(string(s.system.Name)))
			}
			c.err = err
		})
	}
	g.Wait()
	best := all[0]
	for _, c := range all[1:] {
		if c.err == nil && (best.err != nil || c.stream > best.stream || c.stream == best.stream && c.end > best.end) {
			best = c
		}
	}
	for _, c := range all[1:] {
		if c != best {
			_ = c.ws.Close() // it was only read
		}
	}
	if best == all[0] {
		return s.ws, func() {}, best.err
	}
	s.log.Info("the log goes on from another site, which has more of it", "site", best.ws.Site, "first", all[0].err)
	return best.ws, func() {
		if err := best.ws.Close(); err != nil {
			s.log.Debug("a site could not be closed", dr.KeyError, err)
		}
	}, nil
}
