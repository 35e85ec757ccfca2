package walserve

import (
	"runtime"
	"time"

	"github.com/holdfast-dr/holdfast/internal/repo"
	"github.com/holdfast-dr/holdfast/internal/restore/machine"
)

// reach is how far a Prefetcher looks ahead.
type reach struct {
	ahead, workers       int // segments that are kept ready, and fetched at once
	maxAhead, maxWorkers int
	start                func() // starts a worker
}

// The bounds of a look-ahead that widens.
const (
	firstAhead = 128 << 20 // bytes of segments, in the spool
	mostAhead  = 1 << 30
	maxWorkers = 16
	// workerMemory is what one worker holds at most: an extent as it is stored, and its plain bytes.
	workerMemory = 2 * repo.MaxExtent
)

// firstReach is where the look-ahead begins, and how wide it may become: the spool takes a quarter of the disk's free
// space at most, and the workers an eighth of the free memory, for the server that recovers beside them needs the rest.
func (p *Prefetcher) firstReach() reach {
	size := int64(p.Source.size)
	r := reach{ahead: p.Ahead, workers: p.Workers, maxAhead: p.Ahead, maxWorkers: p.Workers}
	if r.ahead == 0 {
		r.ahead = int(max(1, firstAhead/size))
		r.maxAhead = max(r.ahead, int(min(mostAhead, p.in.free()/4)/size))
	}
	if r.workers == 0 {
		r.workers = min(2*runtime.GOMAXPROCS(0), 8) // half of them wait for the store
		r.maxWorkers = max(r.workers, min(maxWorkers, int(machine.FreeMemory()/8/workerMemory)))
	}
	return r
}

// foresight is how a request finds its segment.
type foresight int

const (
	unforeseen foresight = iota // the first one, or one on another timeline
	again                       // it was served last
	late                        // it is being fetched
	ready                       // it is there
)

// Stats count what a recovery asked for, and whether it had to wait.
type Stats struct {
	Segments   int           `json:"segments"`   // that were served, whole
	Ready      int           `json:"ready"`      // of them: were there when they were asked for
	Late       int           `json:"late"`       // were being fetched
	Unforeseen int           `json:"unforeseen"` // nobody expected: the first one, or one on another timeline
	Again      int           `json:"again"`      // asked for twice in a row: PostgreSQL reads the last one again when its recovery ends
	Waited     time.Duration `json:"waitedNs"`   // for those that were not ready
}

// Stats returns what was served so far.
func (p *Prefetcher) Stats() Stats {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.stats
}

// count notes how a segment was found.
func (p *Prefetcher) count(name string, how foresight, waited time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stats.Segments++
	if how == unforeseen && name == p.last {
		how = again
	}
	p.last = name
	switch how {
	case ready:
		p.stats.Ready++
		return
	case late:
		p.stats.Late++
		p.widenLocked()
	case again:
		p.stats.Again++
	case unforeseen:
		p.stats.Unforeseen++
	}
	p.stats.Waited += waited
}

// widenLocked doubles the look-ahead, and what is fetched at once: the replay has caught up with the store. That is all
// that needs to be measured. Whether it is the store's latency, its rate or the size of the segments, more requests at
// once hide it, up to what the line and this machine can do; and then there is nothing left to be done.
func (p *Prefetcher) widenLocked() {
	r := &p.reach
	r.ahead = min(2*r.ahead, r.maxAhead)
	for more := min(r.workers, r.maxWorkers-r.workers); more > 0; more-- {
		r.workers++
		r.start()
	}
}
