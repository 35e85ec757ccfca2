package replay

import (
	"fmt"

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
	SharedBuffers dr.Bytes
	MaxWALSize    dr.Bytes
	HugePages     string // the setting huge_pages
}

// Machine is what it runs on. Zeros are what nobody knows.
type Machine struct {
	FreeMemory dr.Bytes // FreeMemory of package machine
	FreeDisk   dr.Bytes // for pg_wal
	HugePages  bool     // memory is set apart in huge pages
}

// What is chosen, and why it is safe. docs/decisions/0015 has the measurements.
const (
	// A quarter of the free memory: more is seldom of use, since PostgreSQL relies on the system's cache beside its own
	// ("shared_buffers", chapter "Resource Consumption"). It is reserved, and taken as it is used.
	memoryShare = 4
	mostBuffers = 8 << 30 // the replay of each DROP and TRUNCATE looks at every buffer
	// What restartpoints have not yet let go stays in pg_wal.
	diskShare  = 4
	mostWAL    = 32 << 30
	leastGain  = 2 // times what the server has by itself; for less nothing is changed
	bufferUnit = 1 << 20
)

// Choose returns what makes the replay faster. A setting that would be no gain is left out: the server keeps its own.
func Choose(s Server, m Machine) []Setting {
	var out []Setting
	add := func(restart bool, name, value string) {
		out = append(out, Setting{Name: name, Value: value, Restart: restart})
	}

	// A buffer pool that is too small for what the log touches writes each page many times, and reads it again.
	// Where huge pages are set apart, or insisted on, they were counted for the server's own size: a larger one would not
	// start, or leave them unused ("huge_pages", "Linux Huge Pages").
	buffers := min(m.FreeMemory/memoryShare, mostBuffers) / bufferUnit * bufferUnit
	if buffers >= leastGain*s.SharedBuffers && s.HugePages != "on" && !m.HugePages {
		add(true, "shared_buffers", fmt.Sprintf("%dMB", buffers>>20))
	}
	// A restartpoint writes all dirty buffers, while the replay goes on dirtying them. It is due after checkpoint_timeout,
	// or when the log since the last one nears max_wal_size ("WAL Configuration"). A recovery that crashes begins at the
	// last one again: at most half an hour is done twice.
	if wal := min(m.FreeDisk/diskShare, mostWAL); wal >= leastGain*s.MaxWALSize {
		add(false, "max_wal_size", fmt.Sprintf("%dMB", wal>>20))
		add(false, "checkpoint_timeout", "30min")
	}
	if s.Major >= 15 {
		// It is the default, and some turn it off ("recovery_prefetch", chapter "Write Ahead Log").
		add(false, "recovery_prefetch", "try")
	}
	return out
}
