package wal

import (
	"fmt"
	"strconv"
	"strings"
)

// Label is what backup_label tells a server that starts on a base backup: where to begin replay. A server that
// starts on a backup without it takes the wrong checkpoint, and the cluster is silently corrupt.
type Label struct {
	StartLSN      LSN        // where replay begins
	StartFile     string     // the segment that holds it
	CheckpointLSN LSN        // the checkpoint's record
	Method        string     // "streamed"; "pg_start_backup" for exclusive backups of older versions
	From          string     // "primary" or "standby"
	StartTime     string     // as the server printed it, in its log's time zone
	Label         string     // the text given at the backup's start
	Timeline      TimelineID // of StartLSN
	// IncrementalFrom is not zero in the label of an incremental backup (version 17 on), which does not
	// restore alone.
	IncrementalFrom LSN
}

// maxLabel bounds backup_label and tablespace_map: PostgreSQL limits the label to 1 KiB, and a line of the map
// holds a path.
const maxLabel = 1 << 20

// ParseLabel reads a backup_label, or a backup history file, which has more lines. Lines that it does not know
// are ignored, as PostgreSQL does; one that appears twice is an error.
func ParseLabel(content []byte) (Label, error) {
	if len(content) > maxLabel {
		return Label{}, fmt.Errorf("backup_label has %d bytes; at most %d make sense", len(content), maxLabel)
	}
	var l Label
	seen := map[string]bool{}
	for line := range strings.Lines(string(content)) {
		key, value, ok := strings.Cut(strings.TrimSuffix(line, "\n"), ": ")
		if !ok {
			continue
		}
		if seen[key] {
			return Label{}, fmt.Errorf("backup_label has %q twice", key)
		}
		seen[key] = true
		if err := l.set(key, value); err != nil {
			return Label{}, fmt.Errorf("backup_label, %q: %w", key, err)
		}
	}
	for _, key := range []string{"START WAL LOCATION", "CHECKPOINT LOCATION", "START TIMELINE"} {
		if !seen[key] {
			return Label{}, fmt.Errorf("backup_label has no line %q", key)
		}
	}
	return l, nil
}

func (l *Label) set(key, value string) (err error) {
	switch key {
	case "START WAL LOCATION":
		pos, file, ok := strings.Cut(value, " (file ")
		if !ok || !strings.HasSuffix(file, ")") {
			return fmt.Errorf("%q names no file", value)
		}
		l.StartFile = strings.TrimSuffix(file, ")")
		l.StartLSN, err = ParseLSN(pos)
	case "CHECKPOINT LOCATION":
		l.CheckpointLSN, err = ParseLSN(value)
	case "BACKUP METHOD":
		l.Method = value
	case "BACKUP FROM":
		l.From = value
	case "START TIME":
		l.StartTime = value
	case "LABEL":
		l.Label = value
	case "START TIMELINE":
		var tl uint64
		tl, err = strconv.ParseUint(value, 10, 32)
		if err == nil && tl == 0 {
			err = fmt.Errorf("timeline 0 does not exist")
		}
		l.Timeline = TimelineID(tl)
	case "INCREMENTAL FROM LSN":
		l.IncrementalFrom, err = ParseLSN(value)
	}
	return err
}

// Format returns the file as PostgreSQL 13 to 18 write it (xlogbackup.c, build_backup_content).
func (l Label) Format() []byte {
	var b strings.Builder
	fmt.Fprintf(&b, "START WAL LOCATION: %s (file %s)\n", l.StartLSN, l.StartFile)
	fmt.Fprintf(&b, "CHECKPOINT LOCATION: %s\n", l.CheckpointLSN)
	fmt.Fprintf(&b, "BACKUP METHOD: %s\nBACKUP FROM: %s\nSTART TIME: %s\nLABEL: %s\n", l.Method, l.From, l.StartTime, l.Label)
	fmt.Fprintf(&b, "START TIMELINE: %d\n", l.Timeline)
	if l.IncrementalFrom != 0 {
		fmt.Fprintf(&b, "INCREMENTAL FROM LSN: %s\n", l.IncrementalFrom)
	}
	return []byte(b.String())
}

// Tablespace is a line of tablespace_map: a tablespace outside of the data directory and where it was.
type Tablespace struct {
	OID      uint32
	Location string
}

// ParseTablespaceMap reads a tablespace_map. A backslash hides the meaning of the character after it, so that a
// location may hold a new line. An OID that appears twice or a location that is not absolute is an error.
func ParseTablespaceMap(content []byte) ([]Tablespace, error) {
	if len(content) > maxLabel {
		return nil, fmt.Errorf("tablespace_map has %d bytes; at most %d make sense", len(content), maxLabel)
	}
	var out []Tablespace
	seen := map[uint32]bool{}
	var line []byte
	for i := 0; i < len(content); i++ {
		c := content[i]
		if c == '\\' && i+1 < len(content) {
			i++
			line = append(line, content[i])
			continue
		}
		if c != '\n' && c != '\r' {
			line = append(line, c)
			continue
		}
		if len(line) == 0 {
			continue
		}
		t, err := parseMapLine(string(line))
		if err == nil && seen[t.OID] {
			err = fmt.Errorf("tablespace %d appears twice", t.OID)
		}
		if err != nil {
			return nil, fmt.Errorf("tablespace_map: %w", err)
		}
		seen[t.OID] = true
		out = append(out, t)
		line = line[:0]
	}
	if len(line) > 0 {
		return nil, fmt.Errorf("tablespace_map ends within a line")
	}
	return out, nil
}

func parseMapLine(line string) (Tablespace, error) {
	id, location, ok := strings.Cut(line, " ")
	oid, err := strconv.ParseUint(id, 10, 32)
	if !ok || err != nil || oid == 0 {
		return Tablespace{}, fmt.Errorf("%q does not begin with an OID", line)
	}
	if !strings.HasPrefix(location, "/") || strings.ContainsRune(location, 0) {
		return Tablespace{}, fmt.Errorf("tablespace %d has the location %q, which is no absolute path", oid, location)
	}
	return Tablespace{OID: uint32(oid), Location: location}, nil
}

// FormatTablespaceMap returns the file that ParseTablespaceMap and PostgreSQL read. Of no tablespace it is
// empty, and then no file is written.
func FormatTablespaceMap(ts []Tablespace) []byte {
	var b strings.Builder
	for _, t := range ts {
		fmt.Fprintf(&b, "%d ", t.OID)
		for i := 0; i < len(t.Location); i++ {
			if c := t.Location[i]; c == '\n' || c == '\r' || c == '\\' {
				b.WriteByte('\\')
			}
			b.WriteByte(t.Location[i])
		}
		b.WriteByte('\n')
	}
	return []byte(b.String())
}
