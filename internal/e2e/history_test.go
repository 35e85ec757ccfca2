package e2e

import (
	"context"
	"flag"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/internal/pg/pgtest"
	"github.com/holdfast-dr/holdfast/internal/pg/pgtest/workload"
)

var historySteps = flag.Int("history.steps", 32, "steps of the random history of a server and its repository")

// TestHistory lets a server, its agent and its repository live through a random history: changes, crashes, promotions,
// snapshots, optimizations and prunes, of which some are killed, and objects that are damaged for a while. A plain model says
// which snapshots there are, and what each holds; all that are listed are restored and held against it.
func TestHistory(t *testing.T) {
	chance, version := random(t), "15"
	if *historySteps > 32 {
		versions := pgtest.Versions(t)
		version = versions[chance.IntN(len(versions))]
	}
	h := newHistory(t, version, chance)
	t.Logf("PostgreSQL %s", version)
	var deck []string
	for n := range *historySteps {
		if len(deck) == 0 {
			deck = h.shuffled()
		}
		h.step(deck[0])
		deck = deck[1:]
		if n%200 == 199 {
			h.audit()
		}
		if t.Failed() {
			t.Fatalf("after step %d of %d: %v", n+1, *historySteps, h.done)
		}
	}
	h.audit()
	t.Logf("%v; %d snapshots have read what changed, %d everything", h.done, h.changed, h.everything)
	if h.changed < h.everything {
		t.Errorf("%d snapshots have read everything, only %d what changed", h.everything, h.changed)
	}
}

// historyKeep is how many snapshots the policy keeps.
const historyKeep = 5

type history struct {
	*world
	chance *rand.Rand
	agents *process // nil while there is none

	// The model: what each snapshot holds, and the moments of those that have to be there, oldest first.
	holds known
	there []string
	now   map[string]string // what the server holds; nil: it changed since it was looked at

	done                map[string]int
	changed, everything int // snapshots
	prepared            int
}

func newHistory(t *testing.T, version string, chance *rand.Rand) *history {
	conf := workload.Conf(map[string]string{"wal_keep_size": "0", "max_prepared_transactions": "50"})
	h := &history{
		world:  newWorldAsIs(t, pgtest.Options{Version: version, Checksums: chance.IntN(2) == 0, InitArgs: []string{"--wal-segsize=1"}, Conf: conf}),
		chance: chance, holds: known{}, done: map[string]int{},
	}
	h.configure(setup{keep: historyKeep, schedule: "weekly"})
	h.run("repo", "init")
	workload.Begin(h.server)
	h.look()
	h.agents = h.agent()
	h.until("the agent has taken the first snapshot", func() bool { return len(h.snapshots()) == 1 })
	h.observe("the first snapshot", false)
	return h
}

// shuffled returns the next steps: each kind comes as often as it is named.
func (h *history) shuffled() []string {
	deck := strings.Fields(`change change change change change change change change change change change checkpoint checkpoint checkpoint
		snapshot snapshot snapshot snapshot snapshot snapshot snapshot full-scan crash crash promotion optimize optimize prune prune
		kill kill kill kill kill agent agent damage damage damage`)
	h.chance.Shuffle(len(deck), func(i, j int) { deck[i], deck[j] = deck[j], deck[i] })
	return deck
}

func (h *history) step(kind string) {
	h.t.Helper()
	h.done[kind]++
	forgets := false
	switch kind {
	case "change":
		h.change()
	case "checkpoint":
		h.server.Exec("", "CHECKPOINT")
	case "crash":
		h.server.Crash()
		h.now = nil
	case "promotion":
		h.promoteInPlace()
		h.now = nil
	case "snapshot":
		h.snap()
	case "full-scan":
		h.snap("--full-scan")
	case "optimize":
		h.run("repo", "optimize", system, "--bound", "1.01")
	case "prune":
		h.run("repo", "prune", "--confirm", "main", "--patience", "1s")
		forgets = true
	case "kill":
		forgets = h.kill()
	case "agent":
		if h.agents != nil {
			h.agents.kill9()
			h.agents = nil
		}
		if h.chance.IntN(2) == 0 { // or it stays away for a while
			h.agents = h.agent()
		}
	case "damage":
		h.damage()
	}
	h.observe(kind, forgets)
}

// change runs some statements, of which some fail. What a prepared transaction did waits for a later step.
func (h *history) change() {
	ctx := context.Background()
	h.now = nil
	conn := h.server.Connect("")
	defer conn.Close(ctx) //nolint:errcheck // nothing is open
	try := func(q string) {
		if _, err := conn.Exec(ctx, q); err != nil {
			_, _ = conn.Exec(ctx, "ROLLBACK") // of what the statement may have begun
		}
	}
	try("SET lock_timeout = '100ms'") // prepared transactions hold locks
	statements := slices.DeleteFunc(slices.Concat(workload.Parts(h.server.Version)...), func(q string) bool { return strings.Contains(q, "PREPARE") })
	for range 1 + h.chance.IntN(6) {
		switch h.chance.IntN(8) {
		case 0:
			h.prepared++
			try(fmt.Sprintf("BEGIN; INSERT INTO wide VALUES (%d, 'prepared'); DELETE FROM parent WHERE i = %[1]d; PREPARE TRANSACTION 'h%[1]d'", h.prepared))
		case 1:
			try(fmt.Sprintf("%s PREPARED 'h%d'", []string{"COMMIT", "ROLLBACK"}[h.chance.IntN(2)], 1+h.chance.IntN(max(1, h.prepared))))
		default:
			try(statements[h.chance.IntN(len(statements))])
		}
	}
}

