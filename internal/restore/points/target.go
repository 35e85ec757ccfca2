package points

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/holdfast-dr/holdfast/internal/pg/wal"
)

// Kind says how a target is given.
type Kind string

// The kinds of targets.
const (
	Latest    Kind = "latest"    // the end of the log
	Immediate Kind = "immediate" // as soon as the snapshot is consistent
	AtTime    Kind = "time"      // after the last commit that is not later
	AtLSN     Kind = "lsn"       // after the record that ends at or behind the position
	AtName    Kind = "name"      // a restore point that pg_create_restore_point made
)

// Target is the moment to recover to. The zero value is the end of the log.
type Target struct {
	Kind Kind      `json:"kind"`
	Time time.Time `json:"time,omitzero"`
	LSN  wal.LSN   `json:"lsn,omitempty"`
	Name string    `json:"name,omitempty"`
}

// String returns what ParseTarget reads.
func (t Target) String() string {
	switch t.Kind {
	case AtTime:
		return t.Time.UTC().Format("2006-01-02T15:04:05.999999Z")
	case AtLSN:
		return t.LSN.String()
	case AtName:
		return "name:" + t.Name
	case Immediate:
		return string(Immediate)
	}
	return string(Latest)
}

// layouts are the forms of a time. Those without a zone are in UTC: a recovery must not depend on who types.
var layouts = []string{
	time.RFC3339Nano, "2006-01-02 15:04:05.999999999Z07:00", "2006-01-02 15:04:05.999999999 MST",
	"2006-01-02T15:04:05.999999999", "2006-01-02 15:04:05.999999999", "2006-01-02 15:04", "2006-01-02T15:04", "2006-01-02",
}

// ParseTarget reads "latest", "immediate", an LSN ("2/9A000028"), a time (RFC 3339, or "2026-03-02 14:05:00" in
// UTC) or "name:NAME"; anything else is the name of a restore point.
func ParseTarget(s string) (Target, error) {
	switch s {
	case "", string(Latest):
		return Target{Kind: Latest}, nil
	case string(Immediate):
		return Target{Kind: Immediate}, nil
	}
	if name, ok := strings.CutPrefix(s, "name:"); ok {
		return byName(name)
	}
	if lsn, err := wal.ParseLSN(s); err == nil {
		return Target{Kind: AtLSN, LSN: lsn}, nil
	}
	for _, l := range layouts {
		if t, err := time.Parse(l, s); err == nil {
			return Target{Kind: AtTime, Time: t.UTC()}, nil
		}
	}
	if s[0] >= '0' && s[0] <= '9' {
		return Target{}, fmt.Errorf("%q is neither a time (2026-03-02T14:05:00Z) nor an LSN (2/9A000028); a restore point's name that begins with a digit is written name:%s", s, s)
	}
	return byName(s)
}

func byName(name string) (Target, error) {
	// MAXFNAMELEN of PostgreSQL is 64 with the final zero byte.
	if name == "" || len(name) > 63 || strings.ContainsRune(name, 0) {
		return Target{}, fmt.Errorf("%q is no name of a restore point: it has 1 to 63 bytes", name)
	}
	return Target{Kind: AtName, Name: name}, nil
}

// Timeline chooses a timeline. The zero value is the newest that the repository knows.
type Timeline struct {
	Current bool           // that of the snapshot
	Number  wal.TimelineID // or this one
}

// ParseTimeline reads "latest", "current" or a number.
func ParseTimeline(s string) (Timeline, error) {
	switch s {
	case "", "latest":
		return Timeline{}, nil
	case "current":
		return Timeline{Current: true}, nil
	}
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil || n == 0 {
		return Timeline{}, fmt.Errorf("%q is no timeline: write a number, latest or current", s)
	}
	return Timeline{Number: wal.TimelineID(n)}, nil
}
