package geo

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/repo"
	"github.com/holdfast-dr/holdfast/internal/store"
)

// FanOptions are those of NewFan.
type FanOptions struct {
	// Sync is at how many sites an object is before Put returns; at least 1.
	Sync int
	// Patience is how long Put waits for them. Then those that do not answer are given up, and what the others have
	// suffices until enough have joined again. Zero is for ever.
	Patience time.Duration
	// Free are the prefixes of objects that depend on no others: those may overtake each other at a site.
	Free []string
	// Known is told which member has how much of the log. Replica is the name of the first member's.
	Known   *repo.Holders // may be nil
	Replica string
	Log     *slog.Logger // may be nil
}

// Fan is a store whose objects are written at several sites at once. A site counts for an object when it has everything that was
// written before, too. It is the store of a system's log while that is received.
//
// A site is a member, or it is behind: it failed, or was too slow. Joining it takes its part again, with what it lacks. A member that
// alone has what was acknowledged stays one: what fails there fails. What is read comes from the member that is farthest.
type Fan struct {
	opts FanOptions
	ctx  context.Context //nolint:containedctx // of what goes on at sites after the call that began it has ended
	stop context.CancelFunc
	work sync.WaitGroup

	mu      sync.Mutex // guards what follows, and members; not held during I/O
	changed chan struct{}
	seq     uint64 // of the last operation
	acked   uint64 // the last one of which a caller was told that it is done
	sites   []*fanSite
	short   time.Time // since when there are fewer members than Sync; zero: there are enough
	gaveUp  bool      // objects have been acknowledged with fewer since
}

type fanSite struct {
	name   string
	member *member // nil: it is behind
	err    error   // why it is, or was
	since  time.Time
}

// member is a site that takes part.
type member struct {
	store  store.Store
	close  func()
	joined bool // it has all that was written before it became a member
	queue  []*fanOp
	flying []*fanOp // that are being done, in no order
	work   sync.WaitGroup
	bytes  int    // of both
	last   uint64 // operation that was put into the queue
	done   uint64 // it has all operations up to this one
}

type fanOp struct {
	name   string // of the object that it puts; empty where it puts none
	seq    uint64
	size   int
	do     func(context.Context, store.Store) error
	order  order
	failed error // at a member that stays one
}

// order says which operations may overtake each other at a site.
type order byte

const (
	free     order = iota // parts of the log and their summaries: each other
	deletion              // each other
	strict                // none: it says something of what came before, or what comes needs it
)

const (
	// maxQueued is how many bytes wait for a member before it is too slow.
	maxQueued = 48 << 20
	// maxFlying is how many operations are done at once at a member: one far away gets what a near one takes.
	maxFlying = 16
)

var (
	errSlow   = errors.New("it takes less than is written")
	errClosed = errors.New("the log is no longer written")
)

// NewFan returns a Fan of sites with one member, whose store it does not close. The others are behind.
func NewFan(ctx context.Context, sites []string, site string, st store.Store, o FanOptions) *Fan {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Known == nil {
		o.Known = repo.NewHolders()
	}
	f := &Fan{opts: o, changed: make(chan struct{})}
	f.ctx, f.stop = context.WithCancel(context.WithoutCancel(ctx))
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, name := range sites {
		s := &fanSite{name: name, since: time.Now(), err: errors.New("it has not joined yet")}
		f.sites = append(f.sites, s)
		if name == site {
			o.Known.Join(name, o.Replica, nil)
			f.addLocked(s, &member{store: st, close: func() {}, joined: true})
		}
	}
	f.countLocked()
	return f
}

// addLocked makes a site a member.
func (f *Fan) addLocked(s *fanSite, m *member) {
	s.member, m.last, m.done = m, f.seq, f.seq
	f.work.Go(func() { f.run(s, m) })
}

// run does what is written at a site.
func (f *Fan) run(s *fanSite, m *member) {
	defer m.close()
	defer m.work.Wait()
	f.mu.Lock()
	defer f.mu.Unlock()
	for s.member == m {
		if m.mayBegin() {
			op := m.queue[0]
			m.queue, m.flying = m.queue[1:], append(m.flying, op)
			m.work.Go(func() { f.perform(s, m, op) })
			continue
		}
		if f.waitLocked(f.ctx, -1) != nil {
			return
		}
	}
}

// mayBegin tells whether the next operation may be done beside those that are.
func (m *member) mayBegin() bool {
	if len(m.queue) == 0 || len(m.flying) == maxFlying {
		return false
	}
	return len(m.flying) == 0 || m.flying[0].order == m.queue[0].order && m.queue[0].order != strict
}

// perform does one operation at a site.
func (f *Fan) perform(s *fanSite, m *member, op *fanOp) {
	err := op.do(f.ctx, m.store)
	f.mu.Lock()
	defer f.mu.Unlock()
	if s.member != m {
		return
	}
	if err != nil && f.mayDropLocked(m) {
		f.dropLocked(s, err)
		return
	}
	if op.failed = err; err == nil && op.name != "" {
		f.opts.Known.Put(s.name, op.name) // before whoever waits for it goes on
	}
	m.flying = slices.DeleteFunc(m.flying, func(o *fanOp) bool { return o == op })
	m.bytes -= op.size
	m.done = m.last
	if len(m.queue) > 0 {
		m.done = m.queue[0].seq - 1
	}
	for _, o := range m.flying {
		m.done = min(m.done, o.seq-1)
	}
	f.broadcastLocked()
}

// mayDropLocked tells whether somebody else has everything that was acknowledged. Some member always has, so what fails at one
// that may not be dropped has not been: whoever waits for it is told.
func (f *Fan) mayDropLocked(m *member) bool {
	return !m.joined || slices.ContainsFunc(f.sites, func(s *fanSite) bool {
		return s.member != nil && s.member != m && s.member.joined && s.member.done >= f.acked
	})
}

