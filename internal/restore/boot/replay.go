package boot

import (
	"context"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/holdfast-dr/holdfast/internal/restore/replay"
)

// Settings says with which settings the server replays.
type Settings bool

// The two ways.
const (
	ChooseSettings Settings = false // those that make the replay fast here; they are taken back when it has ended
	KeepSettings   Settings = true  // its own
)

// tune gives the server settings for its replay. They belong to this start only: whoever starts a server by himself is
// not left with any.
func (b *booting) tune(ctx context.Context) error {
	owner := b.opts.Owner.Credential()
	if _, err := replay.Unset(b.dir, owner); err != nil { // of an earlier start that was killed
		return err
	}
	if b.opts.Settings == KeepSettings {
		return nil
	}
	own, err := b.own(ctx)
	if err != nil {
		return nil //nolint:nilerr // what hinders it hinders the start, which says so better
	}
	chosen := replay.Choose(own)
	if len(chosen) == 0 {
		return nil
	}
	return replay.Set(b.dir, owner, chosen)
}

// own asks postgres what the server's settings are without us.
func (b *booting) own(ctx context.Context) (s replay.Server, err error) {
	s.Major = b.plan.Snapshot.Facts.Major()
	cmd := exec.CommandContext(ctx, filepath.Join(b.binDir, "postgres"), "-C", "maintenance_io_concurrency", "-D", b.dir)
	cmd.Dir, cmd.SysProcAttr = "/", &syscall.SysProcAttr{Credential: b.opts.Owner.Credential()}
	out, err := cmd.Output()
	if err == nil {
		s.IOConcurrency, err = strconv.Atoi(strings.TrimSpace(string(out)))
	}
	return s, err
}

// untune takes the settings of the replay back, and waits until the server has done so.
func (b *booting) untune(ctx context.Context) error {
	had, err := replay.Unset(b.dir, b.opts.Owner.Credential())
	if err != nil || !had {
		return err
	}
	if _, err := b.conn.Exec(ctx, "SELECT pg_reload_conf()"); err != nil {
		return err
	}
	again := time.NewTicker(10 * time.Millisecond) // the reload is a signal that nobody answers: ask
	defer again.Stop()
	late := time.After(reloadPatience)
	for {
		var marker string
		if err := b.conn.QueryRow(ctx, "SELECT coalesce(current_setting($1, true), '')", replay.Marker).Scan(&marker); err != nil {
			return err
		}
		if marker == "" {
			return nil
		}
		select {
		case <-again.C:
		case <-late:
			b.report.note("the server does not read its configuration again: it goes on with the settings of its replay until somebody makes it, with pg_ctl reload")
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// reloadPatience is how long a server may take to read its configuration.
const reloadPatience = 10 * time.Second
