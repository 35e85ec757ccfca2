package quick

import (
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/internal/config"
	"github.com/holdfast-dr/holdfast/internal/restore/walserve"
	"github.com/holdfast-dr/holdfast/internal/sidecar"
)

func TestParse(t *testing.T) {
	for line, want := range map[string]*command{
		"wal push db pg_wal/1":                         {system: "db", path: "pg_wal/1"},
		"--config /c --quiet wal push db /w/1":         {config: "/c", system: "db", path: "/w/1"},
		"wal push db /w/1 --config=/c -q":              {config: "/c", system: "db", path: "/w/1"},
		"wal fetch db 1 pg_wal/RECOVERYXLOG":           {fetch: true, system: "db", name: "1", path: "pg_wal/RECOVERYXLOG"},
		"wal fetch db 1 p --repo u --identity=i":       {fetch: true, system: "db", name: "1", path: "p"},
		"wal fetch db 1 p --data-directory d":          {fetch: true, system: "db", name: "1", path: "p"},
		"wal push db p --repo u":                       nil, // push has no such flag
		"wal push db":                                  nil,
		"wal push db p q":                              nil,
		"wal fetch db 1":                               nil,
		"wal fetch db 1 p --help":                      nil,
		"wal push db p -o json":                        nil,
		"wal push db p --config":                       nil,
		"wal push db p --":                             nil,
		`wal push db quoted"p`:                         nil,
		`wal push db back\slash`:                       nil,
		"wal push db p\u00e4":                          nil,
		"wal pushed db p":                              nil,
		"restore db 1 p":                               nil,
		"":                                             nil,
		"wal archiver db --quiet --config /c":          nil,
		"snapshot create db --config /c --no-progress": nil,
	} {
		got, ok := parse(append([]string{"holdfast"}, strings.Fields(line)...))
		if ok != (want != nil) || ok && got != *want {
			t.Errorf("%s: %+v, %v", line, got, ok)
		}
	}
}

// sidecarAt answers every request with the same, in a place.
func sidecarAt(t *testing.T, at sidecar.Place, answer map[string]any) {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		ended <- sidecar.Serve(ctx, at, time.Hour, func(context.Context, map[string]string) (map[string]any, bool) { return answer, false })
	}()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	if _, err := sidecar.AskNew[map[string]string, map[string]any](t.Context(), at.Dir, nil, nil); err != nil {
		t.Fatal(err)
	}
}

