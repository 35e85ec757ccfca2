package repo

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/cryptotest"
	"testing/synctest"
	"time"

	"github.com/holdfast-dr/holdfast/internal/seal"
	"github.com/holdfast-dr/holdfast/internal/store"
	"github.com/holdfast-dr/holdfast/internal/store/storetest"
)

var (
	modelSeed  = flag.Uint64("model.seed", 0, "run this one history of the collection's model test")
	modelRuns  = flag.Int("model.runs", 3, "how many histories the collection's model test runs")
	modelSteps = flag.Int("model.steps", 2000, "calls to the store in each of them")
)

// TestCollectionModel lets processes write, forget, read and collect at once, one call to the store at a time, in an
// order that a seed decides. Processes pause for long, die before or after a call's effect, see calls fail that had
// an effect, or will have it later. After every change each listed snapshot must restore completely.
func TestCollectionModel(t *testing.T) {
	runModel(t, *modelRuns, func(s *sim) { s.ops, s.someFiles = plainOps, someFiles })
}

// runModel runs histories with what prepare puts into them.
func runModel(t *testing.T, runs int, prepare func(s *sim)) {
	t.Helper()
	seeds := []uint64{*modelSeed}
	if *modelSeed == 0 {
		seeds = nil
		for range runs {
			seeds = append(seeds, rand.Uint64N(1<<32)+1)
		}
	}
	for _, seed := range seeds {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			cryptotest.SetGlobalRandom(t, seed)
			s := newSim(t, seed)
			prepare(s)
			synctest.Test(t, s.run)
			if t.Failed() {
				name, _, _ := strings.Cut(t.Name(), "/")
				t.Logf("again: go test ./internal/repo -run %s -model.seed=%d -model.steps=%d", name, seed, *modelSteps)
			}
		})
	}
}

// sim is one history.
type sim struct {
	rnd  *rand.Rand
	st   *storetest.Memory
	far  *storetest.Memory // another replica; nil: there is none
	keys *seal.Keyring
	sign *seal.Signer
	ops  []modelOp
	// someFiles makes the content of a snapshot that carries nothing over.
	someFiles func(*rand.Rand) files
	carries   bool // contents are large: not all are read after every change

	mu       sync.Mutex // guards what follows
	waiting  []*call
	expected map[SnapshotID]files
	stopping bool
	step     int
	hurt     uint32 // the last collection whose end was damaged; 0 none
	late     []func()
	done     map[string]int // what happened how often
}

// call is a call to the store that waits for its turn.
type call struct {
	p      *process
	op     string
	name   string
	effect func() error
	reply  chan error
}

// process is a process on some machine: it lives until it is killed, and is then started again.
type process struct {
	*storetest.Memory // for the methods that need no turn
	s                 *sim
	number            int
	rnd               *rand.Rand
	dead              atomic.Bool
	pausedUntil       int
}

func newSim(t *testing.T, seed uint64) *sim {
	st := storetest.NewMemory()
	r := newRepository(t, st)
	return &sim{
		rnd: rand.New(rand.NewPCG(seed, 7)), st: st, keys: r.keys, sign: r.opts.Signer,
		expected: map[SnapshotID]files{}, done: map[string]int{},
	}
}

const processes = 5

func (s *sim) run(t *testing.T) {
	var wg sync.WaitGroup
	ps := make([]*process, processes)
	for i := range ps {
		p := &process{Memory: s.st, s: s, number: i, rnd: rand.New(rand.NewPCG(s.rnd.Uint64(), 3))}
		ps[i] = p
		wg.Go(func() { p.live(t) })
	}
	for step := 0; ; step++ {
		synctest.Wait()
		if step == *modelSteps {
			s.stop()
		}
		c := s.choose(step)
		if c == nil {
			break
		}
		changed := s.let(c)
		if changed && s.rnd.IntN(40) == 0 {
			s.damage(t)
		}
		if changed && (!s.check(t, step, c) || s.rnd.IntN(200) == 0 && !s.audit(t, step)) {
			s.stop()
		}
	}
	wg.Wait()
	r := s.open(s.st, 0)
	defer r.Close()
	last, _, _, err := r.numbers(t.Context())
	if !t.Failed() {
		s.cleanUp(t)
	}
	t.Logf("%d collections: %v, %v", last, s.done, err)
}

