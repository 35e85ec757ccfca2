package walsender

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/holdfast-dr/holdfast/internal/pg/wal"
)

const (
	startupLimit = time.Minute // for a client to say who it is
	maxBody      = 1 << 20     // of a client's message

	textType = 25 // pg_type.oid
	int4Type = 23
	int8Type = 20
)

// session is one connection.
type session struct {
	server  *Server
	conn    net.Conn
	backend *pgproto3.Backend
}

func newSession(s *Server, conn net.Conn) *session {
	b := pgproto3.NewBackend(conn, conn)
	b.SetMaxBodyLen(maxBody)
	return &session{server: s, conn: conn, backend: b}
}

// run answers commands until the client ends the connection.
func (s *session) run(ctx context.Context) error {
	sys, err := s.server.Log.System(ctx)
	if err != nil {
		return err
	}
	if ok, err := s.greet(sys); !ok || err != nil {
		return err
	}
	for {
		m, err := s.backend.Receive()
		if err != nil {
			return err
		}
		switch m := m.(type) {
		case *pgproto3.Query:
			if err := s.answer(ctx, m.String); err != nil {
				return err
			}
		case *pgproto3.Terminate:
			return nil
		case *pgproto3.CopyData, *pgproto3.CopyDone: // on its way when the copy was ended
		default:
			return fmt.Errorf("the client sent %T where a command was due", m)
		}
	}
}

// greet goes through the start of a connection; ok is false where the client wanted something else.
func (s *session) greet(sys System) (ok bool, err error) {
	if err := s.conn.SetReadDeadline(time.Now().Add(startupLimit)); err != nil {
		return false, err
	}
	for {
		m, err := s.backend.ReceiveStartupMessage()
		if err != nil {
			return false, err
		}
		switch m := m.(type) {
		case *pgproto3.SSLRequest, *pgproto3.GSSEncRequest:
			if _, err := s.conn.Write([]byte{'N'}); err != nil {
				return false, err
			}
		case *pgproto3.StartupMessage:
			if err := s.conn.SetReadDeadline(time.Time{}); err != nil {
				return false, err
			}
			if m.Parameters["replication"] == "" {
				return false, s.refuse("FATAL", errors.New("this serves a log over the replication protocol, and no database"))
			}
			s.backend.Send(&pgproto3.AuthenticationOk{})
			for name, value := range map[string]string{
				"server_version": fmt.Sprintf("%d.0", sys.Major), "server_encoding": "UTF8", "client_encoding": "UTF8",
				"integer_datetimes": "on", "standard_conforming_strings": "on", "DateStyle": "ISO, MDY", "TimeZone": "UTC",
			} {
				s.backend.Send(&pgproto3.ParameterStatus{Name: name, Value: value})
			}
			s.backend.Send(&pgproto3.BackendKeyData{ProcessID: 1, SecretKey: make([]byte, 4)})
			s.backend.Send(&pgproto3.ReadyForQuery{TxStatus: 'I'})
			return true, s.backend.Flush()
		default:
			return false, nil // a request to cancel: there is nothing to be cancelled
		}
	}
}

// refuse tells the client of an error.
func (s *session) refuse(severity string, why error) error {
	s.backend.Send(&pgproto3.ErrorResponse{Severity: severity, SeverityUnlocalized: severity, Code: "55000", Message: "holdfast: " + why.Error()})
	return s.backend.Flush()
}

// answer answers one command. What the client did wrong, or cannot have, it is told; an error ends the connection.
func (s *session) answer(ctx context.Context, text string) error {
	c, err := parseCommand(text)
	if err == nil {
		switch c.verb {
		case "IDENTIFY_SYSTEM":
			err = s.identify(ctx)
		case "SHOW":
			err = s.show(ctx, c.name)
		case "TIMELINE_HISTORY":
			err = s.history(ctx, c.timeline)
		case "START_REPLICATION":
			err = s.replicate(ctx, c)
		}
	}
	if broken := new(brokenError); errors.As(err, &broken) {
		return broken.err
	}
	if err != nil {
		if err := s.refuse("ERROR", err); err != nil {
			return err
		}
	}
	s.backend.Send(&pgproto3.ReadyForQuery{TxStatus: 'I'})
	return s.backend.Flush()
}

// brokenError says that the connection cannot be used any more.
type brokenError struct{ err error }

func (e *brokenError) Error() string { return e.err.Error() }

func (s *session) identify(ctx context.Context) error {
	sys, err := s.server.Log.System(ctx)
	if err != nil {
		return err
	}
	tlType := uint32(int4Type)
	if sys.Major >= 16 {
		tlType = int8Type
	}
	s.row("IDENTIFY_SYSTEM", []column{
		{"systemid", textType, fmt.Appendf(nil, "%d", sys.ID)},
		{"timeline", tlType, fmt.Appendf(nil, "%d", sys.Timeline)},
		{"xlogpos", textType, []byte(sys.Flushed.String())},
		{"dbname", textType, nil},
	})
	return nil
}

// show answers for the settings that clients of the protocol ask for.
func (s *session) show(ctx context.Context, name string) error {
	sys, err := s.server.Log.System(ctx)
	if err != nil {
		return err
	}
	value, ok := map[string]string{
		"wal_segment_size":    fmt.Sprintf("%dMB", sys.SegmentSize>>20),
		"wal_sender_timeout":  "0",
		"data_directory_mode": "0700",
	}[name]
	if !ok {
		return fmt.Errorf("there is no setting %q here", name)
	}
	s.row("SHOW", []column{{name, textType, []byte(value)}})
	return nil
}

func (s *session) history(ctx context.Context, tl wal.TimelineID) error {
	b, err := s.server.Log.History(ctx, tl)
	if err != nil {
		return err
	}
	s.row("TIMELINE_HISTORY", []column{{"filename", textType, []byte(wal.HistoryName(tl))}, {"content", textType, b}})
	return nil
}

// column is one value of a result with its name.
type column struct {
	name  string
	oid   uint32
	value []byte
}

// row sends a result of one row.
func (s *session) row(tag string, columns []column) {
	d, r := &pgproto3.RowDescription{}, &pgproto3.DataRow{}
	for _, c := range columns {
		d.Fields = append(d.Fields, pgproto3.FieldDescription{Name: []byte(c.name), DataTypeOID: c.oid, DataTypeSize: -1, TypeModifier: -1})
		r.Values = append(r.Values, c.value)
	}
	s.backend.Send(d)
	s.backend.Send(r)
	s.backend.Send(&pgproto3.CommandComplete{CommandTag: []byte(tag)})
}
