package capture

import (
	"fmt"
	"slices"

	"github.com/holdfast-dr/holdfast/internal/pg/wal"
)

// Missed is a page that changed without a word in the log: a snapshot of what changed would not have read it. There must
// be none.
type Missed struct {
	Path  string  `json:"path"`
	Block uint32  `json:"block"` // of the relation's fork, over all segments
	Was   wal.LSN `json:"was"`   // what the page said of its last change in the snapshot before
	Is    wal.LSN `json:"is"`
}

// String names the page.
func (m Missed) String() string {
	if m.Was == m.Is {
		return fmt.Sprintf("%s: block %d lost bits since LSN %s, and the log did not tell", m.Path, m.Block, m.Was)
	}
	return fmt.Sprintf("%s: block %d changed, from LSN %s to %s, and the log did not tell", m.Path, m.Block, m.Was, m.Is)
}

// maxMissed bounds the list: a few are enough to find out why. The count goes on.
const maxMissed = 100

// missedPages are those that were found, each once.
type missedPages struct {
	list  []Missed
	count int64
}

func (p *missedPages) add(m Missed) {
	same := func(o Missed) bool { return o.Path == m.Path && o.Block == m.Block }
	if slices.ContainsFunc(p.list, same) {
		return
	}
	p.count++
	if len(p.list) < maxMissed {
		p.list = append(p.list, m)
	}
}

// names returns at most n pages as text.
func (p *missedPages) names(n int) (names []string) {
	for _, m := range p.list[:min(n, len(p.list))] {
		names = append(names, m.String())
	}
	return names
}

// MissedError is that a sample found pages that changed without a word in the log, and that the snapshot of everything
// which has to follow could not be taken.
type MissedError struct {
	Missed []Missed
	Err    error
}

func (e *MissedError) Error() string {
	return fmt.Sprintf("%s; then everything was to be read: %v", e.Missed[0], e.Err)
}

// Unwrap returns why it could not be taken.
func (e *MissedError) Unwrap() error { return e.Err }
