package capture

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/pg/wal"
	"github.com/holdfast-dr/holdfast/internal/repo"
	"github.com/holdfast-dr/holdfast/internal/sidecar"
)

// PushRequest asks an Archiver for a file that PostgreSQL archives; Path is absolute.
type PushRequest struct {
	Path string `json:"path"`
}

// PushAnswer is an Archiver's answer.
type PushAnswer struct {
	Durable bool   `json:"durable"` // the file is in the repository
	Reason  string `json:"reason,omitempty"`
	Next    string `json:"next,omitempty"`
}

// Err returns why the file is not in the repository, or nil.
func (a PushAnswer) Err() error {
	if a.Durable {
		return nil
	}
	return dr.Advise(errors.New(a.Reason), a.Next)
}

// Archiver pushes segments for the commands that archive_command starts, and works ahead: what waits beside the
// segment that was asked for is pushed too, and is there when its turn comes. It is a sidecar.
type Archiver struct {
	Log     *repo.Log // system and signer are registered
	Workers int       // 0: two for each processor that Go may use, since half of them wait for the store
	Ahead   dr.Bytes  // pushed ahead of what is asked for; 0: 1 GiB
	Idle    time.Duration

	listing sync.Mutex // guards known, and pushMarks.stored, from and listed
	known   LogIdentity

	mu     sync.Mutex // guards what follows
	jobs   map[string]*pushJob
	queue  []*pushJob // that no worker has taken, the most urgent first
	marks  map[wal.TimelineID]*pushMarks
	looked time.Time     // when pg_wal was searched for what waits
	busy   int           // segments that workers push now
	rested time.Time     // when a request or a worker ended last
	pushed []*pushJob    // that are stored, and not summed up yet
	more   chan struct{} // has room for one: something was added to queue
	marked chan struct{} // has room for one: a mark is wanted
	summed chan struct{} // has room for one: something was added to pushed
}

// pushJob is a segment that is to be pushed, or was.
type pushJob struct {
	path  string
	name  wal.Name
	id    LogIdentity
	asked bool // by PostgreSQL; others are ahead of their turn

	done chan struct{} // closed when what follows is set
	stat pushedFile
	err  error
}

const (
	archiverIdle = 30 * time.Second
	// lookEvery is the least time between two searches for what waits: a directory may have thousands of files.
	lookEvery = 100 * time.Millisecond
	// keepBuffers is how long a worker without work keeps its memory, about 32 MiB.
	keepBuffers = time.Second
	// listEvery is how long the list of what the repository has of a timeline is believed.
	listEvery = 10 * time.Second
)

// Serve answers in a place until it is idle or ctx ends.
func (a *Archiver) Serve(ctx context.Context, at sidecar.Place) error {
	if a.Workers <= 0 {
		a.Workers = min(2*runtime.GOMAXPROCS(0), 8)
	}
	if a.Ahead <= 0 {
		a.Ahead = 1 << 30
	}
	if a.Idle <= 0 {
		a.Idle = archiverIdle
	}
	a.jobs, a.marks = map[string]*pushJob{}, map[wal.TimelineID]*pushMarks{}
	a.more, a.marked, a.summed = make(chan struct{}, 1), make(chan struct{}, 1), make(chan struct{}, 1)
	ctx, stop := context.WithCancel(ctx)
	var running sync.WaitGroup
	defer running.Wait()
	defer stop()
	for range a.Workers {
		running.Go(func() { a.work(ctx) })
	}
	running.Go(func() { a.mark(ctx) })
	running.Go(func() { (&pushChanges{a: a}).run(ctx) })
	return sidecar.Serve(ctx, at, a.Idle, func(ctx context.Context, q PushRequest) (PushAnswer, bool) {
		if err := a.push(ctx, q.Path); err != nil {
			err = pushError(q.Path, err)
			// The next one begins anew, with the keys and connections of its time.
			return PushAnswer{Reason: err.Error(), Next: dr.Advice(err)}, true
		}
		return PushAnswer{Durable: true}, false
	})
}

