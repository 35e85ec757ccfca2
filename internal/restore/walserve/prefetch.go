package walserve

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/holdfast-dr/holdfast/internal/pg/wal"
	"github.com/holdfast-dr/holdfast/internal/sidecar"
)

// SpoolName is the directory in pg_wal that holds the Prefetcher's socket and the segments that it has ready.
// There they only need to be renamed.
const SpoolName = "holdfast.prefetch"

const (
	lockName   = "lock"
	socketName = sidecar.SocketName
	// stopName is the request that ends the Prefetcher.
	stopName = "stop"
)

// Prefetcher answers requests and fetches the segments ahead that will be asked for next. Each request costs
// its process a connection; keys are unlocked once. Where it is root's, it serves its Source's owner: see place and
// peer.go. It begins with a look-ahead for a store that is near; each segment that was foreseen, and yet is not there
// when it is asked for, makes it wider: see widen.
type Prefetcher struct {
	Source *Source
	// Begin is the first segment of the recovery, which is fetched before anybody asks; empty: nobody knows it.
	Begin string
	// Way is the recovery's, so that its changes of timeline are foreseen; nil: every one comes as a surprise.
	Way     *wal.Timelines
	Ahead   int           // segments that are kept ready; 0: 128 MiB worth of them, at least one, and more where that is too little
	Workers int           // fetched at once; 0: two for each processor that Go may use, and more where those are too few
	Idle    time.Duration // without a request for so long, Run returns; 0: 30 s
	// Listening is called once requests are answered; nil: nobody waits for that.
	Listening func()

	in *place // the server's pg_wal

	mu    sync.Mutex // guards what follows, but not the channel
	slots map[string]*slot
	begun bool   // Begin was asked for
	last  string // segment that was served
	reach reach
	stats Stats
	more  chan struct{} // has room for one: something was added to slots
}

// slot is a file that is being fetched, or is ready in the spool.
type slot struct {
	name  string
	order int
	ahead bool          // nobody has asked for it when a worker took it
	taken bool          // by a worker
	done  chan struct{} // closed when file is set
	file  file
}

// request is what a client sends, as a line of JSON; the answer is a Result.
type request struct {
	Name string `json:"name"`
	File string `json:"file"` // that it becomes, in the directory that is served: a plain name
}

func (p *Prefetcher) setDefaults() {
	p.reach = p.firstReach()
	if p.Idle == 0 {
		p.Idle = 30 * time.Second
	}
	p.slots, p.more = map[string]*slot{}, make(chan struct{}, 1)
	p.begun = p.Begin == ""
}

// Run serves requests in a data directory's pg_wal until it is idle, is told to stop, or ctx ends. Where
// another Prefetcher serves it already, Run returns nil at once. It leaves nothing behind.
func (p *Prefetcher) Run(ctx context.Context, walDir string) error {
	var err error
	if p.in, err = openPlace(walDir, p.Source.Owner); err != nil {
		return err
	}
	defer p.in.close()
	p.setDefaults()
	if err := p.in.mkdir(SpoolName); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	lock, err := p.in.open(p.path(lockName), os.O_CREATE|os.O_RDWR)
	if err != nil {
		return err
	}
	defer lock.Close() //nolint:errcheck // nothing was written
	if unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil {
		return nil
	}
	// What a dead one left behind may be half written.
	if err := p.sweep(); err != nil {
		return err
	}
	l, err := p.in.listen(SpoolName)
	if err != nil {
		return err
	}
	err = p.serve(ctx, l)
	return errors.Join(err, p.in.removeAll(SpoolName))
}

func (p *Prefetcher) sweep() error {
	entries, err := p.in.list(SpoolName)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.Name() != lockName {
			err = errors.Join(err, p.in.remove(p.path(e.Name())))
		}
	}
	return err
}

func (p *Prefetcher) serve(ctx context.Context, l net.Listener) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	rest := sidecar.NewRest(p.Idle, stop)
	defer rest.End()
	context.AfterFunc(ctx, func() { l.Close() }) //nolint:errcheck // ends Accept
	if p.Listening != nil {
		p.Listening()
	}
	var eg errgroup.Group
	eg.SetLimit(maxWorkers + maxClients)
	p.begin(ctx, &eg)
	for {
		conn, err := l.Accept()
		if err != nil {
			break // closed, by whatever made ctx end
		}
		rest.Begin()
		eg.Go(func() error {
			defer rest.Done()
			p.answer(ctx, conn, stop)
			return nil
		})
	}
	stop()
	return eg.Wait()
}

// begin starts the workers, and fetching where the recovery will begin. Those that widen adds are started by the worker that
// sees them missing.
func (p *Prefetcher) begin(ctx context.Context, eg *errgroup.Group) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if n, err := wal.ParseName(p.Begin, p.Source.size); err == nil && n.Kind == wal.Segment {
		p.aheadLocked(n)
	}
	p.reach.start = func() { eg.Go(func() error { return p.work(ctx) }) }
	for range p.reach.workers {
		p.reach.start()
	}
}

// answer reads one request and answers it. A client that goes away is no error of ours.
func (p *Prefetcher) answer(ctx context.Context, conn net.Conn, stop func()) {
	defer conn.Close() //nolint:errcheck // the client sees a missing answer
	q, ok := p.receive(ctx, conn)
	if !ok {
		return
	}
	if q.Name == stopName {
		stop()
		return
	}
	r := p.get(ctx, q)
	if ctx.Err() != nil && r.Outcome != Served {
		return // it is ending: without an answer the client looks for itself
	}
	json.NewEncoder(conn).Encode(r) //nolint:errcheck // as above
}

