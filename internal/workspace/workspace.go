package workspace

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/holdfast-dr/holdfast/internal/config"
	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/pg/page"
	"github.com/holdfast-dr/holdfast/internal/repo"
	"github.com/holdfast-dr/holdfast/internal/seal"
	"github.com/holdfast-dr/holdfast/internal/store"
	"github.com/holdfast-dr/holdfast/internal/store/meter"
	"github.com/holdfast-dr/holdfast/internal/store/open"
)

// Workspace holds what was opened, until Close. It may be used by several goroutines.
type Workspace struct {
	Config *config.Config
	Meter  *meter.Meter // counts what is asked of the stores that are opened from now on; nil: nobody counts
	Site   string       // of the replicas that are worked with; empty: each repository's first
	AsOf   time.Time    // the replicas are read as they stood then; zero: as they are
	// Program is what evidence names as having done something: "holdfast restore".
	Program string
	log     *slog.Logger
	codec   *page.Codec

	mu     sync.Mutex // guards opened. Held while a repository is opened, so that two users open it once
	opened map[string]*repo.Repository
}

// New returns a workspace for a configuration. Nothing is opened yet.
func New(c *config.Config, log *slog.Logger) *Workspace {
	return &Workspace{Config: c, log: log, codec: page.NewCodec(), opened: map[string]*repo.Repository{}}
}

// Close closes what was opened.
func (w *Workspace) Close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	var err error
	for _, r := range w.opened {
		err = errors.Join(err, r.Close(), r.Store().Close())
	}
	clear(w.opened)
	return err
}

// System is a system of the configuration with what belongs to it.
type System struct {
	config.System
	Policy config.Policy
	Repo   *repo.Repository
}

// Group returns the system's residency group.
func (s System) Group() repo.ResidencyGroup { return repo.ResidencyGroup(s.Residency) }

// System opens the repository of a system.
func (w *Workspace) System(ctx context.Context, name string) (System, error) {
	s, err := w.Config.System(name)
	if err != nil {
		return System{}, err
	}
	r, err := w.Repository(ctx, s.Repository)
	if err != nil {
		return System{}, err
	}
	return System{System: s, Policy: w.Config.PolicyOf(s), Repo: r}, nil
}

// Anywhere is System where no site was chosen and the first one may be gone: it works with the first that answers. The workspace is
// for this system alone then.
func (w *Workspace) Anywhere(ctx context.Context, name string) (System, error) {
	s, err := w.system(ctx, name)
	conf, unknown := w.Config.System(name)
	if err == nil || unknown != nil || w.Site != "" {
		return s, err
	}
	for _, rep := range w.Config.CopiesOf(conf) {
		w.Site = rep.Site
		if s, err := w.system(ctx, name); err == nil {
			return s, nil
		}
	}
	w.Site = ""
	return s, err
}

// system is System that waits only so long.
func (w *Workspace) system(ctx context.Context, name string) (System, error) {
	ctx, stop := context.WithTimeoutCause(ctx, lookFor, errNoAnswer)
	defer stop()
	return w.System(ctx, name)
}

// Repository opens a repository of the configuration, or returns it as it was opened before.
func (w *Workspace) Repository(ctx context.Context, name string) (*repo.Repository, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if r, ok := w.opened[name]; ok {
		return r, nil
	}
	c, err := w.Config.Repository(name)
	if err != nil {
		return nil, err
	}
	rep, err := w.Config.Replica(c, w.Site)
	if err != nil {
		return nil, err
	}
	credentials, err := Credentials(c.Keys)
	if err != nil {
		return nil, err
	}
	st, err := w.place(ctx, rep, open.Store)
	if err != nil {
		return nil, err
	}
	r, err := repo.Open(ctx, st, credentials, w.options(c, rep))
	if err != nil {
		r, err = w.openRebuilt(ctx, st, credentials, w.options(c, rep), err)
	}
	if err != nil {
		return nil, errors.Join(err, st.Close())
	}
	w.opened[name] = r
	return r, nil
}

// lockable returns an error where a place cannot retain what is put there.
func lockable(ctx context.Context, st store.Store) error {
	g := store.GuardedOf(st)
	if g == nil {
		return dr.Fail("lock "+st.String(), errors.New("it is no bucket"), "leave lock out")
	}
	s, err := g.Settings(ctx)
	if err != nil || s.Versioning && s.ObjectLock || len(s.Unknown) > 0 {
		return err // where it could not be asked the first object that is put tells
	}
	return dr.Fail("lock "+st.String(), fmt.Errorf("versioning: %v, Object Lock: %v", s.Versioning, s.ObjectLock),
		"make a bucket with Object Lock, which most providers allow only from its beginning on; see docs/credentials.md")
}

