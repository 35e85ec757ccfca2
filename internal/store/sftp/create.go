package sftp

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/holdfast-dr/holdfast/internal/store"
)

const (
	claimPrefix = "claim-"

	// claimAge is when a claim is void: several times as long as the few requests that it is held for may take.
	claimAge = 10 * time.Minute

	// claimPatience is how long a creator waits for another one of the same name.
	claimPatience = 10 * time.Second
	claimLook     = 25 * time.Millisecond
)

// add publishes t under a name that must be new. A link fails where there is a file, on every kind of file system.
func (s *Store) add(ctx context.Context, c *conn, t *temp, name string) error {
	if !c.links || s.noLinks.Load() {
		return s.addByClaim(ctx, c, t, name)
	}
	err := c.Link(t.path, s.path(name))
	switch {
	case err == nil:
		return t.sync(c)
	case isAbsent(err):
		return s.unpublished(c, t, name, did("link", err))
	}
	if taken := s.taken(c, name); taken != nil {
		return taken
	}
	if c.line.broken() == nil && !linkable(c, t) {
		s.noLinks.Store(true)
		return s.addByClaim(ctx, c, t, name)
	}
	return did("link", err)
}

// linkable tries where nothing is in the way: a refused link alone does not tell whether the file system has none.
// All creators must be of one opinion, so this asks for what does not depend on the name.
func linkable(c *conn, t *temp) bool {
	second := t.path + "~"
	err := c.Link(t.path, second)
	if err == nil {
		_ = c.Remove(second)
	}
	return err == nil || c.line.broken() != nil
}

// taken returns ErrExists when there is such an object, and nil when the name is free. The object is synced first:
// what was decided by its being there must not change when the server loses power.
func (s *Store) taken(c *conn, name string) error {
	fi, err := c.Lstat(s.path(name))
	switch {
	case isAbsent(err):
		return nil
	case err != nil:
		return did("stat", err)
	case fi.IsDir():
		return fmt.Errorf("%s is a directory of other objects", name)
	case !fi.Mode().IsRegular() || !c.fsync:
		return store.ErrExists
	}
	f, err := c.Open(s.path(name))
	if err != nil {
		return store.ErrExists // it was there
	}
	other := temp{file: f, published: true}
	defer other.close(c)
	if err := other.sync(c); err != nil {
		return err
	}
	return store.ErrExists
}

// addByClaim publishes t by renaming it, while it holds the one file that only one creator of the name can make.
func (s *Store) addByClaim(ctx context.Context, c *conn, t *temp, name string) error {
	sum := sha256.Sum256([]byte(name))
	claim := s.path(fmt.Sprintf("%s/%s%x", tempDir, claimPrefix, sum[:16]))
	if err := s.claim(ctx, c, t, name, claim); err != nil {
		return err
	}
	defer func() {
		if c.line.broken() != nil {
			s.leave(claim)
			return
		}
		_ = c.Remove(claim) // if it stays after all, it is void later
	}()
	if taken := s.taken(c, name); taken != nil {
		return taken
	}
	return s.replace(ctx, c, t, name)
}

// claim makes the claim, or returns ErrExists when another creator has come first.
func (s *Store) claim(ctx context.Context, c *conn, t *temp, name, claim string) error {
	look := time.NewTicker(claimLook)
	defer look.Stop()
	patience := time.NewTimer(claimPatience)
	defer patience.Stop()
	for {
		f, err := c.OpenFile(claim, os.O_WRONLY|os.O_CREATE|os.O_EXCL)
		if err == nil {
			_ = f.Close() // it is empty
			return nil
		}
		if taken := s.taken(c, name); taken != nil {
			return taken
		}
		if s.adopt(claim) {
			return nil
		}
		switch void, statErr := s.void(c, t, claim); {
		case statErr == nil && void:
			_ = c.Remove(claim)
		case statErr != nil && !isAbsent(statErr):
			return did("make the claim", err)
		}
		select {
		case <-look.C:
		case <-patience.C:
			return busy("another creator of the name is at work, or died less than %s ago", claimAge)
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// leave remembers a claim of ours that is still there, since the line was cut before its removal was sent: a repeated
// call goes on with it, and needs not wait until it is void.
func (s *Store) leave(claim string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.left) < maxMade {
		s.left[claim] = time.Now()
	}
}

// adopt tells that a claim is one that was left, for one caller, and so lately that nobody can have found it void.
func (s *Store) adopt(claim string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	when, ours := s.left[claim]
	delete(s.left, claim)
	return ours && time.Since(when) < claimAge/2
}

// void tells whether a claim's creator must be dead, by the server's clock: that of the file just written.
func (s *Store) void(c *conn, t *temp, claim string) (bool, error) {
	was, err := c.Lstat(claim)
	if err != nil {
		return false, err
	}
	now, err := t.file.Stat()
	if err != nil {
		return false, err
	}
	return now.ModTime().Sub(was.ModTime()) > claimAge, nil
}

// isGone tells that there is no such object, and that the store is there.
func isGone(err error) bool { return errors.Is(err, store.ErrNotExist) }
