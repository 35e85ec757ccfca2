package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/internal/pg/pgtest"
	"github.com/holdfast-dr/holdfast/internal/store/storetest"
)

var seedFlag = flag.Uint64("seed", 0, "repeat the random choices of the run that printed this seed")

// random returns the test's source of chance, and prints how to repeat it.
func random(t *testing.T) *rand.Rand {
	t.Helper()
	seed := *seedFlag
	if seed == 0 {
		seed = rand.Uint64() //nolint:gosec // chance, not a secret
	}
	t.Logf("repeat with: go test -run '^%s$' ./internal/e2e -seed %d", t.Name(), seed)
	return rand.New(rand.NewPCG(seed, 1)) //nolint:gosec // see above
}

// The binary under test, and the directory in which it lies.
var binaryDir string

func TestMain(m *testing.M) {
	flag.Parse()
	code := 1
	func() {
		var err error
		if binaryDir, err = os.MkdirTemp("", "hfe2e"); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return
		}
		defer os.RemoveAll(binaryDir) //nolint:errcheck // the run is over
		code = m.Run()
	}()
	os.Exit(code)
}

var build = sync.OnceValues(func() (string, error) {
	path := filepath.Join(binaryDir, "holdfast")
	cmd := exec.Command("go", "build", "-trimpath", "-o", path, "../../cmd/holdfast")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build: %w: %s", err, out)
	}
	return path, os.Chmod(binaryDir, 0o755) //nolint:gosec // for the servers' user to run
})

// Every world protects this system unless its test says otherwise.
const system = "orders-db"

// The passphrase is as long as those that holdfast init makes, which need no stretching.
const passphrase = "Zq7-swordfish-Lm4x9TeVb2KpRd8YwUc1HgNsJ0aFiQ"

// world is what a user has: a server, a repository, and a configuration.
type world struct {
	t      *testing.T
	dir    string // everything is below it
	binary string
	server *pgtest.Server
	config string   // path of holdfast.yaml
	env    []string // of every command, beside the test's own
	root   bool     // commands run as root, not as the servers' user
	setup  setup
	place  *storetest.Region // where commands run; nil: on this machine
}

// setup is what tests choose. The zero value is a local directory, and snapshots from the files.
type setup struct {
	url        string   // of the repository
	other      string   // URL of a replica at the site there; none
	connection string   // to the server
	remote     bool     // read over the replication protocol
	log        string   // the policy's log, as YAML
	copies     string   // and its copies
	keep       int      // keep-last; 50
	systems    []string // names; orders-db
	schedule   string   // of the agent; hourly
	firstThere bool     // the replica at the site there is the repository's first
	lock       string   // of the replica, as YAML
}

func newWorld(t *testing.T, o pgtest.Options) *world {
	t.Helper()
	o.Checksums = true
	return newWorldAsIs(t, o)
}

// newWorldAsIs is newWorld without data checksums, unless the options ask for them.
func newWorldAsIs(t *testing.T, o pgtest.Options) *world {
	t.Helper()
	if o.Conf == nil {
		o.Conf = map[string]string{}
	}
	if o.Conf["max_slot_wal_keep_size"] == "" {
		o.Conf["max_slot_wal_keep_size"] = "2GB"
	}
	w := bareWorld(t)
	w.server = pgtest.Start(t, o)
	w.configure(setup{})
	return w
}

// bareWorld is one without a server, and without a configuration.
func bareWorld(t *testing.T) *world {
	t.Helper()
	binary, err := build()
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, dir: pgtest.TempDir(t), binary: binary}
	w.write("passphrase", passphrase+"\n")
	t.Cleanup(w.endProcesses)
	return w
}

// configure writes holdfast.yaml.
func (w *world) configure(s setup) {
	w.t.Helper()
	if s.url == "" {
		s.url = "file://" + w.dir + "/repository"
	}
	if s.connection == "" {
		s.connection = w.server.ConnString("")
	}
	if s.log == "" {
		s.log = "{interval: 300ms}"
	}
	if s.copies == "" {
		s.copies = "{}"
	}
	if s.keep == 0 {
		s.keep = 50
	}
	if s.schedule == "" {
		s.schedule = "hourly"
	}
	if len(s.systems) == 0 {
		s.systems = []string{system}
	}
	w.setup = s
	dataDir := ""
	if !s.remote {
		dataDir = "data-directory: " + w.server.DataDir + ", "
	}
	var systems strings.Builder
	for _, name := range s.systems {
		fmt.Fprintf(&systems, "  %s:\n    repository: main\n    policy: gold\n    postgres: {connection: %q, %sbin-directory: %s, checkpoint: fast}\n",
			name, s.connection, dataDir, w.server.BinDir)
	}
	lock := ""
	if s.lock != "" {
		lock = ", lock: " + s.lock
	}
	other := ""
	if s.other != "" {
		other = fmt.Sprintf(", {site: there, url: %q}", s.other)
	}
	replicas := fmt.Sprintf("{site: here, url: %q%s}%s", s.url, lock, other)
	if s.firstThere {
		replicas = fmt.Sprintf("{site: there, url: %q}, {site: here, url: %q}", s.other, s.url)
	}
	w.config = w.write("holdfast.yaml", fmt.Sprintf(`version: 1
sites: {here: {jurisdiction: EU}, there: {jurisdiction: CH}}
repositories:
  main:
    replicas: [%[2]s]
    keys: {passphrase-file: %[1]s/passphrase}
    cache: %[1]s/cache
systems:
%[3]spolicies:
  gold:
    schedule: %[6]s
    jitter: 0s
    log: %[4]s
    copies: %[7]s
    retention: {keep-last: %[5]d, keep-hourly: 0, keep-daily: 0, keep-weekly: 0, keep-monthly: 0}
agent: {state: %[1]s/state, listen: "127.0.0.1:0"}
`, w.dir, replicas, systems.String(), s.log, s.keep, s.schedule, s.copies))
}