// get waits for a file and moves it to where it is wanted.
func (p *Prefetcher) get(ctx context.Context, q request) Result {
	n, err := wal.ParseName(q.Name, p.Source.size)
	if err != nil {
		return Result{Outcome: BadRequest, Name: q.Name, Reason: err.Error()}
	}
	if !isPlain(q.File) {
		return Result{Outcome: BadRequest, Name: q.Name, Reason: "the file is to be made elsewhere than in pg_wal"}
	}
	asked := time.Now()
	how := unforeseen
	for try := 0; ; try++ {
		s, was := p.want(n, q.Name)
		if try == 0 {
			how = was
		}
		select {
		case <-s.done:
		case <-ctx.Done():
			return failed(q.Name, errors.New("the prefetcher is ending"))
		}
		if !p.drop(s) {
			continue // another request, whose client is gone by now, took the file
		}
		if s.ahead && !s.file.whole {
			continue // it was looked for in haste: now look properly
		}
		if s.file.Outcome != Served {
			return s.file.Result
		}
		if err := p.in.rename(p.path(q.Name), q.File); err != nil {
			return failed(q.Name, err)
		}
		if n.Kind == wal.Segment && s.file.whole {
			p.count(q.Name, how, time.Since(asked))
		}
		return s.file.Result
	}
}

// path returns where a file of the spool is in the directory that is served.
func (p *Prefetcher) path(name string) string { return filepath.Join(SpoolName, name) }

// want returns the slot of what is asked for now, and how it finds it, and makes slots of what will be asked for next.
// Slots that the recovery has passed by are given up.
func (p *Prefetcher) want(n wal.Name, name string) (*slot, foresight) {
	p.mu.Lock()
	defer p.mu.Unlock()
	how := unforeseen
	if old := p.slots[name]; old != nil {
		if how = late; isDone(old) {
			how = ready
		}
	}
	s := p.addLocked(name, 0)
	if n.Kind != wal.Segment {
		return s, how
	}
	next := n
	next.Segment++
	keep := p.aheadLocked(next)
	keep[name] = true
	p.begun = p.begun || name == p.Begin
	for k, old := range p.slots {
		// The checkpoint's record, which PostgreSQL reads first, may lie some segments behind its redo position.
		if !keep[k] && p.begun && old.order > 0 && (!old.taken || isDone(old)) {
			delete(p.slots, k)
			p.in.remove(p.path(k)) //nolint:errcheck // it may never have been there
		}
	}
	return s, how
}

// aheadLocked makes slots for the segments from one on as far as the look-ahead goes, and returns their names.
func (p *Prefetcher) aheadLocked(n wal.Name) map[string]bool {
	names := map[string]bool{}
	for i := range p.reach.ahead {
		name := p.name(n.Timeline, n.Segment+wal.SegmentNumber(i))
		names[name] = true
		p.addLocked(name, i+1)
	}
	return names
}

// name is that by which a recovery on a timeline asks for a segment: PostgreSQL tries the newest timeline of its way that
// has begun in it first (xlogrecovery.c, XLogFileReadAnyTLI).
func (p *Prefetcher) name(tl wal.TimelineID, n wal.SegmentNumber) string {
	if p.Way != nil {
		tl = max(tl, p.Way.At(p.Source.size.Start(n+1)-1))
	}
	return wal.SegmentName(tl, n, p.Source.size)
}

func (p *Prefetcher) addLocked(name string, order int) *slot {
	s := p.slots[name]
	// An answer that may change is not kept for the next request.
	if s != nil && isDone(s) && !s.file.whole {
		s = nil
	}
	if s == nil {
		s = &slot{name: name, order: order, done: make(chan struct{})}
		p.slots[name] = s
		select {
		case p.more <- struct{}{}:
		default:
		}
	}
	s.order = min(s.order, order)
	return s
}

func isDone(s *slot) bool {
	select {
	case <-s.done:
		return true
	default:
		return false
	}
}

// drop forgets a slot, whose answer and file then are the caller's; false where another one was faster.
func (p *Prefetcher) drop(s *slot) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.slots[s.name] != s {
		return false
	}
	delete(p.slots, s.name)
	return true
}

// work fetches slots, what is asked for now before what will be.
func (p *Prefetcher) work(ctx context.Context) error {
	a := p.Source.assembler()
	for {
		s := p.next()
		if s == nil {
			select {
			case <-p.more:
				continue
			case <-ctx.Done():
				return nil
			}
		}
		s.file = a.get(ctx, s.name, p.in, p.path(s.name), haste(s.ahead))
		close(s.done)
	}
}

// next takes the most urgent slot. Whoever takes one wakes another worker: more counts to one only.
func (p *Prefetcher) next() *slot {
	p.mu.Lock()
	defer p.mu.Unlock()
	var best *slot
	waiting := 0
	for _, s := range p.slots {
		if s.taken {
			continue
		}
		waiting++
		if best == nil || s.order < best.order || (s.order == best.order && s.name < best.name) {
			best = s
		}
	}
	if best == nil {
		return nil
	}
	best.taken, best.ahead = true, best.order > 0
	if waiting > 1 {
		select {
		case p.more <- struct{}{}:
		default:
		}
	}
	return best
}
