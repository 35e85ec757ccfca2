package agent

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/holdfast-dr/holdfast/internal/config"
	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/pg/pgtest"
	"github.com/holdfast-dr/holdfast/internal/pg/wal"
	"github.com/holdfast-dr/holdfast/internal/restore/points"
	"github.com/holdfast-dr/holdfast/internal/workspace"
)

// The child process of the tests is this test binary with one of these variables.
const (
	envConfig = "HOLDFAST_TEST_AGENT_CONFIG" // runs an agent
	envSocket = "HOLDFAST_TEST_AGENT_SOCKET" // of the service manager
	envState  = "HOLDFAST_TEST_AGENT_STATE"  // saves a state, see state_test.go
)

func TestMain(m *testing.M) {
	switch {
	case os.Getenv(envConfig) != "":
		os.Exit(childAgent(os.Getenv(envConfig)))
	case os.Getenv(envState) != "":
		os.Exit(childState(os.Getenv(envState)))
	}
	os.Exit(m.Run())
}

// every is a calendar for tests: a schedule's shortest interval is a minute.
type every time.Duration

func (e every) Next(_ dr.SystemName, last time.Time) time.Time {
	return last.Truncate(time.Duration(e)).Add(time.Duration(e))
}

const testInterval = every(2 * time.Second)

// childAgent runs an agent until SIGTERM. Its first line on stdout is the address on which it listens.
func childAgent(path string) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	c, err := config.Load(path)
	if err == nil {
		log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
		err = Run(ctx, Config{
			Workspace: workspace.New(c, log), Listen: "127.0.0.1:0", Version: "test", Log: log,
			Systemd:   Systemd{Socket: os.Getenv(envSocket), Watchdog: 10 * time.Second},
			listening: func(a net.Addr) { fmt.Println(a) },
			snapshots: func(config.Policy) calendar { return testInterval },
			retry:     time.Second,
		})
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// site is a server, a repository and a configuration that joins them.
type site struct {
	t      *testing.T
	server *pgtest.Server
	dir    string
	path   string // of holdfast.yaml

	schedule string
}

const testSystem = "orders-db"

func newSite(t *testing.T, schedule string) *site {
	t.Helper()
	s := &site{t: t, dir: t.TempDir(), schedule: schedule, server: pgtest.Start(t, pgtest.Options{Version: "15", Conf: map[string]string{"max_slot_wal_keep_size": "1GB"}})}
	s.path = s.write("holdfast.yaml", "state")
	c, err := config.Load(s.path)
	if err != nil {
		t.Fatal(err)
	}
	w := workspace.New(c, slog.New(slog.DiscardHandler))
	if _, _, err := w.Init(t.Context(), "main", nil); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return s
}

// write makes a configuration with a state directory of its own.
func (s *site) write(name, state string) string {
	s.t.Helper()
	text := fmt.Sprintf(`version: 1
sites: {here: {jurisdiction: EU}}
repositories:
  main:
    replicas: [{site: here, url: "file://%[1]s/repository"}]
    keys: {passphrase-file: %[1]s/passphrase}
    cache: %[1]s/cache-%[2]s
systems:
  orders-db:
    repository: main
    policy: gold
    postgres: {connection: "%[3]s", data-directory: %[4]s, checkpoint: fast}
policies:
  gold:
    schedule: %[5]s
    jitter: 0s
    log: {interval: 200ms}
    retention: {keep-last: 3}
    objectives: {rpo: 5s, rto: 10m}
agent: {state: %[1]s/%[2]s}
`, s.dir, state, s.server.ConnString(""), s.server.DataDir, s.schedule)
	path := filepath.Join(s.dir, name)
	for file, content := range map[string]string{path: text, filepath.Join(s.dir, "passphrase"): "correct horse battery staple and some more\n"} {
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			s.t.Fatal(err)
		}
	}
	return path
}

// process is an agent as a process of its own.
type process struct {
	t       *testing.T
	cmd     *exec.Cmd
	address string

	mu     sync.Mutex // guards output
	output bytes.Buffer
}

// Write takes what the process says.
func (p *process) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.output.Write(b)
}

func (p *process) said() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.output.String()
}

func (s *site) start(path string) *process {
	s.t.Helper()
	p := &process{t: s.t, cmd: exec.Command(os.Args[0])}
	p.cmd.Env = append(os.Environ(), envConfig+"="+path)
	p.cmd.Stderr = p
	out, err := p.cmd.StdoutPipe()
	if err == nil {
		err = p.cmd.Start()
	}
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() {
		_ = p.cmd.Process.Kill()
		if s.t.Failed() {
			s.t.Logf("agent %d said:\n%s", p.cmd.Process.Pid, p.said())
		}
	})
	lines := bufio.NewScanner(out)
	if lines.Scan() {
		p.address = lines.Text()
	}
	return p
}

func (p *process) get(path string) (int, []byte) {
	p.t.Helper()
	r, err := http.Get("http://" + p.address + path) //nolint:noctx // the test has a deadline
	if err != nil {
		p.t.Fatalf("%v\n%s", err, p.said())
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		p.t.Fatal(err)
	}
	return r.StatusCode, b
}

