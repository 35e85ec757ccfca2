package walserve

import (
	"fmt"

	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/pg/wal"
)

// Outcome is an answer to the request for one file.
type Outcome string

// The outcomes. NotThere is for files that nobody needs in order to recover, and for histories of timelines
// that do not exist.
const (
	Served      Outcome = "served"
	EndOfLog    Outcome = "end of log"
	NotThere    Outcome = "not there"
	Gap         Outcome = "gap"
	BelowMark   Outcome = "below mark"
	StoreFailed Outcome = "store failed"
	BadRequest  Outcome = "bad request"
	WouldTouch  Outcome = "would touch another cluster"
)

// Result is the answer to one request, as restore_command gives it. It travels over the Prefetcher's socket.
type Result struct {
	Outcome Outcome `json:"outcome"`
	Name    string  `json:"name"`
	From    wal.LSN `json:"from,omitempty"`   // Gap: the first byte that is missing; otherwise the end of the log
	To      wal.LSN `json:"to,omitempty"`     // Gap: the first that is there again; BelowMark: the mark
	Reason  string  `json:"reason,omitempty"` // for StoreFailed and BadRequest
	Next    string  `json:"next,omitempty"`
}

// ExitCode is what restore_command must end with. Codes above 128 make PostgreSQL stop with a FATAL error
// instead of ending its recovery (xlogarchive.c, RestoreArchivedFile); 128 plus the number of a signal is
// avoided, because PostgreSQL takes 143 for an orderly shutdown.
func (r Result) ExitCode() int {
	switch r.Outcome {
	case Served:
		return 0
	case EndOfLog, NotThere:
		return 1
	case Gap:
		return 200
	case BelowMark:
		return 202
	case BadRequest:
		return 203
	case WouldTouch:
		return 204
	}
	return 201
}

// Err returns nil for outcomes with which a recovery goes on or ends as it should, and otherwise what a person
// reads in the server's log.
func (r Result) Err() error {
	f := &dr.Failure{Reason: r.Reason, Next: r.Next}
	switch r.Outcome {
	case Served, EndOfLog, NotThere:
		return nil
	case Gap:
		f.What = fmt.Sprintf("serve %s: the log has a gap", r.Name)
		f.Reason = fmt.Sprintf("there is no log from %s to %s", r.From, r.To)
		f.Next = fmt.Sprintf("look for it in another replica, or recover to a target up to %s", r.From)
	case BelowMark:
		f.What = fmt.Sprintf("serve %s: the log ends before it should", r.Name)
		f.Reason = fmt.Sprintf("it ends at %s, and its high-water mark says that it was stored up to %s", r.From, r.To)
		f.Next = fmt.Sprintf("look for the rest in another replica; to do without it, recover to the target %s", r.From)
	case WouldTouch:
		f.What = fmt.Sprintf("serve %s: replay would write into another cluster's tablespace", r.Name)
	case BadRequest:
		f.What = fmt.Sprintf("serve %s: this request cannot be answered", r.Name)
	default:
		f.What = fmt.Sprintf("serve %s: the store failed", r.Name)
		if f.Next == "" {
			f.Next = "see that the repository can be reached; then start the server again, and the recovery goes on"
		}
	}
	return f
}

func failed(name string, err error) Result {
	return Result{Outcome: StoreFailed, Name: name, Reason: err.Error(), Next: dr.Advice(err)}
}