func (s *sim) stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stopping = true
}

// choose takes one of the waiting calls. Processes pause for long now and then.
func (s *sim) choose(step int) *call {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.step = step
	if len(s.waiting) == 0 {
		return nil
	}
	slices.SortFunc(s.waiting, func(a, b *call) int {
		return slices.Compare([]string{fmt.Sprint(a.p.number), a.op, a.name}, []string{fmt.Sprint(b.p.number), b.op, b.name})
	})
	var ready []int
	for i, c := range s.waiting {
		if c.p.pausedUntil <= step || s.stopping {
			ready = append(ready, i)
		}
	}
	i := s.rnd.IntN(len(s.waiting)) // all are paused: one wakes early
	if len(ready) > 0 {
		i = ready[s.rnd.IntN(len(ready))]
	}
	c := s.waiting[i]
	s.waiting = slices.Delete(s.waiting, i, i+1)
	if s.rnd.IntN(60) == 0 {
		c.p.pausedUntil = step + 20 + s.rnd.IntN(600)
	}
	return c
}

var (
	errDead = errors.New("the process was killed")
	errCut  = errors.New("the connection was cut")
)

// let executes a call, or something like it, and reports whether the store may have changed.
func (s *sim) let(c *call) bool {
	read := c.op == "get" || c.op == "stat" || c.op == "list"
	busy := func(err error) error {
		return &store.Error{Op: c.op, Name: c.name, Store: "sim", Kind: store.Busy, Err: err}
	}
	if c.p.dead.Load() || c.p.stopping() {
		c.p.dead.Store(true)
		c.reply <- busy(errDead)
		return false
	}
	if len(s.late) > 0 && s.rnd.IntN(100) == 0 {
		i := s.rnd.IntN(len(s.late))
		s.late[i]()
		s.late = slices.Delete(s.late, i, i+1)
		s.count("late", 1)
	}
	switch n := s.rnd.IntN(1000); {
	case n < 2:
		c.p.dead.Store(true)
		c.reply <- busy(errDead)
		s.count("killed before", 1)
	case n < 7 && !read:
		_ = c.effect()
		c.p.dead.Store(true)
		c.reply <- busy(errDead)
		s.count("killed after", 1)
	case n < 12:
		c.reply <- busy(errCut)
	case n < 18 && !read:
		err := c.effect()
		if err == nil {
			err = busy(errCut)
		}
		c.reply <- err
		s.count("cut after", 1)
	case n < 26 && !read:
		effect := c.effect
		s.late = append(s.late, func() { _ = effect() })
		c.reply <- busy(errCut)
	default:
		c.reply <- c.effect()
	}
	return !read
}

// damage flips, cuts or removes the end of the newest collection, where it is whole and all others are: one object is
// damaged at a time.
func (s *sim) damage(t *testing.T) {
	r := s.open(s.st, 0)
	defer r.Close()
	v, err := r.tryView(t.Context())
	if err != nil || v.highest != v.done || v.done <= s.hurt {
		return
	}
	how := []string{"flipped", "cut", "lost"}[s.rnd.IntN(3)]
	if err := damage[how](t.Context(), s.st, doneName(v.done)); err != nil {
		t.Error(err)
	}
	s.mu.Lock()
	s.hurt = v.done
	s.mu.Unlock()
	s.count(how, 1)
}

