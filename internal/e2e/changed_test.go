package e2e

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/internal/pg/pgtest"
)

// created is what snapshot create prints.
type created struct {
	Snapshot struct {
		ID      string `json:"id"`
		Files   int64  `json:"files"`
		Written struct {
			NewBytes int64 `json:"newBytes"`
		} `json:"written"`
	} `json:"snapshot"`
	FullScan string `json:"fullScan"`
	Pages    int64  `json:"pages"`
	Compared int64  `json:"compared"`
	Unseen   *struct {
		Page float64 `json:"page"`
	} `json:"unseen"`
	Missed      []any    `json:"missed"`
	NotCompared string   `json:"notCompared"`
	Problems    []any    `json:"problems"`
	Skipped     []string `json:"skipped"`
}

func (w *world) snapshot(args ...string) created {
	w.t.Helper()
	c := decode[created](w.t, w.run(append([]string{"snapshot", "create", system, "-o", "json"}, args...)...))
	if len(c.Missed) > 0 {
		w.t.Errorf("the log did not tell of %v", c.Missed)
	}
	if (c.FullScan == "") != (c.Unseen != nil) || c.FullScan == "" && c.Compared == 0 {
		w.t.Errorf("everything was read because of %q, %d pages were compared, the chances are %v", c.FullScan, c.Compared, c.Unseen)
	}
	return c
}

// rounds is how many snapshots are taken one upon the other; make soak takes many.
var rounds = flag.Int("changed.rounds", shortRounds, "snapshots of what changed, one upon the other; more than that also in every setting")

const shortRounds = 6

// TestSnapshotsOfWhatChanged takes snapshots one upon the other while files come, move, shrink and go, and a server
// crashes, and is promoted; among many they are optimized and pruned too. They may not read everything without a reason, what a
// scan of everything finds must be what the log told, and those of which it is known what they hold must restore to that.
func TestSnapshotsOfWhatChanged(t *testing.T) {
	settings := []string{"unlogged", "checksums", "wal_log_hints", "remote"}
	all := allSeen(t)
	for i, v := range pgtest.Versions(t) {
		for n, how := range settings {
			if *rounds > shortRounds || n == i || how == "remote" && v == "15" {
				t.Run(v+"/"+how, func(t *testing.T) {
					if *rounds > shortRounds {
						t.Parallel() // beside all other tests two loads are too much for a small machine: log would come minutes late
					}
					all.add(snapshotsOfWhatChanged(t, v, how))
				})
			}
		}
	}
}

// seen is what snapshots looked at. A page counts as often as that.
type seen struct {
	mu  sync.Mutex // guards what follows
	sum totals
}

type totals struct{ snapshots, everything, read, compared, missed, restored int64 }

// allSeen prints the totals when the test has ended.
func allSeen(t *testing.T) *seen {
	s := &seen{}
	t.Cleanup(func() { t.Logf("all together: %s", s.sum) })
	return s
}

func (s *seen) add(a totals) {
	s.mu.Lock()
	defer s.mu.Unlock()
	b := &s.sum
	*b = totals{
		b.snapshots + a.snapshots, b.everything + a.everything, b.read + a.read, b.compared + a.compared, b.missed + a.missed, b.restored + a.restored,
	}
}

func (a totals) String() string {
	return fmt.Sprintf("%d snapshots, of which %d read everything; %d pages were read because the log named them, %d compared of which it did not tell, missed: %d; %d snapshots were restored and compared",
		a.snapshots, a.everything, a.read, a.compared, a.missed, a.restored)
}

// count counts a snapshot.
func (a *totals) count(c created) {
	a.snapshots++
	a.compared, a.missed = a.compared+c.Compared, a.missed+int64(len(c.Missed))
	if c.FullScan != "" {
		a.everything++
	} else {
		a.read += c.Pages
	}
}

