package boot

import (
	"context"
	"errors"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/restore"
	"github.com/holdfast-dr/holdfast/internal/restore/machine"
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
	own, err := b.askOwn(ctx)
	if err != nil {
		return nil //nolint:nilerr // what hinders it hinders the start, which says so better
	}
	own.Promoted = restore.IsLatest(b.plan)
	b.own, b.chosen = own, replay.Choose(own, replay.Machine{FreeMemory: dr.Bytes(machine.FreeMemory()), HugePages: machine.HugePages()})
	if len(b.chosen) == 0 {
		return nil
	}
	return replay.Set(b.dir, owner, b.chosen)
}

// askOwn asks postgres what the server's settings are without us.
func (b *booting) askOwn(ctx context.Context) (replay.Server, error) {
	s := replay.Server{Major: b.plan.Snapshot.Facts.Major()}
	var concurrency, buffers string
	g, ctx := errgroup.WithContext(ctx)
	for name, to := range map[string]*string{"maintenance_io_concurrency": &concurrency, "shared_buffers": &buffers, "huge_pages": &s.HugePages} {
		g.Go(func() error {
			cmd := exec.CommandContext(ctx, filepath.Join(b.binDir, "postgres"), "-C", name, "-D", b.dir)
			cmd.Dir, cmd.SysProcAttr = "/", &syscall.SysProcAttr{Credential: b.opts.Owner.Credential()}
			out, err := cmd.Output()
			*to = strings.TrimSpace(string(out))
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return s, err
	}
	var err1 error
	s.IOConcurrency, err1 = strconv.Atoi(concurrency)
	pages, err2 := strconv.ParseInt(buffers, 10, 64)
	s.SharedBuffers = dr.Bytes(pages * int64(b.plan.Snapshot.Facts.PageSize))
	return s, errors.Join(err1, err2)
}

// untune takes the settings of the replay back, and waits until the server has done so. What only a restart
// takes back is no longer in the file, and the report says so.
func (b *booting) untune(ctx context.Context) error {
	had, err := replay.Unset(b.dir, b.opts.Owner.Credential())
	if err != nil || !had {
		return err
	}
	for _, s := range b.chosen {
		if _, over := b.opts.Config[s.Name]; s.Restart && !over {
			b.report.note("%s is %s until the server is restarted, as was chosen for its replay; then it is its own again, %s", s.Name, s.Value, b.own.SharedBuffers)
		}
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
