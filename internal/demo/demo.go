package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/holdfast-dr/holdfast/internal/dr"
)

// Options say where and how long. Self and Out are needed.
type Options struct {
	Self   string        // the holdfast program
	Dir    string        // an empty directory that this process may write, for everything
	Bin    string        // directory of PostgreSQL's programs; empty: the newest that is installed
	Load   time.Duration // how long the writers write before the disaster, after the first snapshot; 10 s
	Rows   int           // of the table that makes the database worth a snapshot; 1,000,000
	Out    io.Writer
	Writer int // number of writers; 4
	// Regions makes three sites, of which the first is lost with everything in it: the server, the agent, and the replica there.
	Regions bool
}

// Result is what was measured.
type Result struct {
	PostgreSQL   string        `json:"postgresql"`
	Database     dr.Bytes      `json:"databaseBytes"`
	Repository   dr.Bytes      `json:"repositoryBytes"`
	Acknowledged int           `json:"acknowledged"` // commits before the disaster
	Recovered    int           `json:"recovered"`    // of these
	Lost         int           `json:"lost"`
	Wrong        int           `json:"wrong"`       // rows that came back with another content; must be 0
	Unconfirmed  int           `json:"unconfirmed"` // came back although the server died before it could say so
	RPO          time.Duration `json:"rpoNs"`       // from the oldest lost commit to the disaster
	RTO          time.Duration `json:"rtoNs"`       // from the disaster to the first answered query
	Phases       []Phase       `json:"phases"`
	From         string        `json:"from,omitempty"`  // the site from which it came back
	Sites        []Site        `json:"sites,omitempty"` // after the disaster
}

// Phase is a part of the recovery.
type Phase struct {
	Name string        `json:"name"`
	Took time.Duration `json:"tookNs"`
}

// demo is one run.
type demo struct {
	o       Options
	config  string
	primary *server
	agent   *exec.Cmd
	ledger  *ledger
	result  Result
}

const system = "demo"

// Run runs the demonstration. The error is of something that did not work; what was lost is in the result.
func Run(ctx context.Context, o Options) (*Result, error) {
	if o.Load == 0 {
		o.Load = 10 * time.Second
	}
	if o.Rows == 0 {
		o.Rows = 1_000_000
	}
	if o.Writer == 0 {
		o.Writer = 4
	}
	d := &demo{o: o, config: filepath.Join(o.Dir, "holdfast.yaml")}
	defer d.cleanUp()
	for i, s := range d.steps() {
		d.say("\n%d. %s", i+1, s.title)
		if err := s.do(ctx); err != nil {
			return &d.result, fmt.Errorf("demo: %s: %w", s.title, err)
		}
	}
	return &d.result, nil
}

// step is a part of the demonstration.
type step struct {
	title string
	do    func(context.Context) error
}

func (d *demo) steps() []step {
	load := step{"load: writers commit, and note every commit that the server acknowledged", d.load}
	compare := step{"the ledger against what came back, row by row", d.compare}
	if d.o.Regions {
		return []step{
			{"a PostgreSQL with a million rows, at site " + siteNames[0], d.makePrimary},
			{"a repository: encrypted, with a replica at each of three sites, which are directories here", d.makeRepository},
			{"the agent: log stream to all sites, and the first snapshot, which it copies", d.startAgent},
			load,
			{"disaster: site " + siteNames[0] + " is gone, with the primary, the agent and all that it kept, and the replica there", d.destroy},
			{"what the other sites hold", d.look},
			{"recovery at another site, to the end of the log, in an empty directory", d.recover},
			compare,
		}
	}
	return []step{
		{"a PostgreSQL with a million rows", d.makePrimary},
		{"a repository: encrypted, in a local directory", d.makeRepository},
		{"the agent: log stream, and the first snapshot", d.startAgent},
		load,
		{"disaster: the primary and the agent die by kill -9, the data directory is deleted", d.destroy},
		{"recovery, to the end of the log, in an empty directory", d.recover},
		compare,
	}
}

func (d *demo) say(format string, args ...any) { fmt.Fprintf(d.o.Out, format+"\n", args...) }

// holdfast runs one of our own commands and returns what it printed on stdout.
func (d *demo) holdfast(ctx context.Context, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, d.o.Self, append([]string{"--config", d.config, "--no-progress"}, args...)...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 30 * time.Second
	out, err := cmd.Output()
	var failed *exec.ExitError
	if errors.As(err, &failed) {
		return out, fmt.Errorf("holdfast %s: %w: %s", args[0], err, failed.Stderr)
	}
	return out, err
}

