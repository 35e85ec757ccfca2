package e2e

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-dr/holdfast/internal/pg/pgtest"
)

// kills are those of each of the two tests.
const kills = 28

// TestKilledAtRandomInstants kills commands at random instants. The same command then succeeds, the repository
// is whole, and what was listed before is listed still.
func TestKilledAtRandomInstants(t *testing.T) {
	killedAtRandomInstants(t, false)
}

// TestKilledAmongChangedSnapshots does so beside an agent: snapshots read what the log tells to have changed, what they leave in
// pieces is rewritten, and the agent is killed too.
func TestKilledAmongChangedSnapshots(t *testing.T) {
	killedAtRandomInstants(t, true)
}

func killedAtRandomInstants(t *testing.T, beside bool) {
	chance := random(t)
	w := newWorld(t, pgtest.Options{Version: "15"})
	w.configure(setup{keep: 3})
	w.run("repo", "init")
	w.server.Exec("", ledgerTable, "INSERT INTO book SELECT i::text, md5(i::text) FROM generate_series(1, 20000) AS i")
	var agent *process
	if beside {
		agent = w.agent()
	}
	w.run("snapshot", "create", system)
	cut, changed := 0, 0
	for n := range kills {
		w.server.Exec("", fmt.Sprintf("INSERT INTO book SELECT '%d ' || i, md5(i::text) FROM generate_series(1, 300) AS i", n))
		k := kill{command: []string{"snapshot", "create", system}, within: 900 * time.Millisecond}
		switch {
		case n%4 == 1:
			k = kill{command: []string{"repo", "prune", "--confirm", "main", "--patience", "1s"}, within: 200 * time.Millisecond, forgets: true}
		case n%4 == 2 && beside:
			k = kill{command: []string{"repo", "optimize", system, "--bound", "1.01"}, within: 100 * time.Millisecond}
		case n%4 == 2:
			k = kill{command: []string{"key", "rotate"}, within: 200 * time.Millisecond}
		case n%4 == 3:
			k = kill{command: []string{"restore", system, "--to", filepath.Join(w.dir, "back"), "--at", "immediate"}, within: 400 * time.Millisecond}
		case beside:
			k.within = 200 * time.Millisecond
		}
		if k.run(w, time.Duration(chance.Int64N(int64(k.within)))) {
			cut++
		}
		if beside && n%4 == 0 {
			w.server.Exec("", fmt.Sprintf("UPDATE book SET filler = md5(filler) WHERE abs(hashtext(entry)) %% 200 = %d", n), "CHECKPOINT")
			if c := w.snapshot(); c.FullScan == "" {
				changed++
			} else {
				t.Logf("after kill %d everything was read: %s", n, c.FullScan)
			}
		}
		if beside && n%8 == 7 {
			agent.kill9()
			agent = w.agent()
		}
		if n%10 == 9 {
			w.run("repo", "check", "--read-data")
		}
	}
	t.Logf("%d of %d kills came before the command's end", cut, kills)
	if cut < kills/4 {
		t.Errorf("only %d of %d kills came before the command's end", cut, kills)
	}
	if beside && changed < kills/8 {
		t.Errorf("only %d snapshots read what had changed", changed)
	}
	w.run("snapshot", "create", system)
	want := digest(t, w.server.ConnString, false)
	r := w.restore("last", "--start", "--at", "immediate")
	if d := cmp.Diff(want, digest(t, r.connString, false)); d != "" {
		t.Errorf("-source +restored:\n%s", d)
	}
	r.stop()
}

// kill is a command that is killed.
type kill struct {
	command []string
	within  time.Duration // of its beginning
	forgets bool          // snapshots: it applies the policy
}

// run kills the command, runs it again to its end, and tells whether the kill came in time.
func (k kill) run(w *world, delay time.Duration) bool {
	w.t.Helper()
	back := &restored{w: w, dir: filepath.Join(w.dir, "back")}
	before := w.snapshots()
	p := w.start(k.command...)
	pause(delay)
	p.kill9()
	killed := p.cmd.ProcessState.ExitCode() < 0
	if k.command[0] == "restore" && !killed {
		back.remove()
	}
	if r := w.try(k.command...); r.code != 0 {
		w.t.Errorf("%s, killed after %v, ends with %d when it is run again:\n%s", strings.Join(k.command, " "), delay, r.code, r.stderr)
	}
	back.remove()
	after := map[string]bool{}
	for _, s := range w.snapshots() {
		after[s.moment()] = true
		if s.Error != "" {
			w.t.Errorf("%s, killed after %v: snapshot %s: %s", strings.Join(k.command, " "), delay, s.ID, s.Error)
		}
	}
	for _, s := range before {
		if !after[s.moment()] && !k.forgets {
			w.t.Errorf("%s, killed after %v: snapshot %s is no longer listed", strings.Join(k.command, " "), delay, s.ID)
		}
	}
	return killed
}
