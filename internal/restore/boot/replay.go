package boot

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/holdfast-dr/holdfast/internal/dr"
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

// tune gives the server settings for its replay.
func (b *booting) tune(ctx context.Context) error {
	if b.opts.Settings == KeepSettings {
		_, err := replay.Unset(b.dir, b.opts.Owner.Credential()) // of an earlier start that was killed
		return err
	}
	own, err := b.own(ctx)
	if err != nil {
		return nil //nolint:nilerr // what hinders it hinders the start, which says so better
	}
	b.own0 = own
	b.tuned = replay.Choose(own, replay.Machine{
		FreeMemory: dr.Bytes(machine.FreeMemory()), HugePages: machine.HugePages(), FreeDisk: freeDisk(filepath.Join(b.dir, "pg_wal")),
	})
	return replay.Set(b.dir, b.opts.Owner.Credential(), b.tuned)
}

func freeDisk(dir string) dr.Bytes {
	var st unix.Statfs_t
	if unix.Statfs(dir, &st) != nil {
		return 0
	}
	return dr.Bytes(int64(st.Bavail) * st.Bsize)
}

// own asks postgres what the server's settings are without us.
func (b *booting) own(ctx context.Context) (replay.Server, error) {
	if _, err := replay.Unset(b.dir, b.opts.Owner.Credential()); err != nil {
		return replay.Server{}, err
	}
	s := replay.Server{Major: b.plan.Snapshot.Facts.Major()}
	var buffers, walMiB string
	g, ctx := errgroup.WithContext(ctx)
	for name, to := range map[string]*string{"shared_buffers": &buffers, "max_wal_size": &walMiB, "huge_pages": &s.HugePages} {
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
	// Without their units: pages, and MiB.
	pages, err1 := strconv.ParseInt(buffers, 10, 64)
	mib, err2 := strconv.ParseInt(walMiB, 10, 64)
	s.SharedBuffers, s.MaxWALSize = dr.Bytes(pages*int64(b.plan.Snapshot.Facts.PageSize)), dr.Bytes(mib<<20)
	return s, errors.Join(err1, err2)
}

// untune takes the settings of the replay back, and waits until the server has done so. Those that only a restart takes
// back are no longer in the file.
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
			break
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
	for _, s := range b.tuned {
		if _, over := b.opts.Config[s.Name]; s.Restart && !over {
			b.report.note("%s is %s, as chosen for the replay, until the next restart; after it the server has its own again (%s)", s.Name, s.Value, b.ownValue(s.Name))
		}
	}
	return nil
}

// reloadPatience is how long a server may take to read its configuration.
const reloadPatience = 10 * time.Second

func (b *booting) ownValue(name string) string {
	if name == "shared_buffers" {
		return fmt.Sprint(b.own0.SharedBuffers)
	}
	return "its default"
}
