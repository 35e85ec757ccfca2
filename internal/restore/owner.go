package restore

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/holdfast-dr/holdfast/internal/dr"
)

// Owner is whom the restored files belong to. A nil Owner leaves them to the user that runs this.
type Owner struct {
	Name     string
	UID, GID int
}

// ChooseOwner decides whom a restore to a directory belongs to: for an ordinary user himself. PostgreSQL
// refuses to run as root, so for root it is the named user, else the owner of the target where it exists and
// is not root's, else the owner of the directory that the target will be in, else the user postgres.
func ChooseOwner(to, name string) (*Owner, error) {
	if os.Geteuid() != 0 {
		if me, err := user.Current(); name != "" && (err != nil || me.Username != name) {
			return nil, &dr.Failure{
				What:   fmt.Sprintf("restore as user %q", name),
				Reason: "only root can give files to another user",
				Next:   "run this as that user, or as root",
			}
		}
		return nil, nil
	}
	if name != "" {
		return lookup(name)
	}
	to, err := filepath.Abs(to)
	if err != nil {
		return nil, err
	}
	for _, dir := range []string{to, existing(filepath.Dir(to))} {
		var st unix.Stat_t
		if err := unix.Stat(dir, &st); err == nil && st.Uid != 0 {
			u, err := user.LookupId(strconv.Itoa(int(st.Uid)))
			if err == nil {
				return lookup(u.Username)
			}
			return &Owner{UID: int(st.Uid), GID: int(st.Gid)}, nil
		}
	}
	return lookup("postgres")
}

func lookup(name string) (*Owner, error) {
	u, err := user.Lookup(name)
	if err != nil {
		return nil, dr.Fail(fmt.Sprintf("restore for user %q", name), err,
			"PostgreSQL does not run as root: name the user that shall run it with --user")
	}
	uid, err1 := strconv.Atoi(u.Uid)
	gid, err2 := strconv.Atoi(u.Gid)
	return &Owner{name, uid, gid}, errors.Join(err1, err2)
}

// Credential is for processes that run as the owner; nil for a nil Owner.
func (o *Owner) Credential() *syscall.Credential {
	if o == nil {
		return nil
	}
	return &syscall.Credential{Uid: uint32(o.UID), Gid: uint32(o.GID)}
}

func (o *Owner) lchown(root *os.Root, rel string) error {
	if o == nil {
		return nil
	}
	return root.Lchown(rel, o.UID, o.GID)
}

// chown gives an open file to the owner, if it is not his.
func (o *Owner) chown(f *os.File) error {
	if o == nil {
		return nil
	}
	var now unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &now); err == nil && int(now.Uid) == o.UID && int(now.Gid) == o.GID {
		return nil
	}
	return f.Chown(o.UID, o.GID)
}

// mkdirAll makes a directory that only its owner may enter, as PostgreSQL wants it, and those above it where
// they are missing.
func (o *Owner) mkdirAll(dir string) error {
	above := filepath.Dir(dir)
	named := existing(above)
	if err := os.MkdirAll(above, 0o755); err != nil { //nolint:gosec // parents are not secret
		return err
	}
	for ; above != named; above = filepath.Dir(above) { // as durable as what will be in them
		if err := syncDir(filepath.Dir(above)); err != nil {
			return err
		}
	}
	err := os.Mkdir(dir, 0o700)
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if o != nil {
		if err := os.Lchown(dir, o.UID, o.GID); err != nil {
			return err
		}
	}
	if err := os.Chmod(dir, 0o700); err != nil { //nolint:gosec // PostgreSQL requires it
		return err
	}
	return syncDir(filepath.Dir(dir))
}

// syncDir makes the names in a directory durable.
func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
