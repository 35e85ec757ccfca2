package standby

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/internal/pg/control"
	"github.com/holdfast-dr/holdfast/internal/pg/pgtest"
	"github.com/holdfast-dr/holdfast/internal/pg/wal"
)

// A standby that somebody has promoted, and that dies before its first checkpoint, looks as one on a branch that was left. What
// was written there since is nowhere else: it is not brought back to a snapshot.
func TestAPromotedServerThatDiedIsNotOverwritten(t *testing.T) {
	t.Parallel()
	source := pgtest.Start(t, pgtest.Options{})
	s := source.Standby(pgtest.Options{Conf: map[string]string{"checkpoint_timeout": "1h"}})
	source.Exec("", "CREATE TABLE book (entry text)")
	s.Until(t, "", "SELECT count(*) FROM pg_class WHERE relname = 'book'", "1")
	s.Exec("", "CHECKPOINT")
	if !overwritable(s.DataDir) {
		t.Error("a standby has something of its own")
	}
	s.Promote()
	s.Exec("", "INSERT INTO book VALUES ('after the promotion')")
	s.Kill9()

	x := &run{o: Options{Settings: Settings{System: "orders-db", Dir: s.DataDir}}, log: slog.New(slog.DiscardHandler)}
	x.tail = &tail{view: view{Way: &wal.Timelines{Timeline: 1}}}
	err := x.ended(t.Context())
	if again := new(errRebuild); !errors.As(err, &again) {
		t.Logf("the server's checkpoint was faster: %v", err)
	}
	if err := x.prepare(t.Context(), "it is on timeline 2"); !errors.Is(err, ErrNoStandby) || !strings.Contains(err.Error(), "no standby") {
		t.Errorf("it would be overwritten: %v", err)
	}
	if _, err := os.Stat(filepath.Join(s.DataDir, "PG_VERSION")); err != nil {
		t.Error(err)
	}
}

// A promotion happens while somebody waits for it, or not at all.
func TestAPromotionIsNotKeptForLater(t *testing.T) {
	t.Parallel()
	x := &run{o: Options{Settings: Settings{System: "orders-db"}}, requests: make(chan request)}
	for phase, want := range map[Phase]string{PhaseRestoring: "being restored", PhasePromoting: "already"} {
		x.phase(phase)
		if a := x.take(t.Context(), Promotion{}, time.Hour); !strings.Contains(a.Reason, want) {
			t.Errorf("%s: %+v", phase, a)
		}
	}
	x.phase(PhaseStarting)
	x.problem("a gap")
	if a := x.take(t.Context(), Promotion{}, time.Millisecond); !strings.Contains(a.Reason, "a gap") {
		t.Errorf("a server that does not come: %+v", a)
	}
	gone, leave := context.WithCancel(t.Context())
	leave()
	if a := x.take(gone, Promotion{}, time.Hour); a != (reply{}) {
		t.Errorf("nobody waits, and the answer is %+v", a)
	}
	x.phase(PhaseFollowing)
	go func() {
		r := <-x.requests
		r.reply(nil, errors.New("the source lives"))
	}()
	if a := x.take(t.Context(), Promotion{AcceptLoss: true}, time.Hour); a.What != "the source lives" {
		t.Errorf("the answer is %+v", a)
	}
}