// push answers for one file.
func (a *Archiver) push(ctx context.Context, path string) error {
	if !isSegment(path) {
		_, err := Push(ctx, a.Log, path)
		return err
	}
	name, id, err := identifySegment(path)
	if err == nil {
		err = a.check(ctx, id)
	}
	if err != nil {
		return err
	}
	if name.Kind != wal.Segment {
		_, err := Push(ctx, a.Log, path)
		return err
	}
	for {
		j := a.want(path, name, id)
		select {
		case <-j.done:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		if j.err != nil {
			if !a.forget(j) {
				continue // it failed ahead of its turn, and another request has begun anew
			}
			return j.err
		}
		// A file that was made anew under the name is not the one that was pushed.
		if stat, err := statPushed(path); err != nil {
			return err
		} else if stat != j.stat {
			a.forget(j)
			continue
		}
		return a.untilMarked(ctx, j)
	}
}

// check refuses the log of another server than the repository has, which is read once.
func (a *Archiver) check(ctx context.Context, id LogIdentity) error {
	a.listing.Lock()
	defer a.listing.Unlock()
	if a.known == id {
		return nil
	}
	err := checkLogIdentity(ctx, a.Log, id)
	if err == nil {
		a.known = id
	}
	return err
}

// want returns the job of what is asked for now, and makes jobs of what waits to be asked for.
func (a *Archiver) want(path string, name wal.Name, id LogIdentity) *pushJob {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.rested = time.Now()
	for k, j := range a.jobs { // what was archived is not asked for again
		if j.name.Timeline != name.Timeline || j.name.Start < name.Start {
			delete(a.jobs, k)
		}
	}
	a.marksLocked(name.Timeline).ask(name.Start)
	j := a.jobs[path]
	if j == nil || isClosed(j.done) && j.err != nil {
		j = a.addLocked(&pushJob{path: path, name: name, id: id})
	}
	j.asked = true
	if len(a.queue) < a.Workers && time.Since(a.looked) >= lookEvery {
		a.lookLocked(path, name, id)
	}
	slices.SortStableFunc(a.queue, func(x, y *pushJob) int { return compareLSN(x.name.Start, y.name.Start) })
	return j
}

func (a *Archiver) addLocked(j *pushJob) *pushJob {
	j.done = make(chan struct{})
	a.jobs[j.path] = j
	a.queue = append(a.queue, j)
	wake(a.more)
	return j
}

// lookLocked makes jobs of the segments of name's timeline that wait to be archived after it.
func (a *Archiver) lookLocked(path string, name wal.Name, id LogIdentity) {
	a.looked = time.Now()
	dir := filepath.Dir(path)
	entries, err := os.ReadDir(filepath.Join(dir, "archive_status"))
	if err != nil {
		return // not called from a data directory: then there is nothing to work ahead on
	}
	limit := name.Start + wal.LSN(a.Ahead)
	for _, e := range entries {
		base, ready := strings.CutSuffix(e.Name(), ".ready")
		if !ready {
			continue
		}
		// Of this timeline only: the history of another one must be in the repository before its log.
		n, err := wal.ParseName(base, id.SegmentSize)
		if err != nil || n.Kind != wal.Segment || n.Timeline != name.Timeline || n.Start <= name.Start || n.Start >= limit {
			continue
		}
		if p := filepath.Join(dir, base); a.jobs[p] == nil {
			a.addLocked(&pushJob{path: p, name: n, id: id})
		}
	}
}

// forget gives a job up, whose answer is then the caller's; false where it is not the one of its path any more.
func (a *Archiver) forget(j *pushJob) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.jobs[j.path] != j {
		return false
	}
	delete(a.jobs, j.path)
	return true
}

func (a *Archiver) work(ctx context.Context) {
	w := newPushWorker(a.Log)
	for {
		j, backlog := a.next()
		if j == nil {
			select {
			case <-a.more:
				continue
			case <-time.After(keepBuffers):
				w = newPushWorker(a.Log) // a resting archiver holds no memory of the server's host
			case <-ctx.Done():
				return
			}
			select {
			case <-a.more:
				continue
			case <-ctx.Done():
				return
			}
		}
		how := repo.Small
		if backlog {
			how = repo.Fast
		}
		stored, err := a.stored(ctx, j.name)
		if err == nil {
			j.stat, err = w.segment(ctx, j.path, j.name, j.id, stored, how)
		}
		a.finish(j, err)
	}
}

// next takes the most urgent job, and tells whether PostgreSQL is ahead of us: then speed counts more than size.
// Whoever takes one wakes another worker: more counts to one only.
func (a *Archiver) next() (j *pushJob, backlog bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.queue) == 0 {
		return nil, false
	}
	j, a.queue = a.queue[0], a.queue[1:]
	a.busy++
	if len(a.queue) > 0 {
		wake(a.more)
	}
	return j, len(a.jobs) > 2
}

// finish ends a job. After a failure nothing more is pushed ahead: what is asked for next finds out.
func (a *Archiver) finish(j *pushJob, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	j.err = err
	a.busy--
	a.rested = time.Now()
	if err == nil {
		a.marksLocked(j.name.Timeline).done(j.name.Start, j.name.Start+wal.LSN(j.id.SegmentSize))
		wake(a.marked)
		a.sumLocked(j)
	} else {
		a.queue = slices.DeleteFunc(a.queue, func(q *pushJob) bool {
			if !q.asked {
				delete(a.jobs, q.path)
			}
			return !q.asked
		})
		if !j.asked && a.jobs[j.path] == j {
			delete(a.jobs, j.path)
		}
	}
	close(j.done)
}

func wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

func isClosed(c chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}
