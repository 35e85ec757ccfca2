package mount

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/repo"
	"github.com/holdfast-dr/holdfast/internal/restore"
	"github.com/holdfast-dr/holdfast/internal/restore/mount/fusefs"
	"github.com/holdfast-dr/holdfast/internal/restore/mount/layer"
	"github.com/holdfast-dr/holdfast/internal/restore/points"
)

// Options say how a snapshot is mounted. The zero value of each is good.
type Options struct {
	Tablespaces map[string]string // as in restore.Options
	Settings    restore.Settings
	Owner       *restore.Owner
	// ThrowAway is for looking around: what is written is lost when it is closed, nothing is synced, and the directory is removed if this made it.
	ThrowAway bool
	ReadOnly  bool
	Timeline  points.Timeline // as it was asked for; for the state
	Writes    fusefs.Writes
	Wait      time.Duration // how long a read waits for a store that does not answer; 0: two minutes
	Workers   int           // that hydrate; 0: two, and more where the store is far
	Rate      int64         // bytes a second that hydration fetches; 0: as many as come
	Progress  dr.ProgressFunc
	Log       *slog.Logger // nil: nobody is told
}

func (o *Options) setDefaults() {
	if o.Wait == 0 {
		o.Wait = 2 * time.Minute
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Progress == nil {
		o.Progress = func(dr.Progress) {}
	}
}

// keptTrees is how much of the tree is remembered: about a hundred thousand files.
const keptTrees = 16 << 20

// Mount is a snapshot that is mounted.
type Mount struct {
	Dir   string
	Files *restore.Result // nil where it was resumed

	repo    *repo.Repository
	opts    Options
	source  *source
	layer   *layer.Layer
	journal *layer.Journal // nil: it is thrown away
	areas   []*area
	lock    *os.File
	settled settling

	stateMu sync.Mutex // guards state
	state   State

	hydrated  atomic.Int64 // bytes that are whole
	ahead     sync.WaitGroup
	aheadSlot chan struct{}
	ended     context.Context //nolint:containedctx // ends with the mount, for what goes on behind its calls
	end       context.CancelFunc
	made      bool // the directory was made here
	closed    bool
	writes    fusefs.Writes
}

// area is one directory that is mounted over.
type area struct {
	*below
	mount *fusefs.Mount
}

// Begin lays out a plan's snapshot in a directory, which must not be there or be empty, and mounts it. What it began before and did not
// come to lay out it begins again.
func Begin(ctx context.Context, r *repo.Repository, p *points.Plan, dir string, o Options) (_ *Mount, err error) {
	o.setDefaults()
	if dir, err = filepath.Abs(dir); err != nil {
		return nil, err
	}
	m := &Mount{Dir: dir, repo: r, opts: o}
	r.KeepTrees(keptTrees)
	if _, err := os.Lstat(dir); errors.Is(err, fs.ErrNotExist) {
		m.made = true
	}
	root, err := p.Snapshot.Manifest.RootID()
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, m.Close())
		}
	}()
	if err := m.claim(); err != nil {
		return nil, err
	}
	m.state = State{
		Version: 1, Claimed: true, System: p.System, Snapshot: p.Snapshot.Manifest.ID, Root: p.Snapshot.Manifest.Root, Target: p.Target, Timeline: o.Timeline,
		Loss: p.Loss, Phase: Laying, Areas: []string{dir}, Begun: time.Now().UTC(),
	}
	if _, err := rand.Read(m.state.ID[:]); err != nil {
		return nil, err
	}
	if err := m.lay(ctx, p); err != nil {
		return nil, err
	}
	m.source = newSource(r, root, o.Wait)
	return m, m.serve(ctx)
}

