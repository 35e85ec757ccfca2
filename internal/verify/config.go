package verify

import (
	"log/slog"

	"github.com/holdfast-dr/holdfast/internal/config"
)

// FromConfig returns the options of a system's tests as they are configured, but for what only the caller knows: the command that
// serves the log. Where everything is restored for a server, everything is looked at.
func FromConfig(s config.System, p config.Policy, log *slog.Logger) Options {
	o := Options{
		Depth: Depth(p.Verify.Depth), Sandbox: p.Verify.Sandbox, Memory: p.Verify.Memory, Timeout: p.Verify.Timeout,
		BinDir: s.Postgres.BinDirectory, Superuser: s.Verify.Superuser, Preload: s.Verify.Preload, Assertions: s.Verify.Assertions,
	}
	o.Opener = OpenerOf(p.Verify.Way, log)
	if !o.Depth.Includes(Boot) || !o.Opener.Whole() {
		o.Sample = float64(p.Verify.Sample)
	}
	return o
}

// OpenerOf returns the Opener of a way.
func OpenerOf(way config.VerifyWay, log *slog.Logger) Opener {
	if way == config.VerifyMount {
		return Mount{Log: log}
	}
	return FullRestore{}
}
