package capture

import (
	"errors"
	"os"
	"path/filepath"
)

// spoolStep is one change that the spool is about to make in its directory: tests record it, kill their process in it,
// or let it fail. Its operations are those of store/local's steps.
type spoolStep struct {
	op       string // create, write, sync, syncdir, rename, unlink
	path, to string // names in the directory
	data     []byte // lent
}

// syncDir makes the names in the spool durable.
func (s *Spool) syncDir() error {
	if err := s.step(spoolStep{op: "syncdir"}); err != nil {
		return err
	}
	return syncDir(s.dir)
}

func (s *Spool) unlink(name string) error {
	if err := s.step(spoolStep{op: "unlink", path: name}); err != nil {
		return err
	}
	return os.Remove(filepath.Join(s.dir, name))
}

// writeFile makes a file that is durable, and whole or not there.
func (s *Spool) writeFile(name string, content []byte) error {
	tmp := name + ".tmp"
	if err := s.step(spoolStep{op: "create", path: tmp}); err != nil {
		return err
	}
	w, err := os.OpenFile(filepath.Join(s.dir, tmp), os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	if err = s.write(w, tmp, content); err == nil {
		if err = s.step(spoolStep{op: "sync", path: tmp}); err == nil {
			err = w.Sync()
		}
	}
	if err := errors.Join(err, w.Close()); err != nil {
		return err
	}
	if err := s.step(spoolStep{op: "rename", path: tmp, to: name}); err != nil {
		return err
	}
	if err := os.Rename(filepath.Join(s.dir, tmp), filepath.Join(s.dir, name)); err != nil {
		return err
	}
	return s.syncDir()
}

func (s *Spool) write(w *os.File, name string, content []byte) error {
	if err := s.step(spoolStep{op: "write", path: name, data: content}); err != nil {
		return err
	}
	_, err := w.Write(content)
	return err
}