// A standby of another server is not taken over, whether it runs or not; one of ours is gone on with.
func TestAStandbyOfAnotherServerIsNotTakenOver(t *testing.T) {
	state, dir := t.TempDir(), t.TempDir()
	p, err := openPlace(state)
	if err != nil {
		t.Fatal(err)
	}
	defer p.close()
	put := func(name, content string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	put("standby.signal", "")
	put(autoConf, "work_mem = '8MB'\nprimary_conninfo = 'host=primary application_name=replica'\n")
	x := &run{o: Options{Settings: Settings{System: "orders-db", Dir: dir}}, place: p, log: slog.New(slog.DiscardHandler)}
	for _, pid := range []string{"", strconv.Itoa(os.Getpid())} {
		if pid != "" {
			put("postmaster.pid", pid+"\n")
			t.Chdir(dir)
		}
		if err := x.prepare(t.Context(), ""); err == nil || !strings.Contains(err.Error(), "standby of another server") {
			t.Errorf("process %q: %v", pid, err)
		}
	}
	if _, ok, _ := readRecord(state); ok {
		t.Error("what was refused is noted as the standby")
	}
	if err := os.Remove(filepath.Join(dir, "postmaster.pid")); err != nil {
		t.Fatal(err)
	}
	if err := setUpstream(dir, p.conninfo()); err != nil {
		t.Fatal(err)
	}
	if ours, err := isOurs(dir); !ours || err != nil {
		t.Errorf("what we have made a standby is ours: %v, %v", ours, err)
	}
	put(autoConf, read(t, filepath.Join(dir, autoConf))+"primary_conninfo = 'host=primary'\n") // pg_basebackup -R of it
	if ours, err := isOurs(dir); ours || err != nil {
		t.Errorf("a standby of a copy of ours is ours: %v, %v", ours, err)
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// Why the server cannot be asked is told, unless it has only begun.
func TestAServerThatCannotBeAsked(t *testing.T) {
	t.Parallel()
	s := pgtest.Start(t, pgtest.Options{})
	x := &run{o: Options{Settings: Settings{Superuser: "nobody", Port: s.Port}}, place: place{dir: s.Socket}, log: slog.New(slog.DiscardHandler), lockedOut: true}
	x.tail = &tail{view: view{Way: &wal.Timelines{Timeline: 1}}}
	asked := func() Status {
		conn, err := x.connect(t.Context())
		if err == nil {
			defer conn.Close(t.Context()) //nolint:errcheck // only asked
		}
		x.observe(sample{}, err)
		return x.report()
	}
	if st := asked(); !strings.Contains(st.Problem, `role "nobody" does not exist`) || !strings.Contains(st.Problem, "--superuser") {
		t.Errorf("the status is %+v", st)
	}
	x.o.Superuser = "postgres"
	if st := asked(); st.Problem != "" || st.Phase != PhaseFollowing {
		t.Errorf("with the right role it is %+v", st)
	}
	s.Stop(pgtest.Fast)
	if st := asked(); !strings.Contains(st.Problem, "waits for more log") {
		t.Errorf("without a socket it is %+v", st)
	}
}

// What the cluster's own rules include is named relative to them, and goes on to count.
func TestRulesThatAreIncluded(t *testing.T) {
	t.Parallel()
	s := pgtest.Start(t, pgtest.Options{})
	s.Exec("", "CREATE ROLE reader LOGIN")
	for name, content := range map[string]string{"readers": "reader\n", "pg_hba.conf": "local all @readers trust\n"} {
		if err := os.WriteFile(filepath.Join(s.DataDir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	x := &run{o: Options{Settings: Settings{Dir: s.DataDir, Port: s.Port, Superuser: "reader"}}, place: place{dir: s.Socket}}
	if err := x.writeAccess(); err != nil {
		t.Fatal(err)
	}
	hba := filepath.Join(s.DataDir, accessPrefix+"pg_hba.conf")
	if !slices.Contains(x.args(control.Data{}), "hba_file="+hba) {
		t.Fatal("it is not what the server reads")
	}
	for _, name := range []string{hba, filepath.Join(s.DataDir, "readers")} { // the test's server may be another user's
		if err := os.Chmod(name, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	s.Exec("", "ALTER SYSTEM SET hba_file = '"+hba+"'")
	s.Stop(pgtest.Fast)
	if err := s.Launch(); err != nil {
		t.Fatal(err)
	}
	again := time.NewTicker(10 * time.Millisecond)
	defer again.Stop()
	conn, err := x.connect(t.Context())
	for range 1000 {
		if err == nil || !notYet(err) {
			break
		}
		<-again.C
		conn, err = x.connect(t.Context())
	}
	if err != nil {
		t.Fatalf("the reader is not let in: %v", err)
	}
	conn.Close(t.Context()) //nolint:errcheck // only tried
}

// The server goes on for years, and its environment can be read by whoever runs code in it: what opens stores is not in there.
func TestWhatAServerInherits(t *testing.T) {
	t.Parallel()
	got := inherited([]string{"PATH=/bin", "LC_ALL=C", "AZURE_STORAGE_KEY=secret", "AWS_SECRET_ACCESS_KEY=secret", "HOLDFAST_PASSPHRASE=secret", "TZ=UTC", "PATHS=x"})
	if want := []string{"PATH=/bin", "LC_ALL=C", "TZ=UTC"}; !slices.Equal(got, want) {
		t.Errorf("it inherits %q, want %q", got, want)
	}
}
