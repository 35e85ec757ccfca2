package verify

import (
	"fmt"
	"slices"
	"time"

	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/pg/wal"
	"github.com/holdfast-dr/holdfast/internal/repo"
	"github.com/holdfast-dr/holdfast/internal/restore/boot"
	"github.com/holdfast-dr/holdfast/internal/restore/confine"
	"github.com/holdfast-dr/holdfast/internal/restore/points"
)

// Depth is how deep a restore test goes.
type Depth string

// The depths, each of which includes those before it.
const (
	Objects Depth = "objects"
	Pages   Depth = "pages"
	Boot    Depth = "boot"
	Check   Depth = "check"
	Query   Depth = "query"
)

// Depths are all of them, in their order.
var Depths = []Depth{Objects, Pages, Boot, Check, Query}

// Includes tells whether a test of depth d does what one of depth o does.
func (d Depth) Includes(o Depth) bool { return slices.Index(Depths, d) >= slices.Index(Depths, o) }

// Outcome is how a test ended.
type Outcome string

// The outcomes.
const (
	Passed Outcome = "passed" // everything that was looked at is as it must be
	Failed Outcome = "failed" // something is not: Problems says what
)

// Problem is something that would hurt a recovery.
type Problem struct {
	Depth  Depth  `json:"depth"` // at which it was found
	What   string `json:"what"`  // a file, a position of the log, an index, an assertion
	Reason string `json:"reason"`
}

// String says it as a person does.
func (p Problem) String() string { return p.What + ": " + p.Reason }

// maxProblems bounds the list: a whole bucket may be gone. The count goes on.
const maxProblems = 1000

// Result is what a restore test found. It is all that a record of the test needs.
type Result struct {
	System   string          `json:"system"`
	Snapshot repo.SnapshotID `json:"snapshot"`
	Target   points.Target   `json:"target"`
	Timeline wal.TimelineID  `json:"timeline"`
	From     wal.LSN         `json:"from"` // from where on log was needed
	To       wal.LSN         `json:"to"`   // up to where it was read, or replayed
	Site     string          `json:"site,omitempty"`

	Depth   Depth         `json:"depth"`           // that was asked for
	Proven  Depth         `json:"proven"`          // the deepest one that was passed; empty: not even objects
	Outcome Outcome       `json:"outcome"`         //
	Way     string        `json:"way,omitempty"`   // how the directory came to be: "full restore"
	Started time.Time     `json:"started"`         //
	Took    time.Duration `json:"tookNs"`          //
	Phases  []boot.Phase  `json:"phases"`          // of the test, in their order
	RTO     time.Duration `json:"rtoNs,omitempty"` // from the plan to the first query, of these; 0 where no server was started
	RPO     time.Duration `json:"rpoNs,omitempty"` // what the log holds and the point has not; see boot.Report

	NewestCommit time.Time `json:"newestCommit,omitzero"` // that the server had, by the source's clock

	Figures  Figures           `json:"figures"`
	Sandbox  *confine.Walls    `json:"sandbox,omitempty"`
	Asserted []AssertionResult `json:"assertions,omitempty"`

	Problems     []Problem `json:"problems,omitempty"`
	ProblemCount int       `json:"problemCount"`
	Notes        []string  `json:"notes,omitempty"`
	Covered      []string  `json:"covered"`
	NotCovered   []string  `json:"notCovered"`

	moment repo.SnapshotID // see Summary
	sample float64         // as in Summary
}

// Figures count what a test has read and looked at.
type Figures struct {
	Files     int64    `json:"files"`                  // of the snapshot
	Bytes     dr.Bytes `json:"bytes"`                  // of these
	Read      dr.Bytes `json:"readBytes"`              // of these, how many were decoded and proven
	Fetched   dr.Bytes `json:"fetchedBytes,omitempty"` // of files, so that the server could run
	Log       dr.Bytes `json:"logBytes"`               // that were read
	Records   int64    `json:"logRecords,omitempty"`
	Pages     int64    `json:"pages,omitempty"` // that were looked at
	NewPages  int64    `json:"newPages,omitempty"`
	Mended    int64    `json:"mendedPages,omitempty"` // torn while they were copied: the replay writes them whole
	Databases int      `json:"databases,omitempty"`
	Indexes   int      `json:"indexes,omitempty"` // that amcheck looked at
	Tables    int      `json:"tables,omitempty"`
}

// problem notes one.
func (r *Result) problem(d Depth, what, format string, args ...any) {
	r.ProblemCount++
	if len(r.Problems) < maxProblems {
		r.Problems = append(r.Problems, Problem{d, what, fmt.Sprintf(format, args...)})
	}
}

func (r *Result) note(format string, args ...any) {
	r.Notes = append(r.Notes, fmt.Sprintf(format, args...))
}

func (r *Result) cover(format string, args ...any) {
	r.Covered = append(r.Covered, fmt.Sprintf(format, args...))
}

func (r *Result) leave(format string, args ...any) {
	r.NotCovered = append(r.NotCovered, fmt.Sprintf(format, args...))
}

// prove notes that a depth was passed, where nothing was found at it nor before.
func (r *Result) prove(d Depth) {
	if r.ProblemCount == 0 {
		r.Proven = d
	}
}

// phase notes how long something took that began then.
func (r *Result) phase(name string, began time.Time) {
	r.Phases = append(r.Phases, boot.Phase{Name: name, Took: time.Since(began)})
}