func (p *process) status() SystemStatus {
	p.t.Helper()
	_, b := p.get("/status")
	var s Status
	if err := json.Unmarshal(b, &s); err != nil || len(s.Systems) != 1 {
		p.t.Fatalf("/status: %v\n%s", err, b)
	}
	return s.Systems[0]
}

// until asks for the status until it is as wanted.
func (p *process) until(what string, wanted func(SystemStatus) bool) SystemStatus {
	p.t.Helper()
	deadline := time.After(40 * time.Second)
	again := time.NewTicker(50 * time.Millisecond) // the agent is another process: ask
	defer again.Stop()
	for {
		s := p.status()
		if wanted(s) {
			return s
		}
		select {
		case <-deadline:
			p.t.Fatalf("not yet %s: %+v\nstream %+v", what, s, s.Stream)
		case <-again.C:
		}
	}
}

// load writes rows until it is stopped, or the server is.
func (s *site) load(ctx context.Context) {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	conn, err := pgx.Connect(ctx, s.server.ConnString(""))
	if err != nil {
		s.t.Error(err)
		return
	}
	defer conn.Close(context.WithoutCancel(ctx)) //nolint:errcheck // the server may be gone
	for n := 0; ctx.Err() == nil; n++ {
		<-tick.C
		if _, err := conn.Exec(ctx, "INSERT INTO ledger SELECT $1, repeat('x', 1000) FROM generate_series(1, 50)", n); err != nil && ctx.Err() == nil {
			return
		}
	}
}

func TestAgentProtectsAServer(t *testing.T) {
	s := newSite(t, "every 1m")
	s.server.Exec("", "CREATE TABLE ledger (n int, s text)")
	boss := newManager(t, filepath.Join(s.dir, "notify"))
	t.Setenv(envSocket, boss.name)
	p := s.start(s.path)
	boss.until("READY=1")
	t.Setenv(envSocket, "")
	first := p.until("two snapshots", func(st SystemStatus) bool {
		return st.Stream.Connected && st.State.Last != nil && st.State.Snapshot.Succeeded.After(st.State.Since.Add(time.Second))
	})

	ctx, stop := context.WithCancel(t.Context())
	var load sync.WaitGroup
	load.Go(func() { s.load(ctx) })
	defer load.Wait()
	defer stop()
	p.until("the load arrives", func(st SystemStatus) bool { return st.Stream.Durable > first.Stream.Durable+1<<20 })
	p.until("the log moves the recovery point", func(st SystemStatus) bool {
		return st.RecoveryPoint.After(st.State.Last.Finished) && time.Since(st.RecoveryPoint) < 5*time.Second
	})

	// A second agent on this host, and one that seems to be on another.
	second := s.start(s.path)
	if err := second.cmd.Wait(); err == nil || !strings.Contains(second.said(), fmt.Sprintf("process %d holds", p.cmd.Process.Pid)) {
		t.Fatalf("a second agent ends with %v:\n%s", err, second.said())
	}
	err := runElsewhere(t, s.write("elsewhere.yaml", "elsewhere"))
	if !errors.Is(err, ErrSecondAgent) || !strings.Contains(err.Error(), "holdfast_orders_db is used by") {
		t.Fatalf("an agent elsewhere ends with: %v", err)
	}

	// Killed while it works.
	p.until("a snapshot under load", func(st SystemStatus) bool { return st.State.Last.Started.After(first.State.Last.Finished) })
	if err := p.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = p.cmd.Wait()
	killed := time.Now()
	t.Setenv(envSocket, boss.name)
	p = s.start(s.path)
	boss.until("READY=1")
	p.until("a snapshot after the kill", func(st SystemStatus) bool {
		return st.Stream.Connected && st.State.Last != nil && st.State.Last.Started.After(killed)
	})

	// The server restarts under the load.
	s.server.Restart()
	stop()
	load.Wait()
	restarted := time.Now()
	p.until("a snapshot after the server's restart", func(st SystemStatus) bool {
		return st.Stream.Connected && st.State.Last.Started.After(restarted)
	})
	checkMetrics(t, p)

	// The keys are rotated under a running agent.
	before := p.status().Failures["snapshot"]
	s.rotate()
	turned := time.Now()
	p.until("a snapshot with the new keys, and a stream", func(st SystemStatus) bool {
		return st.Stream.Connected && st.Stream.Since.After(turned) && st.State.Last.Started.After(turned)
	})
	if n := p.status().Failures["snapshot"] - before; n != 0 {
		t.Errorf("%d snapshots failed because of the rotation", n)
	}

	// What was received before the clean stop is in the repository after it.
	s.server.Exec("", "INSERT INTO ledger VALUES (-1, 'the last one')")
	end, err := wal.ParseLSN(s.server.Query("", "SELECT pg_current_wal_flush_lsn()"))
	if err != nil {
		t.Fatal(err)
	}
	// What has arrived is stored at the stop, however young it is; what has not stays with the server, for the slot.
	p.until("the last commit arrived", func(st SystemStatus) bool { return st.Stream.Received >= end })
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	boss.until("STOPPING=1")
	if err := p.cmd.Wait(); err != nil {
		t.Fatalf("the agent's clean stop: %v\n%s", err, p.said())
	}
	s.contiguous(end)
	s.checked()
	if left := s.server.Query("", "SELECT active FROM pg_replication_slots"); left != "f" {
		t.Errorf("the slot is active (%s) after the agent's end", left)
	}
}

