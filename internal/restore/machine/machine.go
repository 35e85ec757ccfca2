// Package machine says what the machine that a recovery runs on has to spare. It looks, and changes nothing.
package machine

import (
	"bufio"
	"bytes"
	"math"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
)

// Where the kernel says it (proc(5), and Documentation/admin-guide/cgroup-v1/memory.rst and cgroup-v2.rst).
const (
	procDir   = "/proc"
	cgroupDir = "/sys/fs/cgroup"
)

// FreeMemory returns how many bytes may be used without anybody being pushed out: what the machine has available, and no
// more than what this process's control groups leave, which its children share. 0 where nobody can say.
func FreeMemory() int64 { return freeMemory(procDir, cgroupDir) }

func freeMemory(proc, cgroups string) int64 {
	free := fields(filepath.Join(proc, "meminfo"))["MemAvailable"]
	for _, g := range groups(proc, cgroups) {
		if limit, ok := number(filepath.Join(g.dir, g.limit)); ok {
			used, _ := number(filepath.Join(g.dir, g.used))
			// The page cache counts as used, and gives way.
			cache := fields(filepath.Join(g.dir, "memory.stat"))[g.cache]
			free = min(free, max(0, limit-used+cache))
		}
	}
	return free
}

// HugePages tells whether the machine has memory set apart in huge pages, which somebody has counted for somebody.
func HugePages() bool { return fields(filepath.Join(procDir, "meminfo"))["HugePages_Total"] > 0 }

// fields reads lines of a name and a number, with or without a colon and a unit, as bytes.
func fields(name string) map[string]int64 {
	b, err := os.ReadFile(name)
	if err != nil {
		return nil
	}
	out := map[string]int64{}
	for s := bufio.NewScanner(bytes.NewReader(b)); s.Scan(); {
		words := strings.Fields(s.Text())
		if len(words) < 2 {
			continue
		}
		n, err := strconv.ParseInt(words[1], 10, 64)
		if err != nil {
			continue
		}
		if len(words) > 2 && words[2] == "kB" {
			n <<= 10
		}
		out[strings.TrimSuffix(words[0], ":")] = n
	}
	return out
}

// group is a control group that bounds the memory of this process, and the names of its files.
type group struct{ dir, limit, used, cache string }

// groups returns this process's control groups of memory and those above them: each bounds it. Where only a part of them
// can be seen, as in a container, what is there counts.
func groups(proc, root string) []group {
	b, err := os.ReadFile(filepath.Join(proc, "self/cgroup"))
	if err != nil {
		return nil
	}
	var out []group
	for line := range strings.Lines(string(b)) {
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(parts) < 3 {
			continue
		}
		var g group
		switch {
		case parts[1] == "":
			g = group{root, "memory.max", "memory.current", "inactive_file"}
		case strings.Contains(","+parts[1]+",", ",memory,"):
			g = group{filepath.Join(root, "memory"), "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"}
		default:
			continue
		}
		base := g.dir
		for p := path.Clean("/" + parts[2]); ; p = path.Dir(p) {
			g.dir = filepath.Join(base, p)
			out = append(out, g)
			if p == "/" {
				break
			}
		}
	}
	return out
}

// number reads a file that holds one number; false where there is none, or no limit.
func number(name string) (int64, bool) {
	b, err := os.ReadFile(name)
	if err != nil {
		return 0, false
	}
	n, err := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64)
	// Version 1 writes the largest number of whole pages for "none".
	return n, err == nil && n < math.MaxInt64>>12<<12-1<<20
}
