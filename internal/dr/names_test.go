package dr

import (
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
