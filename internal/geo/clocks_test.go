package geo_test

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/internal/geo"
	"github.com/holdfast-dr/holdfast/internal/repo"
	"github.com/holdfast-dr/holdfast/internal/repo/repotest"
	"github.com/holdfast-dr/holdfast/internal/seal"
	"github.com/holdfast-dr/holdfast/internal/store/storetest"
)

// machine works with all replicas, by a clock of its own.
type machine struct {
	name     string
	replicas []*repo.Repository
}

// saved is a snapshot of one file.
func (m *machine) saved(t *testing.T, at int, content []byte) repo.SnapshotID {
	t.Helper()
	ctx, r := t.Context(), m.replicas[at]
	w, err := r.Begin(ctx, "db", repo.DefaultGroup)
	if err != nil {
		t.Fatal(m.name, err)
	}
	id, err := w.Lane().Save(ctx, content, nil)
	if err != nil {
		t.Fatal(m.name, err)
	}
	list, err := w.SaveList(ctx, []seal.ChunkID{id}, int64(len(content)))
	if err != nil {
		t.Fatal(m.name, err)
	}
	e := &repo.Entry{Type: repo.TypeFile}
	e.SetContent(int64(len(content)), []repo.FileList{list})
	tree, manifest := w.NewTree(ctx), &repo.Manifest{Engine: "test"}
	if err := tree.Add("file", e); err != nil {
		t.Fatal(err)
	}
	if err := tree.Finish(manifest); err != nil {
		t.Fatal(err)
	}
	if err := w.Commit(ctx, manifest); err != nil {
		t.Fatal(m.name, err)
	}
	return manifest.ID
}

func content(t *testing.T, r *repo.Repository, id repo.SnapshotID) []byte {
	t.Helper()
	m, err := r.Manifest(t.Context(), "db", id)
	if err != nil {
		t.Fatal(err)
	}
	root, err := m.RootID()
	if err != nil {
		t.Fatal(err)
	}
	e, err := r.Reader().Lookup(t.Context(), root, "file")
	if err != nil {
		t.Fatal(err)
	}
	plain, err := r.Reader().Chunk(t.Context(), e.Chunks[0])
	if err != nil {
		t.Fatalf("snapshot %s: %v", id, err)
	}
	return plain
}

// TestClocksThatDiffer lets three machines, whose clocks differ by minutes, take snapshots at two sites, copy, forget the oldest and
// collect, in any order. Nothing that is listed is ever lost, and at the end both sites hold the same.
func TestClocksThatDiffer(t *testing.T) {
	t.Parallel()
	for seed := range uint64(3) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			rnd := rand.New(rand.NewPCG(seed, 3))
			signer, err := seal.NewSigner()
			if err != nil {
				t.Fatal(err)
			}
			options := func(skew time.Duration) repo.Options {
				return repo.Options{CacheDir: t.TempDir(), Signer: signer, Now: func() time.Time { return time.Now().Add(skew) }}
			}
			stores := []*storetest.Memory{storetest.NewMemory(), storetest.NewMemory()}
			first := repotest.Init(t, stores[0], options(0))
			if err := first.CopyKeys(t.Context(), stores[1]); err != nil {
				t.Fatal(err)
			}
			var machines []*machine
			for name, skew := range map[string]time.Duration{"fast": 9 * time.Minute, "slow": -7 * time.Minute, "right": 0} {
				m := &machine{name: name}
				for _, st := range stores {
					r, err := first.Beside(t.Context(), st, options(skew))
					if err != nil {
						t.Fatal(err)
					}
					t.Cleanup(func() { r.Close() })
					m.replicas = append(m.replicas, r)
				}
				machines = append(machines, m)
			}
			slices.SortFunc(machines, func(a, b *machine) int { return bytes.Compare([]byte(a.name), []byte(b.name)) })
			const keep = 5
			o := geo.Options{
				Keep:   func(all []*repo.Manifest) []*repo.Manifest { return all[max(len(all)-keep, 0):] },
				Floors: func(context.Context, []*repo.Manifest) (map[repo.StreamID]uint64, error) { return nil, nil },
			}
			want := map[repo.SnapshotID][]byte{}
			intact := func(at int) (ids []repo.SnapshotID) {
				t.Helper()
				r, err := first.Beside(t.Context(), stores[at], options(0))
				if err != nil {
					t.Fatal(err)
				}
				defer r.Close()
				list, err := r.Snapshots(t.Context(), "db")
				if err != nil {
					t.Fatal(err)
				}
				for _, l := range list {
					if l.Err != nil || !bytes.Equal(content(t, r, l.ID), want[l.ID]) {
						t.Fatalf("site %d: snapshot %s has not what was saved: %v", at, l.ID, l.Err)
					}
					ids = append(ids, l.ID)
				}
				return ids
			}
			copyTo := func(m *machine, at int) {
				t.Helper()
				if _, err := geo.Copy(t.Context(), m.replicas[1-at], m.replicas[at], "db", o); err != nil {
					t.Fatalf("%s copies to site %d: %v", m.name, at, err)
				}
			}
			forget := func(m *machine, at int) {
				t.Helper()
				ids := intact(at)
				for _, id := range ids[:max(len(ids)-keep, 0)] {
					if err := m.replicas[at].Forget(t.Context(), "db", id); err != nil {
						t.Fatal(m.name, err)
					}
				}
			}
			b := []byte("the first")
			want[machines[0].saved(t, 0, b)] = b
			copyTo(machines[0], 1)
			for range 40 {
				m, at := machines[rnd.IntN(3)], rnd.IntN(2)
				switch rnd.IntN(4) {
				case 0, 1:
					b := []byte(fmt.Sprintf("%s %d", m.name, rnd.Uint64()))
					want[m.saved(t, at, b)] = b
				case 2:
					copyTo(m, at)
				default:
					forget(m, at)
					if _, err := m.replicas[at].Collect(t.Context(), repo.CollectOptions{}); err != nil {
						t.Fatalf("%s collects at site %d: %v", m.name, at, err)
					}
				}
				intact(at)
			}
			for _, at := range []int{0, 1} {
				copyTo(machines[at], at)
			}
			for _, at := range []int{0, 1} {
				forget(machines[at], at)
			}
			if a, b := intact(0), intact(1); !slices.Equal(a, b) || len(a) != keep {
				t.Errorf("the sites hold %v and %v", a, b)
			}
		})
	}
}
