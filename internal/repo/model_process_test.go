package repo

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/internal/store"
)

// live does one thing after the other until the history ends. A killed process starts anew, with empty memory and
// another clock.
func (p *process) live(t *testing.T) {
	for !p.stopping() {
		p.dead.Store(false)
		r := p.s.open(p, time.Duration(p.rnd.IntN(14)-7)*24*time.Hour)
		for !p.dead.Load() && !p.stopping() {
			p.act(t, r)
		}
		_ = r.Close()
	}
}

// pause lets others go first, for so many calls.
func (p *process) pause(calls int) {
	p.s.mu.Lock()
	defer p.s.mu.Unlock()
	p.pausedUntil = p.s.step + calls
}

func (p *process) stopping() bool {
	p.s.mu.Lock()
	defer p.s.mu.Unlock()
	return p.s.stopping
}

// modelOp is an operation of a history: what a process does at one go.
type modelOp struct {
	name   string
	weight int
	do     func(ctx context.Context, p *process, t *testing.T, r *Repository) error
	writes bool // where the end of a collection is damaged it is refused, and a repair follows
}

// The operations of a history without carrying writers, and of one with them. Another operation is another line.
var (
	plainOps = []modelOp{
		{"write", 9, writeOp, true},
		{"forget", 4, forgetOp, false},
		{"read", 2, readOp, false},
		{"collect", 5, collectOp, true},
	}
	carryOps = []modelOp{
		{"write", 2, writeOp, true},
		{"patch", 9, patchOp, true},
		{"optimize", 3, optimizeOp, true},
		{"forget", 7, forgetOp, false},
		{"read", 1, readOp, false},
		{"collect", 6, collectOp, true},
	}
)

func (s *sim) pickOp(rnd *rand.Rand) modelOp {
	all := 0
	for _, op := range s.ops {
		all += op.weight
	}
	n := rnd.IntN(all)
	for _, op := range s.ops {
		if n -= op.weight; n < 0 {
			return op
		}
	}
	panic("unreachable")
}

func (p *process) act(t *testing.T, r *Repository) {
	ctx := context.Background()
	op := p.s.pickOp(p.rnd)
	what, err := op.name, op.do(ctx, p, t, r)
	if err != nil && !p.dead.Load() && unreadable(err) && op.writes {
		p.s.count("refused", 1) // the end of a collection is damaged
		what, err = "repair", p.repair(ctx, r)
	}
	switch {
	case err == nil:
		p.s.count(what, 1)
	case errors.Is(err, errDead) || errors.Is(err, errCut) || errors.Is(err, ErrAborted) || p.dead.Load():
	default:
		t.Errorf("%s by process %d: %v", what, p.number, err)
		p.s.stop()
	}
}

func collectOp(ctx context.Context, p *process, _ *testing.T, r *Repository) error {
	opts := CollectOptions{MinLive: 0.9}
	if p.rnd.IntN(2) == 0 {
		opts.Patience = NoPatience
	}
	if p.s.carries {
		// Where several collect at once nearly each end is in doubt, and repairs condemn nothing new: seldom, then.
		p.s.count("collecting", 1)
		defer p.s.count("collecting", -1)
		if p.s.counted("collecting") > 1 && p.rnd.IntN(5) > 0 {
			return nil
		}
	}
	rep, err := r.Collect(ctx, opts)
	if err == nil {
		p.s.count("removed packs", rep.RemovedPacks)
		p.s.count("pending", len(rep.Pending))
		p.s.count("aborted", len(rep.Aborted))
	}
	return err
}

func (p *process) repair(ctx context.Context, r *Repository) error {
	opts := CollectOptions{}
	if p.rnd.IntN(2) == 0 {
		opts.Patience = NoPatience
	}
	rep, err := r.RepairCollection(ctx, opts)
	if rep != nil {
		p.s.count("lost chunks", len(rep.Problems))
		if len(rep.Problems) > 0 && !p.dead.Load() {
			err = errors.Join(err, fmt.Errorf("the repair lost something: %v", rep.Problems))
		}
	}
	return err
}

func (s *sim) count(what string, n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.done[what] += n
}

func (s *sim) counted(what string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.done[what]
}

// someFiles picks from few contents, so that snapshots share much and what is condemned is wanted again.
func someFiles(rnd *rand.Rand) files {
	fs := files{}
	for i := range 3 + rnd.IntN(8) {
		content := rand.New(rand.NewPCG(uint64(rnd.IntN(16)), 5))
		b := make([]byte, 150)
		for j := range b {
			b[j] = byte(content.Uint32())
		}
		fs[fmt.Sprintf("base/%d", i)] = b
	}
	return fs
}

