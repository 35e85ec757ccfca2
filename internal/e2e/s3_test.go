package e2e

import (
	"fmt"
	"net/url"
	"os"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-dr/holdfast/internal/pg/pgtest"
	"github.com/holdfast-dr/holdfast/internal/store/storetest"
)

// TestS3ServerThatIsKilled walks the main path on a real S3 server, which is killed while a request of the log stream, of
// a snapshot and of a restore is in flight: each command ends well or says why not, and succeeds when it is run again.
func TestS3ServerThatIsKilled(t *testing.T) {
	s3, w := s3World(t)
	w.run("repo", "init")
	streaming := w.through(s3)
	agent := w.agent()
	w.server.Exec("", ledgerTable, "CREATE TABLE big AS SELECT i, md5(i::text) || md5((i * 7)::text) AS v FROM generate_series(1, 500000) AS i")
	line := w.through(s3) // of the commands; the agent keeps its own
	w.run("snapshot", "create", system)

	hit := streaming.Cut(storetest.Cut{Kind: "PUT", Do: s3.Kill})
	w.server.Exec("", "INSERT INTO book VALUES ('while it was killed', '')")
	w.inFlight("an upload of the log", hit)
	w.server.Exec("", "INSERT INTO book VALUES ('while it was away', '')")
	s3.Start(t)
	w.logReaches(1, w.server.Query("", "SELECT pg_current_wal_flush_lsn()"))

	w.server.Exec("", "UPDATE big SET v = md5(v)")
	hit = line.Cut(storetest.Cut{Kind: "PUT", After: 200 << 10, Do: s3.Kill})
	during := w.start("snapshot", "create", system)
	w.inFlight("an upload of the snapshot", hit)
	s3.Start(t)
	w.endsWellOrSaysWhy(during)
	w.run("snapshot", "create", system)

	want := digest(t, w.server.ConnString, true)
	w.server.Stop(pgtest.Fast)
	agent.stop()
	if err := os.RemoveAll(w.server.DataDir); err != nil {
		t.Fatal(err)
	}

	hit = line.Cut(storetest.Cut{Kind: "GET", Answer: true, After: 200 << 10, Do: s3.Kill})
	restore := w.start("restore", system, "--to", w.dir+"/back")
	w.inFlight("a read of the restore", hit)
	s3.Start(t)
	if w.endsWellOrSaysWhy(restore).code == 0 {
		if err := os.RemoveAll(w.dir + "/back"); err != nil {
			t.Fatal(err)
		}
	}
	r := w.restore("back", "--start")
	if d := cmp.Diff(want, digest(t, r.connString, false)); d != "" {
		t.Errorf("-source +restored:\n%s", d)
	}
	r.stop()
	w.run("repo", "check", "--read-data")
}

// TestS3LinesThatAreCut cuts the line in the middle of requests of every kind, and of their answers, while everything
// that talks to the store does so: nobody notices.
func TestS3LinesThatAreCut(t *testing.T) {
	s3, w := s3World(t)
	w.run("repo", "init")
	line := w.through(s3)
	agent := w.agent()
	w.server.Exec("", ledgerTable, "INSERT INTO book SELECT i::text, md5(i::text) FROM generate_series(1, 20000) AS i")
	cuts := map[string]<-chan struct{}{}
	cut := func(kind string, answer bool) {
		after := int64(0)
		if kind == "PUT" && !answer {
			after = 5000 // in the body
		}
		cuts[fmt.Sprintf("%s, in the answer: %v", kind, answer)] = line.Cut(storetest.Cut{Kind: kind, Answer: answer, After: after, Times: 2})
	}
	for _, kind := range []string{"PUT", "LIST", "GET", "DELETE", "HEAD"} {
		cut(kind, false)
		cut(kind, true)
	}
	w.run("snapshot", "create", system)
	w.server.Exec("", "INSERT INTO book SELECT 'more ' || i, md5(i::text) FROM generate_series(1, 20000) AS i")
	w.run("snapshot", "create", system)
	want := digest(t, w.server.ConnString, true)
	w.server.Stop(pgtest.Fast)
	agent.stop()
	for _, answer := range []bool{false, true} {
		cut("GET", answer)
		cut("LIST", answer)
	}
	r := w.restore("back", "--start")
	if d := cmp.Diff(want, digest(t, r.connString, false)); d != "" {
		t.Errorf("-source +restored:\n%s", d)
	}
	r.stop()
	w.run("repo", "check", "--read-data")
	for what, hit := range cuts {
		w.inFlight(what, hit)
	}
}

// s3World is a world whose repository is on an S3 server.
func s3World(t *testing.T) (*storetest.S3Server, *world) {
	t.Helper()
	s3 := storetest.S3(t)
	w := newWorld(t, pgtest.Options{Version: "15"})
	w.env = awsEnv(s3)
	w.configure(setup{url: s3URL(s3, s3.Endpoint)})
	return s3, w
}

func s3URL(s3 *storetest.S3Server, endpoint string) string {
	return fmt.Sprintf("s3://%s/hf?region=us-east-1&path-style=true&endpoint=%s", s3.Bucket, url.QueryEscape(endpoint))
}

// through lets what is started from now on reach the server over a line of its own.
func (w *world) through(s3 *storetest.S3Server) *storetest.Proxy {
	w.t.Helper()
	p := storetest.NewProxy(w.t, s3.Endpoint)
	w.configure(setup{url: s3URL(s3, p.Endpoint)})
	return p
}

// inFlight waits until a request was cut off in its middle.
func (w *world) inFlight(what string, hit <-chan struct{}) {
	w.t.Helper()
	select {
	case <-hit:
	case <-time.After(commandLimit):
		w.t.Fatalf("%s never was in flight", what)
	}
}

// endsWellOrSaysWhy wants a command to succeed, or to fail with a reason.
func (w *world) endsWellOrSaysWhy(p *process) result {
	w.t.Helper()
	r := p.wait()
	w.t.Logf("%v ends with %d %s", p.args, r.code, r.stderr)
	if r.code != 0 && (r.code < 0 || len(r.stderr) < 20) {
		w.t.Errorf("%v ends with %d and says only %q", p.args, r.code, r.stderr)
	}
	return r
}
