package e2e

import (
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/internal/pg/pgtest"
)

// TestTwoWritersAndAPrune lets three processes work on one repository at once: snapshots of two systems, and a prune
// that has little patience with writers. It may abort a snapshot, aloud; what is listed in the end is whole.
func TestTwoWritersAndAPrune(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Options{Version: "15", Conf: map[string]string{"max_wal_size": "64MB"}})
	w.configure(setup{systems: []string{"alpha", "beta"}, keep: 2})
	w.run("repo", "init")
	w.server.Exec("", "CREATE TABLE big AS SELECT i, md5(i::text) AS v FROM generate_series(1, 100000) AS i")
	until := time.Now().Add(15 * time.Second)
	var wg sync.WaitGroup
	results := map[string]map[int]int{}
	var mu sync.Mutex // guards results
	for name, args := range map[string][]string{
		"alpha": {"snapshot", "create", "alpha"}, "beta": {"snapshot", "create", "beta"},
		"prune": {"repo", "prune", "--patience", "1s", "--confirm", "main"},
	} {
		wg.Go(func() {
			codes := map[int]int{}
			for time.Now().Before(until) {
				r := w.try(args...)
				codes[r.code]++
				if r.code != 0 && !strings.Contains(r.stderr, "abort") {
					t.Errorf("%s ends with %d: %s", name, r.code, r.stderr)
				}
			}
			mu.Lock()
			defer mu.Unlock()
			results[name] = codes
		})
	}
	wg.Wait()
	t.Logf("exit codes: %v", results)
	w.run("snapshot", "create", "alpha")
	w.run("snapshot", "create", "beta")
	for name, codes := range results {
		if codes[0] == 0 {
			t.Errorf("%s never succeeded", name)
		}
	}
	seen := map[string]bool{}
	for _, s := range w.snapshots() {
		seen[s.System] = true
		if s.Error != "" {
			t.Errorf("snapshot %s: %s", s.ID, s.Error)
		}
	}
	if !seen["alpha"] || !seen["beta"] {
		t.Errorf("snapshots are left of %v, want both systems", seen)
	}
	w.run("repo", "check", "--read-data")
	for _, name := range []string{"alpha", "beta"} {
		w.run("restore", name, "--to", w.dir+"/back-"+name, "--at", "immediate")
	}
}
