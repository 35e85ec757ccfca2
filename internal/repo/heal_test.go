package repo

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/internal/store"
	"github.com/holdfast-dr/holdfast/internal/store/storetest"
)

// spoilt damages every second object below a prefix, and removes the others.
func spoilt(t *testing.T, st *storetest.Memory, prefix string) (names []string) {
	t.Helper()
	for _, name := range st.Names() {
		if !strings.HasPrefix(name, prefix) {
			continue
		}
		b, err := st.Get(t.Context(), name, maxPack)
		if err == nil && len(names)%2 == 0 {
			b[len(b)/2] ^= 1
			err = st.Put(t.Context(), name, b)
		} else if err == nil {
			err = st.Delete(t.Context(), name)
		}
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, name)
	}
	return names
}

// copied makes a place another replica that has all snapshots.
func (f *farAway) copied(t *testing.T, st *storetest.Memory) *Repository {
	t.Helper()
	r := f.replica(t, st)
	for id := range f.want {
		f.copyTo(t, r, id)
	}
	return r
}

// A replica that has lost all of its packs is read with the help of another, which has gathered the same chunks in packs of its own.
func TestHelp(t *testing.T) {
	t.Parallel()
	f := newFarAway(t, 5, 6)
	here := storetest.NewMemory()
	other := f.copied(t, here)
	other.limits.gatherFrom = 2
	before := count(here, prefixPacks)
	if _, err := other.Collect(t.Context(), CollectOptions{}); err != nil {
		t.Fatal(err)
	}
	if after := count(here, prefixPacks); after >= before {
		t.Errorf("%d packs, %d after a collection", before, after)
	}
	spoilt(t, f.st, prefixPacks)
	if report := must(reopen(t, f.st).Check(t.Context(), CheckOptions{ReadData: true})); len(report.Problems) < 5 {
		t.Fatalf("the check finds %+v", report.Problems)
	}
	r := reopen(t, f.st)
	asked := 0
	end := r.Help(Helpers{Others: func(context.Context) []*Repository { asked++; return []*Repository{other} }})
	for id, want := range f.want {
		wantFiles(t, r, must(r.Manifest(t.Context(), "orders-db", id)), files{"rel": want})
	}
	if n := end(); asked != 1 || n == 0 {
		t.Errorf("others were asked for %d times, and gave %d chunks", asked, n)
	}
}

// slow is a store that answers requests for parts of packs only when it is released, or not at all.
type slow struct {
	store.Store
	asked   atomic.Int64
	release chan struct{}
}

