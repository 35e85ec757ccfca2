package replay

import (
	"fmt"
	"strconv"

	"github.com/holdfast-dr/holdfast/internal/dr"
)

// Setting is a line of the configuration.
type Setting struct {
	Name, Value string
	// Restart says that only a restart takes it back: until then the server goes on with it.
	Restart bool
}

// Server is what a server has by itself.
type Server struct {
	Major         int
	IOConcurrency int // maintenance_io_concurrency
	SharedBuffers dr.Bytes
	HugePages     string // the setting huge_pages
	// Promoted says that its recovery ends with a promotion, which does not wait for the dirty buffers to be written; the
	// end at a target does.
	Promoted bool
}

// Machine is what it runs on.
type Machine struct {
	FreeMemory dr.Bytes // of package machine; 0 where nobody knows
	HugePages  bool     // memory is set apart in huge pages
}

// The figures of Choose. docs/decisions/0015 has the measurements, with what was not chosen: fewer restartpoints, and a
// wider window of the log.
const (
	// ioConcurrency is how many pages are asked for before they are needed. The default is 10 until PostgreSQL 17, and 16
	// since; solid-state and network disks answer hundreds at once ("effective_io_concurrency", chapter "Resource
	// Consumption").
	ioConcurrency = 128
	// Of the free memory a quarter: PostgreSQL relies on the system's cache beside its own buffers ("shared_buffers", the
	// same chapter). The memory is reserved, and taken as it is used.
	memoryShare = 4
	mostBuffers = 8 << 30
	leastGain   = 2 // times what the server has by itself; for less nothing is changed
)

// Choose returns what makes the replay faster.
func Choose(s Server, m Machine) []Setting {
	var out []Setting
	// Buffers that do not hold what the log touches again and again are written, and read, each time. Version 13 looks at
	// every buffer for each DROP and TRUNCATE that it replays. Where huge pages are set apart, or insisted on, they were
	// counted for the server's own size: a larger one would not start, or leave them unused ("huge_pages").
	buffers := min(m.FreeMemory/memoryShare, mostBuffers) >> 20
	if s.Promoted && s.Major >= 14 && buffers<<20 >= leastGain*s.SharedBuffers && s.HugePages != "on" && !m.HugePages {
		out = append(out, Setting{"shared_buffers", fmt.Sprintf("%dMB", buffers), true})
	}
	if s.Major < 15 {
		return out // the replay reads one page after the other, and nothing changes that
	}
	// A restored cluster is in nobody's cache, and each record waits for the pages that it changes, unless the replay reads
	// ahead in the log and asks for them before. That is the default; where it was turned off, it was so for a server that
	// has the pages in memory ("recovery_prefetch", chapter "Write Ahead Log").
	out = append(out, Setting{Name: "recovery_prefetch", Value: "try"})
	if s.IOConcurrency < ioConcurrency {
		out = append(out, Setting{Name: "maintenance_io_concurrency", Value: strconv.Itoa(ioConcurrency)})
	}
	return out
}
