package workspace

import (
	"log/slog"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"testing"

	"github.com/holdfast-dr/holdfast/internal/repo"
	"github.com/holdfast-dr/holdfast/internal/seal"
	"github.com/holdfast-dr/holdfast/internal/store"
)

// patched takes a snapshot of a file of four chunks, the last of which lies in three units that have more pages.
func patched(t *testing.T, s System) *repo.Manifest {
	t.Helper()
	ctx := t.Context()
	w, err := s.Repo.Begin(ctx, string(s.Name), s.Group())
	if err != nil {
		t.Fatal(err)
	}
	lane, rnd := w.Lane(), rand.New(rand.NewPCG(1, 2))
	save := func(n int) seal.ChunkID {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(rnd.Uint32() & 15)
		}
		id, err := lane.Save(ctx, b, nil)
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	whole := map[int]seal.ChunkID{}
	for c := range 3 {
		whole[c] = save(repo.Grid)
	}
	var patches []repo.PagePatch
	units := []seal.ChunkID{save(64 * repo.PageSize), save(64 * repo.PageSize), save(64 * repo.PageSize)}
	for page := range 64 {
		patches = append(patches, repo.PagePatch{Page: uint16(3*64 + page), Unit: units[page%3], UnitPages: 64, Slot: uint8(page)})
	}
	base := must(t)(w.PatchPart(ctx, nil, whole, patches, 4*repo.Grid))
	e := &repo.Entry{Type: repo.TypeFile}
	e.SetContent(4*repo.Grid, []repo.FileList{base})
	tree, m := w.NewTree(ctx), &repo.Manifest{Engine: "test"}
	if err := tree.Add("base/1/2", e); err != nil {
		t.Fatal(err)
	}
	if err := tree.Finish(m); err != nil {
		t.Fatal(err)
	}
	if err := w.Commit(ctx, m); err != nil {
		t.Fatal(err)
	}
	return m
}

func must(t *testing.T) func(repo.FileList, error) repo.FileList {
	return func(l repo.FileList, err error) repo.FileList {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
}

// What an optimization that was killed between its two last steps has left is one moment: it must not push another one
// out of the policy, nor be kept itself for lack of another.
func TestRetainCountsAMomentOnce(t *testing.T) {
	dir := t.TempDir()
	w := New(configuration(t, dir, filepath.Join(dir, "state")), slog.New(slog.DiscardHandler))
	defer w.Close()
	if _, _, err := w.Init(t.Context(), "main", nil); err != nil {
		t.Fatal(err)
	}
	s, err := w.System(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	s.Policy.Retention.KeepLast, s.Policy.Retention.Hourly, s.Policy.Retention.Daily = 2, 0, 0
	s.Policy.Retention.Weekly, s.Policy.Retention.Monthly, s.Policy.Retention.Yearly = 0, 0, 0
	before := patched(t, s)
	var names []string
	bodies := map[string][]byte{}
	keep := func() {
		err := s.Repo.Store().List(t.Context(), "snapshots/", "", func(i store.Info) error {
			names = append(names, i.Name)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range names {
			if bodies[n], err = s.Repo.Store().Get(t.Context(), n, 1<<20); err != nil {
				t.Fatal(err)
			}
		}
	}
	keep()
	report, err := s.Repo.Optimize(t.Context(), "a", repo.OptimizeOptions{Bound: 1.0001})
	if err != nil {
		t.Fatal(err)
	}
	if report.Rewritten == "" {
		t.Fatalf("nothing was rewritten: %+v", report)
	}
	for n, b := range bodies { // it was killed before it forgot
		if err := s.Repo.Store().Put(t.Context(), n, b); err != nil {
			t.Fatal(err)
		}
	}
	for _, how := range []Retention{DryRun, Apply} {
		got, err := w.Retain(t.Context(), s, how)
		if err != nil {
			t.Fatal(err)
		}
		if len(got.Kept) != 1 || got.Kept[0].ID != report.Rewritten || len(got.Forgotten) != 1 || got.Forgotten[0] != before.ID {
			t.Fatalf("%v: %+v", how, got)
		}
	}
	list, err := s.Repo.Snapshots(t.Context(), "a")
	if err != nil || len(list) != 1 || list[0].ID != report.Rewritten || !strings.HasPrefix(string(list[0].ID), string(before.ID)[:16]) {
		t.Errorf("left: %+v, %v", list, err)
	}
}