// lay makes the files, of which nothing has content but what the server's start needs to be changed.
func (m *Mount) lay(ctx context.Context, p *points.Plan) (err error) {
	if err := m.areas[0].write(&m.state); err != nil {
		return err
	}
	m.Files, err = restore.Run(ctx, m.repo, p, restore.Options{
		To: m.Dir, Tablespaces: m.opts.Tablespaces, Owner: m.opts.Owner, Settings: m.opts.Settings, Progress: m.opts.Progress,
		Lazy: &restore.Lazy{
			Is: lazy, Control: controlName, Beside: StateDir, Sparse: m.opts.ThrowAway,
			Lay: func(f *os.File, path string, e *repo.Entry, n uint32) error {
				if path == controlName || strings.HasPrefix(path, StateDir+"/") {
					return &dr.Failure{
						What: fmt.Sprintf("mount snapshot %s", p.Snapshot.Manifest.ID), Reason: path + " has a name that a mount keeps for itself",
						Next: "restore it without --instant, or remove that file from the system and take another snapshot",
					}
				}
				id := layer.Ident{ID: n, Size: e.Size, Path: path}
				if err := id.Check(); err != nil {
					return err
				}
				return fusefs.SetIdent(f, id)
			},
		},
	})
	if err != nil {
		return err
	}
	m.state.Files, m.state.Bytes, m.state.Tablespaces = m.Files.Files, m.Files.Bytes, m.Files.Tablespaces
	for _, dir := range m.Files.Tablespaces {
		if err := m.hold(dir); err != nil {
			return err
		}
		m.state.Areas = append(m.state.Areas, dir)
	}
	if m.opts.ThrowAway {
		return nil
	}
	// The server may begin meanwhile. Before the first sync is answered all that it stands on is durable, and known to be.
	m.settled.begin(func() error {
		for _, a := range m.areas {
			if err := unix.Syncfs(int(a.dir.Fd())); err != nil {
				return fmt.Errorf("sync %s: %w", a.path, err)
			}
		}
		return m.SetPhase(Laid)
	})
	return nil
}

// lazy tells whether a file's content may come later. The configuration is changed before the server starts; the rest of
// the data directory's own files are as small, and read first.
func lazy(path string, e *repo.Entry) bool {
	return e.Size > 0 && (strings.ContainsRune(path, '/') || e.Size > 1<<20)
}

// hold opens a directory before it is mounted over, and locks the first.
func (m *Mount) hold(dir string) error {
	b, err := openBelow(dir)
	if err != nil {
		return err
	}
	m.areas = append(m.areas, &area{below: b})
	if len(m.areas) > 1 {
		return nil
	}
	if err := b.openState(); err != nil {
		return err
	}
	m.lock, err = b.lock()
	return err
}

// Resume mounts again what was mounted over a directory before a crash, or an end, of whoever served it. The repository has to be the
// same.
func Resume(ctx context.Context, r *repo.Repository, dir string, o Options) (_ *Mount, err error) {
	o.setDefaults()
	if dir, err = filepath.Abs(dir); err != nil {
		return nil, err
	}
	s, err := ReadState(dir)
	if err != nil {
		return nil, err
	}
	if s == nil || s.Phase == Laying {
		return nil, &dr.Failure{
			What: fmt.Sprintf("resume the mount over %q", dir), Reason: "there is none that came so far that anything could have been written",
			Next: "begin it: holdfast recover SYSTEM --instant --to " + dir,
		}
	}
	if s.Phase == Plain {
		return nil, &dr.Failure{
			What: fmt.Sprintf("resume the mount over %q", dir), Reason: "all of it is here: it was about to be finished",
			Next: "holdfast mount finish " + dir,
		}
	}
	m := &Mount{Dir: dir, repo: r, opts: o, state: *s}
	r.KeepTrees(keptTrees)
	defer func() {
		if err != nil {
			err = errors.Join(err, m.Close())
		}
	}()
	manifest, err := r.Manifest(ctx, s.System, s.Snapshot)
	if err != nil {
		return nil, err
	}
	root, err := manifest.RootID()
	if err != nil {
		return nil, err
	}
	for _, a := range s.Areas {
		if err := m.hold(a); err != nil {
			return nil, err
		}
	}
	m.source = newSource(r, root, o.Wait)
	return m, m.serve(ctx)
}

