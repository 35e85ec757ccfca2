package sidecar

import (
	"sync"
	"time"
)

// Rest ends a sidecar that has had nothing to do for a while. What it does may take as long as it needs.
type Rest struct {
	idle  time.Duration
	timer *time.Timer

	mu   sync.Mutex // guards busy
	busy int
}

// NewRest calls stop when nothing was going on for so long as idle.
func NewRest(idle time.Duration, stop func()) *Rest {
	return &Rest{idle: idle, timer: time.AfterFunc(idle, stop)}
}

// Begin says that something begins. Done must be called when it ends.
func (r *Rest) Begin() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.busy++
	r.timer.Stop()
}

// Done says that what Begin announced has ended.
func (r *Rest) Done() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.busy--; r.busy == 0 {
		r.timer.Reset(r.idle)
	}
}

// End forgets the time: stop is not called any more, unless it is already.
func (r *Rest) End() { r.timer.Stop() }
