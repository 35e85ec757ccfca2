package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/restore"
	"github.com/holdfast-dr/holdfast/internal/restore/mount"
	"github.com/holdfast-dr/holdfast/internal/restore/points"
	"github.com/holdfast-dr/holdfast/internal/sidecar"
	"github.com/holdfast-dr/holdfast/internal/workspace"
)

func newMountCommand(a *app) *cobra.Command {
	return group("mount", "Look into a snapshot's files; see to the mounts of holdfast recover --instant",
		newMountOpenCommand(a), newMountListCommand(a), newMountResumeCommand(a), newMountFinishCommand(a), newMountStopCommand(a), newMountAbortCommand(a))
}

func newMountListCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "Show what is mounted on this machine, and how much of it is here",
		Long: `Shows the mounts of this machine. HERE is what has come of the data: a mount that is whole may be finished. One that is dead
is served by nobody, since its process was killed: holdfast mount resume goes on with it. Exit code 3 means that one is dead, or has
ended its hydration with an error.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return a.mountList(c.Context()) },
	}
}

// mounted is one line of mount list.
type mounted struct {
	workspace.MountAnswer
	Dead bool `json:"dead,omitempty"`
}

type mountedList []mounted

func (l mountedList) writeText(w io.Writer) error {
	var rows [][]string
	for _, m := range l {
		state, here, server := m.Phase, fmt.Sprintf("%s of %s", m.Hydration.Done, m.Hydration.Total), "-"
		switch {
		case m.Dead:
			state, here = "DEAD", "-"
		case m.Hydration.Whole:
			state = "whole"
		}
		if m.Server != 0 {
			server = fmt.Sprint(m.Server)
		}
		rows = append(rows, []string{m.System, m.Dir, m.Snapshot, state, here, server, m.Hydration.Error})
	}
	return table(w, []string{"SYSTEM", "DIRECTORY", "SNAPSHOT", "STATE", "HERE", "SERVER", "PROBLEM"}, rows)
}

func (a *app) mountList(ctx context.Context) error {
	all, err := mount.All()
	if err != nil {
		return err
	}
	out, broken := mountedList{}, 0
	for _, m := range all {
		line := mounted{MountAnswer: workspace.MountAnswer{Dir: m.Dir}, Dead: m.Dead}
		if !m.Dead {
			if line.MountAnswer, err = askMount(ctx, m, workspace.MountStatus); err != nil {
				continue // a tablespace, or one that is beginning or ending
			}
			if line.Dir != m.Dir {
				continue // a tablespace: it is shown with its data directory
			}
		}
		if m.Dead || line.Hydration.Error != "" {
			broken++
		}
		out = append(out, line)
	}
	if err := a.emit(out); err != nil {
		return err
	}
	if broken > 0 {
		return missed(dr.Fail("mount list", errors.New(count(broken, "mount")+" will not become whole"), "holdfast mount resume DIR goes on with it"))
	}
	return nil
}

// askTime is how long a process that serves a mount may take to say how it is.
const askTime = 5 * time.Second

func askMount(ctx context.Context, m mount.Mounted, do workspace.MountDeed) (workspace.MountAnswer, error) {
	if do == workspace.MountStatus {
		var stop context.CancelFunc
		ctx, stop = context.WithTimeout(ctx, askTime)
		defer stop()
	}
	return sidecar.Ask[workspace.MountRequest, workspace.MountAnswer](ctx, m.Control, workspace.MountRequest{Do: do})
}

// served returns the mount over a directory; nil where there is none, or a dead one.
func served(dir string) (*mount.Mounted, error) {
	all, err := mount.All()
	if err != nil {
		return nil, err
	}
	for _, m := range all {
		if m.Dir == absolute(dir) && !m.Dead {
			return &m, nil
		}
	}
	return nil, nil
}

func newMountFinishCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "finish DIR",
		Short: "Turn a mount that is whole into a plain data directory",
		Long: `Stops the server that runs on the mount, takes the mount away, and starts the server again as it was started: on the directory
