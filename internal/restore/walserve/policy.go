package walserve

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/holdfast-dr/holdfast/internal/pg/wal"
)

// PolicyName is the file in a restored data directory that says how its log is to be served.
const PolicyName = "holdfast.recovery"

// Policy says how the log of one recovery is served.
type Policy struct {
	System      string         `json:"system"`
	SystemID    uint64         `json:"systemId,string"` // 0: any
	SegmentSize uint32         `json:"segmentSize"`
	Timeline    wal.TimelineID `json:"timeline"` // that the recovery goes to; 0: any
	// Reached is how far the log of Timeline's way was known to reach when the recovery was planned. A repository that
	// has less now has lost it, together with its marks perhaps.
	Reached wal.LSN `json:"reached,omitempty"`
	// End is where the log of Timeline ended when the recovery was planned, although more of it came: nothing was ever whole behind it.
	// 0: at its last byte.
	End wal.LSN `json:"end,omitempty"`
	// Bounded is a recovery to a target: PostgreSQL itself refuses to end before the target, so log that is
	// missing behind it need not stop anything.
	Bounded bool `json:"bounded"`
	// AllowLoss serves what there is, because a person said so.
	AllowLoss bool `json:"allowLoss"`
}

// Encode returns the file's content.
func (p Policy) Encode() ([]byte, error) {
	b, err := json.MarshalIndent(p, "", "  ")
	return append(b, '\n'), err
}

// ReadPolicy reads the policy of a data directory. Without one the strictest is returned, for servers that were
// not restored by us.
func ReadPolicy(dataDir string) (Policy, error) {
	p := Policy{SegmentSize: uint32(wal.DefaultSegmentSize)}
	path := filepath.Join(dataDir, PolicyName)
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return p, nil
	}
	if err == nil {
		err = json.Unmarshal(b, &p)
	}
	if err == nil {
		err = wal.SegmentSize(p.SegmentSize).Check()
	}
	if err != nil {
		return p, fmt.Errorf("read %s: %w", path, err)
	}
	return p, nil
}
