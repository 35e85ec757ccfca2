package repo

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/holdfast-dr/holdfast/internal/store/storetest"
)

var keep = flag.Bool("kept.write", false, "write the kept repositories that are missing; those that are there never change")

// keptFiles is what a kept repository must say: the SHA-256 of each file of each snapshot.
type keptFiles map[SnapshotID]map[string]string

// Repositories that an earlier holdfast wrote restore for ever, and are written to.
func TestKeptRepositories(t *testing.T) {
	for name, write := range map[string]func(*testing.T, *storetest.Memory) map[SnapshotID]files{
		"1-patched": keptPatched, "2-nodes": keptNodes, "3-sized-nodes": keptNodes, "4-log": keptLog,
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join("testdata", "kept", name)
			if _, err := os.Stat(path + ".tar"); errors.Is(err, os.ErrNotExist) && *keep {
				writeKept(t, path, write)
			}
			st, want := readKept(t, path)
			for id, fs := range want {
				wantSums(t, st, id, fs)
			}
			wantClean(t, st)
			s := strangerTo(t, st)
			s.unlock(passphrase)
			s.readIndex()
			for id, fs := range want {
				if got := s.snapshot("snapshots/" + s.nameHash("orders-db") + "/" + string(id)); !maps.Equal(sumsOf(got), fs) {
					t.Errorf("a stranger reads snapshot %s differently", id)
				}
			}
			if name == "4-log" {
				wantKeptLog(t, st, s)
			}
			mustSave(t, reopen(t, st), littleFiles(1, nil))
			mustCollect(t, reopen(t, st), CollectOptions{MinLive: 0.9})
			for id, fs := range want {
				wantSums(t, st, id, fs)
			}
		})
	}
}

// keptPatched has files with every kind of patched list, a forgotten snapshot, and a collection.
func keptPatched(t *testing.T, st *storetest.Memory) map[SnapshotID]files {
	r := newRepository(t, st)
	r.limits.smallTable = 100
	p := &patcher{t: t, rnd: rand.New(rand.NewPCG(11, 1)), most: 3}
	now := append(make([]byte, (chunkPages-5)*PageSize), p.content(10)...) // the end of one chunk, and the next
	m := p.snapshot(r, nil, nil, now)
	all, kinds := map[SnapshotID]files{}, map[string]bool{}
	for range 30 {
		if kind := kindOfPart(t, r, m); !kinds[kind] {
			kinds[kind], all[m.ID] = true, files{"rel": now}
		}
		next := slices.Clone(now)
		for range 1 + p.rnd.IntN(3) {
			copy(next[(chunkPages-5+p.rnd.IntN(10))*PageSize:], p.content(1))
		}
		after := p.snapshot(r, m, now, next)
		if all[m.ID] == nil {
			if err := r.Forget(t.Context(), "orders-db", m.ID); err != nil {
				t.Fatal(err)
			}
		}
		m, now = after, next
	}
	all[m.ID] = files{"rel": now}
	t.Logf("kinds of lists: %v", kinds)
	mustCollect(t, r, CollectOptions{MinLive: 0.9})
	return all
}

// keptNodes has a tree of more than one level.
func keptNodes(t *testing.T, st *storetest.Memory) map[SnapshotID]files {
	fs := files{}
	for i := range 300 {
		fs[fmt.Sprintf("base/5/%05d", i)] = []byte(fmt.Sprint("file ", i%3))
	}
	return map[SnapshotID]files{mustSave(t, newRepository(t, st), fs).ID: fs}
}

