package capture

import (
	"time"

	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/pg/wal"
)

// LogStatus is how far the log of a system has come.
type LogStatus struct {
	Timeline     wal.TimelineID // of what arrives
	ReceivedLSN  wal.LSN        // up to here it has arrived
	Received     dr.Bytes       // by this writer
	Acknowledged wal.LSN        // up to here the source was told that it is durable
	StoredOn     wal.TimelineID // the timeline of Stored
	Stored       wal.LSN        // up to here the repository has it
	StoredClock  time.Time      // the source's clock: nothing was committed until then that is not stored; zero: unknown
	SourceEnd    wal.LSN        // the end of the log at the source, when it last told
	Lag          dr.Bytes       // from Stored to SourceEnd
	Spooled      dr.Bytes       // size of the spool
	Waiting      int            // blocks that are not stored whole

	Extents   int64 // finished extents stored by this writer
	Pieces    int64 // pieces of the unfinished tail, joined ones too
	Requests  int64 // to the store, those for the removal of old objects left out
	Failures  int64 // tries to store something that failed
	Undropped int64 // extents whose pieces could not be removed

	Err      error // why nothing can be stored at the moment; nil: nothing is wrong
	SpoolErr error // why the spool takes nothing at the moment
}

// Blocked tells whether reading has stopped: neither the repository nor the spool takes anything.
func (s LogStatus) Blocked() bool { return s.Err != nil && s.SpoolErr != nil }

// stored counts a job.
func (s *LogStatus) stored(j *logJob) {
	s.Requests++
	if j.history != nil {
		s.Requests++
	}
	if j.final {
		s.Extents++
	} else {
		s.Pieces++
	}
}

// Status returns how far the log has come.
func (w *LogWriter) Status() LogStatus {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := w.status
	stored := w.storedLocked()
	s.Timeline, s.ReceivedLSN = w.timeline, w.next
	s.Acknowledged = w.acked.lsn
	s.StoredOn, s.Stored = stored.timeline, stored.lsn
	s.StoredClock = w.marks.sourceAt(stored)
	if s.SourceEnd > s.Stored {
		s.Lag = dr.Bytes(s.SourceEnd - s.Stored)
	}
	if w.opts.Spool != nil {
		s.Spooled = w.opts.Spool.Size()
	}
	for _, b := range w.blocks {
		if b.stored != b.hi || b.closed && b.whole != b.hi {
			s.Waiting++
		}
	}
	return s
}