func (s *slow) GetRange(ctx context.Context, name string, off int64, dst []byte) error {
	if strings.HasPrefix(name, prefixPacks) {
		s.asked.Add(1)
		select {
		case <-s.release:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return s.Store.GetRange(ctx, name, off, dst)
}

// readRel reads a file as restores do.
func readRel(t *testing.T, r *Repository, id SnapshotID) (out []byte) {
	t.Helper()
	rd := r.Reader()
	m := must(r.Manifest(t.Context(), "orders-db", id))
	root, err := m.RootID()
	if err != nil {
		t.Fatal(err)
	}
	for i := range sizes {
		r.help.Load().usual[i].Store(1) // so that nobody waits long
	}
	part := must(rd.FilePart(t.Context(), must(rd.Lookup(t.Context(), root, "rel")), 0))
	var chunks []int
	for i := range part.Len() {
		chunks = append(chunks, i)
	}
	if err := rd.Part(t.Context(), part, chunks, func(_ int, plain []byte) error { out = append(out, plain...); return nil }, nil); err != nil {
		t.Fatal(err)
	}
	return out
}

// A replica that is slow is not waited for where another has the pack; after some such answers the other is asked first. Where what
// the other has is damaged, the slow one is.
func TestHedge(t *testing.T) {
	t.Parallel()
	f := newFarAway(t, 11, 5)
	here := storetest.NewMemory()
	other := f.copied(t, here)
	s := &slow{Store: f.st, release: make(chan struct{})}
	close(s.release)
	r := reopen(t, s) // while it is fast
	end := r.Help(Helpers{Others: func(context.Context) []*Repository { return []*Repository{other} }})
	s.release = make(chan struct{})
	s.asked.Store(0)
	rounds := 0
	for range slowInARow {
		for id, want := range f.want {
			rounds++
			if got := readRel(t, r, id); !bytes.Equal(got, want) {
				t.Errorf("snapshot %s is read wrongly", id)
			}
		}
	}
	if n := s.asked.Load(); n < slowInARow || n >= int64(rounds) || !r.help.Load().isAway() {
		t.Errorf("the slow replica was asked %d times in %d rounds; away is %t", n, rounds, r.help.Load().isAway())
	}
	if end() == 0 {
		t.Error("nothing came from the other")
	}

	spoilt(t, here, prefixPacks)
	r = reopen(t, s)
	defer r.Help(Helpers{Others: func(context.Context) []*Repository { return []*Repository{reopen(t, here)} }})()
	time.AfterFunc(2*hedgeLeast, func() { close(s.release) })
	for id, want := range f.want {
		if got := readRel(t, r, id); !bytes.Equal(got, want) {
			t.Errorf("snapshot %s is read wrongly", id)
		}
	}
}

// Heal puts back what another replica has under the same name and can prove, and nothing else.
func TestHeal(t *testing.T) {
	t.Parallel()
	f := newFarAway(t, 7, 4)
	here := storetest.NewMemory()
	other := f.copied(t, here)
	whole := f.st.Clone()
	packs := spoilt(t, f.st, prefixPacks)
	rotten := must(here.Get(t.Context(), packs[0], maxPack)) // at both
	rotten[100] ^= 1
	if err := here.Put(t.Context(), packs[0], rotten); err != nil {
		t.Fatal(err)
	}
	r := reopen(t, f.st)
	names := append(slices.Clone(packs), markerName, prefixIndex+"x")
	report := must(r.Heal(t.Context(), []*Repository{other}, names))
	if len(report.Healed) != len(packs) || len(report.Left) != 2 { // all but the rotten one, and the marker
		t.Fatalf("put back: %+v", report)
	}
	for _, name := range report.Healed {
		if got, want := must(f.st.Get(t.Context(), name, maxPack)), must(whole.Get(t.Context(), name, maxPack)); string(got) != string(want) {
			t.Errorf("%s is another object than it was", name)
		}
	}
	if err := here.Put(t.Context(), packs[0], must(whole.Get(t.Context(), packs[0], maxPack))); err != nil {
		t.Fatal(err)
	}
	if again := must(r.Heal(t.Context(), []*Repository{other}, packs[:1])); len(again.Healed) != 1 {
		t.Fatalf("put back: %+v", again)
	}
	wantClean(t, f.st)
}

// What is missing at the beginning of what is asked for comes from others, too; behind the end nobody is asked.
func TestHelpWithExtents(t *testing.T) {
	t.Parallel()
	l := newFarLog(t)
	const b = 1 << 20
	for i := range uint64(4) {
		l.put(1, i*b, (i+1)*b)
	}
	other := l.replica(storetest.NewMemory())
	must(other.CopyLog(t.Context(), l.r, "orders-db", nil))
	name := l.r.extentName("orders-db", 1, b, 2*b)
	if err := l.r.store.Delete(t.Context(), name); err != nil {
		t.Fatal(err)
	}
	l.r.Help(Helpers{Others: func(context.Context) []*Repository { return []*Repository{other} }})
	for _, from := range []uint64{0, b} {
		all := must(l.Extents(t.Context(), 1, from))
		if m := Merge(all); len(m) != 1 || m[0].Start > from {
			t.Errorf("from %x the hole is not filled", from)
		}
	}
}

// A replica that falls silent in the middle of a reading is read on from another: the log's listings, marks and files, too. Before
// that only this one is asked.
func TestHelpWhereTheReplicaIsAway(t *testing.T) {
	t.Parallel()
	l := newFarLog(t)
	const b = 1 << 20
	for i := range uint64(4) {
		l.put(1, i*b, (i+1)*b)
	}
	log := l.r.Log("orders-db")
	if err := errors.Join(log.PutFile(t.Context(), "00000002.history", []byte("x")), log.PutMark(t.Context(), Mark{Stream: 1, LSN: 4 * b, Writer: time.Now()})); err != nil {
		t.Fatal(err)
	}
	other := l.replica(storetest.NewMemory())
	must(other.CopyLog(t.Context(), l.r, "orders-db", nil))
	faulty := storetest.NewFaulty(l.st)
	r, err := l.r.Beside(t.Context(), faulty, testOptions(t))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	opened := 0
	end := r.Help(Helpers{Others: func(context.Context) []*Repository { opened++; return []*Repository{other} }})
	read := func() (all []string) {
		t.Helper()
		log := r.Log("orders-db")
		mark, ok, err := log.Mark(t.Context(), 1)
		if err != nil || !ok {
			t.Fatalf("mark: %v, %v", ok, err)
		}
		extents := must(log.Extents(t.Context(), 1, 0))
		for _, e := range extents {
			data, _, err := log.Reader().Read(t.Context(), e)
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, fmt.Sprintf("%x", sha256.Sum256(data)))
		}
		return append(all, fmt.Sprint(mark.LSN, must(log.Streams(t.Context())), extents), strings.Join(must(log.Files(t.Context())), ","), string(must(log.File(t.Context(), "00000002.history"))))
	}
	want := read()
	if opened != 0 {
		t.Errorf("others were asked while this replica answers")
	}
	faulty.SetFaults(storetest.Fault{When: storetest.Before, Kind: store.Busy})
	if got := read(); !slices.Equal(got, want) {
		t.Errorf("from another replica: %v\nwant %v", got, want)
	}
	calls := len(faulty.Calls())
	if _, err := r.Log("orders-db").File(t.Context(), "00000003.history"); !errors.Is(err, store.ErrNotExist) || len(faulty.Calls()) != calls {
		t.Errorf("a file that is nowhere: %v, and the replica that is away was asked %d times", err, len(faulty.Calls())-calls)
	}
	if n := end(); n == 0 || opened != 1 {
		t.Errorf("others were opened %d times, and gave %d parts", opened, n)
	}
}

// With nobody who can help the error is this replica's own.
func TestNobodyHelps(t *testing.T) {
	t.Parallel()
	l := newFarLog(t)
	l.put(1, 0, 1<<20)
	faulty := storetest.NewFaulty(l.st)
	r, err := l.r.Beside(t.Context(), faulty, testOptions(t))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	faulty.SetFaults(storetest.Fault{When: storetest.Before, Kind: store.Busy})
	r.Help(Helpers{Others: func(context.Context) []*Repository { return nil }})
	for range 2 { // the second one knows already that this replica is away
		if _, err := r.Log("orders-db").Extents(t.Context(), 1, 0); !errors.Is(err, storetest.ErrInjected) {
			t.Errorf("the error is %v", err)
		}
	}
}