itself, which is a plain data directory from then on. That takes as long as a restart of the server.`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error { return a.mountFinish(c.Context(), absolute(args[0])) },
	}
}

// saidDone is what commands print that only did something.
type saidDone struct {
	Done string `json:"done"`
}

func (s saidDone) writeText(w io.Writer) error {
	_, err := fmt.Fprintln(w, s.Done)
	return err
}

func (a *app) mountFinish(ctx context.Context, dir string) error {
	m, err := served(dir)
	if err != nil {
		return err
	}
	if m == nil {
		switch s, err := mount.ReadState(dir); {
		case err != nil:
			return err
		case s != nil && s.Phase == mount.Plain:
			if err := mount.FinishUnmounted(ctx, dir); err != nil {
				return err
			}
			return a.emit(saidDone{dir + " is a plain data directory; no server runs on it"})
		}
		return noMount("finish", dir)
	}
	answer, err := a.tellMount(ctx, m, workspace.MountFinish)
	if err != nil {
		return err
	}
	said := dir + " is a plain data directory"
	if answer.Server != 0 {
		said += fmt.Sprintf(", and the server runs on it (pid %d)", answer.Server)
	}
	return a.emit(saidDone{said})
}

func noMount(do, dir string) error {
	return &dr.Failure{
		What: fmt.Sprintf("%s the mount over %q", do, dir), Reason: "nobody serves one there",
		Next: "holdfast mount list shows which there are; holdfast mount resume " + dir + " goes on with one that was interrupted",
	}
}

func (a *app) tellMount(ctx context.Context, m *mount.Mounted, do workspace.MountDeed) (workspace.MountAnswer, error) {
	answer, err := askMount(ctx, *m, do)
	if err != nil {
		return answer, dr.Fail(fmt.Sprintf("ask the process that serves the mount over %q", m.Dir), err, "see "+m.Dir+".mount.log")
	}
	if answer.Error != nil {
		return answer, answer.Error
	}
	return answer, nil
}

func newMountStopCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "stop DIR",
		Short: "Stop the server on a mount, and take the mount away for a while",
		Long:  "Stops the server and unmounts. What has come and what was written remains: holdfast mount resume goes on with it.",
		Args:  cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			dir := absolute(args[0])
			m, err := served(dir)
			if err != nil {
				return err
			}
			if m == nil {
				return noMount("stop", dir)
			}
			if _, err := a.tellMount(c.Context(), m, workspace.MountEnd); err != nil {
				return err
			}
			return a.emit(saidDone{"the mount over " + dir + " rests; holdfast mount resume " + dir + " goes on with it"})
		},
	}
}

func newMountAbortCommand(a *app) *cobra.Command {
	var confirm string
	c := &cobra.Command{
		Use:   "abort DIR",
		Short: "Remove a mount, and all that was written to it",
		Long: `Stops the server on the mount, unmounts, and removes the directory's content and that of its tablespaces: what the database wrote
since its recovery is lost.`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return a.mountAbort(c.Context(), absolute(args[0]), confirm)
		},
	}
	c.Flags().StringVar(&confirm, "confirm", "", "the directory's `name` once more, instead of being asked")
	return c
}

func (a *app) mountAbort(ctx context.Context, dir, given string) error {
	if err := a.confirm("remove what is mounted over "+dir+", and all that was written to it", dir, given); err != nil {
		return err
	}
	m, err := served(dir)
	if err != nil {
		return err
	}
	if m != nil {
		if _, err := a.tellMount(ctx, m, workspace.MountEnd); err != nil {
			return err
		}
		if err := gone(ctx, dir); err != nil {
			return err
		}
	}
	if _, err := mount.Clear(ctx, dir); err != nil {
		return err
	}
	if err := mount.Abort(ctx, dir); err != nil {
		return err
	}
	return a.emit(saidDone{dir + " is empty"})
}

// gone waits until nothing is mounted over a directory: whoever served it has answered before it unmounts.
func gone(ctx context.Context, dir string) error {
	ctx, stop := context.WithTimeout(ctx, time.Minute)
	defer stop()
	again := time.NewTicker(20 * time.Millisecond)
	defer again.Stop()
	for {
		m, err := served(dir)
		if err != nil || m == nil {
			return err
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			return dr.Fail(fmt.Sprintf("unmount %q", dir), errors.New("it is still in use"), "stop what runs on it: fuser -m "+dir+" shows that")
		}
	}
}

func newMountResumeCommand(a *app) *cobra.Command {
	r := &recoverFlags{memory: defaultMountMemory}
	r.app = a
	c := &cobra.Command{
		Use:   "resume DIR",
		Short: "Go on with a mount whose process, or machine, has crashed",
		Long: `Mounts again what holdfast recover --instant had mounted, and starts the server on it: nothing that was committed is lost. Processes of