func TestPush(t *testing.T) {
	file := filepath.Join(t.TempDir(), "holdfast.yaml")
	if err := os.WriteFile(file, []byte("version: 1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for system, answer := range map[string]map[string]any{
		"durable": {"durable": true},
		"failed":  {"durable": false, "reason": "the store is full"},
		"other":   {"durable": "true"},
	} {
		sidecarAt(t, sidecar.Place{Dir: filepath.Join(t.TempDir(), system), Alias: Address(file, system)}, answer)
		c := &command{config: file, system: system, path: "/w/000000010000000000000001"}
		if got, want := c.served(), system == "durable"; got != want {
			t.Errorf("%s: %v", system, got)
		}
	}
	if (&command{config: file, system: "nobody", path: "/w/1"}).served() {
		t.Error("nobody answers, and it is served")
	}
	if (&command{config: file + ".none", system: "durable", path: "/w/1"}).served() {
		t.Error("there is no configuration, and it is served")
	}
	if err := os.WriteFile(file, []byte("version: 1 # edited\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if (&command{config: file, system: "durable", path: "/w/1"}).served() {
		t.Error("the archiver of the old configuration was asked")
	}
}

func TestFetch(t *testing.T) {
	const name = "000000010000000000000001"
	for what, c := range map[string]struct {
		answer any
		served bool
	}{
		"served":     {walserve.Result{Outcome: walserve.Served, Name: name}, true},
		"other file": {walserve.Result{Outcome: walserve.Served, Name: name + "0"}, false},
		"the end":    {walserve.Result{Outcome: walserve.EndOfLog, Name: name}, false},
	} {
		walDir := filepath.Join(t.TempDir(), strings.Repeat("deep/", 30), "pg_wal")
		dir := filepath.Join(walDir, walserve.SpoolName)
		ctx, stop := context.WithCancel(context.Background())
		ended := make(chan error, 1)
		go func() {
			ended <- sidecar.Serve(ctx, sidecar.Place{Dir: dir}, time.Hour, func(context.Context, map[string]string) (any, bool) { return c.answer, false })
		}()
		if _, err := sidecar.AskNew[map[string]string, walserve.Result](t.Context(), dir, nil, nil); err != nil {
			t.Fatal(err)
		}
		if got := (&command{fetch: true, system: "db", name: name, path: walDir + "/RECOVERYXLOG"}).served(); got != c.served {
			t.Errorf("%s: %v", what, got)
		}
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if (&command{fetch: true, system: "db", name: name, path: walDir + "/RECOVERYXLOG"}).served() {
			t.Error("nobody answers any more, and it is served")
		}
	}
}

// An address without a file can be taken by any user. What he says must not count.
func TestAnotherUsersAnswer(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root can be another user")
	}
	if address := os.Getenv("QUICK_TEST_ADDRESS"); address != "" {
		l, err := net.Listen("unix", "@"+address)
		if err != nil {
			t.Fatal(err)
		}
		os.Stdout.WriteString("listening\n") //nolint:errcheck // a pipe to the test
		conn, err := l.Accept()
		if err == nil {
			conn.Read(make([]byte, 100))                  //nolint:errcheck // who closes before he was asked is not heard
			conn.Write([]byte(`{"durable":true}` + "\n")) //nolint:errcheck // as above
			conn.Close()                                  //nolint:errcheck // as above
		}
		return
	}
	for _, uid := range []uint32{0, 65534} {
		const address = "holdfast-test-quick"
		other := exec.Command("/proc/self/exe", "-test.run=^TestAnotherUsersAnswer$")
		other.Env = append(os.Environ(), "QUICK_TEST_ADDRESS="+address)
		out, err := other.StdoutPipe()
		if err == nil {
			err = other.Start()
		}
		if err != nil {
			t.Fatal(err)
		}
		if _, err := out.Read(make([]byte, 10)); err != nil {
			t.Fatal(err)
		}
		// The listener's user cannot be changed from outside, so this process becomes another one for the question.
		got := asUser(t, uid, func() bool { return askOwn(address, `{"path":"/x"}`, `{"durable":true`) })
		if want := uid == 0; got != want {
			t.Errorf("the answer of root's process to user %d was believed: %v", uid, got)
		}
		other.Process.Kill() //nolint:errcheck // it may have ended
		other.Wait()         //nolint:errcheck // as above
	}
}

// Anybody can take an address, and then accept nothing. Nobody may wait for him.
func TestSocketThatAcceptsNothing(t *testing.T) {
	const address = "holdfast-test-quick-full"
	l, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(l) //nolint:errcheck // a test's
	at := &syscall.SockaddrUnix{Name: "@" + address}
	if err := errors.Join(syscall.Bind(l, at), syscall.Listen(l, 0)); err != nil {
		t.Fatal(err)
	}
	for err == nil { // until it is full
		var s int
		if s, err = syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC|syscall.SOCK_NONBLOCK, 0); err != nil {
			t.Fatal(err)
		}
		defer syscall.Close(s) //nolint:errcheck // a test's
		err = syscall.Connect(s, at)
	}
	if err != syscall.EAGAIN {
		t.Fatal(err)
	}
	served := make(chan bool, 1)
	go func() { served <- askOwn(address, `{"path":"/x"}`, `{"durable":true`) }()
	select {
	case got := <-served:
		if got {
			t.Error("nobody answered, and it is served")
		}
	case <-time.After(10 * time.Second):
		t.Error("it waits for a socket that accepts nothing")
	}
}