// check restores every snapshot that is listed, as a stranger would.
func (s *sim) check(t *testing.T, step int, c *call) bool {
	r := s.open(s.st, 0)
	defer r.Close()
	list, err := r.Snapshots(t.Context(), "orders-db")
	if err != nil {
		t.Errorf("step %d (%s %s): %v", step, c.op, c.name, err)
		return false
	}
	for _, l := range list {
		if l.Err != nil {
			t.Errorf("step %d (%s %s by %d): snapshot %s: %v", step, c.op, c.name, c.p.number, l.ID, l.Err)
			return false
		}
		s.wants(l.Manifest)
		if err := s.whole(t.Context(), r, l.Manifest, step < 0 || strings.HasPrefix(c.name, prefixSnapshots)); err != nil {
			t.Errorf("step %d (%s %s by %d): %v", step, c.op, c.name, c.p.number, err)
			return false
		}
	}
	return true
}

// whole reads the snapshot, or now and then only shows that all of it is there.
func (s *sim) whole(ctx context.Context, r *Repository, m *Manifest, read bool) error {
	if read || !s.carries || s.rnd.IntN(20) == 0 {
		return s.same(ctx, r, m)
	}
	if err := reaches(ctx, r, m); err != nil {
		return fmt.Errorf("snapshot %s: %w", m.ID, err)
	}
	return nil
}

func (s *sim) expect(id SnapshotID, fs files) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.expected[id] = fs
}

// wants returns what a snapshot must hold. A rewritten one holds what the original did: it is looked at when it appears, while
// that is known.
func (s *sim) wants(m *Manifest) files {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, known := s.expected[m.ID]; !known && m.Rewrites != "" {
		s.expected[m.ID] = s.expected[m.Rewrites]
	}
	return s.expected[m.ID]
}

func (s *sim) same(ctx context.Context, r *Repository, m *Manifest) error {
	got, err := load(ctx, r, m)
	if err != nil {
		return fmt.Errorf("snapshot %s: %w", m.ID, err)
	}
	want := s.wants(m)
	for p, b := range want {
		if !bytes.Equal(got[p], b) {
			return fmt.Errorf("snapshot %s: %s differs", m.ID, p)
		}
	}
	if len(got) != len(want) {
		return fmt.Errorf("snapshot %s has %d files, want %d", m.ID, len(got), len(want))
	}
	return nil
}

// cleanUp shows that nothing blocks for ever: two collections without patience leave only what is needed.
func (s *sim) cleanUp(t *testing.T) {
	r := s.open(s.st, 0)
	defer r.Close()
	// Twice: an old object that is damaged beside a collection under way goes when that has ended.
	for range 2 {
		if _, err := r.RepairCollection(t.Context(), CollectOptions{Patience: NoPatience}); err != nil {
			t.Errorf("the last repair: %v", err)
		}
		for range 3 {
			mustCollect(t, r, CollectOptions{Patience: NoPatience, MinLive: 0.01})
		}
	}
	rep := mustCollect(t, r, CollectOptions{Patience: NoPatience, MinLive: 0.01})
	if rep.RemovedPacks != 0 {
		t.Errorf("a fourth collection still removed %d packs", rep.RemovedPacks)
	}
	if rep := check(t, s.open(s.st, 0), CheckOptions{ReadData: true}); len(rep.Problems) > 0 {
		t.Errorf("check --read-data at the end: %+v", rep.Problems)
	}
	s.check(t, -1, &call{p: &process{}})
	if n := count(s.st, prefixCollect); n > 20 {
		t.Errorf("%d objects of collections are left", n)
	}
	s.damagePacks(t)
}

// open opens the repository for a process whose clock is off.
func (s *sim) open(st store.Store, off time.Duration) *Repository {
	r, err := open(st, s.keys, Options{
		Signer: s.sign, PackBytes: 700, Host: "sim", Now: func() time.Time { return time.Now().Add(off) },
	})
	if err != nil {
		panic(err)
	}
	r.limits = limits{indexEvery: 4, mergeEntries: 12, mergeFrom: 6, gatherFrom: 5, smallTable: 100}
	if s.carries {
		r.opts.PackBytes, r.limits.indexEvery = 4000, 40 // fewer objects, so that more is done in as many calls
	}
	return r
}