the server that still hang on the dead mount are ended. It is what the same holdfast recover does.`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			r.to, r.instant = absolute(args[0]), true
			if _, err := mount.Clear(c.Context(), r.to); err != nil {
				return err
			}
			s, err := mount.ReadState(r.to)
			if err != nil {
				return err
			}
			if s == nil {
				return noMount("resume", r.to)
			}
			return r.run(c.Context(), s.System)
		},
	}
	f := c.Flags()
	r.at, r.timeline = "latest", "latest" // those that it had count
	f.IntVar(&r.port, "port", 0, "`port` of the started server (default 5432)")
	f.StringVar(&r.listen, "listen", "", "`addresses` that the started server listens on (default: its socket only)")
	f.StringVar(&r.binDir, "bin-directory", "", "`directory` of PostgreSQL's programs (default: as configured, else where packages put them)")
	r.addMountFlags(f)
	r.glass.addFlags(c)
	return c
}

// mountOpen is a look into a snapshot's files.
type mountOpen struct {
	app      *app
	glass    breakGlass
	at       string
	timeline string
	owner    string
	readOnly bool
	wait     time.Duration
}

func newMountOpenCommand(a *app) *cobra.Command {
	m := &mountOpen{app: a}
	c := &cobra.Command{
		Use:   "open SYSTEM DIR",
		Short: "Look into the files of a snapshot, until interrupted",
		Long: `Mounts the newest snapshot that suffices for a moment over an empty directory: its files as they lie in the repository, before any
log is replayed. What is read is fetched then. What is written is thrown away when the command is interrupted.`,
		Example: "  holdfast mount open orders-db /mnt/orders --read-only",
		Args:    cobra.ExactArgs(2),
		RunE:    func(c *cobra.Command, args []string) error { return m.run(c.Context(), args[0], absolute(args[1])) },
	}
	f := c.Flags()
	f.StringVar(&m.at, "at", "latest", "`moment`: latest, immediate, a time (UTC, or with its zone), an LSN, or name:RESTORE_POINT")
	f.StringVar(&m.timeline, "timeline", "latest", "`timeline` to follow: latest, current (the snapshot's), or a number")
	f.StringVar(&m.owner, "owner", "", "`user` whom the files belong to, when run as root (default: the directory's owner, or postgres)")
	f.BoolVar(&m.readOnly, "read-only", false, "refuse writes")
	f.DurationVar(&m.wait, "wait", 2*time.Minute, "`time` that a read waits for a store that does not answer, before it fails")
	m.glass.addFlags(c)
	return c
}

// lookedInto is what mount open prints when it is ready.
type lookedInto struct {
	System   string `json:"system"`
	Snapshot string `json:"snapshot"`
	Dir      string `json:"directory"`
}

func (l lookedInto) writeText(w io.Writer) error {
	_, err := fmt.Fprintf(w, "the files of snapshot %s of %s are in %s, until this command is interrupted\n", l.Snapshot, l.System, l.Dir)
	return err
}

func (m *mountOpen) run(ctx context.Context, system, dir string) error {
	target, err := points.ParseTarget(m.at)
	if err != nil {
		return usage(err)
	}
	tl, err := points.ParseTimeline(m.timeline)
	if err != nil {
		return usage(err)
	}
	w, err := m.app.workspace(&m.glass)
	if err != nil {
		return err
	}
	defer w.Close() //nolint:errcheck // only read
	r, err := m.app.repositoryOf(ctx, w, system)
	if err != nil {
		return err
	}
	defer w.Help(r, system)()
	v, err := points.Load(ctx, r, system)
	if err != nil {
		return err
	}
	plan, err := v.Plan(ctx, target, tl, points.RefuseLoss)
	if err != nil {
		return err
	}
	owner, err := restore.ChooseOwner(dir, m.owner)
	if err != nil {
		return err
	}
	if _, err := mount.Clear(ctx, dir); err != nil {
		return err
	}
	mounted, err := mount.Begin(ctx, r, plan, dir, mount.Options{
		Owner: owner, ThrowAway: true, ReadOnly: m.readOnly, Wait: m.wait, Log: m.app.logger(),
		Settings: restore.Settings{RestoreCommand: "false %f %p"},
	})
	if err != nil {
		return err
	}
	if err := m.app.emit(lookedInto{system, string(plan.Snapshot.Manifest.ID), dir}); err != nil {
		return errors.Join(err, mounted.Close())
	}
	<-ctx.Done()
	return mounted.Close()
}
