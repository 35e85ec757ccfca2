// Package docs_test runs the commands of the documentation, so that it stays true.
package docs_test

import (
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/holdfast-dr/holdfast/internal/pg/pgtest"
)

// commands returns the lines after "$ " of a page's console blocks.
func commands(t *testing.T, page string) []string {
	t.Helper()
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	console := false
	for line := range strings.Lines(string(text)) {
		line = strings.TrimRight(line, "\n")
		if strings.HasPrefix(line, "```") {
			console = line == "```console"
			continue
		}
		if c, ok := strings.CutPrefix(line, "$ "); ok && console {
			out = append(out, c)
		}
	}
	return out
}

func TestGuide(t *testing.T) {
	lines := commands(t, "guide.md")
	if len(lines) < 20 {
		t.Fatalf("the guide has only %d commands", len(lines))
	}
	runPage(t, lines)
}

// The page is about what is there already: a database that was protected, and recovered once.
func TestEvidencePage(t *testing.T) {
	t.Parallel()
	lines := commands(t, "evidence.md")
	if len(lines) < 12 {
		t.Fatalf("the page has only %d commands", len(lines))
	}
	before := []string{
		`holdfast init --connection "host=$PGHOST port=$PGPORT user=postgres dbname=postgres" --system orders-db --repository ./repository --state ./state`,
		"holdfast repo init",
		"holdfast snapshot create orders-db --checkpoint fast",
		"holdfast restore orders-db --to $PWD/back --at immediate --start --port 5497",
		"pg_ctl stop -D $PWD/back -m fast",
		"holdfast repo check",
	}
	out := runPage(t, append(before, lines...))
	for _, want := range []string{"everything is proven", "every record is as it was signed", "it begins with the", `"kind": "check"`} {
		if !strings.Contains(out, want) {
			t.Errorf("%q was not printed:\n%s", want, out)
		}
	}
	if n := strings.Count(out, "Signature Verified Successfully"); n != 2 {
		t.Errorf("%d signatures were verified by hand, and not 2:\n%s", n, out)
	}
}

// runPage runs a page's commands beside a server, and returns what they print.
func runPage(t *testing.T, lines []string) string {
	t.Helper()
	s := pgtest.Start(t, pgtest.Options{Version: "15", Checksums: true, Conf: map[string]string{"max_slot_wal_keep_size": "1GB"}})
	s.Bin("psql") // Debian's client programs are part of the guide
	dir := pgtest.TempDir(t)
	build := exec.Command("go", "build", "-o", filepath.Join(dir, "holdfast"), "../cmd/holdfast")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v: %s", err, out)
	}
	pgtest.Chown(t, dir)

	// Each command is shown before it runs, so that a failure is seen beside its command.
	script := "set -eu -o pipefail\n"
	for _, l := range lines {
		script += "printf '$ %s\\n' " + quote(l) + "\n" + l + "\n"
	}
	cmd := exec.Command("bash", "-c", script)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "PATH="+dir+":"+s.BinDir+":"+os.Getenv("PATH"), "HOME="+dir, "PGHOST="+s.Socket,
		"PGPORT="+strconv.Itoa(s.Port), "PGUSER=postgres", "PGDATABASE=postgres", "HOLDFAST_CONFIG=")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if os.Geteuid() == 0 {
		cmd.SysProcAttr.Credential = postgres(t)
	}
	// A file, not a pipe: the agent, which the guide starts, would hold a pipe open.
	out, err := os.Create(filepath.Join(t.TempDir(), "out"))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	err = cmd.Wait()
	syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) //nolint:errcheck // what is left: the agent
	printed, _ := os.ReadFile(out.Name())           //nolint:errcheck // only to say more
	if err != nil {
		log, _ := os.ReadFile(filepath.Join(dir, "agent.log")) //nolint:errcheck // only to say more
		t.Fatalf("the page's commands: %v:\n%s\nagent.log:\n%s", err, printed, log)
	}
	t.Logf("%s", printed)
	return string(printed)
}

func postgres(t *testing.T) *syscall.Credential {
	t.Helper()
	u, err := user.Lookup("postgres")
	if err != nil {
		t.Fatal(err)
	}
	uid, err1 := strconv.ParseUint(u.Uid, 10, 32)
	gid, err2 := strconv.ParseUint(u.Gid, 10, 32)
	if err1 != nil || err2 != nil {
		t.Fatal(err1, err2)
	}
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
}

func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }
