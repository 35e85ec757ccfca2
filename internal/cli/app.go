package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"strings"

	"github.com/spf13/pflag"
	"golang.org/x/term"

	"github.com/holdfast-dr/holdfast/internal/config"
)

// app is what every command is given: the streams, and the values of the global flags once they are parsed.
type app struct {
	stdin          io.Reader
	stdout, stderr io.Writer

	configPath string
	output     choice
	logLevel   choice
	quiet      bool
	noProgress bool

	command string // that runs: "holdfast restore"
	started bool   // a command's own code has begun: what goes wrong now is no usage error
}

func (a *app) addFlags(f *pflag.FlagSet) {
	a.output = choice{value: "text", of: []string{"text", "json"}}
	a.logLevel = choice{value: "info", of: []string{"debug", "info", "warn", "error"}}
	f.StringVar(&a.configPath, "config", "", "configuration `file` (default: $HOLDFAST_CONFIG, ./holdfast.yaml, /etc/holdfast/holdfast.yaml)")
	f.VarP(&a.output, "output", "o", "`format` of the result and of errors: text or json")
	f.BoolVar(&a.quiet, "quiet", false, "say nothing but the result and errors")
	f.Var(&a.logLevel, "log-level", "least `level` of what is logged: debug, info, warn or error")
	f.BoolVar(&a.noProgress, "no-progress", false, "show no progress")
}

// choice is a flag that takes one of a few words.
type choice struct {
	value string
	of    []string
}

func (c *choice) String() string { return c.value }
func (c *choice) Type() string   { return "word" }

func (c *choice) Set(s string) error {
	if !slices.Contains(c.of, s) {
		return fmt.Errorf("write one of %s", strings.Join(c.of, ", "))
	}
	c.value = s
	return nil
}

func (a *app) json() bool { return a.output.value == "json" }

// config finds and reads the configuration.
func (a *app) config() (*config.Config, error) {
	path, err := config.Find(a.configPath)
	if err != nil {
		return nil, &configError{err}
	}
	c, err := config.Load(path)
	if err != nil {
		return nil, &configError{err}
	}
	a.configPath = absolute(path) // for the processes that this one starts (repositoryArgs)
	return c, nil
}

// result is what a command prints: with -o json the value itself as encoding/json has it, otherwise what
// writeText writes. One value for both keeps them from telling different things.
type result interface {
	writeText(w io.Writer) error
}

// emit prints a command's result.
func (a *app) emit(r result) error {
	if !a.json() {
		return r.writeText(a.stdout)
	}
	enc := json.NewEncoder(a.stdout)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	return enc.Encode(r)
}

// logger returns the process's logger: text or, with -o json, one JSON object a line, on stderr.
func (a *app) logger() *slog.Logger {
	var level slog.Level
	if err := level.UnmarshalText([]byte(a.logLevel.value)); err != nil {
		level = slog.LevelInfo
	}
	if a.quiet {
		level = max(level, slog.LevelError)
	}
	opts := &slog.HandlerOptions{Level: level}
	if a.json() {
		return slog.New(slog.NewJSONHandler(a.stderr, opts))
	}
	return slog.New(slog.NewTextHandler(a.stderr, opts))
}

// terminal tells whether a person looks at w.
func terminal(w any) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}
