package boot

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/holdfast-dr/holdfast/internal/restore"
)

// Links that a restored directory may hold never lead root to what is not the server's.
func TestLinksInTheDataDirectory(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root could be misled")
	}
	const uid = 65534
	base := t.TempDir()
	dir, secret := filepath.Join(base, "data"), filepath.Join(base, "secret")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(dir, uid, uid); err != nil {
		t.Fatal(err)
	}
	for up := base; up != os.TempDir() && up != "/"; up = filepath.Dir(up) {
		if err := os.Chmod(up, 0o711); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(secret, []byte("root's"), 0o600); err != nil {
		t.Fatal(err)
	}
	link := func(name string) {
		if err := os.Symlink(secret, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	a := access{dir, "postgres", &restore.Owner{UID: uid, GID: uid}}

	link("pg_hba.conf.tmp")
	if err := a.lock(); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(filepath.Join(dir, "pg_hba.conf")); err != nil || !strings.Contains(string(b), "peer map=holdfast") {
		t.Errorf("pg_hba.conf is %q, %v", b, err)
	}
	if err := a.unlock(); err != nil {
		t.Fatal(err)
	}
	os.Remove(filepath.Join(dir, "pg_hba.conf"))
	link("pg_hba.conf")
	if err := a.lock(); err == nil {
		t.Error("a secret of root's was copied into the data directory")
	}
	link("log")
	if f, err := OpenLog(filepath.Join(dir, "log")); err == nil {
		f.Close()
		t.Error("the server's messages go where a link leads")
	}
	if b, err := os.ReadFile(secret); err != nil || string(b) != "root's" {
		t.Errorf("the secret is now %q, %v", b, err)
	}
}
