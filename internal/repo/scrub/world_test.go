package scrub

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/geo"
	"github.com/holdfast-dr/holdfast/internal/repo"
	"github.com/holdfast-dr/holdfast/internal/repo/repotest"
	"github.com/holdfast-dr/holdfast/internal/seal"
	"github.com/holdfast-dr/holdfast/internal/store"
	"github.com/holdfast-dr/holdfast/internal/store/local"
	"github.com/holdfast-dr/holdfast/internal/store/meter"
)

// clock is the time of a test. Whoever waits moves it on; at the end waiting is an error.
type clock struct {
	t    time.Time
	end  time.Time
	then func(time.Time) // is called before each wait; may be nil
}

var errEnd = errors.New("the test's time is over")

func newClock() *clock { return &clock{t: time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)} }

func (c *clock) now() time.Time { return c.t }

func (c *clock) wait(ctx context.Context, d time.Duration) error {
	if c.then != nil {
		c.then(c.t)
	}
	if c.t = c.t.Add(d); c.t.After(c.end) {
		return errEnd
	}
	return ctx.Err()
}

// place is a replica with what is around it.
type place struct {
	t     *testing.T
	bare  store.Store // as damage sees it
	meter *meter.Meter
	repo  *repo.Repository
}

func directory(t *testing.T) store.Store {
	t.Helper()
	st, err := local.Create(filepath.Join(t.TempDir(), "replica"), local.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return st
}

// newPlace makes a repository with several snapshots and a log; around is put around the counted store.
func newPlace(t *testing.T, bare store.Store, around func(store.Store) store.Store) *place {
	t.Helper()
	p := &place{t: t, bare: bare, meter: new(meter.Meter)}
	st := p.meter.Store(bare)
	if around != nil {
		st = around(st)
	}
	p.repo = repotest.Init(t, st, repo.Options{PackBytes: 40 << 10})
	for n := range 3 {
		p.snapshot(n)
	}
	log := p.repo.Log("db")
	data := random(9, 20<<10)
	for i := range uint64(6) {
		if err := log.Encoder().Put(t.Context(), 1, i*uint64(len(data)), data, repo.ExtentClock{Writer: time.Unix(1, 0)}, repo.Fast); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(log.PutFile(t.Context(), "00000002.history", []byte("history")), log.PutMark(t.Context(), repo.Mark{Stream: 1, LSN: 100, Writer: time.Unix(1, 0)})); err != nil {
		t.Fatal(err)
	}
	return p
}

func random(seed uint64, n int) []byte {
	r, b := rand.New(rand.NewPCG(seed, 1)), make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

// snapshot takes one of twelve files, of which some differ from those before.
func (p *place) snapshot(n int) *repo.Manifest {
	p.t.Helper()
	w, err := p.repo.Begin(p.t.Context(), "db", "main")
	if err != nil {
		p.t.Fatal(err)
	}
	m, tree, lane := &repo.Manifest{Log: repo.LogRange{Stream: 1}}, w.NewTree(p.t.Context()), w.Lane()
	for i := range 12 {
		plain := random(uint64(i+100*(n+1)*(i%2)), 15<<10)
		id, err := lane.Save(p.t.Context(), plain, nil)
		if err == nil {
			err = tree.Add(fmt.Sprintf("base/%03d", i), &repo.Entry{Type: repo.TypeFile, Size: int64(len(plain)), Chunks: []seal.ChunkID{id}})
		}
		if err != nil {
			p.t.Fatal(err)
		}
	}
	if err := errors.Join(tree.Finish(m), w.Commit(p.t.Context(), m), w.Close(p.t.Context())); err != nil {
		p.t.Fatal(err)
	}
	return m
}

// copyTo makes another replica with everything.
func (p *place) copyTo(bare store.Store) *place {
	p.t.Helper()
	ctx := p.t.Context()
	q := &place{t: p.t, bare: bare, meter: new(meter.Meter)}
	st := q.meter.Store(bare)
	signer, err := seal.NewSigner()
	if err == nil {
		err = p.repo.CopyKeys(ctx, st)
	}
	if err == nil {
		q.repo, err = p.repo.Beside(ctx, st, repo.Options{CacheDir: p.t.TempDir(), Signer: signer, Host: "other"})
	}
	if err == nil {
		p.t.Cleanup(func() { _ = q.repo.Close() })
		_, err = geo.Copy(ctx, p.repo, q.repo, "db", geo.Options{
			Keep:   func(all []*repo.Manifest) []*repo.Manifest { return all },
			Floors: func(context.Context, []*repo.Manifest) (map[repo.StreamID]uint64, error) { return nil, nil },
		})
	}
	if err != nil {
		p.t.Fatal(err)
	}
	return q
}

// twin opens the same replica as another host does.
func (p *place) twin() *place {
	p.t.Helper()
	q := &place{t: p.t, bare: p.bare, meter: new(meter.Meter)}
	signer, err := seal.NewSigner()
	if err == nil {
		q.repo, err = p.repo.Beside(p.t.Context(), q.meter.Store(p.bare), repo.Options{CacheDir: p.t.TempDir(), Signer: signer, Host: "other"})
	}
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { _ = q.repo.Close() })
	return q
}

// open begins to scrub, with the help of others.
func (p *place) open(c *clock, dir string, o Options, others ...*place) *Scrub {
	p.t.Helper()
	o.Dir, o.Meter, o.now, o.wait = dir, p.meter, c.now, c.wait
	if o.Pace.IsZero() {
		o.Pace = dr.Daily(0.25)
	}
	if o.Window == 0 {
		o.Window = 6 * day // a round takes 4, and surveys are to be paid, too
	}
	if o.Helpers == nil {
		o.Helpers = func(context.Context) (from []*repo.Repository, _ func()) {
			for _, q := range others {
				from = append(from, q.repo)
			}
			return from, func() {}
		}
	}
	s, err := Open(p.repo, o)
	if err != nil {
		p.t.Fatal(err)
	}
	return s
}

func (p *place) names(prefix string) (names []string) {
	p.t.Helper()
	err := p.bare.List(p.t.Context(), prefix, "", func(i store.Info) error { names = append(names, i.Name); return nil })
	if err != nil || len(names) == 0 {
		p.t.Fatalf("nothing in %s: %v", prefix, err)
	}
	return names
}

func (p *place) get(name string) []byte {
	p.t.Helper()
	b, err := p.bare.Get(p.t.Context(), name, 1<<30)
	if err != nil {
		p.t.Fatal(err)
	}
	return b
}

func (p *place) put(name string, b []byte) {
	p.t.Helper()
	if err := p.bare.Put(p.t.Context(), name, b); err != nil {
		p.t.Fatal(err)
	}
}

func (p *place) flip(name string) {
	b := bytes.Clone(p.get(name))
	b[len(b)/2] ^= 8
	p.put(name, b)
}

func (p *place) remove(name string) {
	p.t.Helper()
	if err := p.bare.Delete(p.t.Context(), name); err != nil {
		p.t.Fatal(err)
	}
}

// bytes returns how many are there.
func (p *place) bytes() (n int64) {
	_ = p.bare.List(p.t.Context(), "", "", func(i store.Info) error { n += i.Size; return nil })
	return n
}

// run lets it work for some time.
func run(t *testing.T, s *Scrub, c *clock, d time.Duration) {
	t.Helper()
	c.end = c.t.Add(d)
	if err := s.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := s.keep(); err != nil {
		t.Fatal(err)
	}
}

func leftNames(st Statement) (names []string) {
	for _, p := range st.Left {
		names = append(names, p.Object)
	}
	slices.Sort(names)
	return names
}

func cleanCheck(t *testing.T, r *repo.Repository) {
	t.Helper()
	report, err := r.Check(t.Context(), repo.CheckOptions{ReadData: true})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range report.Problems {
		t.Errorf("the check finds %s: %s (%s)", p.Object, p.Reason, strings.Join(p.Snapshots, ", "))
	}
}
