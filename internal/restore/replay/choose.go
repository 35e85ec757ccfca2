package replay

import "strconv"

// Setting is a line of the configuration.
type Setting struct{ Name, Value string }

// Server is what a server has by itself.
type Server struct {
	Major         int
	IOConcurrency int // maintenance_io_concurrency
}

// ioConcurrency is how many pages are asked for before they are needed. The default is 10 until PostgreSQL 17, and 16 since;
// solid-state and network disks answer hundreds at once ("effective_io_concurrency", chapter "Resource Consumption").
const ioConcurrency = 128

// Choose returns what makes the replay faster, and can be taken back without a restart. The measurements are in
// docs/decisions/0015, with what was not chosen: memory, fewer restartpoints, and a wider window of the log.
func Choose(s Server) []Setting {
	if s.Major < 15 {
		return nil // the replay reads one page after the other, and nothing changes that
	}
	// A restored cluster is in nobody's cache, and each record waits for the pages that it changes, unless the replay reads
	// ahead in the log and asks for them before. That is the default; where it was turned off, it was so for a standby that
	// has the pages in memory ("recovery_prefetch", chapter "Write Ahead Log").
	out := []Setting{{"recovery_prefetch", "try"}}
	// How many it asks for at once ("maintenance_io_concurrency", the same chapter as above).
	if s.IOConcurrency < ioConcurrency {
		out = append(out, Setting{"maintenance_io_concurrency", strconv.Itoa(ioConcurrency)})
	}
	return out
}
