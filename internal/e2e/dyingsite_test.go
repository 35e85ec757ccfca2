package e2e

import (
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-dr/holdfast/internal/pg/pgtest"
	"github.com/holdfast-dr/holdfast/internal/store/storetest"
)

// The site from which a restore reads dies in the middle of an object: the restore goes on from the other one, and so does the
// server that replays the log.
func TestASiteDiesDuringARestore(t *testing.T) {
	t.Parallel()
	s3, w := s3World(t)
	there := fmt.Sprintf("s3://%s/there?region=us-east-1&path-style=true&endpoint=%s", s3.Bucket, url.QueryEscape(s3.Endpoint))
	w.configure(setup{url: s3URL(s3, s3.Endpoint), other: there, copies: "{sync: 2}"})
	w.server.Exec("", "CREATE TABLE big AS SELECT i, md5(i::text) || md5((-i)::text) AS v FROM generate_series(1, 60000) AS i", ledgerTable)
	w.run("repo", "init")
	agent := w.agent()
	w.members(agent, 2)
	w.run("snapshot", "create", system)
	w.run("geo", "copy")
	w.server.Exec("", "INSERT INTO book VALUES ('after the snapshot', '')")
	want := digest(t, w.server.ConnString, true)
	w.server.Stop(pgtest.Fast)
	agent.stop()
	for name, die := range map[string]func(*storetest.Proxy){
		"refuses": func(p *storetest.Proxy) { p.Order(storetest.Cut{}) },
		"silent":  func(p *storetest.Proxy) { p.Silence() },
	} {
		line := storetest.NewProxy(t, s3.Endpoint)
		w.configure(setup{url: s3URL(s3, line.Endpoint), other: there})
		hit := line.Cut(storetest.Cut{Kind: "GET", Answer: true, After: 200 << 10, Do: func() { die(line) }})
		began := time.Now()
		r := w.restore(name, "--site", "here", "--start")
		w.inFlight("an answer", hit)
		t.Logf("%s: %s, %v", name, time.Since(began), r.Phases)
		if notes := strings.Join(r.Notes, "\n"); !strings.Contains(notes, "came from other sites") {
			t.Errorf("%s: the notes are %q", name, notes)
		}
		if d := cmp.Diff(want, digest(t, r.connString, false)); d != "" {
			t.Errorf("%s: -source +restored:\n%s", name, d)
		}
		r.stop()
		r.remove()
	}
}
