package restore_test

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/internal/pg"
	"github.com/holdfast-dr/holdfast/internal/pg/control"
	"github.com/holdfast-dr/holdfast/internal/pg/pgtest"
	"github.com/holdfast-dr/holdfast/internal/repo"
	"github.com/holdfast-dr/holdfast/internal/restore"
	"github.com/holdfast-dr/holdfast/internal/restore/points"
	"github.com/holdfast-dr/holdfast/internal/seal"
	"github.com/holdfast-dr/holdfast/internal/store"
	"github.com/holdfast-dr/holdfast/internal/store/storetest"
)

// tiny is a snapshot of a few files that looks like a cluster's: small enough to be restored hundreds of times.
type tiny struct {
	control []byte
	facts   pg.Facts
	files   map[string][]byte

	patched   map[string]bool  // files that are stored with pages over other ones
	zeros     map[string]int64 // sizes of files of zeros, which may be too large for files
	packBytes int              // 0: 128 KiB

	result *restore.Result // of the last restore
}

// grow adds so many files, and makes packs so small that the tree's nodes lie in several.
func (y *tiny) grow(files int) {
	for i := range files {
		y.files[fmt.Sprintf("base/7/%05d", 20000+i)] = []byte(fmt.Sprint("file number ", i))
	}
	y.packBytes = 4 << 10
}

// stored returns a store that holds a repository with the snapshot.
func (y *tiny) stored(t *testing.T) *storetest.Memory {
	t.Helper()
	st := storetest.NewMemory()
	y.store(t, st)
	return st
}

func newTiny(t *testing.T) *tiny {
	t.Helper()
	s := pgtest.Start(t, pgtest.Options{Version: "15"})
	s.Stop(pgtest.Fast)
	c, content, err := control.Read(t.Context(), s.DataDir)
	if err != nil {
		t.Fatal(err)
	}
	const start = 0x2000028
	return &tiny{
		control: content,
		facts: pg.Facts{
			Version: 150000, SystemID: c.SystemID, Timeline: 1, StopTimeline: 1, StartLSN: start, StopLSN: start + 0x100, SegmentSize: 16 << 20, PageSize: 8192,
			BackupLabel: "START WAL LOCATION: 0/2000028 (file 000000010000000000000002)\nCHECKPOINT LOCATION: 0/2000060\nBACKUP METHOD: streamed\nBACKUP FROM: primary\nSTART TIMELINE: 1\n",
		},
		patched: map[string]bool{"base/1/1259": true, "base/5/16384": true},
		files: map[string][]byte{
			"PG_VERSION": []byte("15\n"), "base/1/1259": bytes.Repeat([]byte("page"), repo.Grid/2), "base/1/empty": {},
			"base/5/16384": bytes.Repeat([]byte("0123456789abcdef"), 5*repo.Grid/16), "postgresql.conf": []byte("port = 5432\n"),
		},
	}
}

