package cluster

import (
	"fmt"
	"strconv"
	"strings"
)

// Fork is one of the up to four files of a relation.
type Fork uint8

// The forks.
const (
	Main Fork = iota // the pages with the data
	FSM              // free space map
	VM               // visibility map
	Init             // how an unlogged relation looks after a crash
)

// String returns the fork as file names have it: "main", "fsm", "vm", "init".
func (f Fork) String() string {
	if int(f) < len(forkNames) {
		return forkNames[f]
	}
	return fmt.Sprintf("fork %d", uint8(f))
}

var forkNames = [...]string{"main", "fsm", "vm", "init"}

// The tablespaces that every cluster has (catalog/pg_tablespace.dat).
const (
	DefaultTablespace uint32 = 1663 // the folder base
	GlobalTablespace  uint32 = 1664 // the folder global, for what all databases share
)

// Relation says of which relation a file is a segment.
type Relation struct {
	Tablespace uint32
	Database   uint32 // zero in the global tablespace
	Number     uint32 // the relation's file number, which is not its OID
	Fork       Fork
	Segment    uint32
}

// FirstBlock returns the block number of the file's first page, where a segment has so many pages
// (Info.SegmentBlocks).
func (r Relation) FirstBlock(segmentBlocks uint32) uint32 { return r.Segment * segmentBlocks }

// ParsePath reads a path relative to the data directory, with slashes ("base/5/16384_fsm.1",
// "global/1262", "pg_tblspc/16390/PG_15_202209061/5/16391"). It is false for files that are no segment of a
// relation, temporary relations among them.
func ParsePath(path string) (Relation, bool) {
	dir, name := cutLast(path)
	number, fork, segment, ok := parseFileName(name)
	if !ok {
		return Relation{}, false
	}
	r := Relation{Number: number, Fork: fork, Segment: segment}
	r.Tablespace, r.Database, ok = ParseDatabaseDir(dir)
	return r, ok
}

// Path returns where the file lies, which ParsePath reads. tablespaceDir is the server's folder in tablespaces
// (Info.TablespaceDir).
func (r Relation) Path(tablespaceDir string) string {
	path := fmt.Sprintf("%s/%d", DatabaseDir(r.Tablespace, r.Database, tablespaceDir), r.Number)
	if r.Fork != Main {
		path += "_" + r.Fork.String()
	}
	if r.Segment > 0 {
		path += "." + strconv.FormatUint(uint64(r.Segment), 10)
	}
	return path
}

// DatabaseDir returns the folder of a database's relations in a tablespace.
func DatabaseDir(tablespace, database uint32, tablespaceDir string) string {
	switch tablespace {
	case GlobalTablespace:
		return "global"
	case DefaultTablespace:
		return fmt.Sprintf("base/%d", database)
	}
	return fmt.Sprintf("pg_tblspc/%d/%s/%d", tablespace, tablespaceDir, database)
}

func cutLast(path string) (dir, name string) {
	i := strings.LastIndexByte(path, '/')
	if i < 0 {
		return "", path
	}
	return path[:i], path[i+1:]
}

// ParseDatabaseDir tells of which tablespace and database a folder holds the relations.
func ParseDatabaseDir(dir string) (tablespace, database uint32, ok bool) {
	if dir == "global" {
		return GlobalTablespace, 0, true
	}
	parts := strings.Split(dir, "/")
	switch {
	case len(parts) == 2 && parts[0] == "base":
		database, ok = parseOID(parts[1])
		return DefaultTablespace, database, ok
	case len(parts) == 4 && parts[0] == "pg_tblspc" && strings.HasPrefix(parts[2], "PG_"):
		tablespace, ok1 := parseOID(parts[1])
		database, ok2 := parseOID(parts[3])
		return tablespace, database, ok1 && ok2
	}
	return 0, 0, false
}

// parseFileName reads "16384", "16384.1", "16384_vm", "16384_fsm.2" (reinit.c,
// parse_filename_for_nontemp_relation).
func parseFileName(name string) (number uint32, fork Fork, segment uint32, ok bool) {
	name, seg, dotted := strings.Cut(name, ".")
	if dotted {
		if segment, ok = parseOID(seg); !ok {
			return 0, 0, 0, false
		}
	}
	name, suffix, forked := strings.Cut(name, "_")
	if forked {
		for f := FSM; f <= Init; f++ {
			if suffix == forkNames[f] {
				fork = f
			}
		}
		if fork == Main {
			return 0, 0, 0, false
		}
	}
	number, ok = parseOID(name)
	return number, fork, segment, ok
}

// parseOID reads a positive decimal number of 32 bits without leading zeros.
func parseOID(s string) (uint32, bool) {
	if s == "" || s[0] < '1' || s[0] > '9' || len(s) > 10 {
		return 0, false
	}
	v, err := strconv.ParseUint(s, 10, 32)
	return uint32(v), err == nil
}

// isTemporary tells whether a file in a database's folder belongs to a temporary relation: "t3_16384",
// "t3_16384_fsm.1" (reinit.c, looks_like_temp_rel_name).
func isTemporary(name string) bool {
	rest, ok := strings.CutPrefix(name, "t")
	if !ok {
		return false
	}
	backend, file, ok := strings.Cut(rest, "_")
	if !ok || backend == "" || strings.Trim(backend, "0123456789") != "" {
		return false
	}
	_, _, _, ok = parseFileName(file)
	return ok
}
