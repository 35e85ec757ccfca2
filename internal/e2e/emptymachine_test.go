package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"filippo.io/age"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-dr/holdfast/internal/pg/pgtest"
)

// TestEmptyMachine restores where there is nothing: no shell, no libraries, no users, no /tmp; only the binary, a
// key and the repository.
func TestEmptyMachine(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("only root may change the root directory")
	}
	w := newWorld(t, pgtest.Options{Version: "15"})
	w.run("repo", "init")
	key, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	w.run("key", "add", "break-glass", key.Recipient().String())
	w.server.Exec("", ledgerTable, "INSERT INTO book SELECT i::text, md5(i::text) FROM generate_series(1, 5000) AS i")
	w.run("snapshot", "create", system)
	want := digest(t, w.server.ConnString, false)
	w.server.Stop(pgtest.Fast)
	if err := os.RemoveAll(w.server.DataDir); err != nil {
		t.Fatal(err)
	}

	root := w.mkdir("machine")
	identity := w.write("machine/key", key.String()+"\n")
	repository := filepath.Join(root, "repo")
	if err := os.Rename(filepath.Join(w.dir, "repository"), repository); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("cp", w.binary, filepath.Join(root, "holdfast")).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	cmd := exec.Command("/holdfast", "restore", system, "--repo", "/repo", "--identity", "/key", "--to", "/out", "--at", "immediate")
	cmd.Env, cmd.Dir = []string{}, "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: root, Credential: serverUser(t)}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("in the empty machine: %v\n%s", err, out)
	}
	// There is no PostgreSQL in there; outside, the same repository has another path.
	s := pgtest.Open(t, filepath.Join(root, "out"), pgtest.Options{Version: "15", Conf: map[string]string{
		"restore_command": "HOME=" + w.dir + " " + w.binary + " wal fetch " + system + " %f %p --repo " + repository + " --identity " + identity,
	}})
	s.Start()
	s.Until(t, "", "SELECT pg_is_in_recovery()", "f")
	if d := cmp.Diff(want, digest(t, s.ConnString, false)); d != "" {
		t.Errorf("-source +restored:\n%s", d)
	}
}