// store makes a repository with the snapshot in st.
func (y *tiny) store(t *testing.T, st store.Store) {
	t.Helper()
	signer, to := keys(t)
	r, err := repo.Init(t.Context(), st, []seal.Recipient{to}, repo.Options{Signer: signer, PackBytes: cmp.Or(y.packBytes, 128<<10)})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	w, err := r.Begin(t.Context(), system, repo.DefaultGroup)
	if err != nil {
		t.Fatal(err)
	}
	facts, err := json.Marshal(y.facts)
	if err != nil {
		t.Fatal(err)
	}
	m := &repo.Manifest{Engine: pg.Engine, Facts: facts, Log: repo.LogRange{Stream: 1, Start: uint64(y.facts.StartLSN), End: uint64(y.facts.StopLSN)}}
	tree, lane := w.NewTree(t.Context()), w.Lane()
	for _, p := range y.paths() {
		e := &repo.Entry{Type: repo.TypeDir, Mode: 0o700}
		content, ok := y.files[p]
		if size := y.zeros[p]; size > 0 {
			e.Type, e.Mode = repo.TypeFile, 0o600
			y.saveZeros(t, w, e, size)
		}
		if p == control.Path {
			content, ok = y.control, true
		}
		if ok {
			e.Type, e.Mode = repo.TypeFile, 0o600
			var ids []seal.ChunkID
			for rest := content; len(rest) > 0; rest = rest[min(repo.Grid, len(rest)):] {
				id, err := lane.Save(t.Context(), rest[:min(repo.Grid, len(rest))], nil)
				if err != nil {
					t.Fatal(err)
				}
				ids = append(ids, id)
			}
			if len(ids) > 0 {
				list, err := w.SaveList(t.Context(), ids, int64(len(content)))
				if err == nil && y.patched[p] {
					list, err = patchedList(t, r.Reader(), w, lane, ids, content)
				}
				if err != nil {
					t.Fatal(err)
				}
				e.SetContent(int64(len(content)), []repo.FileList{list})
			}
		}
		if err := tree.Add(p, e); err != nil {
			t.Fatal(err)
		}
	}
	if err := tree.Finish(m); err != nil {
		t.Fatal(err)
	}
	if err := w.Commit(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	err = r.Log(system).Encoder().Put(t.Context(), 1, 0x2000000, make([]byte, 0x1000), repo.ExtentClock{Writer: time.Now()}, repo.Fast)
	if err != nil {
		t.Fatal(err)
	}
}

// patchedList stores content as other bytes than it has, and over them two pages of every chunk but each third, and all of
// the last chunk.
func patchedList(t *testing.T, rd *repo.Reader, w *repo.Writer, lane *repo.Lane, ids []seal.ChunkID, content []byte) (repo.FileList, error) {
	t.Helper()
	const perChunk = repo.Grid / repo.PageSize
	under, patches := slices.Clone(ids), []repo.PagePatch(nil)
	for c, id := range ids {
		var pages []int
		chunk := bytes.Clone(content[c*repo.Grid : min((c+1)*repo.Grid, len(content))])
		switch {
		case c == len(ids)-1:
			for at := 0; at < len(chunk); at += repo.PageSize {
				pages = append(pages, c*perChunk+at/repo.PageSize)
			}
		case c%3 < 2:
			pages = []int{c*perChunk + 5, c*perChunk + perChunk - 1}
		}
		var unit []byte
		for _, page := range pages {
			b := make([]byte, repo.PageSize)
			copy(b, content[page*repo.PageSize:])
			unit = append(unit, b...)
			copy(chunk[page*repo.PageSize-c*repo.Grid:], "what was there before, and is there no more")
		}
		var err error
		if len(pages) > 0 {
			if under[c], err = lane.Save(t.Context(), chunk, nil); err != nil {
				return repo.FileList{}, err
			}
			if id, err = lane.Save(t.Context(), unit, nil); err != nil {
				return repo.FileList{}, err
			}
		}
		for slot, page := range pages {
			patches = append(patches, repo.PagePatch{Page: uint16(page), Unit: id, UnitPages: uint8(len(pages)), Slot: uint8(slot)})
		}
	}
	base, err := rd.FilePart(t.Context(), &repo.Entry{Type: repo.TypeFile, Size: int64(len(content)), Chunks: under}, 0)
	if err != nil {
		return repo.FileList{}, err
	}
	return w.PatchPart(t.Context(), base, nil, patches, int64(len(content)))
}

// saveZeros gives an entry its content. The size is a multiple of a list's.
func (y *tiny) saveZeros(t *testing.T, w *repo.Writer, e *repo.Entry, size int64) {
	t.Helper()
	id, err := w.Lane().Save(t.Context(), make([]byte, repo.Grid), nil)
	if err != nil {
		t.Fatal(err)
	}
	list, err := w.SaveList(t.Context(), slices.Repeat([]seal.ChunkID{id}, repo.ListLen), repo.ListLen*repo.Grid)
	if err != nil {
		t.Fatal(err)
	}
	e.SetContent(size, slices.Repeat([]repo.FileList{list}, repo.ListCount(size)))
}

// paths returns the files and their directories, in the order of a tree.
func (y *tiny) paths() []string {
	all := map[string]bool{"pg_wal": true}
	for _, p := range slices.Concat(slices.Collect(maps.Keys(y.files)), slices.Collect(maps.Keys(y.zeros))) {
		for ; p != "."; p = path.Dir(p) {
			all[p] = true
		}
	}
	all["global"], all[control.Path] = true, true
	return slices.Sorted(maps.Keys(all))
}

func (y *tiny) restore(t *testing.T, st store.Store, to string) error {
	return y.restoreWith(t, st, restore.Options{To: to, Workers: 2, Settings: unserved})
}

func (y *tiny) restoreWith(t *testing.T, st store.Store, o restore.Options) error {
	return y.restoreContext(t.Context(), t, st, o)
}

// restoreContext restores until it is done or ctx is.
func (y *tiny) restoreContext(ctx context.Context, t *testing.T, st store.Store, o restore.Options) error {
	r, err := repo.Open(t.Context(), st, seal.Credentials{Passphrase: passphrase}, repo.Options{})
	if err != nil {
		return err
	}
	defer r.Close()
	v, err := points.Load(t.Context(), r, system)
	if err != nil {
		return err
	}
	p, err := v.Plan(t.Context(), points.Target{Kind: points.Immediate}, points.Timeline{}, points.RefuseLoss)
	if err != nil {
		return err
	}
	y.result, err = restore.Run(ctx, r, p, o)
	return err
}

// Every call that a restore makes to the store fails once: the restore says so and leaves nothing that starts, and
// the same command then finishes it.
func TestRestoreEveryFault(t *testing.T) {
	y := newTiny(t)
	base, n, target := pgtest.TempDir(t), 0, ""
	failures := 0
	storetest.EachFault(t, storetest.Sweep{
		Kind: store.Denied,
		Prepare: func(t *testing.T, st store.Store) {
			y.store(t, st)
			n++
			target = filepath.Join(base, fmt.Sprint(n))
		},
		Run: func(t *testing.T, st store.Store) error { return y.restore(t, st, target) },
		Check: func(t *testing.T, st store.Store, failed error) {
			if failed != nil {
				failures++
				if _, err := os.Stat(filepath.Join(target, control.Path)); err == nil {
					t.Fatalf("after %v the directory could be started", failed)
				}
				if err := y.restore(t, st, target); err != nil {
					t.Fatalf("after %v, the same restore: %v", failed, err)
				}
			}
			for p, want := range y.files {
				got, err := os.ReadFile(filepath.Join(target, p))
				if err != nil || !bytes.Equal(got, want) {
					t.Fatalf("after %v: %s: %v, %s", failed, p, err, fmt.Sprintf("%d bytes of %d", len(got), len(want)))
				}
			}
			if _, err := os.Stat(filepath.Join(target, control.Path)); err != nil {
				t.Fatal(err)
			}
		},
	})
	if failures < 10 {
		t.Errorf("only %d faults made the restore fail", failures)
	}
}