// serve mounts over the areas.
func (m *Mount) serve(ctx context.Context) (err error) {
	m.ended, m.end = context.WithCancel(context.WithoutCancel(ctx))
	m.aheadSlot = make(chan struct{}, aheadAtOnce)
	if !m.opts.ThrowAway {
		if m.journal, err = layer.OpenJournal(m.areas[0], m.state.ID); err != nil {
			return err
		}
		if err := m.areas[0].sync(); err != nil { // that there is a journal
			return err
		}
		if err := m.recut(ctx); err != nil {
			return err
		}
	}
	m.layer = layer.New(m.source, m.journal)
	m.layer.Ahead = m.readAhead
	for i, a := range m.areas {
		o := fusefs.Options{Name: fmt.Sprintf("%s%d:%d", nameIs, os.Getpid(), m.areas[0].dir.Fd()), ReadOnly: m.opts.ReadOnly, Writes: m.opts.Writes, Settled: m.settled.wait, Failed: m.failed}
		if i == 0 {
			o.Hidden, o.Shown, o.Kept = StateDir, "global/pg_control", controlName
		}
		if a.mount, err = fusefs.Serve(a.path, a.dir, m.layer, o); err != nil {
			return err
		}
		m.writes = a.mount.Writes
	}
	return nil
}

// failed tells of a read or a write that the server saw failing.
func (m *Mount) failed(path string, err error) {
	m.opts.Log.Error("a read or a write of the mounted files failed", "file", path, dr.KeyError, err)
}

// recut does the truncations again that a crash has interrupted.
func (m *Mount) recut(ctx context.Context) error {
	cuts := map[uint32]layer.Cut{}
	for _, c := range m.journal.Cuts() {
		cuts[c.File] = c
	}
	if len(cuts) == 0 {
		return nil
	}
	err := m.each(ctx, func(_ *area, f *os.File, id layer.Ident) error {
		if c, ok := cuts[id.ID]; ok {
			return layer.Recut(local(f), c)
		}
		return nil
	})
	for _, c := range cuts { // those whose file is gone are done, too
		if err == nil {
			err = m.journal.DoneCut(c)
		}
	}
	return err
}

func local(f *os.File) layer.Backing { return fusefs.Local{File: f} }

// State returns what is kept of the mount.
func (m *Mount) State() State {
	m.stateMu.Lock()
	defer m.stateMu.Unlock()
	return m.state
}

// SetPhase notes, durably, how far it has come. It never goes back.
func (m *Mount) SetPhase(p Phase) error {
	m.stateMu.Lock()
	defer m.stateMu.Unlock()
	if m.opts.ThrowAway || m.state.Phase == Recovered || m.state.Phase == Plain {
		return nil
	}
	m.state.Phase = p
	return m.areas[0].write(&m.state)
}

// Writes returns who keeps what is written until it is synced.
func (m *Mount) Writes() fusefs.Writes { return m.writes }

// Control returns a directory of this process's own, below the mount, where it may be asked: Mounted.Control is where others find it.
func (m *Mount) Control() string { return control(os.Getpid(), int(m.areas[0].dir.Fd())) }

func control(pid, fd int) string {
	return fmt.Sprintf("/proc/%d/fd/%d/%s/%s", pid, fd, StateDir, controlDir)
}

// Fetched returns how many bytes of files have come from the repository, by whatever way.
func (m *Mount) Fetched() int64 { return m.layer.Fetched() }

// Wait waits until somebody has unmounted it.
func (m *Mount) Wait() {
	for _, a := range m.areas {
		a.mount.Wait()
	}
}

// Close unmounts. It fails while anybody uses the files, and may be called again then. What is thrown away is removed.
func (m *Mount) Close() error {
	if m.closed {
		return nil
	}
	for _, a := range slices.Backward(m.areas) {
		if a.mount == nil {
			continue
		}
		if err := a.mount.Unmount(); err != nil {
			return dr.Fail(fmt.Sprintf("unmount %q", a.path), err, "stop what runs on it: fuser -m "+a.path+" shows that")
		}
		a.mount = nil
	}
	m.closed = true
	if m.end != nil {
		m.end()
	}
	if m.source != nil {
		m.source.close()
	}
	m.ahead.Wait()
	errs := []error{m.settled.wait(), m.journal.Close()}
	if m.opts.ThrowAway && m.state.Claimed {
		errs = append(errs, remove(m.Dir, &m.state))
		if m.made {
			errs = append(errs, os.Remove(m.Dir))
		}
	}
	for _, a := range m.areas {
		errs = append(errs, a.close())
	}
	if m.lock != nil {
		errs = append(errs, m.lock.Close())
	}
	return errors.Join(errs...)
}

// Hydrated returns how many bytes of files are whole.
func (m *Mount) Hydrated() int64 { return m.hydrated.Load() }
