package geo

import (
	"context"
	"fmt"
	"time"

	"github.com/holdfast-dr/holdfast/internal/store"
)

// Joining is a site that becomes a member.
type Joining struct {
	Site    string
	Replica string // its name
	Ends    Ends   // of the log that it has already
	Store   store.Store
	Close   func() // is called, once, when Store is no longer used, whatever the outcome
}

// Join makes a site a member again. Everything that is written from now on is written there too; then pass has to bring what was
// written before, out of what another member lists. Until pass has returned nil the site does not count.
func (f *Fan) Join(ctx context.Context, j Joining, from string, pass func(context.Context) error) error {
	f.mu.Lock()
	site := j.Site
	s := f.siteLocked(site)
	if s == nil || s.member != nil || f.ctx.Err() != nil {
		f.mu.Unlock()
		j.Close()
		return nil
	}
	m := &member{store: j.Store, close: j.Close}
	f.opts.Known.Join(site, j.Replica, j.Ends)
	f.addLocked(s, m)
	begin := f.seq
	f.broadcastLocked()
	err := f.settledLocked(ctx, from, begin)
	brought := f.opts.Known.At(from) // the pass lists it after this
	f.mu.Unlock()
	if err == nil {
		err = pass(ctx)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case s.member != m:
		return fmt.Errorf("site %s: %w", site, s.err)
	case err != nil:
		f.dropLocked(s, err)
		return err
	}
	m.joined, s.err, s.since = true, nil, time.Now()
	f.opts.Known.Raise(site, brought)
	f.countLocked()
	f.broadcastLocked()
	f.opts.Log.Info("the log is written at this site too", "site", site)
	return nil
}

// settledLocked waits until a member has what was written up to an operation.
func (f *Fan) settledLocked(ctx context.Context, site string, seq uint64) error {
	for {
		s := f.siteLocked(site)
		switch {
		case s == nil || s.member == nil || !s.member.joined:
			return fmt.Errorf("site %s is behind itself", site)
		case s.member.done >= seq:
			return nil
		}
		if err := f.waitLocked(ctx, -1); err != nil {
			return err
		}
	}
}