// look notes what the server holds.
func (h *history) look() {
	h.t.Helper()
	if h.now == nil {
		h.now = digest(h.t, h.server.ConnString, true)
	}
}

func (h *history) snap(args ...string) {
	h.t.Helper()
	h.look()
	if c := h.world.snapshot(args...); c.FullScan == "" {
		h.changed++
	} else if len(args) == 0 {
		h.t.Logf("a snapshot has read everything: %s", c.FullScan)
		h.everything++
	}
}

// kill kills a command at a random instant, and runs it again. It tells whether the command forgets snapshots.
func (h *history) kill() (forgets bool) {
	h.t.Helper()
	h.look()
	ks := []kill{
		{command: []string{"snapshot", "create", system}, within: 300 * time.Millisecond},
		{command: []string{"snapshot", "create", system, "--full-scan"}, within: 900 * time.Millisecond},
		{command: []string{"repo", "optimize", system, "--bound", "1.01"}, within: 200 * time.Millisecond},
		{command: []string{"repo", "prune", "--confirm", "main", "--patience", "1s"}, within: 200 * time.Millisecond, forgets: true},
		{command: []string{"restore", system, "--to", filepath.Join(h.dir, "back"), "--at", "immediate"}, within: 400 * time.Millisecond},
	}
	k := ks[h.chance.IntN(len(ks))]
	if k.run(h.world, time.Duration(h.chance.Int64N(int64(k.within)))) {
		h.done["killed in the middle"]++
	}
	return k.forgets
}

// damage turns a bit of one object, cuts it off or takes it away, and puts it back when the damage was told of.
func (h *history) damage() {
	h.t.Helper()
	name := h.object()
	kind, _, _ := strings.Cut(name, "/")
	path := filepath.Join(h.dir, "repository", name)
	whole, err := os.ReadFile(path)
	if err != nil {
		h.t.Fatal(err)
	}
	at, how := h.chance.IntN(len(whole)), "a bit turned"
	hurt := slices.Clone(whole)
	hurt[at] ^= 1 << h.chance.IntN(8)
	switch h.chance.IntN(3) {
	case 0:
		how, hurt = "cut off", whole[:at]
	case 1:
		if slices.Contains([]string{"packs", "index", "base", "signers"}, kind) { // of others nobody can tell that they were there
			how, hurt = "gone", nil
		}
	}
	if err = os.Remove(path); err == nil && how != "gone" {
		err = os.WriteFile(path, hurt, 0o600)
		pgtest.Chown(h.t, path)
	}
	if err != nil {
		h.t.Fatal(err)
	}
	r := h.try("repo", "check", "--read-data")
	if _, err := os.Stat(path); os.IsNotExist(err) && how != "gone" {
		return // the agent has replaced a piece of log by what is finished
	}
	said := r.out + r.stderr
	switch {
	case r.code == 0 && kind == "packs" && strings.Contains(said, "in no index"): // one that a killed writer left
	case r.code == 0:
		h.t.Errorf("%s, %s at %d: the check finds nothing:\n%s", name, how, at, said)
	case !slices.Contains([]string{"keys", "epochs"}, kind) && how != "gone" && !strings.Contains(said, filepath.Base(name)): // without those it does not open
		h.t.Errorf("%s, %s at %d: the check names something else:\n%s", name, how, at, said)
	}
	if err := os.WriteFile(path, whole, 0o600); err != nil {
		h.t.Fatal(err)
	}
	pgtest.Chown(h.t, path)
	h.run("repo", "check", "--read-data")
}

// object chooses one of the repository, of each kind as likely.
func (h *history) object() string {
	h.t.Helper()
	kinds := map[string][]string{}
	err := fs.WalkDir(os.DirFS(filepath.Join(h.dir, "repository")), ".", func(name string, d fs.DirEntry, err error) error {
		// holdfast.json is JSON that anybody may lay out anew.
		if kind, _, below := strings.Cut(name, "/"); err == nil && below && d.Type().IsRegular() {
			kinds[kind] = append(kinds[kind], name)
		}
		return err
	})
	if err != nil {
		h.t.Fatal(err)
	}
	names := slices.Sorted(maps.Keys(kinds))
	of := kinds[names[h.chance.IntN(len(names))]]
	return of[h.chance.IntN(len(of))]
}

// observe looks at what is listed: what the model says, and what is new.
func (h *history) observe(step string, forgets bool) {
	h.t.Helper()
	var listed []string
	for _, s := range h.snapshots() {
		if s.Error != "" {
			h.t.Errorf("%s: snapshot %s: %s", step, s.ID, s.Error)
		}
		m := s.moment()
		if _, seen := h.holds[m]; !seen {
			h.holds[m] = h.now
			h.there = append(h.there, m)
			if h.now == nil {
				h.t.Errorf("%s: snapshot %s was taken while nobody asked for one", step, s.ID)
			}
		}
		listed = append(listed, m)
	}
	if forgets {
		h.there = h.there[max(0, len(h.there)-historyKeep):]
	}
	slices.Sort(listed)
	if !slices.Equal(listed, h.there) {
		h.t.Errorf("%s: listed are %v, want %v", step, listed, h.there)
	}
}

// audit restores everything that there is.
func (h *history) audit() {
	h.t.Helper()
	if h.agents == nil {
		h.agents = h.agent()
	}
	h.run("repo", "check", "--read-data")
	n := h.holds.compare(h.world, false, func() bool { return h.chance.IntN(2) == 0 })
	if n != len(h.there) {
		h.t.Errorf("%d snapshots were compared, want %d", n, len(h.there))
	}
	h.done["restored"] += n
}