func writeOp(ctx context.Context, p *process, _ *testing.T, r *Repository) (err error) {
	fs := p.s.someFiles(p.rnd)
	w, err := r.Begin(ctx, "orders-db", DefaultGroup)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.Close(ctx)) }()
	tree, lane, m := w.NewTree(ctx), w.Lane(), &Manifest{Engine: "test"}
	for _, path := range sortedKeys(fs) {
		e := &Entry{Type: TypeFile}
		if err := saveFile(ctx, w, lane, e, fs[path]); err != nil {
			return err
		}
		if err := tree.Add(path, e); err != nil {
			return err
		}
	}
	if err := tree.Finish(m); err != nil {
		return err
	}
	p.s.expect(w.ID(), fs)
	return w.Commit(ctx, m)
}

func forgetOp(ctx context.Context, p *process, _ *testing.T, r *Repository) error {
	list, err := r.Snapshots(ctx, "orders-db")
	if err != nil || len(list) < 3 {
		return err
	}
	l := list[p.rnd.IntN(len(list))]
	if p.s.carries {
		l = p.rather(list) // what others carry over from
	}
	if l.Err != nil {
		return l.Err
	}
	return r.Forget(ctx, "orders-db", l.ID)
}

// readOp restores a snapshot with what this process knows of the index, while others move things.
func readOp(ctx context.Context, p *process, _ *testing.T, r *Repository) error {
	list, err := r.Snapshots(ctx, "orders-db")
	if err != nil || len(list) == 0 {
		return err
	}
	l := list[p.rnd.IntN(len(list))]
	if l.Err != nil {
		return l.Err
	}
	err = p.s.same(ctx, r, l.Manifest)
	if err == nil || p.dead.Load() {
		return err
	}
	if _, gone := p.s.st.Stat(ctx, r.snapshotName("orders-db", l.ID)); gone != nil {
		return nil
	}
	if m, e := p.s.open(p.s.st, 0).Manifest(ctx, "orders-db", l.ID); m == nil && errors.Is(e, store.ErrNotExist) {
		return nil // forgotten meanwhile
	}
	return err
}

// do hands a call to the scheduler and waits for its turn.
func (p *process) do(op, name string, effect func() error) error {
	c := &call{p: p, op: op, name: name, effect: effect, reply: make(chan error)}
	p.s.mu.Lock()
	p.s.waiting = append(p.s.waiting, c)
	p.s.mu.Unlock()
	return <-c.reply
}

func (p *process) Put(ctx context.Context, name string, body []byte) error {
	body = append([]byte(nil), body...) // an effect may come late
	return p.do("put", name, func() error { return p.Memory.Put(ctx, name, body) })
}

func (p *process) Create(ctx context.Context, name string, body []byte) error {
	body = append([]byte(nil), body...)
	return p.do("create", name, func() error { return p.Memory.Create(ctx, name, body) })
}

func (p *process) Delete(ctx context.Context, name string) error {
	ctx = context.WithoutCancel(ctx)
	return p.do("delete", name, func() error { return p.Memory.Delete(ctx, name) })
}

func (p *process) Get(ctx context.Context, name string, max int64) (b []byte, err error) {
	err = p.do("get", name, func() error { b, err = p.Memory.Get(ctx, name, max); return err })
	return b, err
}

func (p *process) GetRange(ctx context.Context, name string, off int64, dst []byte) error {
	return p.do("get", name, func() error { return p.Memory.GetRange(ctx, name, off, dst) })
}

func (p *process) Stat(ctx context.Context, name string) (i store.Info, err error) {
	err = p.do("stat", name, func() error { i, err = p.Memory.Stat(ctx, name); return err })
	return i, err
}

var errPage = errors.New("the page is full")

const listPage = 12

// List takes a turn for every few names: a listing is no snapshot of the store.
func (p *process) List(ctx context.Context, prefix, after string, fn func(store.Info) error) error {
	for {
		var page []store.Info
		err := p.do("list", prefix, func() error {
			err := p.Memory.List(ctx, prefix, after, func(i store.Info) error {
				if len(page) == listPage {
					return errPage
				}
				page = append(page, i)
				return nil
			})
			if errors.Is(err, errPage) {
				return nil
			}
			return err
		})
		if err != nil {
			return err
		}
		for _, i := range page {
			if err := fn(i); err != nil {
				return err
			}
			after = i.Name
		}
		if len(page) < listPage {
			return nil
		}
	}
}
