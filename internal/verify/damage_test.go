package verify

import (
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/holdfast-dr/holdfast/internal/pg/pgtest"
	"github.com/holdfast-dr/holdfast/internal/repo"
	"github.com/holdfast-dr/holdfast/internal/restore/points"
	"github.com/holdfast-dr/holdfast/internal/store/local"
)

var (
	damages = flag.Int("damages", 24, "damaged snapshots in TestDamagedSnapshots; the measure is 1000")
	seed    = flag.Uint64("seed", 0, "of TestDamagedSnapshots; 0: a new one")
)

// An object of the repository is damaged, at random. Either the test finds that something is wrong, or a recovery is not touched by it:
// what a restore would write, files and log, is byte for byte what it was.
func TestDamagedSnapshots(t *testing.T) {
	w := newWorld(t, pgtest.Options{Version: "15", Checksums: true, Conf: map[string]string{"wal_keep_size": "256MB"}})
	w.s.Exec("", "CREATE TABLE orders AS SELECT i, md5(i::text) AS note FROM generate_series(1, 30000) AS i")
	first := w.snapshot()
	w.s.Exec("", "UPDATE orders SET note = 'second' WHERE i % 17 = 0", "CHECKPOINT")
	w.archive()
	w.snapshot() // shares most with the first
	w.s.Exec("", "INSERT INTO orders VALUES (0, 'third')")
	w.archive()
	// Of a snapshot that is gone nothing is left that could be found wrong: then it is the recovery from the one before that counts.
	whole := map[repo.SnapshotID]map[string][32]byte{}
	for _, at := range []repo.SnapshotID{first.ID, ""} {
		_, p := w.plan(w.r, "latest")
		if at != "" {
			p = older(t, w, at)
		}
		whole[p.Snapshot.Manifest.ID] = digests(t, w.r, p)
	}
	if r := verified(t, w, w.dir); r.Outcome != Passed || r.Proven != Pages || r.Figures.Pages < 1000 || r.Figures.Records < 3 {
		t.Fatalf("the undamaged one: %+v", r)
	}
	if *seed == 0 {
		*seed = rand.Uint64()
	}
	t.Logf("-seed %d", *seed)
	rnd := rand.New(rand.NewPCG(*seed, 1))
	names := objects(t, w.dir)
	found, harmless := map[string]int{}, map[string]int{}
	for n := range *damages {
		dir := filepath.Join(w.base, fmt.Sprint("damaged-", n))
		copyRepository(t, w.dir, dir)
		name := names[rnd.IntN(len(names))]
		what := damage(t, rnd, dir, name, names)
		r, err := tryVerify(t, w, dir)
		kind := strings.SplitN(name, "/", 2)[0]
		if err != nil || r.Outcome == Failed {
			found[kind]++
		} else if from, got := digestsOf(t, w, dir); !maps.Equal(got, whole[from]) {
			t.Errorf("%s: a recovery differs (%s), and the test passed", what, differing(got, whole[from]))
		} else {
			harmless[kind]++
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("found %v; no recovery is touched by %v", found, harmless)
	if len(found) == 0 {
		t.Error("nothing was found")
	}
}

// damage does one thing to an object.
func damage(t *testing.T, rnd *rand.Rand, dir, name string, names []string) string {
	path := filepath.Join(dir, name)
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	at := rnd.IntN(max(len(b), 1))
	switch kind := rnd.IntN(4); {
	case kind == 0 && len(b) > 0:
		b[at] ^= 1 << rnd.IntN(8)
		put(t, path, b)
		return fmt.Sprintf("%s: bit flipped in byte %d", name, at)
	case kind == 1 && len(b) > 0:
		put(t, path, b[:at])
		return fmt.Sprintf("%s: cut at %d of %d", name, at, len(b))
	case kind == 2:
		for {
			other := names[rnd.IntN(len(names))]
			theirs, err := os.ReadFile(filepath.Join(dir, other))
			if err != nil {
				t.Fatal(err)
			}
			if other != name {
				put(t, path, theirs)
				put(t, filepath.Join(dir, other), b)
				return fmt.Sprintf("%s and %s: swapped", name, other)
			}
		}
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	return name + ": removed"
}

// put replaces a file, which shares its bytes with the undamaged one.
func put(t *testing.T, path string, b []byte) {
	t.Helper()
	if err := errors.Join(os.Remove(path), os.WriteFile(path, b, 0o600)); err != nil {
		t.Fatal(err)
	}
}

// verified is tryVerify of what can be opened.
func verified(t *testing.T, w *world, dir string) *Result {
	t.Helper()
	r, err := tryVerify(t, w, dir)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// tryVerify tests the newest point of a repository. An error says that nothing could be tested.
func tryVerify(t *testing.T, w *world, dir string) (*Result, error) {
	var out *Result
	err := opened(w, dir, func(r *repo.Repository, v *points.View, p *points.Plan) (err error) {
		out, err = Run(t.Context(), r, p, Options{Depth: Pages, Unread: v.Unread})
		return err
	})
	return out, err
}

// opened opens a repository anew and plans the recovery to its newest point.
func opened(w *world, dir string, f func(*repo.Repository, *points.View, *points.Plan) error) error {
	st, err := local.Open(dir, local.Options{})
	if err != nil {
		return err
	}
	defer st.Close()
	r, err := w.open(st)
	if err != nil {
		return err
	}
	defer r.Close()
	v, err := points.Load(w.t.Context(), r, system)
	if err != nil {
		return err
	}
	p, err := v.Plan(w.t.Context(), points.Target{Kind: points.Latest}, points.Timeline{}, points.RefuseLoss)
	if err != nil {
		return err
	}
	return f(r, v, p)
}

func digestsOf(t *testing.T, w *world, dir string) (from repo.SnapshotID, out map[string][32]byte) {
	t.Helper()
	err := opened(w, dir, func(r *repo.Repository, _ *points.View, p *points.Plan) error {
		from, out = p.Snapshot.Manifest.ID, digests(t, r, p)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return from, out
}

// older plans the recovery to the newest point from a snapshot.
func older(t *testing.T, w *world, id repo.SnapshotID) *points.Plan {
	t.Helper()
	m, err := w.r.Manifest(t.Context(), system, id)
	if err != nil {
		t.Fatal(err)
	}
	v, _ := w.plan(w.r, "latest")
	if v, err = v.With([]*repo.Manifest{m}); err != nil {
		t.Fatal(err)
	}
	p, err := v.Plan(t.Context(), points.Target{Kind: points.Latest}, points.Timeline{}, points.RefuseLoss)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// digests reads what a restore of a plan would write, and returns the digest of each file and of the log. To write a thousand
// small files durably would take most of the time.
func digests(t *testing.T, r *repo.Repository, p *points.Plan) map[string][32]byte {
	t.Helper()
	ctx, out := t.Context(), map[string][32]byte{}
	root, err := p.Snapshot.Manifest.RootID()
	if err != nil {
		t.Fatal(err)
	}
	files := r.Reader()
	err = r.Reader().Walk(ctx, root, "", func(path string, e *repo.Entry) error {
		h := sha256.New()
		for n := range repo.ListCount(e.Size) {
			part, err := files.FilePart(ctx, e, n)
			if err != nil {
				return err
			}
			var chunks []int
			for i := range part.Len() {
				chunks = append(chunks, i)
			}
			if err := files.Part(ctx, part, chunks, func(_ int, plain []byte) error { _, err := h.Write(plain); return err }, nil); err != nil {
				return err
			}
		}
		out[path] = [32]byte(h.Sum(nil))
		return nil
	})
	if err != nil {
		return map[string][32]byte{"": sha256.Sum256([]byte(err.Error()))}
	}
	out["log"] = logDigest(t, r, uint64(p.Snapshot.Facts.LogStart()), uint64(p.Range.To))
	return out
}

// logDigest returns the digest of what can be read of the log: of objects that overlap any.
func logDigest(t *testing.T, r *repo.Repository, from, to uint64) [32]byte {
	t.Helper()
	extents, err := r.Log(system).Extents(t.Context(), 1, from)
	if err != nil {
		t.Fatal(err)
	}
	whole := make([]byte, to-from)
	for _, e := range extents {
		b, _, err := r.Log(system).Reader().Read(t.Context(), e)
		if err != nil || e.Start >= to || e.End <= from {
			continue
		}
		skip := max(from, e.Start) - e.Start
		copy(whole[e.Start+skip-from:], b[skip:])
	}
	return sha256.Sum256(whole)
}

func differing(a, b map[string][32]byte) string {
	var names []string
	for name, d := range b {
		if a[name] != d {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return strings.Join(names[:min(len(names), 5)], ", ")
}

func objects(t *testing.T, dir string) (names []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			names = append(names, strings.TrimPrefix(path, dir+"/"))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// copyRepository makes another one of the same files.
func copyRepository(t *testing.T, from, to string) {
	t.Helper()
	for _, name := range objects(t, from) {
		path := filepath.Join(to, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.Link(filepath.Join(from, name), path)); err != nil {
			t.Fatal(err)
		}
	}
}
