package e2e

import (
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/holdfast-dr/holdfast/internal/pg/pgtest"
)

// The source and the repository are gone, and so were the keeper and the server: what was received comes up, can be asked, and is
// promoted where a person accepts the loss. It is neither overwritten nor stopped after that.
func TestWarmStandbyIsPromotedAlone(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Options{})
	w.server.Exec("", ledgerTable)
	w.run("repo", "init")
	agent := w.agent()
	w.run("snapshot", "create", system)
	s := w.warm()
	w.server.Exec("", "INSERT INTO book VALUES ('1', '')")
	s.sees("the standby has it", "SELECT count(*) FROM book", "1")
	s.p.kill9()
	if err := syscall.Kill(s.postmaster(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	agent.kill9()
	w.server.Kill9()
	if err := os.Rename(w.dir+"/repository", w.dir+"/away"); err != nil {
		t.Fatal(err)
	}
	s.run()
	s.sees("it comes up without the repository", "SELECT count(*) FROM book", "1")
	w.until("the status tells it", func() bool { return strings.Contains(s.status().Problem, "repository") })
	if r := w.try("standby", "promote", system); r.code == 0 || !strings.Contains(r.stderr, "cannot be asked") {
		t.Fatalf("promoted with a loss that nobody accepts: %d\n%s%s", r.code, r.out, r.stderr)
	}
	out := w.run("standby", "promote", system, "--accept-loss")
	if !strings.Contains(out, "on timeline 2\n") || !strings.Contains(out, "MISSING: what the repository holds") {
		t.Errorf("it says\n%s", out)
	}
	if r := s.p.wait(); r.code != 0 {
		t.Errorf("the keeper ends with %d:\n%s", r.code, r.stderr)
	}
	if got := s.query("SELECT count(*) || ' ' || pg_is_in_recovery() FROM book"); got != "1 false" {
		t.Errorf("the primary has %s", got)
	}
}
