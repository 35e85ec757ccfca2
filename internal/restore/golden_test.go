package restore_test

import (
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "rewrite the golden messages")

// What differs from run to run. LSNs are kept apart from each other by order of appearance.
var changing = []struct {
	re *regexp.Regexp
	to string
}{
	{regexp.MustCompile(`\d{8}t\d{6}z-[0-9a-f]{8}`), "SNAPSHOT"},
	{regexp.MustCompile(`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z`), "TIME"},
	{regexp.MustCompile(`\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(\.\d+)? UTC`), "TIME"},
	{regexp.MustCompile(`\b[0-9A-F]+/[0-9A-F]+\b`), "LSN"},
	{regexp.MustCompile(`process \d+`), "process PID"},
	{regexp.MustCompile(`\b\d{19}\b`), "SYSTEMID"},
	{regexp.MustCompile(`chunk [0-9a-f]{64}`), "chunk ID"},
	{regexp.MustCompile(`packs/main/[0-9a-f]{2}/[0-9a-f]{32}`), "PACK"},
	{regexp.MustCompile(`[0-9.]+ [KMG]iB`), "SIZE"},
	{regexp.MustCompile(`at byte \d+`), "at byte N"},
	{regexp.MustCompile(`\bSEGMENT[0-9A-F]+\b`), "SEGMENT"},
}

// golden compares a message with testdata/NAME.txt.
func golden(t *testing.T, w *world, name string, err error) {
	t.Helper()
	if err == nil {
		t.Errorf("%s: no error", name)
		return
	}
	got := strings.ReplaceAll(err.Error(), w.base, "BASE")
	for _, c := range changing {
		got = c.re.ReplaceAllString(got, c.to)
	}
	path := filepath.Join("testdata", name+".txt")
	if *update {
		if err := os.WriteFile(path, []byte(got+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got+"\n" != string(want) {
		t.Errorf("%s: the message is\n%s\nwant\n%s", name, got, want)
	}
}
