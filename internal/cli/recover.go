package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/restore/boot"
	"github.com/holdfast-dr/holdfast/internal/restore/mount"
	"github.com/holdfast-dr/holdfast/internal/sidecar"
)

// recoverFlags are those of an instant recovery; what it shares with a restore is in restoreFlags.
type recoverFlags struct {
	restoreFlags
	instant    bool
	foreground bool
	rate       bytesFlag
	wait       time.Duration
	memory     bytesFlag
	events     bool
}

func newRecoverCommand(a *app) *cobra.Command {
	r := &recoverFlags{memory: defaultMountMemory}
	r.app = a
	c := &cobra.Command{
		Use:   "recover SYSTEM --instant --to DIR",
		Short: "Run a database seconds after a disaster, while its data still comes",
		Long: `Mounts the newest snapshot that suffices over a directory, starts the server on it, and sees its recovery to the moment that
--at names through. What the server reads comes from the repository as it is read; what it writes stays in the directory, durably; and
behind it all the rest is fetched. The command ends when the server has answered its first query. The mount is then served by a
process of its own, whose messages are in DIR.mount.log.

When all is there (holdfast mount list), connections that are new read and write the directory itself, as fast as ever. holdfast mount finish
DIR stops the server, takes the mount away, and starts the server again on the directory, which is then a plain one.

After a crash, of the process or of the machine, the same command goes on where it was. Nothing that was committed is lost. The directory
cannot be started without its mount before it is finished: it has no pg_control.

It takes Linux and /dev/fuse, and root, or fusermount3 for other users.`,
		Example: `  holdfast recover orders-db --instant --to /var/lib/postgresql/15/main
  holdfast recover orders-db --instant --to /var/lib/postgresql/15/then --at '2026-03-02 14:05:00' --port 5433`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error { return r.run(c.Context(), args[0]) },
	}
	f := c.Flags()
	f.BoolVar(&r.instant, "instant", false, "run on a mount; without it, use holdfast restore --start")
	r.addMountFlags(f)
	r.addRecoveryFlags(f)
	r.glass.addFlags(c)
	return c
}

// defaultMountMemory is what the garbage collector aims at; with what it does not see the process stays below 256 MiB.
const defaultMountMemory = 192 << 20

// addMountFlags adds those of the process that serves a mount.
func (r *recoverFlags) addMountFlags(f *pflag.FlagSet) {
	f.BoolVar(&r.foreground, "foreground", false, "serve the mount in this process until it is interrupted, which stops the server: for a service")
	f.Var(&r.rate, "rate", "`size` a second that is fetched behind the server's back (default: all that comes)")
	f.DurationVar(&r.wait, "wait", 2*time.Minute, "`time` that a read waits for a store that does not answer, before the server is told of an error")
	f.Var(&r.memory, "memory", "`size` that the process which serves the mount keeps its memory below")
	f.BoolVar(&r.events, "events", false, "tell the process that has started this one")
	_ = f.MarkHidden("events")
}

func (r *recoverFlags) run(ctx context.Context, system string) error {
	switch {
	case r.to == "":
		return usage(dr.Fail("recover "+system, errors.New("no directory was given"), "add --to DIR"))
	case !r.instant:
		return usage(dr.Fail("recover "+system, errors.New("the way was not given"), "add --instant, or write: holdfast restore "+system+" --start --to "+r.to))
	}
	r.to = absolute(r.to)
	r.start, r.action = true, "promote"
	if !r.foreground && !r.events {
		return r.detached(ctx, system)
	}
	tell := r.teller()
	err := r.serve(ctx, system, tell)
	if err != nil {
		f := explain(err)
		tell(event{Failure: &f, Exit: r.app.exitCode(ctx, err)})
	}
	return err
}

// event is what the process that serves tells the one that has started it.
type event struct {
	Progress *dr.Progress        `json:"progress,omitempty"`
	Running  *instantlyRecovered `json:"running,omitempty"`
	Failure  *failure            `json:"failure,omitempty"`
	Exit     int                 `json:"exit,omitempty"`
}

