package e2e

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-dr/holdfast/internal/pg/pgtest"
)

// TestKilledAtRandomInstants kills commands at fifty random instants. The same command then succeeds, the repository
// is whole, and what was listed before is listed still.
func TestKilledAtRandomInstants(t *testing.T) {
	const kills = 50
	chance := random(t)
	w := newWorld(t, pgtest.Options{Version: "15"})
	w.configure(setup{keep: 3})
	w.run("repo", "init")
	w.server.Exec("", ledgerTable, "INSERT INTO book SELECT i::text, md5(i::text) FROM generate_series(1, 20000) AS i")
	w.run("snapshot", "create", system)
	cut := 0
	for n := range kills {
		w.server.Exec("", fmt.Sprintf("INSERT INTO book SELECT '%d ' || i, md5(i::text) FROM generate_series(1, 300) AS i", n))
		if killOne(w, chance, n) {
			cut++
		}
		if n%10 == 9 {
			w.run("repo", "check", "--read-data")
		}
	}
	t.Logf("%d of %d kills came before the command's end", cut, kills)
	if cut < kills/4 {
		t.Errorf("only %d of %d kills came before the command's end", cut, kills)
	}
	w.run("snapshot", "create", system)
	want := digest(t, w.server.ConnString, false)
	r := w.restore("last", "--start", "--at", "immediate")
	if d := cmp.Diff(want, digest(t, r.connString, false)); d != "" {
		t.Errorf("-source +restored:\n%s", d)
	}
	r.stop()
}

// killOne kills one command, runs it again to its end, and tells whether the kill came in time.
func killOne(w *world, chance *rand.Rand, n int) bool {
	w.t.Helper()
	target := filepath.Join(w.dir, fmt.Sprintf("back%d", n))
	command := [][]string{
		{"snapshot", "create", system},
		{"repo", "prune", "--confirm", "main", "--patience", "1s"},
		{"key", "rotate"},
		{"restore", system, "--to", target, "--at", "immediate"},
	}[n%4]
	limit := []time.Duration{900, 200, 200, 400}[n%4] * time.Millisecond
	before := w.snapshots()
	p := w.start(command...)
	delay := time.Duration(chance.Int64N(int64(limit)))
	pause(delay)
	p.kill9()
	killed := p.cmd.ProcessState.ExitCode() < 0
	if command[0] == "restore" && !killed {
		if err := os.RemoveAll(target); err != nil {
			w.t.Fatal(err)
		}
	}
	if r := w.try(command...); r.code != 0 {
		w.t.Errorf("%v, killed after %v, ends with %d when it is run again:\n%s", command, delay, r.code, r.stderr)
	}
	if err := os.RemoveAll(target); err != nil {
		w.t.Fatal(err)
	}
	if command[1] != "prune" { // which applies the policy
		after := map[string]bool{}
		for _, s := range w.snapshots() {
			after[s.ID] = s.Error == ""
		}
		for _, s := range before {
			if !after[s.ID] {
				w.t.Errorf("%v, killed after %v: snapshot %s is no longer listed whole", command, delay, s.ID)
			}
		}
	}
	return killed
}