func (d *demo) makePrimary(ctx context.Context) error {
	bin, err := findBin(d.o.Bin)
	if err != nil {
		return err
	}
	d.primary = &server{bin: bin, dir: filepath.Join(d.o.Dir, "primary"), socket: d.o.Dir, port: 5432}
	if err := d.primary.init(ctx); err != nil {
		return err
	}
	d.ledger = &ledger{conn: d.primary.connString()}
	d.result.PostgreSQL, err = d.ledger.prepare(ctx, d.o.Rows)
	if err != nil {
		return err
	}
	d.result.Database = dr.Bytes(treeSize(d.primary.dir))
	d.say("   PostgreSQL %s, %s, in %s", d.result.PostgreSQL, d.result.Database, d.primary.dir)
	return nil
}

func (d *demo) makeRepository(ctx context.Context) error {
	_, err := exec.CommandContext(ctx, d.o.Self, "init", "--connection", d.primary.connString(), "--system", system,
		"--repository", d.replicas()[0], "--state", filepath.Join(d.o.Dir, "state"), "--file", d.config).Output()
	if err == nil {
		err = listenNowhere(d.config)
	}
	if err == nil && d.o.Regions {
		err = d.spread()
	}
	if err == nil {
		_, err = d.holdfast(ctx, "repo", "init")
	}
	d.say("   holdfast init; holdfast repo init")
	return err
}

func (d *demo) startAgent(ctx context.Context) error {
	log, err := os.Create(filepath.Join(d.o.Dir, "agent.log"))
	if err != nil {
		return err
	}
	defer log.Close() //nolint:errcheck // the agent has its own descriptor
	d.agent = exec.Command(d.o.Self, "--config", d.config, "agent")
	d.agent.Stdout, d.agent.Stderr = log, log
	d.agent.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := d.agent.Start(); err != nil {
		return err
	}
	d.say("   holdfast agent (pid %d)", d.agent.Process.Pid)
	if err := d.waitSnapshot(ctx); err != nil || !d.o.Regions {
		return err
	}
	return d.waitCopies(ctx)
}

// waitSnapshot waits until the agent has taken the first snapshot.
func (d *demo) waitSnapshot(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	tick := time.NewTicker(300 * time.Millisecond)
	defer tick.Stop()
	for {
		list, err := d.snapshots(ctx)
		if err != nil {
			return err
		}
		if len(list) > 0 {
			m := list[0]
			d.say("   snapshot %s: %s in %s, stored as %s", m.ID, dr.Bytes(m.Manifest.Bytes),
				m.Manifest.Finished.Sub(m.Manifest.Started).Round(time.Millisecond), dr.Bytes(m.Manifest.Written.StoredBytes))
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			log, _ := os.ReadFile(filepath.Join(d.o.Dir, "agent.log")) //nolint:errcheck // only to say more
			return fmt.Errorf("the agent took no snapshot: %w: %s", context.Cause(ctx), log)
		}
	}
}

// load lets the writers write. They go on until the server dies.
func (d *demo) load(ctx context.Context) error {
	if err := d.ledger.start(ctx, d.o.Writer); err != nil {
		return err
	}
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for end := time.Now().Add(d.o.Load); time.Now().Before(end); {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	d.say("   %d commits acknowledged in %s by %d writers, and they go on", d.ledger.count(), d.o.Load, d.o.Writer)
	return nil
}

func (d *demo) destroy(context.Context) error {
	at := time.Now()
	err := errors.Join(d.primary.kill9(), d.agent.Process.Kill())
	_ = d.agent.Wait() // it was killed
	d.agent = nil
	d.ledger.disaster = at
	d.ledger.wait()
	for _, dir := range d.replicas() {
		d.result.Repository += dr.Bytes(treeSize(dir))
	}
	gone := []string{d.primary.dir}
	if d.o.Regions {
		gone = append(gone, d.replicas()[0], filepath.Join(d.o.Dir, "state"))
	}
	for _, dir := range gone {
		err = errors.Join(err, os.RemoveAll(dir))
	}
	if err != nil {
		return err
	}
	d.result.Acknowledged = d.ledger.count()
	d.say("   at %s UTC; %d commits were acknowledged; the repository has %s", at.UTC().Format("15:04:05.000"), d.result.Acknowledged, d.result.Repository)
	return nil
}