// write makes a file of the world's directory, for the servers' user.
func (w *world) write(name, text string) string {
	w.t.Helper()
	path := filepath.Join(w.dir, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		w.t.Fatal(err)
	}
	pgtest.Chown(w.t, path)
	return path
}

// mkdir makes an empty directory for the servers' user.
func (w *world) mkdir(name string) string {
	w.t.Helper()
	path := filepath.Join(w.dir, name)
	if err := os.Mkdir(path, 0o700); err != nil {
		w.t.Fatal(err)
	}
	pgtest.Chown(w.t, path)
	return path
}

// process is a command that runs.
type process struct {
	w        *world
	args     []string
	cmd      *exec.Cmd
	out, err string        // files
	ended    chan struct{} // closed when it has ended
}

// start begins a command of holdfast.
func (w *world) start(args ...string) *process {
	w.t.Helper()
	return w.launch(w.binary, append([]string{"--config", w.config, "--no-progress"}, args...)...)
}

var started struct {
	sync.Mutex
	n int
}

// launch begins a program as the servers' user, or as root, in a process group of its own.
func (w *world) launch(program string, args ...string) *process {
	w.t.Helper()
	started.Lock()
	started.n++
	name := filepath.Join(w.dir, fmt.Sprintf("%03d", started.n))
	started.Unlock()
	p := &process{w: w, args: args, out: name + ".out", err: name + ".err", ended: make(chan struct{})}
	p.cmd = exec.Command(program, args...)
	p.cmd.Dir = w.dir
	p.cmd.Env = append(append(os.Environ(), "HOME="+w.dir, "HOLDFAST_CONFIG=", "TMPDIR="+w.dir, "LC_ALL=C", "TZ=UTC", "GOTRACEBACK=all"), w.env...)
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if !w.root {
		p.cmd.SysProcAttr.Credential = serverUser(w.t)
	}
	// Files, not pipes: what the command leaves behind (a server) would hold a pipe open.
	out, err1 := os.Create(p.out)
	serr, err2 := os.Create(p.err)
	if err := errors.Join(err1, err2); err != nil {
		w.t.Fatal(err)
	}
	defer out.Close()
	defer serr.Close()
	p.cmd.Stdout, p.cmd.Stderr = out, serr
	begin := onLastingThread
	if w.place != nil {
		begin = w.place.Run
	}
	if err := begin(p.cmd.Start); err != nil {
		w.t.Fatal(err)
	}
	go func() { // ends with the process, which endProcesses sees to
		_ = p.cmd.Wait()
		close(p.ended)
	}()
	return p
}

// onLastingThread starts processes from a thread that lives as long as the tests do: the death signal comes when
// the thread that started a process ends, and Go ends threads.
func onLastingThread(f func() error) error {
	lasting.Do(func() {
		go func() {
			runtime.LockOSThread() // never unlocked
			for job := range jobs {
				job.done <- job.f()
			}
		}()
	})
	j := job{f, make(chan error, 1)}
	jobs <- j
	return <-j.done
}

type job struct {
	f    func() error
	done chan error
}

var (
	lasting sync.Once
	jobs    = make(chan job)
)

// serverUser is whom commands run as: PostgreSQL refuses root.
func serverUser(t *testing.T) *syscall.Credential {
	t.Helper()
	if os.Geteuid() != 0 {
		return nil
	}
	u, err := user.Lookup("postgres")
	if err != nil {
		t.Skip(err)
	}
	uid, err1 := strconv.ParseUint(u.Uid, 10, 32)
	gid, err2 := strconv.ParseUint(u.Gid, 10, 32)
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
}

// result is how a command ended.
type result struct {
	code        int // -1: killed by a signal
	out, stderr string
}

// commandLimit bounds every command; what takes longer hangs.
const commandLimit = 2 * time.Minute

