package walsender

import (
	"encoding/binary"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/holdfast-dr/holdfast/internal/pg/wal"
)

// maxPiece is how much log one message holds, as PostgreSQL sends it (walsender.c, MAX_SEND_SIZE).
const maxPiece = 128 << 10

// epoch is where PostgreSQL's clock begins.
var epoch = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)

// appendPiece writes XLogData.
func appendPiece(b []byte, at, end wal.LSN, now time.Time, data []byte) []byte {
	be := binary.BigEndian
	b = be.AppendUint64(append(b, 'w'), uint64(at))
	b = be.AppendUint64(b, uint64(end))
	b = be.AppendUint64(b, uint64(now.Sub(epoch).Microseconds()))
	return append(b, data...)
}

// appendKeepalive writes a keep-alive that asks for no reply.
func appendKeepalive(b []byte, end wal.LSN, now time.Time) []byte {
	be := binary.BigEndian
	b = be.AppendUint64(append(b, 'k'), uint64(end))
	b = be.AppendUint64(b, uint64(now.Sub(epoch).Microseconds()))
	return append(b, 0)
}

// parseReply reads what a standby sends while it receives. status is false for what says nothing of its progress.
func parseReply(b []byte) (p Progress, asksReply, status bool, err error) {
	const length = 1 + 8 + 8 + 8 + 8 + 1
	switch {
	case len(b) == length && b[0] == 'r':
		be := binary.BigEndian
		p = Progress{wal.LSN(be.Uint64(b[1:])), wal.LSN(be.Uint64(b[9:])), wal.LSN(be.Uint64(b[17:]))}
		return p, b[length-1] != 0, true, nil
	case len(b) > 0 && b[0] == 'h': // which rows its queries need: the log is what it is
		return p, false, false, nil
	}
	return p, false, false, fmt.Errorf("the standby sent a message of %d bytes that is no status", len(b))
}

// command is a replication command.
type command struct {
	verb     string         // IDENTIFY_SYSTEM, SHOW, TIMELINE_HISTORY, START_REPLICATION
	name     string         // of SHOW
	timeline wal.TimelineID // of the others; 0: the newest
	from     wal.LSN        // of START_REPLICATION
}

var (
	showCommand    = regexp.MustCompile(`(?i)^SHOW\s+([a-z_.]+)$`)
	historyCommand = regexp.MustCompile(`(?i)^TIMELINE_HISTORY\s+([0-9]+)$`)
	startCommand   = regexp.MustCompile(`(?i)^START_REPLICATION(?:\s+SLOT\s+(?:"[^"]*"|[a-z0-9_]+))?(?:\s+PHYSICAL)?\s+([0-9a-f]+/[0-9a-f]+)(?:\s+TIMELINE\s+([0-9]+))?$`)
)

// parseCommand reads a command. A slot is not needed and not made: nothing of the log goes away by itself.
func parseCommand(text string) (c command, err error) {
	text = strings.TrimRight(strings.TrimSpace(text), "; ")
	if strings.EqualFold(text, "IDENTIFY_SYSTEM") {
		return command{verb: "IDENTIFY_SYSTEM"}, nil
	}
	if m := showCommand.FindStringSubmatch(text); m != nil {
		return command{verb: "SHOW", name: strings.ToLower(m[1])}, nil
	}
	if m := historyCommand.FindStringSubmatch(text); m != nil {
		c.verb = "TIMELINE_HISTORY"
		c.timeline, err = parseTimeline(m[1])
		return c, err
	}
	if m := startCommand.FindStringSubmatch(text); m != nil {
		c.verb = "START_REPLICATION"
		if m[2] != "" {
			if c.timeline, err = parseTimeline(m[2]); err != nil {
				return c, err
			}
		}
		c.from, err = wal.ParseLSN(m[1])
		return c, err
	}
	word, _, _ := strings.Cut(text, " ")
	return c, fmt.Errorf("the command %q is not answered here: this serves a log, and nothing else", word)
}

func parseTimeline(s string) (wal.TimelineID, error) {
	v, err := strconv.ParseUint(s, 10, 32)
	if err != nil || v == 0 {
		return 0, fmt.Errorf("%q is no timeline", s)
	}
	return wal.TimelineID(v), nil
}
