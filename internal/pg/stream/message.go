package stream

import (
	"encoding/binary"
	"fmt"
	"time"

	"github.com/holdfast-dr/holdfast/internal/pg/wal"
)

// What a CopyData message of the server holds. Exactly one of the kinds is set.
type message struct {
	kind       byte // 'w' a piece of the log, 'k' a keep-alive
	start      wal.LSN
	end        wal.LSN // of the log on the server
	sent       time.Time
	replyAsked bool
	data       []byte // of a 'w', a part of the message
}

const (
	walHeader       = 1 + 8 + 8 + 8
	keepaliveLength = 1 + 8 + 8 + 1
)

// parseMessage reads XLogData and primary keep-alive messages. data is a part of b.
func parseMessage(b []byte) (message, error) {
	if len(b) == 0 {
		return message{}, fmt.Errorf("the server sent an empty message")
	}
	be := binary.BigEndian
	m := message{kind: b[0]}
	switch {
	case b[0] == 'w' && len(b) >= walHeader:
		m.start, m.end = wal.LSN(be.Uint64(b[1:])), wal.LSN(be.Uint64(b[9:]))
		m.sent = fromPostgres(be.Uint64(b[17:]))
		m.data = b[walHeader:len(b):len(b)]
		if wal.MaxLSN-m.start < wal.LSN(len(m.data)) {
			return message{}, fmt.Errorf("the server sent %d bytes of log at %s", len(m.data), m.start)
		}
	case b[0] == 'k' && len(b) == keepaliveLength:
		m.end = wal.LSN(be.Uint64(b[1:]))
		m.sent = fromPostgres(be.Uint64(b[9:]))
		m.replyAsked = b[17] != 0
	default:
		return message{}, fmt.Errorf("the server sent a message of kind %q with %d bytes", b[0], len(b))
	}
	return m, nil
}

// status writes a standby status update. What is durable counts as written and applied too: nothing less is
// acknowledged, and a primary that waits for "remote_apply" waits for durability.
func status(durable wal.LSN, now time.Time, askReply bool) []byte {
	be := binary.BigEndian
	b := make([]byte, 0, 34)
	b = append(b, 'r')
	for range 3 { // written, flushed, applied
		b = be.AppendUint64(b, uint64(durable))
	}
	b = be.AppendUint64(b, toPostgres(now))
	if askReply {
		return append(b, 1)
	}
	return append(b, 0)
}

// epoch is where PostgreSQL's clock begins.
var epoch = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)

func fromPostgres(us uint64) time.Time { return epoch.Add(time.Duration(int64(us)) * time.Microsecond) }
func toPostgres(t time.Time) uint64    { return uint64(t.Sub(epoch).Microseconds()) }
