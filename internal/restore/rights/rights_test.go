package rights

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

func TestAs(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root has rights to lay down")
	}
	const uid, gid = 65534, 65534
	user := &syscall.Credential{Uid: uid, Gid: gid}
	base := t.TempDir()
	for dir := base; dir != "/" && dir != os.TempDir(); dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o711); err != nil {
			t.Fatal(err)
		}
	}
	his, ours := filepath.Join(base, "his"), filepath.Join(base, "ours")
	for _, dir := range []string{his, ours} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chown(his, uid, gid); err != nil {
		t.Fatal(err)
	}
	write := func(path string) error {
		return As(user, func() error { return os.WriteFile(path, nil, 0o600) })
	}
	if err := write(filepath.Join(ours, "file")); !errors.Is(err, fs.ErrPermission) {
		t.Errorf("wrote into root's directory: %v", err)
	}
	file := filepath.Join(his, "file")
	if err := write(file); err != nil {
		t.Fatal(err)
	}
	var st syscall.Stat_t
	if err := syscall.Stat(file, &st); err != nil || st.Uid != uid || st.Gid != gid {
		t.Errorf("the file belongs to %d:%d (%v), want %d:%d", st.Uid, st.Gid, err, uid, gid)
	}
	if err := os.WriteFile(filepath.Join(ours, "file"), nil, 0o600); err != nil {
		t.Errorf("root did not get his rights back: %v", err)
	}
	if err := As(nil, func() error { return os.WriteFile(filepath.Join(ours, "file"), nil, 0o600) }); err != nil {
		t.Errorf("nobody else's rights: %v", err)
	}
}
