package capture

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-dr/holdfast/internal/pg/cluster"
	"github.com/holdfast-dr/holdfast/internal/pg/wal/changed"
	"github.com/holdfast-dr/holdfast/internal/repo"
	"github.com/holdfast-dr/holdfast/internal/repo/repotest"
	"github.com/holdfast-dr/holdfast/internal/seal"
	"github.com/holdfast-dr/holdfast/internal/store/storetest"
)

// A relation whose segments have eight blocks here: what the snapshot before has of each, what the disk has, and which
// blocks are read where the log knows of nothing but a limit.
func TestForkOverTheBorderOfSegments(t *testing.T) {
	all := func(first, last int) string { return fmt.Sprintf("%d-%d", first, last) }
	for _, c := range []struct {
		name         string
		before, disk []int64 // blocks of each segment
		limit        uint32
		read         map[string]string
		removed      []string
	}{
		{"made", nil, []int64{8, 8, 2}, 0, map[string]string{"100": all(0, 7), "100.1": all(0, 7), "100.2": all(0, 1)}, nil},
		{"cut off and grown", []int64{8, 8, 5}, []int64{8, 8, 1}, 12, map[string]string{"100.1": all(4, 7), "100.2": all(0, 0)}, nil},
		{"cut off at a border", []int64{8, 8, 5}, []int64{8, 8, 0}, 16, map[string]string{"100.2": "empty"}, nil},
		{"cut off, and the segments are gone", []int64{8, 8, 5}, []int64{4}, 4, map[string]string{"100": ""}, []string{"100.1", "100.2"}},
		// It grew by zeros, of which the log does not tell, beyond two borders before it was cut off.
		{"grown before it was cut off", []int64{3}, []int64{8, 8, 6}, 21, map[string]string{"100": all(3, 7), "100.1": all(0, 7), "100.2": all(0, 5)}, nil},
		{"dropped", []int64{8, 3}, nil, 0, map[string]string{}, []string{"100", "100.1"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			files := invented(t, c.before, c.disk)
			files.parts = make(chan []*changedPart, 10)
			f := changed.Fork{Tablespace: cluster.DefaultTablespace, Database: 5, Relation: 100}
			if err := files.forkGroup(t.Context(), []changedFork{{f, changed.Change{Limit: c.limit}}}); err != nil {
				t.Fatal(err)
			}
			if err := files.flush(t.Context()); err != nil {
				t.Fatal(err)
			}
			close(files.parts)
			read := map[string]string{}
			for batch := range files.parts {
				for _, p := range batch {
					what := ""
					if n := len(p.pages); n > 0 {
						what = all(int(p.pages[0]), int(p.pages[n-1]))
					}
					read[filepath.Base(p.file.Path)] = what
				}
			}
			var removed []string
			for path, e := range files.edits {
				if e.Entry == nil {
					removed = append(removed, filepath.Base(path))
				} else {
					read[filepath.Base(path)] = "empty"
				}
			}
			if d := cmp.Diff(c.read, read); d != "" {
				t.Error("read (-want +got):", d)
			}
			slices.Sort(removed)
			if !slices.Equal(removed, c.removed) {
				t.Errorf("removed %v, want %v", removed, c.removed)
			}
		})
	}
}

// invented returns what a snapshot before and a data directory have of a relation.
func invented(t *testing.T, before, disk []int64) *changedFiles {
	t.Helper()
	r := repotest.Init(t, storetest.NewMemory(), repo.Options{})
	w, err := r.Begin(t.Context(), "orders-db", repo.DefaultGroup)
	if err != nil {
		t.Fatal(err)
	}
	path := func(seg int) string {
		return cluster.Relation{Tablespace: cluster.DefaultTablespace, Database: 5, Number: 100, Segment: uint32(seg)}.Path("")
	}
	lane, tree := w.Lane(), w.NewTree(t.Context())
	for seg, blocks := range before {
		id, err := lane.Save(t.Context(), make([]byte, blocks*repo.PageSize), nil)
		if err != nil {
			t.Fatal(err)
		}
		e := &repo.Entry{Type: repo.TypeFile, Mode: 0o600}
		e.SetContent(blocks*repo.PageSize, []repo.FileList{{Chunks: []seal.ChunkID{id}}})
		if err := tree.Add(path(seg), e); err != nil {
			t.Fatal(err)
		}
	}
	m := &repo.Manifest{Engine: "postgresql"}
	if err := tree.Finish(m); err != nil {
		t.Fatal(err)
	}
	if err := w.Commit(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "base/5"), 0o700); err != nil {
		t.Fatal(err)
	}
	for seg, blocks := range disk {
		if err := os.WriteFile(filepath.Join(dir, path(seg)), make([]byte, blocks*repo.PageSize), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c := &changedFiles{
		s:      &snapshot{info: cluster.Info{SegmentBlocks: 8}, files: localFiles{dir}},
		reader: r.Reader(), edits: map[string]repo.TreeEdit{},
	}
	if c.root, err = m.RootID(); err != nil {
		t.Fatal(err)
	}
	return c
}
