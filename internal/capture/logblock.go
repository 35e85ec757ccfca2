package capture

import (
	"time"

	"github.com/holdfast-dr/holdfast/internal/pg/wal"
	"github.com/holdfast-dr/holdfast/internal/repo"
)

// logBlockSize is the grid on which the log is cut into finished extents.
const logBlockSize = repo.MaxExtent

// mergeAt is how many pieces of the unfinished block are joined into one. So many joined ones are joined again:
// a block has at most twice as many pieces, and each of its bytes is stored at most three times before the block
// is finished, whatever the interval.
const mergeAt = 32

func logBlockStart(l wal.LSN) wal.LSN { return l &^ (logBlockSize - 1) }

// logBlock is the part of one timeline's log that lies in one block of the grid. All positions ascend:
// start ≤ lo ≤ stored ≤ hi ≤ start+logBlockSize, and lo ≤ spooled ≤ hi.
type logBlock struct {
	timeline wal.TimelineID
	start    wal.LSN // on the grid
	lo, hi   wal.LSN // what we have: from memory or the spool
	closed   bool    // no more bytes will come: it is full, or its timeline was left
	clock    time.Time
	data     []byte // from start on; nil where only the spool has the bytes

	stored wal.LSN // up to here the repository has it
	whole  wal.LSN // end of the longest extent that begins at lo
	pieces logPieces
	since  time.Time // when the oldest byte that is not stored arrived; zero: none
	busy   bool      // a worker has a job on it
	summed bool      // nobody reads it for its summary any more

	spooled   wal.LSN // up to here the spool has it, durably
	unspooled time.Time
	spooling  bool
}

// logPieces counts the pieces of a block, to know when to join which.
type logPieces struct {
	small  int     // since the last joined one
	from   wal.LSN // where the first of them begins
	joined int
}

// next returns where the piece that ends at the block's hi begins, and whether it supersedes others.
func (p logPieces) next(b *logBlock) (from wal.LSN, joins bool) {
	switch {
	case p.small < mergeAt:
		return b.stored, false
	case p.joined < mergeAt:
		return p.from, true
	}
	return b.lo, true
}

// put returns the count after the piece from..to was stored.
func (p logPieces) put(b *logBlock, from, to wal.LSN, joins bool) logPieces {
	switch {
	case !joins:
		return logPieces{p.small + 1, p.from, p.joined}
	case from == b.lo:
		return logPieces{0, to, 1}
	}
	return logPieces{0, to, p.joined + 1}
}

func (p logPieces) any() bool { return p.small+p.joined > 0 }

// done tells whether the block can be forgotten.
func (b *logBlock) done() bool {
	return b.closed && b.whole == b.hi && b.stored == b.hi && !b.busy && !b.spooling && b.summed
}

// bytes returns what memory holds from..to. It stays valid while the block is busy or spooling.
func (b *logBlock) bytes(from, to wal.LSN) []byte {
	if b.data == nil {
		return nil
	}
	return b.data[from-b.start : to-b.start : to-b.start]
}

// logJob is one extent to be stored. The block is busy until the job ends.
type logJob struct {
	block    *logBlock
	from, to wal.LSN
	data     []byte // nil: to be read from the spool
	clock    time.Time
	drops    bool // it supersedes pieces
	final    bool // the block is finished by it
	joins    bool
	backlog  bool
	history  []byte // of the timeline, to be stored before
	taken    time.Time
}
