package e2e

import (
	"fmt"
	"maps"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/internal/pg/pgtest"
)

// TestSnapshotsOverSwitchovers promotes, again and again, a standby that lacks the end of its primary's log. What snapshots and
// the agent have seen of that end did not happen: the next snapshot may take nothing of it over.
func TestSnapshotsOverSwitchovers(t *testing.T) {
	all := allSeen(t)
	for _, v := range pgtest.Versions(t) {
		for _, remote := range []bool{false, true} {
			if *rounds == shortRounds && (v != "15" || remote) {
				continue
			}
			t.Run(fmt.Sprintf("%s/remote=%v", v, remote), func(t *testing.T) {
				t.Parallel()
				all.add(snapshotsOverSwitchovers(t, v, remote))
			})
		}
	}
}

func snapshotsOverSwitchovers(t *testing.T, version string, remote bool) (sum totals) {
	chance := random(t)
	o := pgtest.Options{Version: version, Checksums: chance.IntN(2) == 0, Conf: map[string]string{
		// The next primary keeps its log: it has no slot for the agent yet.
		"max_prepared_transactions": "300", "wal_keep_size": "1GB",
	}}
	w := newWorldAsIs(t, o)
	set := setup{remote: remote, keep: 12, schedule: "weekly"}
	w.configure(set)
	w.run("repo", "init")
	agent := w.agent()
	w.run("snapshot", "create", system)
	const pace = 100 * time.Millisecond
	m := startPacedMover(t, w.server, "", pace)
	holds, reasons := known{}, newReasons(remote)
	take := func(n int, args ...string) {
		c := w.snapshot(args...)
		sum.count(c)
		if len(args) == 0 {
			reasons.note(t, n, c.FullScan)
		}
	}
	for n := range max(2, *rounds/10) {
		standby := w.server.Standby(pgtest.Options{Conf: maps.Clone(o.Conf)})
		pause(time.Duration(chance.IntN(500)) * time.Millisecond)
		take(n)
		standby.Stop(pgtest.Fast) // what comes now it will not have
		pause(200*time.Millisecond + time.Duration(chance.IntN(800))*time.Millisecond)
		if n == 0 || chance.IntN(2) == 0 {
			w.server.Exec("", "CHECKPOINT")
			take(n)
		}
		reasons.promoted()
		m.stop()
		w.server.Kill9()
		agent.kill9()

		standby.Start()
		standby.Promote()
		w.server = standby
		w.configure(set)
		agent = w.agent()
		m = moveOn(t, w.server, "", pace)
		pause(time.Duration(chance.IntN(1000)) * time.Millisecond)
		take(n)
		take(n, "--full-scan")
		w.server.Exec("", "CHECKPOINT")
		m.stop()
		holds.take(w, &sum)
		m = moveOn(t, w.server, "", pace)
	}
	m.stop()
	reasons.check(t)
	w.run("repo", "check", "--read-data")
	sum.restored += int64(holds.compare(w, true, func() bool { return true }))
	t.Logf("%s/remote=%v: %s", version, remote, sum)
	return sum
}
