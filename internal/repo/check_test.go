package repo

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/internal/seal"
	"github.com/holdfast-dr/holdfast/internal/store"
	"github.com/holdfast-dr/holdfast/internal/store/storetest"
)

// little is a repository with something of every kind in it.
type little struct {
	st        *storetest.Memory
	snapshots map[SnapshotID]files
	log       map[uint64][]byte
	lists     map[uint64][]string // of replicas, of parts of the log
	secret    []byte              // known text that was stored
}

func littleFiles(n int, secret []byte) files {
	fs := files{}
	for i := range 6 {
		fs[fmt.Sprintf("base/%d", i)] = bytes.Repeat([]byte(fmt.Sprintf("%s %d %d|", secret, i, i*n)), 40)
	}
	return fs
}

func newLittle(t testing.TB) *little {
	t.Helper()
	l := &little{st: storetest.NewMemory(), snapshots: map[SnapshotID]files{}, log: map[uint64][]byte{}, secret: []byte("the king of Brobdingnag")}
	r := newRepository(t, l.st)
	r.opts.PackBytes = 1200
	var first SnapshotID
	for n := range 3 {
		fs := littleFiles(n, l.secret)
		m := mustSave(t, r, fs)
		if n == 0 {
			first = m.ID
		} else {
			l.snapshots[m.ID] = fs
		}
	}
	if err := r.Forget(t.Context(), "orders-db", first); err != nil {
		t.Fatal(err)
	}
	mustCollect(t, r, CollectOptions{MinLive: 0.9})
	last := littleFiles(9, l.secret)
	l.snapshots[mustSave(t, r, last).ID] = last
	l.putLog(t, r)
	return l
}

func (l *little) putLog(t testing.TB, r *Repository) {
	t.Helper()
	log := r.Log("orders-db")
	enc := log.Encoder()
	known := NewHolders()
	for i, c := range []Compression{Small, Fast, Small} {
		start := uint64(1<<24 + i*1000)
		if i == 2 {
			known.Join("zurich", strings.Repeat("0a", 16), map[StreamID]uint64{1: 1<<24 + 1000})
			known.Join("", strings.Repeat("ff", 16), map[StreamID]uint64{1: 1<<24 + 2000})
			log.Tell(known, "")
			l.lists = map[uint64][]string{start: {strings.Repeat("ff", 16) + " 10007d0 ", strings.Repeat("0a", 16) + " 10003e8 zurich"}}
		}
		l.log[start] = bytes.Repeat([]byte(string(l.secret)+"."), 1000)[:1000]
		if err := enc.Put(t.Context(), 1, start, l.log[start], ExtentClock{Writer: time.Unix(1, 0)}, c); err != nil {
			t.Fatal(err)
		}
	}
	if err := log.PutFile(t.Context(), "00000002.history", l.secret); err != nil {
		t.Fatal(err)
	}
	if err := log.PutSummary(t.Context(), Summary{1, 1<<24 + 100, 1<<24 + 900}, l.secret); err != nil {
		t.Fatal(err)
	}
	if err := log.PutMark(t.Context(), Mark{Stream: 1, LSN: 1<<24 + 2000, Writer: time.Unix(1, 0)}); err != nil {
		t.Fatal(err)
	}
}

// restorable returns the snapshots that restore to what was stored. One that restores to something else fails t.
func (l *little) restorable(t testing.TB, st store.Store) map[string]bool {
	t.Helper()
	r, err := openAgain(t, st)
	if err != nil {
		return nil
	}
	good := map[string]bool{}
	for id, want := range l.snapshots {
		m, err := r.Manifest(t.Context(), "orders-db", id)
		if err != nil {
			continue
		}
		got, err := load(t.Context(), r, m)
		if err != nil {
			continue
		}
		for p, b := range want {
			if !bytes.Equal(got[p], b) {
				t.Fatalf("snapshot %s: %s differs, and nobody said so", id, p)
			}
		}
		good["orders-db "+string(id)] = true
	}
	return good
}

