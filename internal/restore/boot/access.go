package boot

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"

	"github.com/holdfast-dr/holdfast/internal/restore"
	"github.com/holdfast-dr/holdfast/internal/restore/rights"
)

// access exchanges the two files that decide who may connect. While a recovery runs only this process's user
// gets in, proven by the kernel (peer), as the superuser; the cluster's own rules may ask for passwords that
// nobody here knows, and would let applications in too early.
type access struct {
	dir       string
	superuser string
	owner     *restore.Owner
}

const savedSuffix = ".holdfast"

// lock puts ours in place. Files that an earlier run has put aside already are the real ones.
func (a access) lock() error {
	// A link that a hostile backup brought must not lead root to files that are not the server's.
	return rights.As(a.owner.Credential(), a.lockAsOwner)
}

func (a access) lockAsOwner() error {
	me, err := user.Current()
	if err != nil {
		return err
	}
	for name, content := range map[string]string{
		"pg_hba.conf":   fmt.Sprintf("# Written by holdfast while the recovery runs; the file it replaces is pg_hba.conf%s.\nlocal all %q peer map=holdfast\n", savedSuffix, a.superuser),
		"pg_ident.conf": fmt.Sprintf("# Written by holdfast while the recovery runs.\nholdfast %q %q\n", me.Username, a.superuser),
	} {
		path := filepath.Join(a.dir, name)
		old, err := os.ReadFile(path)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if _, err := os.Lstat(path + savedSuffix); errors.Is(err, fs.ErrNotExist) && !bytes.HasPrefix(old, []byte("# Written by holdfast while")) {
			if err := a.write(path+savedSuffix, old); err != nil {
				return err
			}
		}
		if err := a.write(path, []byte(content)); err != nil {
			return err
		}
	}
	return nil
}

// unlock gives the real ones back. The server has to be told to read them.
func (a access) unlock() error { return rights.As(a.owner.Credential(), a.unlockAsOwner) }

func (a access) unlockAsOwner() error {
	for _, name := range []string{"pg_hba.conf", "pg_ident.conf"} {
		path := filepath.Join(a.dir, name)
		if err := os.Rename(path+savedSuffix, path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// write replaces a file whole: a server that reads it never sees a part.
func (a access) write(path string, content []byte) error {
	tmp := path + ".tmp"
	if err := os.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}
