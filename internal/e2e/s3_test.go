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

// TestS3ServerThatIsKilled walks the main path on a real S3 server, which is killed in the middle of a snapshot and
// of a restore: each command ends well or says why not, and succeeds when it is run again.
func TestS3ServerThatIsKilled(t *testing.T) {
	chance := random(t)
	s3 := storetest.S3(t)
	w := newWorld(t, pgtest.Options{Version: "15"})
	w.env = []string{"AWS_ACCESS_KEY_ID=" + s3.AccessKey, "AWS_SECRET_ACCESS_KEY=" + s3.SecretKey, "AWS_EC2_METADATA_DISABLED=true"}
	w.configure(setup{url: fmt.Sprintf("s3://%s/hf?region=us-east-1&path-style=true&endpoint=%s", s3.Bucket, url.QueryEscape(s3.Endpoint))})
	w.run("repo", "init")
	agent := w.agent()
	w.server.Exec("", ledgerTable, "CREATE TABLE big AS SELECT i, md5(i::text) || md5((i * 7)::text) AS v FROM generate_series(1, 500000) AS i")
	w.run("snapshot", "create", system)

	// Killed, and gone for a while, in the middle of a snapshot.
	w.server.Exec("", "UPDATE big SET v = md5(v)")
	during := w.start("snapshot", "create", system)
	pause(time.Duration(chance.Int64N(int64(700 * time.Millisecond))))
	s3.Kill()
	pause(500 * time.Millisecond)
	w.server.Exec("", "INSERT INTO book VALUES ('while it was away', '')")
	s3.Start(t)
	w.endsWellOrSaysWhy(during)
	w.run("snapshot", "create", system)

	want := digest(t, w.server.ConnString, true)
	w.server.Stop(pgtest.Fast)
	agent.stop()
	if err := os.RemoveAll(w.server.DataDir); err != nil {
		t.Fatal(err)
	}

	restore := w.start("restore", system, "--to", w.dir+"/back")
	pause(time.Duration(chance.Int64N(int64(600 * time.Millisecond))))
	s3.Kill()
	pause(300 * time.Millisecond)
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
