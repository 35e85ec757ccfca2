package cluster

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgproto3"
)

// script plays messages, as a server that may be anybody's sends them.
type script struct{ messages []pgproto3.BackendMessage }

func (s *script) Send(pgproto3.FrontendMessage) {}
func (s *script) Flush() error                  { return nil }
func (s *script) Receive() (pgproto3.BackendMessage, error) {
	if len(s.messages) == 0 {
		return nil, io.ErrUnexpectedEOF
	}
	m := s.messages[0]
	s.messages = s.messages[1:]
	return m, nil
}

func archiveOf(t testing.TB, headers ...tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range headers {
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(make([]byte, h.Size)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestHostileArchives(t *testing.T) {
	read := func(b []byte) error {
		rb := &remoteBackup{fn: func(e Entry, r io.Reader) error { _, err := io.Copy(io.Discard, r); return err }}
		return rb.archive(16385, bytes.NewReader(b))
	}
	if err := read(archiveOf(t, tar.Header{Name: "./PG_15_1/5/1.1", Typeflag: tar.TypeReg, Size: 3, Mode: 0o600})); err != nil {
		t.Errorf("a good archive: %v", err)
	}
	for name, h := range map[string]tar.Header{
		"absolute":     {Name: "/etc/passwd", Typeflag: tar.TypeReg},
		"parent":       {Name: "a/../../b", Typeflag: tar.TypeReg},
		"dot":          {Name: "a/./b", Typeflag: tar.TypeReg},
		"nothing":      {Name: "./", Typeflag: tar.TypeDir},
		"double slash": {Name: "a//b", Typeflag: tar.TypeReg},
		"symlink":      {Name: "a", Linkname: "/etc", Typeflag: tar.TypeSymlink},
		"hard link":    {Name: "a", Linkname: "b", Typeflag: tar.TypeLink},
		"device":       {Name: "a", Typeflag: tar.TypeBlock},
		"pax":          {Name: strings.Repeat("é", 200), Typeflag: tar.TypeReg, PAXRecords: map[string]string{"HOLDFAST.x": "y"}},
	} {
		if err := read(archiveOf(t, h)); err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
	good := archiveOf(t, tar.Header{Name: "a", Typeflag: tar.TypeReg, Size: 600, Mode: 0o600})
	for n := 1; n < 512+600; n += 37 {
		if err := read(good[:n]); err == nil {
			t.Errorf("an archive cut at %d was accepted", n)
		}
	}
	big := archiveOf(t, tar.Header{Name: "backup_label", Typeflag: tar.TypeReg, Size: 2 << 20})
	rb := &remoteBackup{}
	if err := rb.archive(0, bytes.NewReader(big)); err == nil {
		t.Error("a backup_label of 2 MiB was accepted")
	}
}

// FuzzRemote lets a server send anything: a byte for the kind of each message, two for its length, and its bytes.
func FuzzRemote(f *testing.F) {
	good := archiveOf(f, tar.Header{Name: "backup_label", Typeflag: tar.TypeReg, Size: 4}, tar.Header{Name: "base/5/1", Typeflag: tar.TypeReg, Size: 700})
	var b []byte
	message := func(kind byte, body []byte) {
		b = append(append(b, kind, byte(len(body)>>8), byte(len(body))), body...)
	}
	message('H', nil)
	message('d', []byte("nbase.tar\x00\x00"))
	message('d', append([]byte("d"), good[:2000]...))
	message('d', append([]byte("d"), good[2000:]...))
	message('d', []byte("p\x00\x00\x00\x00\x00\x00\x00\x07"))
	message('c', nil)
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, oldFormat := range []bool{false, true} {
			rb := &remoteBackup{fn: func(e Entry, r io.Reader) error {
				if e.Path == "" || e.Path[0] == '/' || strings.Contains("/"+e.Path+"/", "/../") || e.Type != File && e.Type != Dir || e.Size < 0 {
					t.Errorf("entry %+v", e)
				}
				n, err := io.Copy(io.Discard, r)
				if err == nil && n != e.Size && e.Type == File {
					t.Errorf("%d bytes of %+v", n, e)
				}
				return err
			}}
			rb.result.Tablespaces = make([]Tablespace, 2)
			in := newCopyIn(&script{messages: decode(b)})
			if oldFormat {
				_ = rb.archivePerCopy(in)
			} else {
				_ = rb.archivesInOneCopy(in)
			}
			if _, err := rb.end(in); err == nil && !rb.label {
				t.Error("a backup without a label was accepted")
			}
		}
	})
}

func decode(b []byte) (ms []pgproto3.BackendMessage) {
	for len(b) >= 3 {
		kind, n := b[0], int(b[1])<<8|int(b[2])
		body := b[3:min(3+n, len(b))]
		b = b[3+len(body):]
		switch kind {
		case 'H':
			ms = append(ms, &pgproto3.CopyOutResponse{})
		case 'd':
			ms = append(ms, &pgproto3.CopyData{Data: body})
		case 'c':
			ms = append(ms, &pgproto3.CopyDone{})
		case 'D':
			ms = append(ms, &pgproto3.DataRow{Values: bytes.Split(body, []byte{'|'})})
		case 'C':
			ms = append(ms, &pgproto3.CommandComplete{})
		case 'E':
			ms = append(ms, &pgproto3.ErrorResponse{Message: string(body)})
		case 'Z':
			ms = append(ms, &pgproto3.ReadyForQuery{})
		}
	}
	return ms
}

func TestErrorInTheMiddleOfAnArchive(t *testing.T) {
	in := newCopyIn(&script{messages: []pgproto3.BackendMessage{
		&pgproto3.CopyOutResponse{}, &pgproto3.CopyData{Data: []byte("nbase.tar\x00\x00")},
		&pgproto3.CopyData{Data: make([]byte, 0)},
		&pgproto3.ErrorResponse{Severity: "ERROR", Code: "55000", Message: "the standby was promoted during online backup"},
	}})
	rb := &remoteBackup{}
	rb.result.Tablespaces = make([]Tablespace, 1)
	if err := rb.archivesInOneCopy(in); err == nil {
		t.Error("an empty message was accepted")
	}
	in = newCopyIn(&script{messages: []pgproto3.BackendMessage{
		&pgproto3.CopyOutResponse{}, &pgproto3.CopyData{Data: []byte("nbase.tar\x00\x00")},
		&pgproto3.ErrorResponse{Severity: "ERROR", Code: "55000", Message: "the standby was promoted during online backup"},
	}})
	err := rb.archivesInOneCopy(in)
	var se *ServerError
	if !errors.As(err, &se) || !strings.Contains(err.Error(), "promoted") {
		t.Errorf("got %v", err)
	}
}
