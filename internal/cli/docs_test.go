package cli

import (
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// docs/cli is written by `make docs` from the commands; a change of a command without it turns this red.
func TestDocsAreCurrent(t *testing.T) {
	const dir = "../../docs/cli"
	fresh := t.TempDir()
	if code := Main(t.Context(), []string{"docs", "markdown", fresh}, nil, io.Discard, os.Stderr); code != exitDone {
		t.Fatalf("holdfast docs markdown ends with %d", code)
	}
	want, have := pages(t, fresh), pages(t, dir)
	if diff := cmp.Diff(want, have); diff != "" {
		t.Errorf("docs/cli is not what the commands say; run make docs (-want +have):\n%s", diff)
	}
}

func pages(t *testing.T, dir string) map[string]string {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(dir, "*.md"))
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for _, p := range paths {
		text, err := os.ReadFile(p)
		if err != nil {
			t.Fatal(err)
		}
		out[filepath.Base(p)] = string(text)
	}
	return out
}
