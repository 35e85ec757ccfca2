package cluster

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
)

// messages is the part of pgproto3.Frontend that copyIn needs.
type messages interface {
	Send(pgproto3.FrontendMessage)
	Flush() error
	Receive() (pgproto3.BackendMessage, error)
}

// copyIn reads the conversation of a replication command: result sets, and COPY streams between them. A message
// is valid until the next one is received.
type copyIn struct {
	src     messages
	piece   []byte // the rest of the CopyData message that is being read
	archive string // the archive whose name has been read ahead
	pending bool   // archive is valid
	copying bool   // within a COPY
}

func newCopyIn(src messages) *copyIn { return &copyIn{src: src} }

func (c *copyIn) query(sql string) error {
	c.src.Send(&pgproto3.Query{String: sql})
	return c.src.Flush()
}

// receive returns the next message that means something here.
func (c *copyIn) receive() (pgproto3.BackendMessage, error) {
	for {
		m, err := c.src.Receive()
		if err != nil {
			return nil, err
		}
		switch m := m.(type) {
		case *pgproto3.ErrorResponse:
			return nil, &ServerError{pgconn.ErrorResponseToPgError(m)}
		case *pgproto3.NoticeResponse, *pgproto3.ParameterStatus, *pgproto3.NotificationResponse:
			continue
		}
		return m, nil
	}
}

// maxRows bounds a result set: one has a row per tablespace.
const maxRows = 1 << 16

// rows reads one result set and returns copies of its rows.
func (c *copyIn) rows() (rows [][][]byte, err error) {
	for {
		m, err := c.receive()
		if err != nil {
			return nil, err
		}
		switch m := m.(type) {
		case *pgproto3.RowDescription:
		case *pgproto3.DataRow:
			if len(rows) == maxRows {
				return nil, fmt.Errorf("the server sent more than %d rows", maxRows)
			}
			row := make([][]byte, len(m.Values))
			for i, v := range m.Values {
				row[i] = bytes.Clone(v)
			}
			rows = append(rows, row)
		case *pgproto3.CommandComplete:
			return rows, nil
		default:
			return nil, unexpected(m, "a result")
		}
	}
}

func unexpected(m pgproto3.BackendMessage, wanted string) error {
	return fmt.Errorf("the server sent %T where %s was due", m, wanted)
}

func (c *copyIn) beginCopy() error {
	m, err := c.receive()
	if err != nil {
		return err
	}
	if _, ok := m.(*pgproto3.CopyOutResponse); !ok {
		return unexpected(m, "an archive")
	}
	c.copying, c.piece = true, nil
	return nil
}

// next receives the next CopyData into c.piece; io.EOF at the end of the COPY.
func (c *copyIn) next() error {
	if !c.copying {
		return io.EOF
	}
	m, err := c.receive()
	if err != nil {
		return err
	}
	switch m := m.(type) {
	case *pgproto3.CopyData:
		c.piece = m.Data
		return nil
	case *pgproto3.CopyDone:
		c.copying = false
		return io.EOF
	}
	return unexpected(m, "an archive's data")
}

// skip reads to the end of the COPY.
func (c *copyIn) skip() error {
	for {
		if err := c.next(); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
	}
}

// data reads a COPY whose messages are nothing but data.
func (c *copyIn) data() io.Reader {
	return readFunc(func(p []byte) (int, error) { return c.read(p, c.next) })
}

// archiveData reads the data of the archive that nextArchive announced, up to the next one.
func (c *copyIn) archiveData() io.Reader {
	return readFunc(func(p []byte) (int, error) { return c.read(p, c.nextPiece) })
}

type readFunc func([]byte) (int, error)

func (f readFunc) Read(p []byte) (int, error) { return f(p) }

func (c *copyIn) read(p []byte, more func() error) (int, error) {
	for len(c.piece) == 0 {
		if err := more(); err != nil {
			return 0, err
		}
	}
	n := copy(p, c.piece)
	c.piece = c.piece[n:]
	return n, nil
}

// nextPiece takes the next message of the format of version 15 (protocol.sgml, BASE_BACKUP): 'd' data, 'p'
// progress, 'n' a new archive with its name and location, 'm' the manifest. io.EOF where the archive ends.
func (c *copyIn) nextPiece() error {
	if c.pending {
		return io.EOF
	}
	if err := c.next(); err != nil {
		return err
	}
	if len(c.piece) == 0 {
		return errors.New("the server sent an empty message")
	}
	kind, body := c.piece[0], c.piece[1:]
	c.piece = nil
	switch kind {
	case 'd':
		c.piece = body
		return nil
	case 'p':
		return nil
	case 'n':
		name, _, ok := bytes.Cut(body, []byte{0})
		if !ok || len(name) > 64 {
			return errors.New("the server announced an archive without a name")
		}
		c.archive, c.pending = string(name), true
		return io.EOF
	}
	return fmt.Errorf("the server sent a message of kind %q, which was not asked for", kind)
}

// nextArchive returns the name of the next archive; ok is false at the end of the COPY.
func (c *copyIn) nextArchive() (name string, ok bool, err error) {
	for !c.pending {
		if len(c.piece) > 0 {
			return "", false, errors.New("the server sent data outside of an archive")
		}
		switch err := c.nextPiece(); {
		case errors.Is(err, io.EOF) && !c.copying:
			return "", false, nil
		case err != nil && !errors.Is(err, io.EOF):
			return "", false, err
		}
	}
	c.pending = false
	return c.archive, true, nil
}

// finish reads to the end of the command.
func (c *copyIn) finish() error {
	for {
		m, err := c.receive()
		if err != nil {
			return err
		}
		switch m.(type) {
		case *pgproto3.CommandComplete:
		case *pgproto3.ReadyForQuery:
			return nil
		default:
			return unexpected(m, "the end of the backup")
		}
	}
}