func check(t testing.TB, r *Repository, opts CheckOptions) *CheckReport {
	t.Helper()
	rep, err := r.Check(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	return rep
}

func wantClean(t testing.TB, st store.Store) {
	t.Helper()
	r, err := openAgain(t, st)
	if err != nil {
		t.Fatal(err)
	}
	if rep := check(t, r, CheckOptions{ReadData: true}); len(rep.Problems) > 0 {
		t.Errorf("check: %+v", rep.Problems)
	}
}

func openAgain(t testing.TB, st store.Store) (*Repository, error) {
	opts := testOptions(t)
	opts.CacheDir = ""
	r, err := Open(t.Context(), st, testCredentials, opts)
	if err == nil {
		t.Cleanup(func() { r.Close() })
	}
	return r, err
}

func TestCheckOfASoundRepository(t *testing.T) {
	l := newLittle(t)
	r, err := openAgain(t, l.st)
	if err != nil {
		t.Fatal(err)
	}
	rep := check(t, r, CheckOptions{ReadData: true})
	if len(rep.Problems) > 0 || rep.Snapshots != 3 || rep.PacksRead != rep.Packs || rep.ExtentsRead != 3 || rep.Systems != 1 {
		t.Errorf("check: %+v", rep)
	}
	if good := l.restorable(t, l.st); len(good) != 3 {
		t.Errorf("restorable: %v", good)
	}
	s, err := r.Stats(t.Context())
	if err != nil || s.Snapshots != 3 || s.Packs != rep.Packs || s.DedupRatio() < 1 || len(s.Systems) != 1 || s.Systems[0].LogExtents != 3 {
		t.Errorf("stats: %+v, %v", s, err)
	}
}

// kindOf returns the part of an object's name that says what it is.
func kindOf(name string) string {
	kind, _, found := strings.Cut(name, "/")
	if !found {
		return name
	}
	if _, suffix, ok := strings.Cut(name, "."); ok && kind == "collections" {
		return kind + "." + suffix
	}
	return kind
}

// samples returns up to n objects of each kind.
func (l *little) samples(n int) []string {
	seen := map[string]int{}
	var out []string
	for _, name := range l.st.Names() {
		if seen[kindOf(name)] < n {
			out = append(out, name)
		}
		seen[kindOf(name)]++
	}
	return out
}

// damaged checks a repository in which object was damaged: it is named, and what no problem touches restores.
func (l *little) damaged(t *testing.T, st store.Store, object string) {
	t.Helper()
	r, err := openAgain(t, st)
	if err != nil {
		return // without keys nothing opens, and the error says so
	}
	rep, err := r.Check(t.Context(), CheckOptions{ReadData: true})
	if err != nil {
		t.Errorf("check: %v", err)
		return
	}
	named, touched := false, map[string]bool{}
	for _, p := range rep.Problems {
		named = named || p.Object == object || strings.HasPrefix(object, p.Object)
		for _, s := range p.Snapshots {
			touched[s] = true
		}
		if strings.HasPrefix(p.Object, prefixSnapshots) {
			touched["orders-db "+p.Object[strings.LastIndex(p.Object, "/")+1:]] = true
		}
	}
	if !named {
		t.Errorf("the check does not name %s: %+v", object, rep.Problems)
	}
	good := l.restorable(t, st)
	for id := range l.snapshots {
		s := "orders-db " + string(id)
		if !good[s] && !touched[s] && kindOf(object) != "signers" {
			t.Errorf("snapshot %s does not restore, and the check does not say so: %+v", s, rep.Problems)
		}
	}
}

func change(t testing.TB, st *storetest.Memory, name string, how func([]byte) []byte) *storetest.Memory {
	t.Helper()
	c := st.Clone()
	b, err := c.Get(context.Background(), name, 1<<30)
	if err == nil {
		err = c.Put(context.Background(), name, how(b))
	}
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestOneFlippedBit(t *testing.T) {
	t.Parallel()
	l := newLittle(t)
	for _, name := range l.samples(2) {
		if kindOf(name) == markerName || kindOf(name) == "keys" || kindOf(name) == "epochs" {
			continue // plain JSON: see TestDamagedKeys
		}
		t.Run(strings.ReplaceAll(name, "/", "_"), func(t *testing.T) {
			body, err := l.st.Get(t.Context(), name, 1<<30)
			if err != nil {
				t.Fatal(err)
			}
			for _, at := range []int{0, 4, 8, 20, len(body) / 2, len(body) - 9, len(body) - 1} {
				l.damaged(t, change(t, l.st, name, func(b []byte) []byte { b[at] ^= 0x10; return b }), name)
			}
		})
	}
}

func TestTruncation(t *testing.T) {
	t.Parallel()
	l := newLittle(t)
	for _, name := range l.samples(1) {
		if kindOf(name) == markerName || kindOf(name) == "keys" || kindOf(name) == "epochs" {
			continue
		}
		t.Run(kindOf(name), func(t *testing.T) {
			body, err := l.st.Get(t.Context(), name, 1<<30)
			if err != nil {
				t.Fatal(err)
			}
			// Whoever opens the object alone refuses every length; the whole check is asked at some.
			r, err := openAgain(t, l.st)
			if err != nil {
				t.Fatal(err)
			}
			for n := range body {
				if err := openAny(r, name, body[:n]); err == nil {
					t.Fatalf("%s opens although only %d of its %d bytes are there", name, n, len(body))
				}
			}
			for _, n := range []int{0, 10, 44, len(body) - 1} {
				l.damaged(t, change(t, l.st, name, func(b []byte) []byte { return b[:n] }), name)
			}
		})
	}
}

// openAny opens an object as its readers do, as far as authentication goes.
func openAny(r *Repository, name string, b []byte) error {
	b = bytes.Clone(b)
	if kindOf(name) == "packs" {
		st := storetest.NewMemory()
		if err := st.Put(context.Background(), name, b); err != nil {
			return err
		}
		g, id, _ := parsePackName(name)
		other := &Repository{store: st, keys: r.keys, codecs: r.codecs}
		_, _, err := other.readDirectory(context.Background(), packKey{g, id}, int64(len(b)))
		return err
	}
	if len(b) < 5 {
		_, err := r.keys.OpenWhole(1, name, b)
		return err
	}
	_, err := r.keys.OpenWhole(seal.Kind(b[4]), name, b)
	return err
}

func TestMissingObject(t *testing.T) {
	l := newLittle(t)
	for _, name := range l.samples(3) {
		switch kindOf(name) {
		case "packs", "base":
		default:
			continue // what is gone without a trace cannot be told from what never was
		}
		st := l.st.Clone()
		if err := st.Delete(t.Context(), name); err != nil {
			t.Fatal(err)
		}
		l.damaged(t, st, name)
	}
}

func TestSwappedObjects(t *testing.T) {
	l := newLittle(t)
	byKind := map[string][]string{}
	for _, n := range l.st.Names() {
		byKind[kindOf(n)] = append(byKind[kindOf(n)], n)
	}
	for kind, names := range byKind {
		if len(names) < 2 || kind == "keys" || kind == "epochs" {
			continue
		}
		t.Run(kind, func(t *testing.T) {
			a, _ := l.st.Get(t.Context(), names[0], 1<<30)
			b, _ := l.st.Get(t.Context(), names[1], 1<<30)
			st := l.st.Clone()
			if err := st.Put(t.Context(), names[0], b); err != nil {
				t.Fatal(err)
			}
			if err := st.Put(t.Context(), names[1], a); err != nil {
				t.Fatal(err)
			}
			l.damaged(t, st, names[0])
			l.damaged(t, st, names[1])
		})
	}
}

// afterList does something once, when a listing of a prefix has ended.
type afterList struct {
	store.Store
	prefix string
	do     func()
}

func (s *afterList) List(ctx context.Context, prefix, after string, fn func(store.Info) error) error {
	err := s.Store.List(ctx, prefix, after, fn)
	if do := s.do; do != nil && prefix == s.prefix {
		s.do = nil
		do()
	}
	return err
}

// A snapshot that is committed while a check reads is not told as damaged.
func TestCheckBesideASnapshot(t *testing.T) {
	t.Parallel()
	for _, prefix := range []string{prefixSystems, prefixIndex, prefixPacks, prefixSnapshots} {
		st := storetest.NewMemory()
		w := newRepository(t, st)
		mustSave(t, w, littleFiles(1, nil))
		s := &afterList{Store: st, prefix: prefix, do: func() { mustSave(t, w, littleFiles(2, nil)) }}
		report := must(reopen(t, s).Check(t.Context(), CheckOptions{ReadData: true}))
		if s.do != nil || len(report.Problems) > 0 || report.Snapshots < 1 {
			t.Errorf("a snapshot after the listing of %s: %d snapshots, %+v", prefix, report.Snapshots, report.Problems)
		}
	}
}
