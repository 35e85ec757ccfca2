package verify

import "github.com/holdfast-dr/holdfast/internal/config"

// FromConfig returns the options of a system's tests as they are configured, but for what only the caller knows: the command that
// serves the log, and which way is taken. Where a server is started everything is read: what was restored is looked at anyway.
func FromConfig(s config.System, p config.Policy) Options {
	o := Options{
		Depth: Depth(p.Verify.Depth), Sandbox: p.Verify.Sandbox, Memory: p.Verify.Memory, Timeout: p.Verify.Timeout,
		BinDir: s.Postgres.BinDirectory, Superuser: s.Verify.Superuser, Preload: s.Verify.Preload, Assertions: s.Verify.Assertions,
	}
	if !o.Depth.Includes(Boot) {
		o.Sample = float64(p.Verify.Sample)
	}
	return o
}
