package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime/debug"
	"sync"
	"time"

	"github.com/holdfast-dr/holdfast/internal/config"
	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/geo"
	"github.com/holdfast-dr/holdfast/internal/store/meter"
	"github.com/holdfast-dr/holdfast/internal/workspace"
)

// Config says what an agent runs.
type Config struct {
	// Workspace gives the configuration. Each system opens the repository for itself, so that a rotation of the
	// keys disturbs nobody else; what the workspace has open is not used.
	Workspace *workspace.Workspace
	Systems   []string // of the configuration; empty: all of them
	Listen    string   // host:port of metrics and health; empty: agent.listen of the configuration
	Version   string   // of the program, for the build's metric
	Systemd   Systemd
	Log       *slog.Logger
	// RestoreCommand returns the restore_command of a system for the servers of restore tests, which are served their log by the
	// agent itself; see restore.Settings. nil: no tests are run.
	RestoreCommand func(system string) (string, error)

	// The rest is for tests.
	listening func(net.Addr)               // is told where we listen
	snapshots func(config.Policy) calendar // instead of the policy's
	retry     time.Duration                // instead of firstRetry
	takeover  time.Duration                // instead of takeoverWait
}

const (
	// stopTimeout bounds how long the end of the log is stored after the agent was told to stop.
	stopTimeout = 30 * time.Second
	// endTimeout bounds the whole stop, in which a hanging store or server may hold up anything.
	endTimeout = stopTimeout + 10*time.Second
)

// Run protects the systems until ctx ends, and then stops cleanly: the snapshot that runs is aborted, the tail of
// the log is stored and acknowledged. That takes 40 s at most. Before that it returns an error where nothing could
// begin, or where other agents protect every one of the systems (ErrSecondAgent).
func Run(ctx context.Context, cfg Config) (err error) {
	a, err := newAgent(cfg)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, a.unlock()) }()
	listener, err := a.listen(ctx)
	if err != nil {
		return err
	}
	defer debug.SetMemoryLimit(debug.SetMemoryLimit(a.share.limit))
	return a.run(ctx, listener)
}

// agent is one Run.
type agent struct {
	cfg     Config
	config  *config.Config
	log     *slog.Logger
	started time.Time
	host    string
	share   share
	keepers []*keeper
	locks   []*os.File

	scrubbers []*scrubber
	warm      standbys
	one       chan struct{} // a place for the one restore test that runs at a time
}

func newAgent(cfg Config) (*agent, error) {
	a := &agent{cfg: cfg, config: cfg.Workspace.Config, log: cfg.Log, started: time.Now(), one: make(chan struct{}, 1)}
	if a.log == nil {
		a.log = slog.New(slog.DiscardHandler)
	}
	if host, err := os.Hostname(); err == nil {
		a.host = host
	}
	names := cfg.Systems
	if len(names) == 0 {
		names = a.config.SystemNames()
	}
	if len(names) == 0 {
		return nil, &dr.Failure{
			What: "agent: there is nothing to protect", Reason: a.config.Path + " declares no system",
			Next: "declare one under systems, or let holdfast init write it",
		}
	}
	var systems []config.System
	for _, name := range names {
		s, err := a.config.System(name)
		if err != nil {
			return nil, err
		}
		systems = append(systems, s)
	}
	a.share = shareOut(a.config, systems)
	if a.share.short {
		a.log.Warn("agent.memory is less than the log streams of these systems need; they take what they need",
			"needed", dr.Bytes(a.share.limit).String(), "budget", a.config.Agent.Memory.String())
	}
	for _, s := range systems {
		if err := a.add(s); err != nil {
			return nil, errors.Join(err, a.unlock())
		}
	}
	return a, nil
}

// add makes the keeper of a system, whose lock it takes. This is where real parts are chosen.
func (a *agent) add(s config.System) error {
	dir, err := a.cfg.Workspace.SystemDir(string(s.Name))
	if err != nil {
		return dr.Fail("agent: keep the state of "+string(s.Name), err, "set agent.state to a directory that this user may write")
	}
	lock, err := lockSystem(dir, string(s.Name))
	if err != nil {
		return err
	}
	a.locks = append(a.locks, lock)
	policy := a.config.PolicyOf(s)
	log := a.log.With(dr.KeySystem, string(s.Name))
	requests := new(meter.Meter)
	open := func(site string) *workspace.Workspace {
		w := workspace.New(a.config, log)
		w.Meter, w.Site, w.Program = requests, site, "holdfast agent"
		return w
	}
	ops := &systemOperations{ws: open(""), openAt: open, home: a.config.RepositoryOf(s).Replicas[0].Site, system: s, policy: policy, workers: a.share.workers, log: log}
	budget := float64(policy.Optimize.Budget)
	if !a.config.Agent.Prune {
		budget = 0 // what is replaced would have to be removed
	}
	k := &keeper{
		system: s, policy: policy, site: a.config.RepositoryOf(s).Replicas[0].Site,
		plan: plan{system: s.Name, snapshots: policy.Timing(), checks: a.checks(s), windows: policy.Windows, optimize: budget, retry: firstRetry},
		file: &stateFile{path: filepath.Join(dir, "agent.json")}, ops: ops, heavy: a.share.heavy,
		now: wallClock, log: log, failures: newFailures(), requests: requests,
	}
	if a.cfg.retry != 0 {
		k.plan.retry = a.cfg.retry
	}
	if a.cfg.RestoreCommand != nil {
		k.tester = &tester{
			open: func() *workspace.Workspace { return open("") }, system: s, policy: policy, command: a.cfg.RestoreCommand, dir: dir, one: a.one, log: log,
			timing: dr.Timing{Schedule: policy.Verify.Schedule, Jitter: policy.Jitter}, retry: k.plan.retry,
		}
	}
	if a.cfg.snapshots != nil {
		k.plan.snapshots = a.cfg.snapshots(policy)
	}
	if policy.Log.Stream {
		takeover := a.cfg.takeover
		if takeover == 0 {
			takeover = takeoverWait
		}
		ops.stream = &systemStream{ws: open(""), open: open, system: s, policy: policy, blocks: a.share.blocks, takeover: takeover, log: log}
		k.stream = ops.stream
	}
	fan := func() *geo.Fan { return nil }
	if ops.stream != nil {
		fan = ops.stream.sites
	}
	if sites := a.config.CopiesOf(s); len(sites) > 1 {
		for _, rep := range sites {
			m := &mirror{open: open, system: s, site: rep.Site, home: k.site, fan: fan, every: policy.Log.Interval, look: k.home, log: log}
			if rep.Lock.For > 0 && rep.Site != k.site {
				m.lock = lockAt(open, s.Repository, rep.Site)
			}
			k.copies = append(k.copies, m)
		}
	}
	a.keepers = append(a.keepers, k)
	a.addScrubbers(s)
	return nil
}

