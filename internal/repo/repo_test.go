package repo

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"testing"

	"golang.org/x/sync/errgroup"

	"github.com/holdfast-dr/holdfast/internal/seal"
	"github.com/holdfast-dr/holdfast/internal/store"
	"github.com/holdfast-dr/holdfast/internal/store/storetest"
)

const passphrase = "correct horse battery staple"

var testCredentials = seal.Credentials{Passphrase: passphrase}

func testRecipient(t testing.TB) seal.Recipient {
	t.Helper()
	r, err := seal.PassphraseRecipient("test", passphrase, 1)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func testOptions(t testing.TB) Options {
	t.Helper()
	s, err := seal.NewSigner()
	if err != nil {
		t.Fatal(err)
	}
	return Options{Signer: s, PackBytes: 256 << 10, CacheDir: t.TempDir(), Codecs: []Codec{sparse{new(atomic.Int64)}}}
}

func newRepository(t testing.TB, st store.Store) *Repository {
	t.Helper()
	r, err := Init(t.Context(), st, []seal.Recipient{testRecipient(t)}, testOptions(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r
}

func reopen(t testing.TB, st store.Store) *Repository {
	t.Helper()
	r, err := Open(t.Context(), st, seal.Credentials{Passphrase: passphrase}, testOptions(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r
}

// files is what a test stores: path to content.
type files map[string][]byte

// randomFiles are small ones, ones of up to three chunks, of which a half is zeros, a file of equal chunks, and an empty one.
func randomFiles(seed uint64, n int) files {
	rnd := rand.New(rand.NewPCG(seed, 1))
	fs := files{}
	for i := range n {
		size := rnd.IntN(3 * Grid)
		if i%3 == 0 {
			size = rnd.IntN(3000)
		}
		b := make([]byte, size)
		for j := 0; j+8 <= len(b)/2; j += 8 {
			binary.LittleEndian.PutUint64(b[j:], rnd.Uint64())
		}
		fs[fmt.Sprintf("base/%05d", i)] = b
	}
	fs["base/big"] = bytes.Repeat([]byte("0123456789abcdef"), 3*Grid/16)
	fs["empty"] = nil
	return fs
}

// severalLists makes the big file one of more chunks than a list has. It is of 130 MiB: for tests of that alone.
func (fs files) severalLists() files {
	fs["base/big"] = bytes.Repeat([]byte("0123456789abcdef"), (ListLen+3)*Grid/16)
	return fs
}

// save writes fs as a snapshot, with several lanes.
func save(ctx context.Context, r *Repository, system string, fs files) (*Manifest, error) {
	w, err := r.Begin(ctx, system, DefaultGroup)
	if err != nil {
		return nil, err
	}
	defer w.Close(ctx) //nolint:errcheck // the error of interest is another
	m, err := storeFiles(ctx, w, fs)
	if err != nil {
		return nil, err
	}
	return m, w.Commit(ctx, m)
}

// storeFiles writes fs, all but the commit.
func storeFiles(ctx context.Context, w *Writer, fs files) (*Manifest, error) {
	entries := make([]*Entry, 0, len(fs))
	paths := sortedKeys(fs)
	for range paths {
		entries = append(entries, &Entry{Type: TypeFile, Mode: 0o600})
	}
	var eg errgroup.Group
	lanes := 1 + min(2, len(paths)/8) // an encoder is megabytes: few of them for a few small files
	for lane := range lanes {
		l := w.Lane()
		eg.Go(func() error {
			for i := lane; i < len(paths); i += lanes {
				if err := saveFile(ctx, w, l, entries[i], fs[paths[i]]); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := eg.Wait(); err != nil {
		return nil, err
	}
	tree, m := w.NewTree(ctx), &Manifest{Engine: "test"}
	for i, p := range paths {
		if err := tree.Add(p, entries[i]); err != nil {
			return nil, err
		}
	}
	return m, tree.Finish(m)
}

func saveFile(ctx context.Context, w *Writer, l *Lane, e *Entry, b []byte) error {
	var lists []FileList
	for rest := b; len(rest) > 0; {
		var ids []seal.ChunkID
		for len(rest) > 0 && len(ids) < ListLen {
			n := min(Grid, len(rest))
			id, err := l.Save(ctx, rest[:n], nil)
			if err != nil {
				return err
			}
			ids, rest = append(ids, id), rest[n:]
		}
		list, err := w.SaveList(ctx, ids, int64(len(b)))
		if err != nil {
			return err
		}
		lists = append(lists, list)
	}
	e.SetContent(int64(len(b)), lists)
	return nil
}

func sortedKeys(fs files) []string {
	var keys []string
	for k := range fs {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// load reads a snapshot back.
func load(ctx context.Context, r *Repository, m *Manifest) (files, error) {
	root, err := m.RootID()
	if err != nil {
		return nil, err
	}
	fs := files{}
	tree, data := r.Reader(), r.Reader()
	err = tree.Walk(ctx, root, "", func(path string, e *Entry) error {
		b := make([]byte, 0, min(e.Size, 1<<28))
		for n := range ListCount(e.Size) {
			p, err := data.FilePart(ctx, e, n)
			if err != nil {
				return err
			}
			err = data.Part(ctx, p, allChunks(p), func(_ int, plain []byte) error { b = append(b, plain...); return nil }, nil)
			if err != nil {
				return err
			}
		}
		fs[path] = b
		return nil
	})
	return fs, err
}

func allChunks(p *FilePart) []int {
	all := make([]int, p.Len())
	for i := range all {
		all[i] = i
	}
	return all
}

func wantFiles(t testing.TB, r *Repository, m *Manifest, want files) {
	t.Helper()
	got, err := load(t.Context(), r, m)
	if err != nil {
		t.Fatalf("load %s: %v", m.ID, err)
	}
	if len(got) != len(want) {
		t.Fatalf("snapshot %s has %d files, want %d", m.ID, len(got), len(want))
	}
	for p, b := range want {
		if !bytes.Equal(got[p], b) {
			t.Fatalf("snapshot %s: %s has %d bytes that differ from the %d stored", m.ID, p, len(got[p]), len(b))
		}
	}
}

func TestSnapshotRoundTrip(t *testing.T) {
	st := storetest.NewMemory()
	r := newRepository(t, st)
	want := randomFiles(1, 60).severalLists()
	m, err := save(t.Context(), r, "orders-db", want)
	if err != nil {
		t.Fatal(err)
	}
	wantFiles(t, reopen(t, st), m, want)

	list, err := reopen(t, st).Snapshots(t.Context(), "orders-db")
	if err != nil || len(list) != 1 || list[0].Err != nil || list[0].Manifest.ID != m.ID {
		t.Fatalf("Snapshots = %+v, %v", list, err)
	}

	// The second one costs nothing but its manifest and what changed.
	want["base/00001"] = append(bytes.Clone(want["base/00001"]), 1)
	m2, err := save(t.Context(), reopen(t, st), "orders-db", want)
	if err != nil {
		t.Fatal(err)
	}
	if got := m2.Written; got.NewChunks > 6 || got.NewChunks == 0 {
		t.Errorf("a snapshot with one changed file wrote %d new chunks of %d", got.NewChunks, got.Chunks)
	}
	wantFiles(t, reopen(t, st), m2, want)
	for _, n := range st.Names() {
		if bytes.Contains([]byte(n), []byte("orders")) {
			t.Errorf("object name %s tells the system's name", n)
		}
	}
}