// Reopen closes a repository, so that the next use opens it with the keys of today.
func (w *Workspace) Reopen(name string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	r, ok := w.opened[name]
	if !ok {
		return nil
	}
	delete(w.opened, name)
	return errors.Join(r.Close(), r.Store().Close())
}

// Init makes a repository of the configuration in its place, which is made where it is a directory that does
// not exist, after it has tried out what the place can do. The repository opens with the configured passphrase,
// with the configured identities, and with the recipients given.
func (w *Workspace) Init(ctx context.Context, name string, extra []seal.Recipient) (*repo.Repository, store.Abilities, error) {
	var abilities store.Abilities
	c, err := w.Config.Repository(name)
	if err != nil {
		return nil, abilities, err
	}
	recipients, err := ownRecipients(c.Keys)
	if err != nil {
		return nil, abilities, err
	}
	if recipients = append(recipients, extra...); len(recipients) == 0 {
		return nil, abilities, dr.Fail(fmt.Sprintf("repo init %s", name), errors.New("nobody could open it: the configuration names no key"),
			"set repositories."+name+".keys.passphrase-file or identity-files, or give --recipient")
	}
	if _, err := Signer(w.Config.Agent.State); err != nil {
		return nil, abilities, err
	}
	rep, err := w.Config.Replica(c, w.Site)
	if err != nil {
		return nil, abilities, err
	}
	st, err := w.place(ctx, rep, open.Create)
	if err != nil {
		return nil, abilities, err
	}
	if abilities, err = store.Probe(ctx, st); err == nil && rep.Lock.For > 0 {
		err = lockable(ctx, st)
	}
	if err != nil {
		return nil, abilities, errors.Join(err, st.Close())
	}
	r, err := repo.Init(ctx, st, recipients, w.options(c, rep))
	if err == nil && rep.Lock.For > 0 {
		// From now on what is removed leaves a trace: see repo.RenewLock.
		if _, err = r.RenewLock(ctx, repo.LockOptions{}); err != nil {
			err = errors.Join(err, r.Close())
		}
	}
	if err != nil {
		return nil, abilities, errors.Join(err, st.Close())
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.opened[name] = r
	return r, abilities, nil
}

func (w *Workspace) options(c config.Repository, rep config.Replica) repo.Options {
	// Reading needs no signing key: a recovery must not fail because another user's state cannot be read.
	signer, err := Signer(w.Config.Agent.State)
	if err != nil {
		w.log.Warn("this host's signing key cannot be used: nothing can be written", dr.KeyError, err)
	}
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	cache := c.Cache
	if rep != c.Replicas[0] {
		cache = filepath.Join(cache, "at-"+rep.Site) // each replica has an index of its own
	}
	if !w.AsOf.IsZero() {
		cache = "" // what is in it is of today
	} else if err := os.MkdirAll(cache, 0o700); err != nil {
		// The cache only saves time. Without it the index is read anew by each run.
		w.log.Warn("the cache directory cannot be used", dr.KeyFile, cache, dr.KeyError, err)
		cache = ""
	}
	return repo.Options{CacheDir: cache, Codecs: []repo.Codec{w.codec}, Signer: signer, Host: host, Lock: rep.Lock.For, LockMode: store.LockMode(strings.ToUpper(string(rep.Lock.Mode)))}
}

// Codec returns the codec for relation files.
func (w *Workspace) Codec() repo.Codec { return w.codec }

// SystemDir returns the directory on this host for what a system keeps across restarts, and makes it.
func (w *Workspace) SystemDir(system string) (string, error) {
	dir := w.SystemPath(system)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fmt.Errorf("make the state directory: %w", err)
	}
	return dir, nil
}

// SystemPath returns where SystemDir is, for one who only looks: whoever makes it owns it.
func (w *Workspace) SystemPath(system string) string {
	return filepath.Join(w.Config.Agent.State, "systems", system)
}

// SlotName returns the name of the replication slot of a system.
func SlotName(s config.System) string {
	if s.Postgres.Slot != "" {
		return s.Postgres.Slot
	}
	return "holdfast_" + strings.ReplaceAll(string(s.Name), "-", "_")
}
