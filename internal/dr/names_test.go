package dr

import (
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

func TestParseSystemName(t *testing.T) {
	for _, ok := range []string{"a", "0", "orders-db", "x--y-", strings.Repeat("a", 63)} {
		if n, err := ParseSystemName(ok); err != nil || string(n) != ok {
			t.Errorf("ParseSystemName(%q) = %q, %v; want it as it is", ok, n, err)
		}
	}
	for _, bad := range []string{"", "-a", "A", "a_b", "a/b", "..", "a b", "ä", "a\x00", strings.Repeat("a", 64)} {
		if n, err := ParseSystemName(bad); err == nil {
			t.Errorf("ParseSystemName(%q) = %q; want an error", bad, n)
		}
	}
}

// What is accepted as a name is a path element, a label and an identifier without being quoted, and nothing else is.
func FuzzSystemName(f *testing.F) {
	for _, s := range []string{"orders-db", "..", "a/b", "-", "a\x00", "Ünal", strings.Repeat("z", 63), strings.Repeat("z", 64), "a\n", "con", "0"} {
		f.Add(s)
	}
	rule := regexp.MustCompile(`\A[a-z0-9][a-z0-9-]{0,62}\z`)
	f.Fuzz(func(t *testing.T, s string) {
		n, err := ParseSystemName(s)
		if (err == nil) != rule.MatchString(s) || (err == nil && string(n) != s) || (err != nil && n != "") {
			t.Fatalf("ParseSystemName(%q) = %q, %v", s, n, err)
		}
		if err == nil && (!filepath.IsLocal(s) || filepath.Base(s) != s || filepath.Clean(s) != s) {
			t.Fatalf("%q is accepted, and no name of a file", s)
		}
	})
}