// dropLocked ends a site's membership: what it has may lack any operation from now on.
func (f *Fan) dropLocked(s *fanSite, err error) {
	joined := s.member.joined
	s.member, s.err, s.since = nil, err, time.Now()
	f.opts.Known.Leave(s.name)
	if joined && f.ctx.Err() == nil {
		f.opts.Log.Warn("the log is no longer written at this site; it joins again when it has caught up", "site", s.name, dr.KeyError, err)
	}
	f.countLocked()
	f.broadcastLocked()
}

func (f *Fan) joinedLocked() (n int) {
	for _, s := range f.sites {
		if s.member != nil && s.member.joined {
			n++
		}
	}
	return n
}

// countLocked notes whether there are enough members.
func (f *Fan) countLocked() {
	n := f.joinedLocked()
	switch {
	case n < f.opts.Sync && f.short.IsZero():
		f.short = time.Now()
	case n >= f.opts.Sync && !f.short.IsZero():
		if f.gaveUp {
			f.opts.Log.Info("enough sites write the log again", "sites", n, "since", f.short)
		}
		f.short, f.gaveUp = time.Time{}, false
	}
}

func (f *Fan) broadcastLocked() {
	close(f.changed)
	f.changed = make(chan struct{})
}

// write does an operation at all members, and returns when need of them have done it, and everything before it.
func (f *Fan) write(ctx context.Context, op *fanOp, need int) error {
	began := time.Now()
	f.mu.Lock()
	defer f.mu.Unlock()
	f.seq++
	op.seq = f.seq
	for _, s := range f.sites {
		m := s.member
		switch {
		case m == nil:
		case m.bytes > 0 && m.bytes+op.size > maxQueued && f.mayDropLocked(m):
			f.dropLocked(s, errSlow)
		default:
			m.queue, m.bytes, m.last = append(m.queue, op), m.bytes+op.size, op.seq
		}
	}
	f.broadcastLocked()
	for {
		have, want := f.haveLocked(op.seq), f.wantedLocked(need)
		switch {
		case op.failed != nil:
			return op.failed
		case have >= want:
			f.acked = max(f.acked, op.seq)
			if want < need && !f.gaveUp {
				f.gaveUp = true
				f.opts.Log.Error("the log is acknowledged at fewer sites than the policy says", "sites", have, "wanted", need)
			}
			return nil
		}
		late := time.Duration(-1)
		if f.opts.Patience > 0 {
			if late = f.opts.Patience - time.Since(began); late <= 0 && have > 0 {
				f.giveUpLocked(op.seq, began)
				continue
			}
			if d := f.opts.Patience - time.Since(f.short); !f.short.IsZero() && d > 0 && (late < 0 || d < late) {
				late = d
			}
		}
		if err := f.waitLocked(ctx, late); err != nil {
			return err
		}
	}
}

// wantedLocked returns how many members have to do an operation: as many as there are, where there have been fewer than need for
// longer than the patience.
func (f *Fan) wantedLocked(need int) int {
	if f.opts.Patience <= 0 || f.short.IsZero() || time.Since(f.short) < f.opts.Patience {
		return need
	}
	return min(need, max(f.joinedLocked(), 1))
}

// giveUpLocked gives up the members that have not done an operation since began.
func (f *Fan) giveUpLocked(seq uint64, began time.Time) {
	for _, s := range f.sites {
		if m := s.member; m != nil && m.joined && m.done < seq && f.mayDropLocked(m) {
			f.dropLocked(s, fmt.Errorf("it has not answered for %s", f.opts.Patience))
		}
	}
	if !f.short.IsZero() && f.short.After(began) {
		f.short = began // they are missing since then
	}
}

// haveLocked returns how many members have done an operation.
func (f *Fan) haveLocked(seq uint64) (n int) {
	for _, s := range f.sites {
		if m := s.member; m != nil && m.joined && m.done >= seq {
			n++
		}
	}
	return n
}

// waitLocked lets others work until something changes, or for d where that is not negative.
func (f *Fan) waitLocked(ctx context.Context, d time.Duration) error {
	changed := f.changed
	f.mu.Unlock()
	defer f.mu.Lock()
	var late <-chan time.Time
	if d >= 0 {
		t := time.NewTimer(max(d, time.Millisecond))
		defer t.Stop()
		late = t.C
	}
	select {
	case <-changed:
	case <-late:
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-f.ctx.Done():
		return errClosed
	}
	return nil
}

func (f *Fan) siteLocked(name string) *fanSite {
	for _, s := range f.sites {
		if s.name == name {
			return s
		}
	}
	return nil
}

// readerLocked returns the member that is farthest; of several the first. nil: it has ended.
func (f *Fan) readerLocked() (best *fanSite) {
	for _, s := range f.sites {
		if m := s.member; m != nil && m.joined && (best == nil || m.done > best.member.done) {
			best = s
		}
	}
	return best
}

// End ends everything: what members have not done within the time that ctx gives they do not do.
func (f *Fan) End(ctx context.Context) {
	f.mu.Lock()
	for {
		waiting := false
		for _, s := range f.sites {
			waiting = waiting || s.member != nil && s.member.done < f.seq
		}
		if !waiting || f.waitLocked(ctx, -1) != nil {
			break
		}
	}
	f.stop()
	for _, s := range f.sites {
		if s.member != nil {
			s.member, s.err = nil, errClosed
		}
	}
	f.broadcastLocked()
	f.mu.Unlock()
	f.work.Wait()
}