// rotate starts a new epoch of the repository's keys, as somebody else does.
func (s *site) rotate() {
	s.t.Helper()
	c, err := config.Load(s.write("elsewhere.yaml", "elsewhere"))
	if err != nil {
		s.t.Fatal(err)
	}
	w := workspace.New(c, slog.New(slog.DiscardHandler))
	defer w.Close()
	r, err := w.Repository(s.t.Context(), "main")
	if err != nil {
		s.t.Fatal(err)
	}
	if _, err := r.Rotate(s.t.Context(), nil); err != nil {
		s.t.Fatal(err)
	}
}

// runElsewhere runs an agent that shares no directory with the other one.
func runElsewhere(t *testing.T, path string) error {
	t.Helper()
	c, err := config.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	return Run(ctx, Config{Workspace: workspace.New(c, slog.New(slog.DiscardHandler)), Listen: "127.0.0.1:0", takeover: time.Second})
}

// contiguous checks that every snapshot can be recovered up to end, without a gap.
func (s *site) contiguous(end wal.LSN) {
	s.t.Helper()
	c, err := config.Load(s.path)
	if err != nil {
		s.t.Fatal(err)
	}
	w := workspace.New(c, slog.New(slog.DiscardHandler))
	defer w.Close()
	r, err := w.Repository(s.t.Context(), "main")
	if err != nil {
		s.t.Fatal(err)
	}
	v, err := points.Load(s.t.Context(), r, testSystem)
	if err != nil {
		s.t.Fatal(err)
	}
	ranges, err := v.Ranges(s.t.Context())
	if err != nil {
		s.t.Fatal(err)
	}
	if n := len(v.Snapshots); n < 2 || n > 4 { // keep-last: 3, and one whose retention the stop may have come before
		s.t.Errorf("%d snapshots are left, want 3", n)
	}
	for _, r := range ranges {
		if !r.Complete() || r.To < end {
			s.t.Errorf("snapshot %s reaches %s (gap %v, mark %s), want %s", r.Snapshot, r.To, r.Gap, r.Mark, end)
		}
	}
}

// checked checks the repository as the agent does, and then once more after an object was lost.
func (s *site) checked() {
	s.t.Helper()
	c, err := config.Load(s.path)
	if err != nil {
		s.t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	system := c.Systems[testSystem]
	o := &systemOperations{ws: workspace.New(c, log), system: system, policy: c.PolicyOf(system), log: log}
	defer o.ws.Close()
	o.policy.Check.Sample = 1
	if got := o.do(s.t.Context(), job{task: taskCheck}, nil); got.err != nil || got.damage != "" {
		s.t.Errorf("the check says %v, damage %q", got.err, got.damage)
	}
	packs, err := filepath.Glob(filepath.Join(s.dir, "repository", "packs", "*", "*", "*"))
	if err != nil || len(packs) == 0 {
		s.t.Fatalf("packs: %v, %v", packs, err)
	}
	if err := os.Remove(packs[0]); err != nil {
		s.t.Fatal(err)
	}
	if got := o.do(s.t.Context(), job{task: taskCheck}, nil); got.err != nil || got.problems == 0 || !strings.Contains(got.damage, filepath.Base(packs[0])) {
		s.t.Errorf("after pack %s was lost the check says %v, damage %q", packs[0], got.err, got.damage)
	}
}

func checkMetrics(t *testing.T, p *process) {
	t.Helper()
	code, body := p.get("/metrics")
	if code != http.StatusOK {
		t.Fatalf("/metrics: %d\n%s", code, body)
	}
	for _, want := range []string{
		`holdfast_log_stream_connected{system="orders-db"} 1`,
		`holdfast_snapshot_last_success{system="orders-db"} 1`,
		`holdfast_recovery_point_timestamp_seconds{repository="main",site="here",system="orders-db"} `,
		`holdfast_objective_rpo_seconds{system="orders-db"} 5`,
		`holdfast_failures_total{kind="retention",system="orders-db"} 0`,
		`holdfast_slot_limit_bytes{system="orders-db"} `,
		`holdfast_store_requests_total{operation="put",repository="main",result="ok",system="orders-db"} `,
		`holdfast_store_bytes_total{direction="sent",repository="main",system="orders-db"} `,
		`holdfast_build_info{`,
		`go_goroutines `,
	} {
		if !bytes.Contains(body, []byte(want)) {
			t.Errorf("/metrics lacks %s", want)
		}
	}
	if code, body := p.get("/healthz"); code != http.StatusOK {
		t.Errorf("/healthz: %d\n%s", code, body)
	}
	if t.Failed() {
		t.Logf("%s", body)
	}
}
