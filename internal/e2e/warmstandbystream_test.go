package e2e

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-dr/holdfast/internal/pg/pgtest"
	"github.com/holdfast-dr/holdfast/internal/store/storetest"
)

// A standby follows its primary by streaming; while the line is cut it follows the repository; and where the primary is lost it is
// promoted with what either had. The password of the primary comes into no file of the standby's, no log and no list of processes.
func TestWarmStandbyStreams(t *testing.T) {
	t.Parallel()
	const secret = "xylophone-9174" //nolint:gosec // of this test
	w := newWorld(t, pgtest.Options{TCP: true})
	w.server.Exec("", ledgerTable, "CREATE ROLE replicator LOGIN REPLICATION PASSWORD '"+secret+"'")
	rules := filepath.Join(w.server.DataDir, "pg_hba.conf")
	if err := os.WriteFile(rules, []byte("host replication replicator 127.0.0.1/32 scram-sha-256\n"+read(rules)), 0o600); err != nil {
		t.Fatal(err)
	}
	w.server.Exec("", "SELECT pg_reload_conf()")
	w.run("repo", "init")
	agent := w.agent()
	w.run("snapshot", "create", system)
	line := storetest.NewProxy(t, fmt.Sprintf("127.0.0.1:%d", w.server.Port))
	port := line.Endpoint[strings.LastIndex(line.Endpoint, ":")+1:]
	passfile := w.write("pgpass", fmt.Sprintf("127.0.0.1:%s:*:replicator:%s\n", port, secret))
	conninfo := "host=127.0.0.1 port=" + port + " user=replicator sslmode=disable"
	if r := w.try("standby", "run", system, "--to", w.dir+"/x", "--primary", conninfo+" password="+secret); r.code != 2 || strings.Contains(r.out+r.stderr, secret) {
		t.Errorf("a password for all to see: %d\n%s", r.code, r.stderr)
	}
	s := w.warm("--primary", conninfo+" passfile="+passfile)
	n := 0
	commit := func() string {
		n++
		w.server.Exec("", fmt.Sprintf("INSERT INTO book VALUES ('%d', '')", n))
		return fmt.Sprint(n)
	}
	comesFrom := func(source string) {
		t.Helper()
		w.until("the log comes from the "+source, func() bool {
			st := s.status()
			return st.Phase == "following" && st.LogFrom == source && st.LagBytes == 0
		})
	}
	s.sees("the standby has what was committed", "SELECT count(*) FROM book", commit())
	comesFrom("primary")
	t.Log("the repository gets nothing more")
	agent.kill9()
	s.sees("it comes from the primary", "SELECT count(*) FROM book", commit())

	t.Log("the line is cut")
	agent = w.agent()
	line.Order(storetest.Cut{})
	s.sees("it comes from the repository", "SELECT count(*) FROM book", commit())
	comesFrom("repository")
	if st := s.status(); st.PrimaryProblem == "" || st.Problem != "" {
		t.Errorf("the status is %+v", st)
	}
	line.Mend()
	comesFrom("primary")
	agent.kill9()
	s.sees("it comes from the primary again", "SELECT count(*) FROM book", commit())
	if r := w.try("standby", "promote", system); r.code == 0 || !strings.Contains(r.stderr, "the source accepts writes") {
		t.Errorf("promoted beside a primary: %d\n%s", r.code, r.stderr)
	}
	comesFrom("primary")
	s.sees("it still follows", "SELECT count(*) FROM book", commit()) // nobody but the standby has it
	for _, dir := range []string{s.dir, w.dir + "/state"} {
		w.hasNot(dir, secret)
	}
	if told := s.p.said() + read(s.dir+".log") + read(fmt.Sprintf("/proc/%d/environ", s.postmaster())) + strings.Join(s.p.args, " "); strings.Contains(told, secret) {
		t.Errorf("the password is told:\n%s", told)
	}
	source := digest(t, w.server.ConnString, true)
	w.server.Kill9()
	out := w.run("standby", "promote", system)
	if d := cmp.Diff(source, digest(t, s.connString, false)); d != "" {
		t.Errorf("-source +standby:\n%s", d)
	}
	if !strings.Contains(out, "nothing that the repository is known to have held is missing") {
		t.Errorf("it says\n%s", out)
	}
}

// hasNot wants no file below a directory to hold a text.
func (w *world) hasNot(dir, text string) {
	w.t.Helper()
	files := 0
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return nil //nolint:nilerr // a running server removes files
		}
		files++
		if b, err := os.ReadFile(path); err == nil && strings.Contains(string(b), text) {
			w.t.Errorf("%s holds it", path)
		}
		return nil
	})
	if err != nil || files == 0 {
		w.t.Errorf("%d files were looked at, %v", files, err)
	}
}
