package replay

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/holdfast-dr/holdfast/internal/restore/rights"
)

// Marker is a setting that nobody reads but we: SHOW says that a server still has a block of Set.
const Marker = "holdfast.replay"

// The lines between which Set writes begin with these.
const (
	BlockBegin = "# holdfast restore: begin replay"
	BlockEnd   = "# holdfast restore: end"
)

const fileName = "postgresql.auto.conf"

// Set writes settings into a data directory's configuration, with the rights of the server's user: what comes last there
// wins. A block of an earlier Set gives way.
func Set(dir string, owner *syscall.Credential, settings []Setting) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%s; holds until the server has recovered, and may be removed then\n%s = 'on'\n", BlockBegin, Marker)
	for _, s := range settings {
		fmt.Fprintf(&b, "%s = '%s'\n", s.Name, s.Value)
	}
	fmt.Fprintf(&b, "%s\n", BlockEnd)
	_, err := change(dir, owner, func(conf []byte) []byte { return append(without(conf), b.String()...) })
	return err
}

// Unset takes the block of Set out of the configuration; had says whether there was one.
func Unset(dir string, owner *syscall.Credential) (had bool, err error) {
	return change(dir, owner, without)
}

// change replaces the file whole, durably, where f changes its content.
func change(dir string, owner *syscall.Credential, f func([]byte) []byte) (changed bool, err error) {
	err = rights.As(owner, func() error {
		root, err := os.OpenRoot(dir)
		if err != nil {
			return err
		}
		defer root.Close() //nolint:errcheck // nothing is written through it later
		old, err := root.ReadFile(fileName)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		content := f(old)
		if bytes.Equal(content, old) {
			return nil
		}
		changed = true
		return put(root, content)
	})
	return changed, err
}

func put(root *os.Root, content []byte) error {
	tmp := fileName + ".holdfast"
	if err := root.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := root.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := root.Rename(tmp, fileName); err != nil {
		return err
	}
	d, err := root.Open(".")
	if err != nil {
		return fmt.Errorf("sync %s: %w", filepath.Base(root.Name()), err)
	}
	return errors.Join(d.Sync(), d.Close())
}

// without takes out every block of Set.
func without(conf []byte) []byte {
	var b bytes.Buffer
	inBlock := false
	for line := range bytes.Lines(conf) {
		switch {
		case bytes.HasPrefix(line, []byte(BlockBegin)):
			inBlock = true
		case inBlock:
			inBlock = !bytes.HasPrefix(line, []byte(BlockEnd))
		default:
			b.Write(line)
		}
	}
	if n := b.Len(); n > 0 && b.Bytes()[n-1] != '\n' {
		b.WriteByte('\n')
	}
	return b.Bytes()
}
