package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/testscript"
	"github.com/spf13/cobra"

	"github.com/holdfast-dr/holdfast/internal/config"
	"github.com/holdfast-dr/holdfast/internal/dr"
)

var update = flag.Bool("update", false, "rewrite the golden files; read the difference before it is committed")

// TestMain lets the test binary be holdfast itself, so that scripts run it as a process of its own.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"holdfast": func() {
			os.Exit(Main(context.Background(), os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
		},
	})
}

// One script for each behaviour. `exits N command …` is exec for a command that must end with the code N.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		UpdateScripts:       *update,
		RequireExplicitExec: true,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits": exits,
		},
		Setup: func(e *testscript.Env) error {
			e.Setenv(config.EnvironmentVariable, "")
			return nil
		},
	})
}

func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE command [argument …]")
	}
	code := "0"
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		var exit interface{ ExitCode() int }
		if !errors.As(err, &exit) {
			ts.Fatalf("%v", err)
		}
		code = fmt.Sprint(exit.ExitCode())
	}
	if code != args[0] {
		ts.Fatalf("exit code %s, want %s", code, args[0])
	}
}

func TestExitCodes(t *testing.T) {
	canceled, cancel := context.WithCancel(context.Background())
	cancel()
	boom := errors.New("boom")
	for _, c := range []struct {
		name    string
		ctx     context.Context
		started bool
		err     error
		want    int
	}{
		{"a command failed", context.Background(), true, boom, exitFailed},
		{"before a command began", context.Background(), false, boom, exitUsage},
		{"configuration", context.Background(), true, &configError{boom}, exitUsage},
		{"usage found by the command", context.Background(), true, fmt.Errorf("restore: %w", usage(boom)), exitUsage},
		{"missed", context.Background(), true, missed(boom), exitMissed},
		{"interrupted", canceled, true, fmt.Errorf("read: %w", context.Canceled), exitInterrupted},
		{"something else while interrupted", canceled, true, boom, exitFailed},
		{"a context of its own", context.Background(), true, context.Canceled, exitFailed},
	} {
		if got := (&app{started: c.started}).exitCode(c.ctx, c.err); got != c.want {
			t.Errorf("%s: exit code %d, want %d", c.name, got, c.want)
		}
	}
	if withExit(nil, 3) != nil {
		t.Error("withExit(nil) is not nil")
	}
}

// PostgreSQL takes every code up to 128 of a restore_command for the end of the log, so that wherever a log
// command fails, its code must be above.
func TestLogCommandsNeverFailWithACodeThatMeansTheEndOfTheLog(t *testing.T) {
	for _, c := range []struct {
		name string
		args []string
		err  error
		want int
	}{
		{"done", []string{"fetch"}, nil, exitDone},
		{"the true end", []string{"fetch"}, withExit(errors.New("end"), exitFailed), exitFailed},
		{"any error", []string{"fetch"}, errors.New("store failed"), exitLogBroken},
		{"a wrong flag", []string{"fetch", "--nonsense"}, nil, exitLogBroken},
		{"a wrong argument", []string{"fetch", "x"}, nil, exitLogBroken},
		{"configuration", []string{"fetch"}, &configError{errors.New("mistake")}, exitLogBroken},
	} {
		a := &app{stdout: io.Discard, stderr: io.Discard}
		root := newRootCommand(a)
		fetch := failsWithLogBroken(&cobra.Command{
			Use: "fetch", Args: cobra.NoArgs,
			RunE: func(*cobra.Command, []string) error { return c.err },
		})
		a.prepare(fetch)
		root.AddCommand(fetch)
		if got := a.execute(context.Background(), root, c.args); got != c.want {
			t.Errorf("%s: exit code %d, want %d", c.name, got, c.want)
		}
	}
}

func TestErrorsArePrintedWithReasonAndNextStep(t *testing.T) {
	inner := dr.Fail("open pack 7", errors.New("denied"), "grant it")
	for _, c := range []struct {
		err  error
		want string
	}{
		{errors.New("boom"), "holdfast: boom\n"},
		{dr.Advise(errors.New("boom"), "wait"), "holdfast: boom\n  next:   wait\n"},
		{inner, "holdfast: open pack 7\n  reason: denied\n  next:   grant it\n"},
		{fmt.Errorf("restore a: %w", inner), "holdfast: restore a: open pack 7\n  reason: denied\n  next:   grant it\n"},
		{dr.Advise(fmt.Errorf("restore a: %w", inner), "use b"), "holdfast: restore a: open pack 7\n  reason: denied\n  next:   use b\n"},
		{config.Mistakes{{What: "f:1:2: x", Reason: "y"}, {What: "f:3:4: z"}}, "f:1:2: x\n  reason: y\nf:3:4: z\n"},
	} {
		var out bytes.Buffer
		(&app{stderr: &out}).printError(c.err, 1)
		if diff := cmp.Diff(c.want, out.String()); diff != "" {
			t.Errorf("text (-want +got):\n%s", diff)
		}
		out.Reset()
		a := &app{stderr: &out, output: choice{value: "json"}}
		a.printError(c.err, 1)
		var v struct {
			Exit   int
			Errors []failure
		}
		if err := json.Unmarshal(out.Bytes(), &v); err != nil || v.Exit != 1 || len(v.Errors) == 0 || strings.Count(out.String(), "\n") != 1 {
			t.Errorf("JSON (%v): %s", err, out.String())
		}
	}
}

func TestTableAlignsColumns(t *testing.T) {
	var out bytes.Buffer
	if err := table(&out, []string{"SYSTEM", "SIZE"}, [][]string{{"a", "1 B"}, {"orders-db", "two\nlines"}}); err != nil {
		t.Fatal(err)
	}
	want := "SYSTEM     SIZE\na          1 B\norders-db  two lines\n"
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestExitCodesAreDocumented(t *testing.T) {
	const path = "../../docs/exit-codes.md"
	if *update {
		if err := os.WriteFile(path, []byte(exitCodesMarkdown()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(exitCodesMarkdown(), string(got)); diff != "" {
		t.Errorf("%s is not what the table says; make docs writes it (-want +got):\n%s", path, diff)
	}
}

func TestManualHasAPageOfEveryCommand(t *testing.T) {
	dir := t.TempDir()
	stale := filepath.Join(dir, "holdfast-gone.md")
	if err := os.WriteFile(stale, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, kind := range []string{"man", "markdown"} {
		if code := Main(context.Background(), []string{"docs", kind, dir}, nil, io.Discard, os.Stderr); code != 0 {
			t.Fatalf("docs %s ends with %d", kind, code)
		}
	}
	if _, err := os.Stat(stale); err == nil {
		t.Error("the page of a command that is gone is still there")
	}
	for _, c := range documented(newRootCommand(&app{stdout: io.Discard, stderr: io.Discard})) {
		if c.Short == "" {
			t.Errorf("%s has no short help", c.CommandPath())
		}
		for _, suffix := range []string{".1", ".md"} {
			page, err := os.ReadFile(filepath.Join(dir, strings.ReplaceAll(c.CommandPath(), " ", "-")+suffix))
			if err != nil || len(page) < 100 {
				t.Errorf("the page of %s (%s): %d bytes, %v", c.CommandPath(), suffix, len(page), err)
			}
		}
	}
}