func snapshotsOfWhatChanged(t *testing.T, version, how string) (sum totals) {
	chance := random(t)
	conf := map[string]string{"max_prepared_transactions": "300", "checkpoint_timeout": "30s", "max_wal_size": "128MB"}
	if how == "wal_log_hints" {
		conf["wal_log_hints"] = "on"
	}
	w := newWorldAsIs(t, pgtest.Options{Version: version, Checksums: how == "checksums" || how == "remote", Conf: conf})
	w.configure(setup{remote: how == "remote", keep: 12, schedule: "weekly"})
	w.run("repo", "init")
	for i := range 3 {
		w.mkdir(fmt.Sprintf("space%d", i))
	}
	agent := w.agent()
	w.server.Exec("", "CREATE TABLE still AS SELECT i, repeat('x', 100) AS s FROM generate_series(1, 50000) i", "CREATE INDEX ON still (i)", "VACUUM still", "CHECKPOINT")
	w.run("snapshot", "create", system)
	m := startPacedMover(t, w.server, w.dir, 100*time.Millisecond)
	holds := known{}
	reasons := newReasons(how == "remote")
	for i := range *rounds {
		pause(time.Duration(chance.IntN(1000)) * time.Millisecond)
		switch {
		case i == 3 || i >= shortRounds && chance.IntN(8) == 0:
			w.server.Crash()
			w.streams()
		case i == 4 || i >= shortRounds && chance.IntN(12) == 0:
			w.promoteInPlace()
			w.streams()
			reasons.promoted()
		case chance.IntN(2) == 0:
			w.server.Exec("", "CHECKPOINT")
		}
		switch {
		case i >= shortRounds && chance.IntN(6) == 0:
			w.run("repo", "optimize", system, "--bound", "1.01")
		case i >= shortRounds && chance.IntN(6) == 0:
			w.run("repo", "prune", "--confirm", "main", "--patience", "1s")
		}
		c := w.snapshot()
		sum.count(c)
		reasons.note(t, i, c.FullScan)
		if i%3 == 2 && *rounds > shortRounds {
			sum.count(w.snapshot("--full-scan"))
		}
		if i%10 == 9 {
			m.stop()
			holds.take(w, &sum)
			m = moveOn(t, w.server, w.dir, m.pace)
		}
	}
	reasons.check(t)
	full := w.snapshot("--full-scan")
	if full.NotCompared != "" {
		t.Errorf("the full scan was not compared: %s", full.NotCompared)
	}
	sum.count(full)
	w.server.Exec("", "CHECKPOINT")
	m.stop()
	holds.take(w, &sum)
	w.streams()
	source := digest(t, w.server.ConnString, true)
	w.server.Stop(pgtest.Fast)
	agent.stop()
	if err := os.RemoveAll(w.server.DataDir); err != nil {
		t.Fatal(err)
	}
	w.run("repo", "check", "--read-data")
	// The log names the places of the source's tablespaces: nothing may be there.
	clear := func() {
		for i := range 3 {
			emptyDirectory(t, filepath.Join(w.dir, fmt.Sprintf("space%d", i)))
		}
	}
	clear()
	list := w.snapshots()
	r := w.restore("back", "--start")
	if last := list[len(list)-1].ID; r.Snapshot != last {
		t.Fatalf("restored from %s, want %s", r.Snapshot, last)
	}
	compareRestored(t, r, source)
	r.remove()
	if *rounds > shortRounds { // here the last one has been looked at, with all of the log
		sum.restored += int64(holds.compare(w, false, func() bool { clear(); return true }))
	}
	t.Logf("%s/%s: %s", version, how, sum)
	return sum
}

// reasons counts why snapshots read everything.
type reasons struct {
	remote bool
	may    map[string]int // how often there may be a reason, by words of it
	found  map[string]int
}

// newReasons returns those that every run may have. From afar the log comes by way of the agent only, and after a crash of the
// server it may come too late on a machine that is busy enough; beside the server what it lacks is read from the server's files.
func newReasons(remote bool) *reasons {
	r := &reasons{remote: remote, may: map[string]int{}, found: map[string]int{}}
	if remote {
		r.may["is not known"] = 1 + *rounds/10
	}
	return r
}

// promoted allows for what a promotion may give rise to, once.
func (r *reasons) promoted() {
	r.may["was left before"]++
	r.may["before the beginning of the snapshot before"]++ // a standby's last checkpoint may be older, and be that of the new primary
	if r.remote {
		r.may["the history of timeline"]++ // comes by way of the agent too
	}
}

func (r *reasons) note(t *testing.T, round int, reason string) {
	t.Helper()
	if reason == "" {
		return
	}
	t.Logf("snapshot %d has read everything: %s", round, reason)
	for words := range r.may {
		if strings.Contains(reason, words) {
			r.found[words]++
			return
		}
	}
	t.Errorf("snapshot %d has read everything without a good reason: %s", round, reason)
}

func (r *reasons) check(t *testing.T) {
	t.Helper()
	for words, n := range r.found {
		if n > r.may[words] {
			t.Errorf("%d snapshots have read everything since something %q, at most %d may", n, words, r.may[words])
		}
	}
}

// streams waits until the agent receives the log.
func (w *world) streams() {
	w.t.Helper()
	w.until("the agent is connected again", func() bool { // it may be far behind
		return w.server.Query("", "SELECT count(*) FROM pg_stat_replication WHERE state IN ('catchup', 'streaming')") == "1"
	})
}

// promoteInPlace ends the server's timeline, and begins another one.
func (w *world) promoteInPlace() {
	w.t.Helper()
	w.server.Stop(pgtest.Fast)
	signal := filepath.Join(w.server.DataDir, "standby.signal")
	if err := os.WriteFile(signal, nil, 0o600); err != nil {
		w.t.Fatal(err)
	}
	pgtest.Chown(w.t, signal)
	w.server.Start()
	w.server.Promote()
}