// keptLog has parts of a log that say who has it, and one that does not.
func keptLog(t *testing.T, st *storetest.Memory) map[SnapshotID]files {
	r := newRepository(t, st)
	fs := littleFiles(1, nil)
	m := mustSave(t, r, fs)
	log, known := r.Log("orders-db"), NewHolders()
	known.Join("here", replicaNamed("0a"), nil)
	for at := uint64(1000); at < 4000; at += 1000 {
		if at == 2000 {
			log.Tell(known, "here")
			log.Begin(1, at)
		}
		if err := log.Encoder().Put(t.Context(), 1, at, position(at, at+1000), ExtentClock{}, Compression(at/1000%2)); err != nil {
			t.Fatal(err)
		}
	}
	return map[SnapshotID]files{m.ID: fs}
}

// wantKeptLog reads what keptLog wrote.
func wantKeptLog(t *testing.T, st *storetest.Memory, s *stranger) {
	t.Helper()
	log := reopen(t, st).Log("orders-db")
	lr, names := log.Reader(), s.names("log/")
	for i, e := range must(log.Extents(t.Context(), 1, 0)) {
		var want []Holder
		if e.Start > 1000 {
			want = []Holder{{"here", replicaNamed("0a"), e.Start}}
		}
		b, _, err := lr.Read(t.Context(), e)
		if err != nil || !bytes.Equal(b, position(e.Start, e.End)) {
			t.Errorf("extent %d differs: %v", e.Start, err)
		}
		if got, _, err := lr.Holders(t.Context(), e); err != nil || !slices.Equal(got, want) {
			t.Errorf("extent %d says %v, %v; want %v", e.Start, got, err, want)
		}
		if start, data, list := s.extent(names[i]); start != e.Start || !bytes.Equal(data, position(e.Start, e.End)) || len(list) != len(want) {
			t.Errorf("a stranger reads extent %d differently", e.Start)
		}
	}
	if len(names) != 3 {
		t.Errorf("%d parts of the log", len(names))
	}
}

func writeKept(t *testing.T, path string, write func(*testing.T, *storetest.Memory) map[SnapshotID]files) {
	t.Helper()
	st := storetest.NewMemory()
	sums := keptFiles{}
	for id, fs := range write(t, st) {
		sums[id] = sumsOf(fs)
	}
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, name := range st.Names() {
		body := must(st.Get(t.Context(), name, 1<<30))
		err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o600, Size: int64(len(body))})
		if err == nil {
			_, err = w.Write(body)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	err := errors.Join(w.Close(), os.MkdirAll(filepath.Dir(path), 0o755))
	if err == nil {
		err = errors.Join(os.WriteFile(path+".tar", b.Bytes(), 0o644), os.WriteFile(path+".json", must(json.MarshalIndent(sums, "", "\t")), 0o644))
	}
	if err != nil {
		t.Fatal(err)
	}
}

func readKept(t *testing.T, path string) (*storetest.Memory, keptFiles) {
	t.Helper()
	st, want := storetest.NewMemory(), keptFiles{}
	if err := json.Unmarshal(must(os.ReadFile(path+".json")), &want); err != nil || len(want) == 0 {
		t.Fatalf("%d snapshots, %v", len(want), err)
	}
	r := tar.NewReader(bytes.NewReader(must(os.ReadFile(path + ".tar"))))
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return st, want
		}
		if err == nil {
			err = st.Put(t.Context(), h.Name, must(io.ReadAll(r)))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

func sumsOf(fs files) map[string]string {
	out := map[string]string{}
	for path, b := range fs {
		sum := sha256.Sum256(b)
		out[path] = hex.EncodeToString(sum[:])
	}
	return out
}

func wantSums(t *testing.T, st *storetest.Memory, id SnapshotID, want map[string]string) {
	t.Helper()
	r := reopen(t, st)
	got := sumsOf(must(load(t.Context(), r, must(r.Manifest(t.Context(), "orders-db", id)))))
	if len(got) != len(want) {
		t.Errorf("snapshot %s has %d files, want %d", id, len(got), len(want))
	}
	for path, sum := range want {
		if got[path] != sum {
			t.Errorf("snapshot %s: %s has SHA-256 %s, want %s", id, path, got[path], sum)
		}
	}
}
