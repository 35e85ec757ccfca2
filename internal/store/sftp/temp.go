package sftp

import (
	"context"
	"crypto/rand"
	"os"
	"strings"
	"time"

	"github.com/pkg/sftp"
)

const (
	tempDir = ".tmp~" // '~' is no character of an object's name

	// staleAge is when a temporary file counts as abandoned. A clock that is wrong costs a repeated write and
	// nothing else: its writer does not find it, and says Busy.
	staleAge = 24 * time.Hour
)

// temp is a finished temporary file: whole, synced, not yet published. It stays open, so that it can be synced again
// under its name.
type temp struct {
	path      string
	file      *sftp.File // nil in a Delete that cannot sync
	published bool       // by renaming: its first name is gone
}

// close removes the temporary name too. No error of it is one of the write: nobody reads the file, and it is
// removed when it is old.
func (t *temp) close(c *conn) {
	if t.file != nil {
		_ = t.file.Close()
	}
	if !t.published && c.line.broken() == nil {
		_ = c.Remove(t.path)
	}
}

// sync makes the file's bytes, and with most file systems its names, durable, where the server can.
func (t *temp) sync(c *conn) error {
	if !c.fsync || t.file == nil {
		return nil
	}
	if err := t.file.Sync(); err != nil && !unsupported(err) {
		return did("sync", err)
	}
	return nil
}

// writeTemp writes body to a new temporary file and syncs it.
func (s *Store) writeTemp(ctx context.Context, c *conn, body []byte) (*temp, error) {
	if s.swept.CompareAndSwap(false, true) {
		s.removeStale(ctx, c)
	}
	t := &temp{path: s.path(tempDir + "/" + rand.Text())}
	var err error
	if t.file, err = c.OpenFile(t.path, os.O_WRONLY|os.O_CREATE|os.O_EXCL); isAbsent(err) {
		if err := c.Mkdir(s.path(tempDir)); err != nil && !failure(err) && !isAbsent(err) { // not "it is there"
			return nil, did("make directory "+tempDir, err)
		}
		t.file, err = c.OpenFile(t.path, os.O_WRONLY|os.O_CREATE|os.O_EXCL)
	}
	if isAbsent(err) {
		return nil, s.vanished(c, tempDir)
	}
	if err != nil {
		return nil, did("make a temporary file in "+tempDir, err)
	}
	if err := s.fill(ctx, c, t, body); err != nil {
		t.close(c)
		return nil, err
	}
	return t, nil
}

func (s *Store) fill(ctx context.Context, c *conn, t *temp, body []byte) error {
	off := int64(0)
	for len(body) > 0 {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		n := min(len(body), partSize)
		if _, err := t.file.WriteAt(body[:n], off); err != nil {
			return did("write", err)
		}
		body, off = body[n:], off+int64(n)
	}
	return t.sync(c)
}

// removeStale removes what dead writers left. Failures are not reported: nothing depends on it.
func (s *Store) removeStale(ctx context.Context, c *conn) {
	files, err := c.ReadDirContext(ctx, s.path(tempDir))
	if err != nil {
		return
	}
	for _, f := range files {
		if f.Mode().IsRegular() && !strings.HasPrefix(f.Name(), claimPrefix) && time.Since(f.ModTime()) > staleAge {
			_ = c.Remove(s.path(tempDir + "/" + f.Name()))
		}
	}
}