// Containers may share a network, and with it these names, but not their files: what one has under a path is not what
// another one has there.
func TestAnotherMountNamespace(t *testing.T) {
	const system = "db"
	if file := os.Getenv("QUICK_TEST_CONFIG"); file != "" {
		os.Stdout.WriteString("address " + Address(file, system) + "\n") //nolint:errcheck // a pipe to the test
		return
	}
	if os.Getuid() != 0 {
		t.Skip("only root can make a mount namespace")
	}
	file := filepath.Join(t.TempDir(), "holdfast.yaml")
	if err := os.WriteFile(file, []byte("version: 1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, flags := range []uintptr{0, syscall.CLONE_NEWNS} {
		c := exec.Command("/proc/self/exe", "-test.run=^TestAnotherMountNamespace$")
		c.Env = append(os.Environ(), "QUICK_TEST_CONFIG="+file)
		c.SysProcAttr = &syscall.SysProcAttr{Unshareflags: flags}
		out, err := c.Output()
		if err != nil {
			if flags != 0 && errors.Is(err, syscall.EPERM) {
				t.Skip("this root may not make a mount namespace")
			}
			t.Fatal(err)
		}
		same := strings.Contains(string(out), "address "+Address(file, system)+"\n")
		if !strings.Contains(string(out), "address holdfast-") || same != (flags == 0) {
			t.Errorf("with flags %x it is %s, and here %s", flags, out, Address(file, system))
		}
	}
}

func asUser(t *testing.T, uid uint32, ask func() bool) bool {
	t.Helper()
	if uid == 0 {
		return ask()
	}
	if err := syscall.Setresuid(-1, int(uid), -1); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := syscall.Setresuid(-1, 0, -1); err != nil {
			t.Fatal(err)
		}
	}()
	return ask()
}

// What is known here by value, because this package imports next to nothing, is what the others say.
func TestAgreesWithOthers(t *testing.T) {
	if fetchSocket != walserve.SpoolName+"/"+sidecar.SocketName || configVariable != config.EnvironmentVariable {
		t.Error("a name differs")
	}
	t.Chdir(t.TempDir())
	for _, set := range []string{"", "elsewhere.yaml"} {
		t.Setenv(configVariable, set)
		for _, file := range []string{"holdfast.yaml", "elsewhere.yaml"} {
			if err := os.WriteFile(file, []byte(file), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		for _, flag := range []string{"", "./holdfast.yaml"} {
			if want, err := config.Find(flag); err != nil || findConfig(flag) != want {
				t.Errorf("%q with %q: %s, want %s (%v)", flag, set, findConfig(flag), want, err)
			}
		}
	}
}

// The packages that are named here begin late, or make others begin before this one: each takes time before the answer.
func TestImportsNextToNothing(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	late := []string{"os", "time", "strings", "unicode", "io/fs", "internal/poll", "net", "fmt", "encoding/json"}
	for _, p := range strings.Fields(string(out)) {
		if strings.Contains(p, ".") && !strings.HasSuffix(p, "internal/quick") || slices.Contains(late, p) {
			t.Errorf("it imports %s", p)
		}
	}
}

func TestArguments(t *testing.T) {
	if got := arguments(); !slices.Equal(got, os.Args) {
		t.Errorf("%q are not %q", got, os.Args)
	}
	for line, want := range map[string][]string{
		"":                     nil,
		"holdfast\x00":         {"holdfast"},
		"a\x00\x00b=c\x00\x00": {"a", "", "b=c", ""},
		"unfinished":           {"unfinished"},
	} {
		if got := split(line); !slices.Equal(got, want) {
			t.Errorf("%q: %q, want %q", line, got, want)
		}
	}
}

// A command line that does not fit is left to the program: its end might have said something else.
func TestLongArguments(t *testing.T) {
	const mark = "QUICK_TEST_ARGUMENTS"
	if os.Getenv(mark) != "" {
		if got := arguments(); got != nil {
			t.Errorf("%d arguments of %d", len(got), len(os.Args))
		}
		return
	}
	c := exec.Command("/proc/self/exe", "-test.run=^TestLongArguments$", strings.Repeat("x", 5000))
	c.Env = append(os.Environ(), mark+"=1")
	if out, err := c.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}
