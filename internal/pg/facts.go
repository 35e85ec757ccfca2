package pg

import (
	"encoding/json"
	"fmt"

	"github.com/holdfast-dr/holdfast/internal/pg/figure"
	"github.com/holdfast-dr/holdfast/internal/pg/wal"
)

// Engine is the name under which snapshots of PostgreSQL are kept.
const Engine = "postgresql"

// Facts is what a snapshot's manifest says of a PostgreSQL cluster: all that a recovery needs besides the files
// and the log. It is written by capture and read by restore.
type Facts struct {
	Version      int               `json:"version"` // server_version_num, such as 150018
	SystemID     uint64            `json:"systemId,string"`
	Timeline     wal.TimelineID    `json:"timeline"`     // on which StartLSN lies
	StopTimeline wal.TimelineID    `json:"stopTimeline"` // on which StopLSN lies: a standby may have followed a switch
	StartLSN     wal.LSN           `json:"startLsn"`     // of the base backup: replay begins at this checkpoint's redo
	StopLSN      wal.LSN           `json:"stopLsn"`      // the earliest consistent point
	SegmentSize  uint32            `json:"segmentSize"`  // of the WAL, in bytes
	PageSize     uint32            `json:"pageSize"`     // BLCKSZ
	Checksums    bool              `json:"checksums"`    // data page checksums are on
	FromStandby  bool              `json:"fromStandby,omitempty"`
	Remote       bool              `json:"remote,omitempty"` // taken by BASE_BACKUP, without the files at hand
	BackupLabel  string            `json:"backupLabel"`      // the file that has to stand in the data directory at the start
	Tablespaces  []Tablespace      `json:"tablespaces,omitempty"`
	Settings     map[string]string `json:"settings,omitempty"` // those that a standby must not undercut, such as max_connections
	DataDir      string            `json:"dataDir,omitempty"`  // at the source
	History      string            `json:"history,omitempty"`  // content of the timeline's history file; empty for timeline 1
	Figures      *figure.Recorded  `json:"figures,omitempty"`  // that the source gave while the snapshot was taken; nil: none were asked for
	Audit        *Audit            `json:"audit,omitempty"`    // nil where a holdfast took it that told nothing of it
}

// Tablespace is a tablespace outside of the data directory. Its files are in the tree below pg_tblspc/OID.
type Tablespace struct {
	OID      uint32 `json:"oid"`
	Name     string `json:"name,omitempty"`
	Location string `json:"location"` // at the source
}

// ParseFacts reads the facts of a snapshot's manifest.
func ParseFacts(engine string, facts json.RawMessage) (*Facts, error) {
	if engine != Engine {
		return nil, fmt.Errorf("it is a snapshot of %q, not of PostgreSQL", engine)
	}
	var f Facts
	if err := json.Unmarshal(facts, &f); err != nil {
		return nil, fmt.Errorf("read the snapshot's facts: %w", err)
	}
	switch {
	case f.Version < 130000 || f.Timeline == 0 || f.StopLSN < f.StartLSN:
		return nil, fmt.Errorf("the snapshot's facts make no sense: version %d, timeline %d, %s to %s", f.Version, f.Timeline, f.StartLSN, f.StopLSN)
	case f.SegmentSize < 1<<20 || f.SegmentSize > 1<<30 || f.SegmentSize&(f.SegmentSize-1) != 0:
		return nil, fmt.Errorf("the snapshot's facts have a WAL segment size of %d", f.SegmentSize)
	}
	return &f, nil
}

// Major returns the major version: 15 for 150018.
func (f *Facts) Major() int { return f.Version / 10000 }

// EndTimeline returns the timeline on which StopLSN lies; a manifest may not tell it where it is that of the start.
func (f *Facts) EndTimeline() wal.TimelineID { return max(f.Timeline, f.StopTimeline) }

// LogStart returns from where on the log is needed: the start of the segment of StartLSN, since a server reads whole ones.
func (f *Facts) LogStart() wal.LSN { return wal.SegmentSize(f.SegmentSize).Floor(f.StartLSN) }

// HistoryFile returns the name under which a timeline's history is kept with the log: "00000002.history", in
// lower case as object names are.
func HistoryFile(tl wal.TimelineID) string { return fmt.Sprintf("%08x.history", uint32(tl)) }