// eventsFile is the descriptor on which it does.
const eventsFile = 3

func (r *recoverFlags) teller() func(event) {
	if !r.events {
		return func(event) {}
	}
	enc := json.NewEncoder(os.NewFile(eventsFile, "events"))
	return func(e event) { _ = enc.Encode(e) } // whoever started us may be gone
}

// serve recovers, and serves the mount until it is ended.
func (r *recoverFlags) serve(ctx context.Context, system string, tell func(event)) error {
	debug.SetMemoryLimit(int64(r.memory))
	began := time.Now()
	w, err := r.app.workspace(&r.glass)
	if err != nil {
		return err
	}
	defer w.Close() //nolint:errcheck // only read
	o, err := r.options(system, w)
	if err != nil {
		return err
	}
	repository, err := r.app.repositoryOf(ctx, w, system)
	if err != nil {
		return err
	}
	progress, stop := r.app.progress()
	if r.events {
		progress, stop = relay(tell)
	}
	o.Progress = progress
	i, err := w.Instantly(ctx, repository, system, o, mount.Options{Wait: r.wait, Rate: int64(r.rate)})
	stop()
	if err != nil {
		w.RecordInstant(ctx, repository, system, o, nil, began, err)
		return err
	}
	done := instantlyRecovered{recovered: recovered{Recovery: i.Recovery, System: system, Started: true, Total: time.Since(began)}, Dir: r.to, Resumed: i.Resumed, Process: os.Getpid(), Writes: string(i.Mount.Writes())}
	if r.events {
		tell(event{Running: &done})
	} else if err := r.app.emit(done); err != nil {
		return errors.Join(err, i.Close())
	}
	w.RecordInstant(ctx, repository, system, o, i, began, nil) // behind the answer, which somebody waits for
	return i.Serve(ctx)
}

// relay hands on progress, some times a second.
func relay(tell func(event)) (dr.ProgressFunc, func()) {
	latest := make(chan dr.Progress, 1)
	end, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(drawEvery)
		defer tick.Stop()
		for {
			select {
			case <-end:
				return
			case <-tick.C:
				select {
				case p := <-latest:
					tell(event{Progress: &p})
				default:
				}
			}
		}
	}()
	report := func(p dr.Progress) {
		select {
		case latest <- p:
		default:
		}
	}
	return report, func() { close(end); <-ended }
}

// detached starts the process that serves, and waits until the server answers.
func (r *recoverFlags) detached(ctx context.Context, system string) error {
	w, err := r.app.workspace(&r.glass) // what is wrong with the configuration is said here, and where it is
	if err != nil {
		return err
	}
	if err := w.Close(); err != nil {
		return err
	}
	self, err := ownPath()
	if err != nil {
		return err
	}
	logFile, err := boot.OpenLog(r.to + ".mount.log")
	if errors.Is(err, os.ErrNotExist) {
		if err = os.MkdirAll(filepath.Dir(r.to), 0o755); err == nil { //nolint:gosec // parents are not secret
			logFile, err = boot.OpenLog(r.to + ".mount.log")
		}
	}
	if err != nil {
		return dr.Fail("recover "+system, err, "choose a --to in a directory that may be written to")
	}
	defer logFile.Close() //nolint:errcheck // the process has its own descriptor
	in, out, err := os.Pipe()
	if err != nil {
		return err
	}
	defer in.Close() //nolint:errcheck // only read
	cmd := exec.Command(self, r.arguments(system)...)
	cmd.Stdout, cmd.Stderr, cmd.ExtraFiles, cmd.Dir = logFile, logFile, []*os.File{out}, "/"
	died, err := sidecar.Detach(cmd)
	if err := errors.Join(err, out.Close()); err != nil {
		return fmt.Errorf("start the process that serves the mount: %w", err)
	}
	defer context.AfterFunc(ctx, func() { _ = cmd.Process.Signal(syscall.SIGTERM) })() // it stops the server, and unmounts
	progress, stop := r.app.progress()
	stop = sync.OnceFunc(stop)
	defer stop()
	dec := json.NewDecoder(in)
	for {
		var e event
		if err := dec.Decode(&e); err != nil {
			<-died
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return dr.Fail("recover "+system, errors.New("the process that serves the mount has ended"), "see "+logFile.Name()+"; the same command goes on where it was")
		}
		switch {
		case e.Progress != nil && progress != nil:
			progress(*e.Progress)
		case e.Failure != nil:
			<-died
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return withExit(&dr.Failure{What: e.Failure.What, Reason: e.Failure.Reason, Next: e.Failure.Next}, e.Exit)
		case e.Running != nil:
			stop()
			return r.app.emit(*e.Running)
		}
	}
}

