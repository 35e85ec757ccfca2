package agent

import (
	"runtime"

	"github.com/holdfast-dr/holdfast/internal/config"
	"github.com/holdfast-dr/holdfast/internal/dr"
)

// What the parts take at most, as capture.LogWriter and repo.Writer say of themselves.
const (
	blockMemory  dr.Bytes = 16 << 20 // a block of a log stream
	streamMemory dr.Bytes = 96 << 20 // the rest of a log stream when it has a backlog
	workerMemory dr.Bytes = 48 << 20 // a worker of a snapshot: its buffers, and a pack that is uploaded
	slackMemory  dr.Bytes = 64 << 20 // the program itself, the index, what the collector of garbage has not found
	fewestBlocks          = 3
	mostBlocks            = 8
)

// share is how the memory budget is shared out.
type share struct {
	blocks  int           // of each log stream
	workers int           // of each snapshot
	heavy   chan struct{} // a place for each task that may run at once, over all systems
	limit   int64         // for Go's collector of garbage: the last line of defence
	short   bool          // the budget does not suffice
}

// shareOut gives every log stream what it needs, then one task its workers, then whoever gains by more: further
// tasks at once, and deeper buffers for the streams.
func shareOut(c *config.Config, systems []config.System) share {
	var streams dr.Bytes
	for _, s := range systems {
		if c.PolicyOf(s).Log.Stream {
			streams++
		}
	}
	left := c.Agent.Memory - streams*(streamMemory+fewestBlocks*blockMemory)
	procs := dr.Bytes(runtime.GOMAXPROCS(0))
	s := share{blocks: fewestBlocks, workers: int(min(procs, max(1, left/workerMemory)))}
	left -= dr.Bytes(s.workers) * workerMemory
	s.short = left < 0
	s.limit = int64(c.Agent.Memory + slackMemory)
	if s.short {
		// A collector that fights for memory that is in use would take the processors as well.
		s.limit -= int64(left)
		left = 0
	}
	tasks := 1 + left/(2*dr.Bytes(s.workers)*workerMemory)
	s.heavy = make(chan struct{}, max(1, min(tasks, dr.Bytes(len(systems)))))
	left -= dr.Bytes(cap(s.heavy)-1) * dr.Bytes(s.workers) * workerMemory
	if streams > 0 {
		s.blocks = int(min(mostBlocks, fewestBlocks+left/(streams*blockMemory)))
	}
	return s
}
