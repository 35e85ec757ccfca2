package lint

import (
	"bytes"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/holdfast-dr/holdfast"

// The longest files that a reader is asked to read in one go. Test files, full of tables, may be longer.
const (
	maxLines     = 500
	maxTestLines = 700
)

// ban is something that no file may call, except where it is allowed.
type ban struct {
	pkg, name string // package path and function; pkg "" is a builtin
	why       string
	inTests   bool // tests may not either
	allowed   map[string]string
}

// allowed maps a folder (for all files in it and below) or a file to the reason.
var bans = []ban{
	{
		pkg: "", name: "panic", why: "a panic means a bug of ours; bad bytes and bad luck are errors",
		allowed: map[string]string{
			"internal/config/node.go":         "a default of the description that is no YAML: a bug, found by every test",
			"internal/config/schema.go":       "as in node.go",
			"internal/repo/encode.go":         "constant options that zstd refuses: a bug, found by every test",
			"internal/repo/repository.go":     "a codec's ID is a constant of ours",
			"internal/restore/points/plan.go": "a range is made of loaded snapshots only",
			"internal/seal/keyring.go":        "HKDF refuses only lengths that we do not ask for",
			"internal/seal/object.go":         "the current epoch is known by construction",
		},
	},
	{
		pkg: "time", name: "Sleep", why: "nobody can interrupt it; use a timer and ctx.Done(), or synctest in tests", inTests: true,
		allowed: map[string]string{
			"internal/capture/logwriter_test.go": "in synctest bubbles, whose clock is not real",
			"internal/capture/logcrash_test.go":  "the child that is killed writes at the pace of a source",
			"internal/pg/pgtest/control.go":      "waits for the end of a process that is no child of ours, which nothing announces",
			"internal/cli/progress_test.go":      "inside testing/synctest, whose clock nobody waits for",
		},
	},
	{
		pkg: "os", name: "Exit", why: "deferred clean-up would not run; return an error",
		allowed: map[string]string{"cmd": "where the program ends"},
	},
	{
		pkg: "context", name: "Background", why: "it cannot be cancelled; take ctx as a parameter, or context.WithoutCancel for clean-up",
		allowed: map[string]string{"cmd": "where the program begins"},
	},
	{
		pkg: "context", name: "TODO", why: "take ctx as a parameter", inTests: true,
	},
	{
		pkg: "os", name: "Getenv", why: "the environment is read in config, so that it is known what counts",
		allowed: map[string]string{
			"internal/config":               "the room in which the environment is read",
			"internal/cli":                  "the terminal and systemd speak through variables",
			"internal/store/azblob/auth.go": "keys and signatures are found where Azure's own command line has them",
			"internal/store/sftp/auth.go":   "keys are found where OpenSSH finds them: its agent is named by SSH_AUTH_SOCK alone",
		},
	},
	{
		pkg: "syscall", name: "Getenv", why: "as os.Getenv",
		allowed: map[string]string{"internal/quick": "it looks for the configuration before config, and os, have begun"},
	},
	{
		pkg: "os", name: "LookupEnv", why: "the environment is read in config, so that it is known what counts",
		allowed: map[string]string{"internal/config": "see Getenv", "internal/cli": "see Getenv"},
	},
	{pkg: "log", name: "Fatal", why: "return an error; only the program's end ends the program", inTests: true},
	{pkg: "log", name: "Fatalf", why: "return an error; only the program's end ends the program", inTests: true},
	{pkg: "log", name: "Printf", why: "log with the *slog.Logger that was handed down"},
	{pkg: "log", name: "Println", why: "log with the *slog.Logger that was handed down"},
}

func TestNobodyCallsWhatIsBanned(t *testing.T) {
	for _, f := range goFiles(t) {
		for _, b := range bans {
			// A package that supports tests is test code, though its files are not named so.
			pkg, _ := internalPackage(f.dir)
			if (f.test || isSupport(pkg)) && !b.inTests || b.allows(f) {
				continue
			}
			for _, pos := range f.calls(b.pkg, b.name) {
				t.Errorf("%s:%d: %s: %s", f.path, pos.Line, strings.TrimPrefix(b.pkg+"."+b.name, "."), b.why)
			}
		}
	}
}

// An exception that nobody needs any more would cover the next mistake.
func TestExceptionsAreStillNeeded(t *testing.T) {
	files := goFiles(t)
	for _, b := range bans {
		for where, reason := range b.allowed {
			used := slices.ContainsFunc(files, func(f file) bool {
				return (f.path == where || within(f.dir, where)) && len(f.calls(b.pkg, b.name)) > 0
			})
			if !used && strings.Contains(where, ".go") {
				t.Errorf("%s no longer calls %s: remove the exception (%s)", where, b.name, reason)
			}
		}
	}
}

func TestFilesAreShort(t *testing.T) {
	for _, f := range goFiles(t) {
		limit := maxLines
		if f.test {
			limit = maxTestLines
		}
		if n := bytes.Count(f.text, []byte("\n")); n > limit && !ast.IsGenerated(f.ast) {
			t.Errorf("%s has %d lines; %d are the most: it holds more than one idea", f.path, n, limit)
		}
	}
}

func TestPackagesSayWhatTheyAreFor(t *testing.T) {
	documented := map[string]bool{}
	for _, f := range goFiles(t) {
		if strings.HasSuffix(f.ast.Name.Name, "_test") {
			continue
		}
		documented[f.dir] = documented[f.dir] || f.ast.Doc != nil && len(f.ast.Doc.Text()) > 20
	}
	for dir, ok := range documented {
		if !ok {
			t.Errorf("the package in %s has no comment; say in doc.go what it does and what it never does", dir)
		}
	}
}

func TestPackagesAreNamedAfterTheirJob(t *testing.T) {
	for _, f := range goFiles(t) {
		switch base := path.Base(f.dir); base {
		case "util", "utils", "common", "misc", "helpers", "helper", "types", "base", "shared":
			t.Errorf("%s: a drawer labelled %q fills up; name the job", f.dir, base)
		}
	}
}

// file is one Go file of the project, parsed.
type file struct {
	path, dir string // slash-separated, from the top of the module
	test      bool
	text      []byte
	ast       *ast.File
	set       *token.FileSet
}

// goFiles returns every Go file of the module, which does not include tools/.
func goFiles(t *testing.T) []file {
	t.Helper()
	const root = "../.."
	var files []file
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel := filepath.ToSlash(strings.TrimPrefix(strings.TrimPrefix(p, root), "/"))
		if d.IsDir() {
			name := d.Name()
			if rel != "" && (strings.HasPrefix(name, ".") || name == "testdata" || rel == "bin" || isModule(p)) {
				return filepath.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(rel, ".go") {
			return nil
		}
		text, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		set := token.NewFileSet()
		parsed, err := parser.ParseFile(set, rel, text, parser.ParseComments)
		if err != nil {
			return err
		}
		files = append(files, file{rel, path.Dir(rel), strings.HasSuffix(rel, "_test.go"), text, parsed, set})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(files) < 10 {
		t.Fatalf("only %d files were found: the walk is wrong", len(files))
	}
	return files
}

func (f file) imports() []string {
	var all []string
	for _, spec := range f.ast.Imports {
		if p, err := strconv.Unquote(spec.Path.Value); err == nil {
			all = append(all, p)
		}
	}
	return all
}

// calls returns where the file uses a function of a package, or a builtin.
func (f file) calls(pkg, name string) []token.Position {
	local := ""
	for _, spec := range f.ast.Imports {
		if p, err := strconv.Unquote(spec.Path.Value); err == nil && p == pkg {
			local = path.Base(p)
			if spec.Name != nil {
				local = spec.Name.Name
			}
		}
	}
	if pkg != "" && local == "" {
		return nil
	}
	var found []token.Position
	ast.Inspect(f.ast, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.SelectorExpr:
			if x, ok := n.X.(*ast.Ident); ok && pkg != "" && x.Name == local && n.Sel.Name == name {
				found = append(found, f.set.Position(n.Pos()))
			}
		case *ast.CallExpr:
			if fun, ok := n.Fun.(*ast.Ident); ok && pkg == "" && fun.Name == name {
				found = append(found, f.set.Position(n.Pos()))
			}
		}
		return true
	})
	return found
}

func (b ban) allows(f file) bool {
	for where := range b.allowed {
		if f.path == where || within(f.dir, where) {
			return true
		}
	}
	return false
}

func within(dir, where string) bool { return dir == where || strings.HasPrefix(dir, where+"/") }

// isModule tells whether a directory is a module of its own, such as tools or the benchmark's programs.
func isModule(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, "go.mod"))
	return err == nil
}