// arguments are those of the process that serves.
func (r *recoverFlags) arguments(system string) []string {
	args := []string{
		"recover", system, "--instant", "--events", "--to", r.to, "--at", r.at, "--timeline", r.timeline, "--no-progress", "--log-level", r.app.logLevel.value,
		"--wait", r.wait.String(), "--memory", fmt.Sprint(int64(r.memory)), "--rate", fmt.Sprint(int64(r.rate)), "--port", fmt.Sprint(r.port), "--listen", r.listen, "--owner", r.owner, "--bin-directory", r.binDir,
	}
	for _, t := range r.tablespaces {
		if name, dir, ok := strings.Cut(t, "="); ok {
			t = name + "=" + absolute(dir)
		}
		args = append(args, "--tablespace", t)
	}
	for name, on := range map[string]bool{"--accept-loss": r.acceptLoss, "--keep-archiving": r.archiving, "--keep-subscriptions": r.subscriptions, "--keep-settings": r.keepSettings} {
		if on {
			args = append(args, name)
		}
	}
	return append(args, r.app.repositoryArgs(&r.glass)...)
}

// instantlyRecovered is what recover --instant prints.
type instantlyRecovered struct {
	recovered
	Dir     string `json:"directory"`
	Resumed bool   `json:"resumed,omitempty"` // a mount that was interrupted was gone on with
	Process int    `json:"mountPid"`
	Writes  string `json:"writes"`
}

func (r instantlyRecovered) writeText(w io.Writer) error {
	if r.Resumed {
		fmt.Fprintf(w, "the mount of snapshot %s of %s over %s is there again\n", r.Snapshot, r.System, r.Dir)
	} else {
		fmt.Fprintf(w, "snapshot %s of %s is mounted over %s: %s in %s, which come as they are read, and behind that\n", r.Snapshot, r.System, r.Dir, dr.Bytes(r.Files.Bytes), count(int(r.Files.Files), "file"))
	}
	if r.Doubt != "" {
		fmt.Fprintln(w, "DOUBTFUL:", r.Doubt)
	}
	notes := r.Notes
	if r.Boot != nil {
		notes = append(notes[:len(notes):len(notes)], r.Boot.Notes...)
	}
	for _, n := range notes {
		fmt.Fprintln(w, "note:", n)
	}
	for _, p := range r.Phases {
		fmt.Fprintf(w, "  %-24s %10s\n", p.Name, round(p.Took))
	}
	if r.Boot != nil {
		fmt.Fprintf(w, "RTO %s, RPO %s (newest commit %s UTC, timeline %d)\n", round(r.Total), round(r.Boot.RPO), stamp(r.Boot.NewestCommit), r.Boot.Timeline)
	}
	fmt.Fprintf(w, "the server runs (pid %d): psql '%s'\n", r.Server.PID, r.Server.ConnString("postgres"))
	_, err := fmt.Fprintf(w, "process %d serves the mount, also when this terminal is closed; holdfast mount list shows how much is here, and when it is all: holdfast mount finish %s\n", r.Process, r.Dir)
	return err
}
