package agent

import (
	"context"
	"sync"
	"time"

	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/standby"
	"github.com/holdfast-dr/holdfast/internal/workspace"
)

// standbysEvery is how old a standby's status may be that the agent tells.
const standbysEvery = 2 * time.Second

// standbys are the standbys of this host that others keep (holdfast standby run): the agent only tells of them.
type standbys struct {
	mu  sync.Mutex // guards all
	all map[dr.SystemName]*standby.Status
}

// watch asks how they stand until ctx ends.
func (s *standbys) watch(ctx context.Context, w *workspace.Workspace, keepers []*keeper) {
	tick := time.NewTicker(standbysEvery)
	defer tick.Stop()
	for {
		now := map[dr.SystemName]*standby.Status{}
		for _, k := range keepers {
			if st, ok, err := standby.Ask(ctx, w, string(k.system.Name)); err == nil && ok {
				now[k.system.Name] = &st
			}
		}
		s.mu.Lock()
		s.all = now
		s.mu.Unlock()
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// of returns the status of a system's standby; nil where none was ever kept here.
func (s *standbys) of(system dr.SystemName) *standby.Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.all[system]
}
