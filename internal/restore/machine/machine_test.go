package machine

import (
	"os"
	"path/filepath"
	"testing"
)

func TestFreeMemory(t *testing.T) {
	const gib = 1 << 30
	meminfo := "MemTotal:       16777216 kB\nMemAvailable:    8388608 kB\nHugePages_Total:       3\n"
	for _, c := range []struct {
		why   string
		files map[string]string
		want  int64
	}{
		{"nothing can be read", nil, 0},
		{"no control groups", map[string]string{"proc/meminfo": meminfo}, 8 * gib},
		{"version 2, without a limit", map[string]string{
			"proc/meminfo": meminfo, "proc/self/cgroup": "0::/a/b\n", "cg/a/b/memory.max": "max\n", "cg/a/b/memory.current": "1\n",
		}, 8 * gib},
		{"version 2, bounded above", map[string]string{
			"proc/meminfo": meminfo, "proc/self/cgroup": "0::/a/b\n", "cg/a/b/memory.max": "max\n",
			"cg/a/memory.max": "4294967296\n", "cg/a/memory.current": "3221225472\n", "cg/a/memory.stat": "anon 5\ninactive_file 1073741824\n",
		}, 2 * gib},
		{"version 2, used up", map[string]string{
			"proc/meminfo": meminfo, "proc/self/cgroup": "0::/\n", "cg/memory.max": "100\n", "cg/memory.current": "200\n",
		}, 0},
		{"version 1, without a limit", map[string]string{
			"proc/meminfo": meminfo, "proc/self/cgroup": "3:cpu:/x\n4:memory:/x\n0::/\n",
			"cg/memory/x/memory.limit_in_bytes": "9223372036854771712\n", "cg/memory/x/memory.usage_in_bytes": "5\n",
		}, 8 * gib},
		{"version 1, in a container that does not see its own path", map[string]string{
			"proc/meminfo": meminfo, "proc/self/cgroup": "4:memory:/docker/1234\n",
			"cg/memory/memory.limit_in_bytes": "1073741824\n", "cg/memory/memory.usage_in_bytes": "536870912\n", "cg/memory/memory.stat": "total_inactive_file 0\n",
		}, gib / 2},
	} {
		dir := t.TempDir()
		for name, content := range c.files {
			path := filepath.Join(dir, name)
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if got := freeMemory(filepath.Join(dir, "proc"), filepath.Join(dir, "cg")); got != c.want {
			t.Errorf("%s: %d, want %d", c.why, got, c.want)
		}
	}
}

// This machine has some, and its kernel says so.
func TestFreeMemoryHere(t *testing.T) {
	if got := FreeMemory(); got < 1<<20 {
		t.Errorf("free are %d bytes", got)
	}
}
