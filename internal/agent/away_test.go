package agent

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/holdfast-dr/holdfast/internal/config"
	"github.com/holdfast-dr/holdfast/internal/repo"
	"github.com/holdfast-dr/holdfast/internal/repo/repotest"
	"github.com/holdfast-dr/holdfast/internal/store/storetest"
	"github.com/holdfast-dr/holdfast/internal/workspace"
)

// With the first site away snapshots are taken at another one, and are at the first when it is back.
func TestSnapshotsGoOnWithoutTheFirstSite(t *testing.T) {
	t.Parallel()
	s := newSite(t, "every 1m")
	text, err := os.ReadFile(s.path)
	if err != nil {
		t.Fatal(err)
	}
	for before, after := range map[string]string{
		"sites: {":       "sites: {there: {jurisdiction: EU}, ",
		`/repository"}]`: `/repository"}, {site: there, url: "file://` + s.dir + `/there"}]`,
		"keep-last: 3":   "keep-last: 500",
	} {
		text = []byte(strings.Replace(string(text), before, after, 1))
	}
	if err := os.WriteFile(s.path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	s.server.Exec("", "CREATE TABLE ledger (n int, s text)")
	p := s.start(s.path)
	first := p.until("both sites are written to", func(st SystemStatus) bool {
		if st.State.Last == nil || st.Stream == nil || st.Stream.Copies == nil || len(st.Replicas) != 1 || st.Replicas[0].Snapshot == "" {
			return false
		}
		for _, site := range st.Stream.Copies.Sites {
			if !site.Member {
				return false
			}
		}
		return true
	}).State.Last
	if first.Site != "" {
		t.Errorf("with both sites there the snapshot was taken at %q", first.Site)
	}
	home, away := filepath.Join(s.dir, "repository"), filepath.Join(s.dir, "away")
	// A directory that is only renamed is still written to, and one that is missing is made anew, and filled.
	if err := os.CopyFS(away, os.DirFS(home)); err != nil {
		t.Fatal(err)
	}
	for try := 0; ; try++ {
		err := os.RemoveAll(home)
		if err == nil {
			err = os.WriteFile(home, nil, 0o600)
		}
		if err == nil {
			break
		}
		if try == 100 { // while it is removed the agent puts something into it
			t.Fatal(err)
		}
	}
	taken := p.until("a snapshot at the other site", func(st SystemStatus) bool { return st.State.Last.Site == "there" && st.State.Last.ID != first.ID }).State.Last
	if err := errors.Join(os.Remove(home), os.Rename(away, home)); err != nil {
		t.Fatal(err)
	}
	c, err := config.Load(s.path)
	if err != nil {
		t.Fatal(err)
	}
	w := workspace.New(c, slog.New(slog.DiscardHandler))
	defer w.Close()
	p.until("the snapshot is at the first site", func(SystemStatus) bool {
		sys, err := w.System(t.Context(), testSystem)
		if err != nil {
			t.Fatal(err)
		}
		_, err = sys.Repo.Manifest(t.Context(), testSystem, taken.ID)
		return err == nil
	})
	sys, err := w.System(t.Context(), testSystem)
	if err != nil {
		t.Fatal(err)
	}
	report, err := sys.Repo.Check(t.Context(), repo.CheckOptions{ReadData: true})
	if err != nil || len(report.Problems) > 0 {
		t.Errorf("the check finds %+v, %v", report.Problems, err)
	}
	p.until("snapshots are taken at the first site again", func(st SystemStatus) bool {
		return st.State.Last.Site == "" && st.State.Last.Started.After(taken.Started)
	})
}

// Where a store does not list at once what was written nothing is deleted: what a writer needs may look like what nobody needs.
func TestNothingIsCollectedWhereListingsAreLate(t *testing.T) {
	t.Parallel()
	st := storetest.NewFaulty(storetest.NewMemory())
	sys := workspace.System{Repo: repotest.Init(t, st, repo.Options{})}
	st.DelayLists(5)
	o := &systemOperations{log: slog.New(slog.DiscardHandler), ws: &workspace.Workspace{Config: &config.Config{Agent: config.Agent{Prune: true}}}}
	if out := o.collect(t.Context(), sys, nil); out.err == nil || !strings.Contains(out.err.Error(), "does not list at once") {
		t.Errorf("the collection says %v", out.err)
	}
	for _, c := range st.Calls() {
		if c.Op == "delete" && !strings.HasPrefix(c.Name, "probe/") {
			t.Errorf("it deletes %s", c.Name)
		}
	}
}
