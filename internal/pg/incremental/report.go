package incremental

import (
	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/pg/wal"
)

// Report says what was checked and what was found.
type Report struct {
	SystemID  string    `json:"systemIdentifier"`
	Version   int       `json:"version"`
	Checksums bool      `json:"dataChecksums"`
	Backups   []Backup  `json:"backups"`
	Ranges    []Range   `json:"logRanges"`
	Findings  []Finding `json:"findings"`
	Gaps      []string  `json:"notCovered"` // what was not checked, and why
	Pages     uint64    `json:"pagesChecked"`
	Restored  int       `json:"restoredByReplay"` // missing blocks that recovery puts right
	Filled    uint64    `json:"filledWithZeros"`  // blocks of the images that no backup has: extended, never written
	Omitted   int       `json:"findingsOmitted"`  // beyond the largest number that is kept
	Problems  []Problem `json:"problemsLookedFor"`
}

// Backup is one of the chain.
type Backup struct {
	Path        string         `json:"path"`
	Archive     string         `json:"archive,omitempty"` // in tar format: its first archive
	Incremental bool           `json:"incremental"`
	Timeline    wal.TimelineID `json:"timeline"`
	Start       wal.LSN        `json:"start"`
	End         wal.LSN        `json:"end"`
	From        wal.LSN        `json:"from,omitzero"` // start of the backup that it builds on
	Files       int            `json:"files"`
	Bytes       dr.Bytes       `json:"bytes"`
	Checksummed int            `json:"filesWithChecksums"`
	Increments  int            `json:"incrementalFiles"`
	Carried     uint64         `json:"carriedBlocks"`
}

// Range is log that was asked for.
type Range struct {
	Backup  string  `json:"backup"`
	Purpose string  `json:"purpose"` // "changes" before the backup's start, or "replay" from it on
	Start   wal.LSN `json:"start"`
	End     wal.LSN `json:"end"`
	Read    bool    `json:"read"`
	Reason  string  `json:"reason,omitempty"` // why not
}

// Kind sorts findings.
type Kind string

// The kinds of findings.
const (
	BadChain        Kind = "chain"            // the backups are no chain in this order
	BadManifest     Kind = "manifest"         // a manifest is damaged
	BadFile         Kind = "file"             // a file is not as its manifest says
	BadIncrement    Kind = "incremental-file" // an INCREMENTAL file that PostgreSQL does not write
	NoSource        Kind = "no-source"        // an INCREMENTAL file without the older file on which it builds
	BadLength       Kind = "length"           // a file is shorter than it was, and the log has no truncation
	MissingFile     Kind = "missing-file"     // a file is gone, and the log has no drop
	MissingBlock    Kind = "missing-block"    // the log changed a block that is not carried
	Resurrected     Kind = "resurrected"      // a page comes from before a truncation
	StaleVisibility Kind = "stale-visibility" // a visibility map says more than its heap
	OldPage         Kind = "old-page"         // a carried page is older than the one before
	FuturePage      Kind = "future-page"      // a page is newer than its backup
	BadPage         Kind = "page"             // a page that PostgreSQL would refuse
)

// Finding is something that is wrong.
type Finding struct {
	Kind    Kind     `json:"kind"`
	Proof   bool     `json:"proof"` // false: a suspicion
	Backup  string   `json:"backup"`
	Path    string   `json:"path,omitempty"`   // of the file, relative to the backup
	Blocks  []uint32 `json:"blocks,omitempty"` // of the fork; the first of them
	Count   int      `json:"count,omitempty"`  // of all of them
	LSN     wal.LSN  `json:"lsn,omitzero"`     // about where the log changed the first block
	Reason  string   `json:"reason"`
	Problem string   `json:"problem,omitempty"` // name of the known problem that does this
}

// Problem is a known defect of PostgreSQL's incremental backups.
type Problem struct {
	Name   string `json:"name"`
	What   string `json:"what"`
	Source string `json:"source"`
}

// Names of problems.
const (
	vmClear      = "vm-clear"
	vmTruncation = "vm-truncation"
	regrown      = "regrown"
	summaryReach = "summary-past-switch"
	missedBlock  = "missed-block"
)

// problems lists what is looked for. The release notes of 18.7 (2026-11-12) say of all of them together: "existing
// incremental backup files should not be trusted".
func problems() []Problem {
	return []Problem{
		{vmClear, "bits of a visibility map are cleared without a reference in the log, so that the summary misses the map's block (17.10, 18.4)", "PostgreSQL commit ed62d26caca; release notes of 18.7"},
		{vmTruncation, "a truncation clears bits in the last block of the map, which is logged only with checksums or wal_log_hints", "pgsql-hackers, \"Fix stale visibility maps in incremental backups after heap truncation\", 2026-10-22"},
		{regrown, "a relation is truncated and grows again by bulk extension; blocks that were never written come back from an older backup", "pgsql-hackers, \"Fix incremental backup of relations truncated and regrown by bulk insert\", 2026-07-29"},
		{summaryReach, "a standby summarized log that it never replayed; after its promotion a truncation in it hides changed blocks", "PostgreSQL commits f549ecd2660 (5787f8785c in 18, ec756e5913 in 17) and 316861101e8"},
		{missedBlock, "any other block that the log changed and that the incremental does not carry", "the definition of an incremental backup"},
	}
}