// checks returns when the keeper of a system checks its repository. Of several systems that would check the same
// one in the same way, the first does.
func (a *agent) checks(s config.System) calendar {
	policy := a.config.PolicyOf(s)
	for _, k := range a.keepers {
		if k.system.Repository == s.Repository && k.policy.Check.Schedule.String() == policy.Check.Schedule.String() &&
			k.policy.Check.Sample >= policy.Check.Sample {
			return dr.Timing{}
		}
	}
	return dr.Timing{Schedule: policy.Check.Schedule, Jitter: policy.Jitter}
}

// wallClock returns the time of day without the monotonic clock, which would hide that the former was set.
func wallClock() time.Time { return time.Now().Round(0) }

// unlock lets another agent have the systems.
func (a *agent) unlock() error {
	var err error
	for _, l := range a.locks {
		err = errors.Join(err, l.Close())
	}
	a.locks = nil
	return err
}

// run starts everything, and waits until ctx ends or nobody is left.
func (a *agent) run(ctx context.Context, listener net.Listener) error {
	var beside sync.WaitGroup
	side, stop := context.WithCancel(context.WithoutCancel(ctx)) // the clean-up is watched too
	defer beside.Wait()
	defer stop()
	beside.Go(func() { a.serve(side, listener) })
	beside.Go(func() { a.warm.watch(side, a.cfg.Workspace, a.keepers) })
	beside.Go(func() { a.cfg.Systemd.keepAlive(side, func() string { return a.Status().sentence() }) })

	scrubbing, end := context.WithCancel(ctx) // also where no system is left
	defer end()
	for _, s := range a.scrubbers {
		beside.Go(func() { s.run(scrubbing) })
	}

	ended := make(chan error, len(a.keepers))
	for _, k := range a.keepers {
		go func() { ended <- a.keep(ctx, k) }()
	}
	a.log.Info("agent started", "systems", len(a.keepers), "listen", listener.Addr().String())
	a.cfg.Systemd.notify("READY=1")
	stopping := context.AfterFunc(ctx, func() {
		a.log.Info("agent stops: running tasks are aborted, the log's tail is stored")
		a.cfg.Systemd.notify("STOPPING=1", "STATUS=storing the log's tail")
	})
	defer stopping()
	return a.wait(ctx, ended)
}

// keep runs one keeper. A system that another agent protects is none of ours, and does not end the others.
func (a *agent) keep(ctx context.Context, k *keeper) error {
	err := k.run(ctx)
	if err != nil && ctx.Err() == nil && len(a.keepers) > 1 {
		k.log.Error("this system is not protected from here", dr.KeyError, err, dr.KeyNext, dr.Advice(err))
	}
	if o, ok := k.ops.(*systemOperations); ok {
		err = errors.Join(err, o.ws.Close())
	}
	return err
}

func (a *agent) wait(ctx context.Context, ended <-chan error) error {
	late := make(chan struct{})
	defer context.AfterFunc(ctx, func() { time.AfterFunc(endTimeout, func() { close(late) }) })()
	var errs []error
	for range a.keepers {
		select {
		case err := <-ended:
			if err != nil {
				errs = append(errs, err)
			}
		case <-late:
			return errors.Join(append(errs, fmt.Errorf("agent: not everything stopped within %s; the next start goes on from what is stored", endTimeout))...)
		}
	}
	if ctx.Err() != nil {
		return errors.Join(errs...)
	}
	return refusedAll(errs)
}

// Status gathers how everything stands.
func (a *agent) Status() Status {
	now := wallClock()
	s := Status{Version: a.cfg.Version, Host: a.host, PID: os.Getpid(), Started: a.started.UTC(), Healthy: true}
	for _, k := range a.keepers {
		sys := k.status(now)
		sys.Standby = a.warm.of(k.system.Name)
		if sys.Scrubs = a.scrubs(k.system); len(sys.Scrubs) > 0 {
			for _, x := range sys.Scrubs {
				sys.Reasons = append(sys.Reasons, x.illness(now)...)
			}
			sys.Healthy = len(sys.Reasons) == 0
		}
		s.Healthy = s.Healthy && sys.Healthy
		s.Systems = append(s.Systems, sys)
	}
	return s
}
