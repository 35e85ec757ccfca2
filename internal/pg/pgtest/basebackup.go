package pgtest

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
)

// BaseBackup takes a base backup of a server of version 17 or later into dir, in plain format with its log, as
// pg_basebackup does, which the cached binaries lack. With a prior backup's directory it is an incremental one, for
// which the server needs summarize_wal. Tablespaces are folders in pg_tblspc.
func (s *Server) BaseBackup(dir, prior string) {
	s.t.Helper()
	ctx := context.Background()
	cfg, err := pgconn.ParseConfig(s.ConnString(""))
	if err != nil {
		s.t.Fatal(err)
	}
	cfg.RuntimeParams["replication"] = "true"
	conn, err := pgconn.ConnectConfig(ctx, cfg)
	if err != nil {
		s.t.Fatal(err)
	}
	defer conn.Close(ctx) //nolint:errcheck // the backup is there or the test has failed
	b := baseBackup{front: conn.Frontend(), dir: dir, archives: map[string]*os.File{}}
	options := "LABEL 'test', CHECKPOINT 'fast', WAL true, WAIT false, MANIFEST 'yes'"
	if prior != "" {
		if err := b.upload(filepath.Join(prior, "backup_manifest")); err != nil {
			s.t.Fatalf("upload the manifest: %v", err)
		}
		options += ", INCREMENTAL"
	}
	if err := b.take(options); err != nil {
		s.t.Fatalf("take a base backup: %v", err)
	}
}

type baseBackup struct {
	front    *pgproto3.Frontend
	dir      string
	archives map[string]*os.File // by name, as they come; tar files, unpacked at the end
	current  *os.File
}

// receive returns the next message that is no notice.
func (b *baseBackup) receive() (pgproto3.BackendMessage, error) {
	for {
		m, err := b.front.Receive()
		if err != nil {
			return nil, err
		}
		switch m := m.(type) {
		case *pgproto3.ErrorResponse:
			return nil, pgconn.ErrorResponseToPgError(m)
		case *pgproto3.NoticeResponse, *pgproto3.ParameterStatus:
			continue
		}
		return m, nil
	}
}

// ready reads to the end of a command, and hands over the data of its COPY.
func (b *baseBackup) ready(data func([]byte) error) error {
	for {
		m, err := b.receive()
		if err != nil {
			return err
		}
		switch m := m.(type) {
		case *pgproto3.ReadyForQuery:
			return nil
		case *pgproto3.CopyData:
			if err := data(m.Data); err != nil {
				return err
			}
		}
	}
}

func (b *baseBackup) query(q string) error {
	b.front.Send(&pgproto3.Query{String: q})
	return b.front.Flush()
}

func (b *baseBackup) upload(manifest string) error {
	text, err := os.ReadFile(manifest)
	if err != nil {
		return err
	}
	if err := b.query("UPLOAD_MANIFEST"); err != nil {
		return err
	}
	if m, err := b.receive(); err != nil {
		return err
	} else if _, ok := m.(*pgproto3.CopyInResponse); !ok {
		return fmt.Errorf("the server answers with %T", m)
	}
	b.front.Send(&pgproto3.CopyData{Data: text})
	b.front.Send(&pgproto3.CopyDone{})
	if err := b.front.Flush(); err != nil {
		return err
	}
	return b.ready(func([]byte) error { return nil })
}

// take runs BASE_BACKUP (protocol.sgml): within one COPY, 'n' begins an archive, 'm' the manifest, 'd' is data.
func (b *baseBackup) take(options string) error {
	if err := os.MkdirAll(b.dir, 0o700); err != nil {
		return err
	}
	if err := b.query("BASE_BACKUP (" + options + ")"); err != nil {
		return err
	}
	err := b.ready(func(data []byte) error {
		switch data[0] {
		case 'n':
			name, _, _ := bytes.Cut(data[1:], []byte{0})
			return b.begin(string(name))
		case 'm':
			return b.begin("backup_manifest")
		case 'd':
			_, err := b.current.Write(data[1:])
			return err
		}
		return nil
	})
	if err != nil {
		return err
	}
	for name, f := range b.archives {
		if name == "backup_manifest" {
			if err := f.Close(); err != nil {
				return err
			}
			continue
		}
		target := b.dir
		if oid := strings.TrimSuffix(name, ".tar"); oid != "base" {
			target = filepath.Join(b.dir, "pg_tblspc", oid)
		}
		if err := unpack(f, target); err != nil {
			return err
		}
	}
	return nil
}

func (b *baseBackup) begin(name string) (err error) {
	path := filepath.Join(b.dir, name)
	b.current, err = os.Create(path)
	b.archives[name] = b.current
	return err
}

// unpack unpacks a tar file and removes it.
func unpack(f *os.File, dir string) error {
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	r := tar.NewReader(f)
	for {
		h, err := r.Next()
		if err == io.EOF { //nolint:errorlint // what tar returns
			break
		}
		if err != nil {
			return err
		}
		path := filepath.Join(dir, filepath.FromSlash(h.Name))
		switch h.Typeflag {
		case tar.TypeDir:
			err = os.MkdirAll(path, 0o700)
		case tar.TypeReg:
			if err = os.MkdirAll(filepath.Dir(path), 0o700); err == nil {
				err = unpackFile(path, r)
			}
		}
		if err != nil {
			return err
		}
	}
	if err := f.Close(); err != nil {
		return err
	}
	return os.Remove(f.Name())
}

func unpackFile(path string, r io.Reader) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, r)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	return err
}
