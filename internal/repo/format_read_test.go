package repo

import (
	"bytes"
	"context"
	"math/rand/v2"
	"path"
	"slices"
	"sync/atomic"
	"testing"

	"filippo.io/age"

	"github.com/holdfast-dr/holdfast/internal/seal"
	"github.com/holdfast-dr/holdfast/internal/store/storetest"
)

func strangerTo(t *testing.T, st *storetest.Memory) *stranger {
	s := &stranger{objects: map[string][]byte{}}
	for _, n := range st.Names() {
		s.objects[n] = must(st.Get(context.Background(), n, 1<<30))
	}
	return s
}

func TestAStrangerReadsTheFormat(t *testing.T) {
	l := newLittle(t)
	r, err := openAgain(t, l.st)
	if err != nil {
		t.Fatal(err)
	}
	id := must(age.GenerateX25519Identity())
	if err := r.AddRecipient(t.Context(), must(seal.KeyRecipient("ops", id.Recipient().String()))); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Rotate(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	big := randomFiles(3, 12).severalLists() // sealed in the second epoch
	l.snapshots[mustSave(t, r, big).ID] = big
	l.patch(t, r)
	for name, open := range map[string]func(*stranger){
		"passphrase": func(s *stranger) { s.unlock(passphrase) },
		"identity":   func(s *stranger) { s.unlock("", id) },
	} {
		t.Run(name, func(t *testing.T) {
			s := strangerTo(t, l.st)
			open(s)
			s.readIndex()
			l.compare(t, s)
		})
	}
}

// patch adds snapshots of patched files: of every kind of patched list.
func (l *little) patch(t *testing.T, r *Repository) {
	t.Helper()
	p := &patcher{t: t, rnd: rand.New(rand.NewPCG(11, 1)), most: 3, codec: sparse{new(atomic.Int64)}}
	now := p.content(5*chunkPages + 3)
	m := p.snapshot(r, nil, nil, now)
	kinds := map[string]bool{}
	for range 25 {
		next := p.change(now)
		after := p.snapshot(r, m, now, next)
		if kind := kindOfPart(t, r, m); kinds[kind] {
			if err := r.Forget(t.Context(), "orders-db", m.ID); err != nil {
				t.Fatal(err)
			}
		} else {
			kinds[kind] = true
			l.snapshots[m.ID] = files{"rel": now}
		}
		m, now = after, next
	}
	l.snapshots[m.ID] = files{"rel": now}
	if !kinds["masked"] || !kinds["with an older table"] {
		t.Errorf("only lists %v were made", kinds)
	}
}

func (l *little) compare(t *testing.T, s *stranger) {
	found := 0
	for _, n := range s.names("snapshots/" + s.nameHash("orders-db") + "/") {
		got := s.snapshot(n)
		if got == nil {
			continue
		}
		found++
		want := l.snapshots[SnapshotID(path.Base(n))]
		if len(got) != len(want) {
			t.Errorf("%s: %d files, want %d", n, len(got), len(want))
		}
		for p, b := range want {
			if !bytes.Equal(got[p], b) {
				t.Errorf("%s: %s differs", n, p)
			}
		}
	}
	if found != len(l.snapshots) {
		t.Errorf("found %d snapshots, want %d", found, len(l.snapshots))
	}
	for _, n := range s.names("packs/") {
		if !s.directoryAgrees(n) {
			t.Errorf("%s: its directory is not as the index says", n)
		}
	}
	extents := s.names("log/")
	if len(extents) != len(l.log) {
		t.Errorf("found %d parts of the log, want %d", len(extents), len(l.log))
	}
	for _, n := range extents {
		start, data, list := s.extent(n)
		if !bytes.Equal(data, l.log[start]) || !slices.Equal(list, l.lists[start]) {
			t.Errorf("%s differs, or its list: %q", n, list)
		}
	}
	var mark struct{ LSN uint64 }
	s.json(s.signed(s.open(slices.Max(s.names("marks/")), 9), "mark"), &mark)
	if mark.LSN != 1<<24+2000 {
		t.Errorf("mark %x", mark.LSN)
	}
}
