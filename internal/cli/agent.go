package cli

import (
	"context"
	"os"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/holdfast-dr/holdfast/internal/agent"
)

func newAgentCommand(a *app) *cobra.Command {
	r := &runAgent{app: a}
	c := &cobra.Command{
		Use:   "agent",
		Short: "Protect the systems of this host: log stream, snapshots, retention, checks",
		Long: `Runs what holdfast.yaml says until it is told to stop: receives the log of each system all the time, takes
snapshots by their schedule and those that were missed, forgets what no rule keeps, gives back the space, and reads
back samples. Metrics (/metrics), health (/healthz) and state (/status) are served at agent.listen.

SIGTERM and SIGINT stop it cleanly: a snapshot that runs is aborted, the log's tail is stored and acknowledged. One
agent protects a system; a second one is refused. Under systemd it is a service of Type=notify.`,
		Example: "  holdfast agent\n  holdfast agent --system orders-db --listen 127.0.0.1:9848",
		Args:    cobra.NoArgs,
		RunE:    func(c *cobra.Command, _ []string) error { return r.run(c.Context()) },
	}
	c.Flags().StringArrayVar(&r.systems, "system", nil, "`name` of a system to protect, instead of all; may be repeated")
	c.Flags().StringVar(&r.listen, "listen", "", "`host:port` of metrics and health, instead of agent.listen")
	return c
}

type runAgent struct {
	app     *app
	systems []string
	listen  string
}

func (r *runAgent) run(ctx context.Context) error {
	w, err := r.app.workspace(nil)
	if err != nil {
		return err
	}
	defer w.Close() //nolint:errcheck // the agent opens its own
	return agent.Run(ctx, agent.Config{
		Workspace: w, Systems: r.systems, Listen: r.listen, Version: version, Systemd: systemd(), Log: r.app.logger(),
		RestoreCommand: func(system string) (string, error) { return r.app.restoreCommand(system, nil) },
	})
}

// systemd reads what a service manager tells us in the environment (sd_notify(3), sd_watchdog_enabled(3)).
func systemd() agent.Systemd {
	s := agent.Systemd{Socket: os.Getenv("NOTIFY_SOCKET")}
	pid := os.Getenv("WATCHDOG_PID")
	if pid != "" && pid != strconv.Itoa(os.Getpid()) {
		return s // it is meant for another process
	}
	if us, err := strconv.ParseInt(os.Getenv("WATCHDOG_USEC"), 10, 64); err == nil && us > 0 {
		s.Watchdog = time.Duration(us) * time.Microsecond
	}
	return s
}
