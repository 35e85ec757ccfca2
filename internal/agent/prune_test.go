package agent

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/holdfast-dr/holdfast/internal/config"
	"github.com/holdfast-dr/holdfast/internal/repo"
	"github.com/holdfast-dr/holdfast/internal/workspace"
)

// An agent that leaves pruning to others removes nothing; one that does not, does.
func TestPruningIsLeftToOthers(t *testing.T) {
	t.Parallel()
	for _, prune := range []bool{false, true} {
		dir := t.TempDir()
		secret := filepath.Join(dir, "passphrase")
		if err := os.WriteFile(secret, []byte(strings.Repeat("long enough to need no stretching ", 2)), 0o600); err != nil {
			t.Fatal(err)
		}
		c, err := config.Parse("holdfast.yaml", []byte(fmt.Sprintf(`version: 1
repositories:
  main:
    replicas: [{url: "file://%s/repository"}]
    keys: {passphrase-file: %q}
    cache: "%s/cache"
policies:
  standard: {retention: {keep-last: 1, keep-hourly: 0, keep-daily: 0, keep-weekly: 0, keep-monthly: 0}}
systems:
  a: {postgres: {connection: "host=/nowhere"}}
agent: {state: %q, prune: %v}
`, dir, secret, dir, filepath.Join(dir, "state"), prune)))
		if err != nil {
			t.Fatal(err)
		}
		log := slog.New(slog.DiscardHandler)
		ws := workspace.New(c, log)
		defer ws.Close()
		r, _, err := ws.Init(t.Context(), "main", nil)
		if err != nil {
			t.Fatal(err)
		}
		for range 3 {
			w, err := r.Begin(t.Context(), "a", repo.DefaultGroup)
			if err != nil {
				t.Fatal(err)
			}
			m := &repo.Manifest{Engine: "test"}
			if err := w.NewTree(t.Context()).Finish(m); err != nil {
				t.Fatal(err)
			}
			if err := w.Commit(t.Context(), m); err != nil {
				t.Fatal(err)
			}
		}
		o := &systemOperations{ws: ws, system: c.Systems["a"], policy: c.PolicyOf(c.Systems["a"]), log: log}
		if got := o.do(t.Context(), job{task: taskRetention}, nil); got.err != nil {
			t.Fatalf("prune %v: %+v", prune, got)
		}
		want := map[bool]int{false: 3, true: 1}[prune]
		if list, err := r.Snapshots(t.Context(), "a"); err != nil || len(list) != want {
			t.Errorf("prune %v: %d snapshots are left, want %d; %v", prune, len(list), want, err)
		}
		if prune {
			continue // a collection reads what only PostgreSQL has
		}
		if got := o.do(t.Context(), job{task: taskCollection}, nil); got.err != nil || got.waits {
			t.Errorf("collection: %+v", got)
		}
		if last, err := r.Collected(t.Context()); err != nil || !last.IsZero() {
			t.Errorf("it collected at %s, %v", last, err)
		}
	}
}