// wait returns when the command has ended.
func (p *process) wait() result {
	p.w.t.Helper()
	select {
	case <-p.ended:
	case <-time.After(commandLimit):
		_ = syscall.Kill(p.cmd.Process.Pid, syscall.SIGQUIT) // shows where it hangs
		select {
		case <-p.ended:
		case <-time.After(5 * time.Second):
			p.kill9()
		}
		p.w.t.Fatalf("%v hangs:\n%s", p.args, p.said())
	}
	return result{p.cmd.ProcessState.ExitCode(), read(p.out), read(p.err)}
}

func (p *process) said() string { return read(p.err) }

// kill9 kills the command and waits until it is gone.
func (p *process) kill9() {
	_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL)
	<-p.ended
}

// stop ends the command as systemd would, and wants it to end well.
func (p *process) stop() {
	p.w.t.Helper()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		p.w.t.Fatalf("%v has ended already:\n%s", p.args, p.said())
	}
	if r := p.wait(); r.code != 0 && r.code != 130 {
		p.w.t.Fatalf("the clean stop of %v ends with %d:\n%s", p.args, r.code, r.stderr)
	}
}

func read(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// try runs a command to its end.
func (w *world) try(args ...string) result {
	w.t.Helper()
	return w.start(args...).wait()
}

// run runs a command that must succeed and returns what it printed.
func (w *world) run(args ...string) string {
	w.t.Helper()
	r := w.try(args...)
	if r.code != 0 {
		w.t.Fatalf("holdfast %s: exit %d\n%s%s", strings.Join(args, " "), r.code, r.out, r.stderr)
	}
	return r.out
}

// program runs another program of the server's version.
func (w *world) program(name string, args ...string) {
	w.t.Helper()
	if r := w.launch(w.server.Bin(name), args...).wait(); r.code != 0 {
		w.t.Fatalf("%s %v: exit %d\n%s%s", name, args, r.code, r.out, r.stderr)
	}
}

// has tells whether the server's version has a program here.
func (w *world) has(name string) bool {
	_, err := os.Stat(filepath.Join(w.server.BinDir, name))
	return err == nil
}

func decode[T any](t *testing.T, text string) T {
	t.Helper()
	var v T
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		t.Fatalf("not the JSON that was expected: %v\n%s", err, text)
	}
	return v
}

// until polls until done says so: what is waited for happens in other processes.
func (w *world) until(what string, done func() bool) {
	w.t.Helper()
	deadline := time.After(time.Minute)
	again := time.NewTicker(50 * time.Millisecond)
	defer again.Stop()
	for !done() {
		select {
		case <-again.C:
		case <-deadline:
			w.t.Fatalf("not within a minute: %s", what)
		}
	}
}

// pause lets other processes work for a while: how far they come is what the test leaves to chance.
func pause(d time.Duration) { <-time.After(d) }

// endProcesses ends what a test left: everything that runs our binary in this world, and every server in it.
func (w *world) endProcesses() {
	if w.t.Failed() {
		files, _ := filepath.Glob(filepath.Join(w.dir, "*.err"))
		for _, f := range files {
			if text := read(f); strings.Contains(text, "level=") || strings.Contains(text, "panic") {
				w.t.Logf("%s:\n%s", filepath.Base(f), end(text, 6000))
			}
		}
		files, _ = filepath.Glob(filepath.Join(w.dir, "*.log")) // of servers that were restored
		for _, f := range files {
			w.t.Logf("%s:\n%s", filepath.Base(f), end(read(f), 6000))
		}
	}
	procs, _ := filepath.Glob("/proc/[0-9]*")
	for _, p := range procs {
		exe, _ := os.Readlink(filepath.Join(p, "exe"))
		cwd, _ := os.Readlink(filepath.Join(p, "cwd"))
		env, _ := os.ReadFile(filepath.Join(p, "environ")) // other worlds run the same binary at the same time
		ours := exe == w.binary && bytes.Contains(env, []byte("HOME="+w.dir+"\x00")) ||
			strings.HasPrefix(cwd, w.dir+"/") && filepath.Base(exe) == "postgres"
		if pid, err := strconv.Atoi(filepath.Base(p)); err == nil && ours {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	}
}

func end(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return "…" + s[len(s)-n:]
}

// agent starts the agent and waits until it receives the log.
func (w *world) agent() *process {
	w.t.Helper()
	p := w.start("agent")
	w.until("the agent receives the log", func() bool {
		select {
		case <-p.ended:
			w.t.Fatalf("the agent ended:\n%s", p.said())
		default:
		}
		return w.server.Query("", "SELECT count(*) FROM pg_stat_replication WHERE application_name LIKE 'holdfast%' AND state = 'streaming'") == "1"
	})
	return p
}

// listed is a snapshot as snapshot list -o json prints it.
type listed struct {
	System, ID, Error string
	Manifest          struct {
		Started string
		Facts   struct {
			StopLSN      string
			StopTimeline int
		}
	}
}

func (w *world) snapshots() []listed {
	w.t.Helper()
	return decode[[]listed](w.t, w.run("snapshot", "list", "-o", "json"))
}
