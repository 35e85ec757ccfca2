package cluster

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/pg/wal"
)

// RemoteOptions are those of a remote backup. Label is the only one that is needed.
type RemoteOptions struct {
	Label    string
	Mode     CheckpointMode
	Progress bool // let the server estimate sizes first; it walks all its files for that
	// Started, where not nil, is told before the first file when the checkpoint is done: from here on the log
	// from start is needed.
	Started func(start wal.LSN, timeline wal.TimelineID, tablespaces []Tablespace) error
}

// RemoteBackup receives a base backup over a connection of ConnectReplication, which it owns until it returns:
// after an error or a cancellation the connection is closed, and the server ends the backup. fn is called for
// each entry in the server's order, which is not sorted, pg_control last; r gives the Size bytes of a File and
// is valid during the call. What fn does not read is skipped. An error of fn ends the backup and is returned as
// it is. backup_label and tablespace_map are in the Result, not among the entries.
//
// The log is not part of it. The server pads files that shrank meanwhile with zeros. A promotion meanwhile is an
// error. Everything that arrives is treated as hostile: an entry's path stays beneath the data directory.
func RemoteBackup(ctx context.Context, conn *pgconn.PgConn, o RemoteOptions, fn func(e Entry, r io.Reader) error) (Result, error) {
	stopWatch := context.AfterFunc(ctx, func() { _ = conn.Conn().Close() })
	defer stopWatch()
	rb := &remoteBackup{o: o, fn: fn, conn: conn}
	r, err := rb.run()
	if err != nil {
		_ = conn.Conn().Close() // what is left of the stream is nobody's
		if ctx.Err() != nil {
			return Result{}, context.Cause(ctx)
		}
		return Result{}, err
	}
	return r, nil
}

type remoteBackup struct {
	o      RemoteOptions
	fn     func(Entry, io.Reader) error
	conn   *pgconn.PgConn
	major  int
	result Result
	label  bool // backup_label has come
}

func (rb *remoteBackup) run() (Result, error) {
	rb.major = majorOf(rb.conn.ParameterStatus("server_version"))
	if rb.major < OldestVersion || rb.major > NewestVersion {
		return Result{}, fmt.Errorf("the server says version %q; PostgreSQL %d to %d are supported",
			rb.conn.ParameterStatus("server_version"), OldestVersion, NewestVersion)
	}
	in := newCopyIn(rb.conn.Frontend())
	if err := in.query(baseBackupCommand(rb.major, rb.o)); err != nil {
		return Result{}, err
	}
	if err := rb.begin(in); err != nil {
		return Result{}, err
	}
	receive := rb.archivesInOneCopy
	if rb.major < 15 {
		receive = rb.archivePerCopy
	}
	if err := receive(in); err != nil {
		return Result{}, err
	}
	return rb.end(in)
}

// majorOf reads "15.18 (Debian 15.18-0+deb12u1)" and "18beta1".
func majorOf(version string) int {
	digits := strings.IndexFunc(version, func(r rune) bool { return r < '0' || r > '9' })
	if digits < 0 {
		digits = len(version)
	}
	n, err := strconv.Atoi(version[:digits])
	if err != nil {
		return 0
	}
	return n
}

// baseBackupCommand writes the command in the grammar of the version (protocol.sgml, BASE_BACKUP).
func baseBackupCommand(major int, o RemoteOptions) string {
	label := "'" + strings.ReplaceAll(o.Label, "'", "''") + "'"
	if major < 15 {
		cmd := "BASE_BACKUP LABEL " + label
		if o.Progress {
			cmd += " PROGRESS"
		}
		if o.Mode == FastCheckpoint {
			cmd += " FAST"
		}
		// Pages are checked by the reader, who can name what is broken.
		return cmd + " NOWAIT TABLESPACE_MAP NOVERIFY_CHECKSUMS"
	}
	mode := "spread"
	if o.Mode == FastCheckpoint {
		mode = "fast"
	}
	return fmt.Sprintf("BASE_BACKUP (LABEL %s, PROGRESS %t, CHECKPOINT '%s', WAL false, WAIT false, TABLESPACE_MAP true, MANIFEST 'no', VERIFY_CHECKSUMS false)",
		label, o.Progress, mode)
}

// begin reads where the backup starts, and the tablespaces.
func (rb *remoteBackup) begin(in *copyIn) error {
	pos, err := in.rows()
	if err != nil {
		return fmt.Errorf("begin the backup: %w", err)
	}
	if rb.result.Start, rb.result.Timeline, err = parsePosition(pos); err != nil {
		return err
	}
	rows, err := in.rows()
	if err != nil {
		return fmt.Errorf("begin the backup: %w", err)
	}
	for _, r := range rows {
		t, err := parseTablespaceRow(r)
		if err != nil {
			return err
		}
		rb.result.Tablespaces = append(rb.result.Tablespaces, t)
	}
	if rb.o.Started != nil {
		return rb.o.Started(rb.result.Start, rb.result.Timeline, rb.result.Tablespaces)
	}
	return nil
}

// parsePosition reads the one row of a position: LSN and timeline.
func parsePosition(rows [][][]byte) (wal.LSN, wal.TimelineID, error) {
	if len(rows) != 1 || len(rows[0]) < 2 {
		return 0, 0, errors.New("the server sent no position")
	}
	lsn, err := wal.ParseLSN(string(rows[0][0]))
	if err != nil {
		return 0, 0, err
	}
	tl, err := strconv.ParseUint(string(rows[0][1]), 10, 32)
	if err != nil || tl == 0 {
		return 0, 0, fmt.Errorf("the server sent timeline %q", rows[0][1])
	}
	return lsn, wal.TimelineID(tl), nil
}

// parseTablespaceRow reads OID, location and size in KiB; the row of the data directory has no OID.
func parseTablespaceRow(row [][]byte) (Tablespace, error) {
	if len(row) != 3 {
		return Tablespace{}, fmt.Errorf("the server describes a tablespace in %d columns", len(row))
	}
	var t Tablespace
	if row[0] != nil {
		oid, ok := parseOID(string(row[0]))
		if !ok {
			return t, fmt.Errorf("the server names a tablespace %q", row[0])
		}
		t.OID, t.Location = oid, string(row[1])
	}
	if row[2] != nil {
		kib, err := strconv.ParseInt(string(row[2]), 10, 64)
		if err != nil || kib < 0 || kib > 1<<52 {
			return t, fmt.Errorf("the server says that a tablespace has %q KiB", row[2])
		}
		t.Size = kib << 10
	}
	return t, nil
}

// archivePerCopy receives what versions 13 and 14 send: a tar stream per tablespace, each in its own COPY, in
// the order of the list, without the blocks that end a tar file.
func (rb *remoteBackup) archivePerCopy(in *copyIn) error {
	for _, t := range rb.result.Tablespaces {
		if err := in.beginCopy(); err != nil {
			return err
		}
		if err := rb.archive(t.OID, in.data()); err != nil {
			return err
		}
		if err := in.skip(); err != nil {
			return err
		}
	}
	return nil
}

// archivesInOneCopy receives what versions 15 and later send: one COPY in which each message begins with its
// kind.
func (rb *remoteBackup) archivesInOneCopy(in *copyIn) error {
	if err := in.beginCopy(); err != nil {
		return err
	}
	seen := 0
	for {
		name, ok, err := in.nextArchive()
		if err != nil || !ok {
			return err
		}
		oid := uint32(0)
		if name != "base.tar" {
			if oid, ok = parseOID(strings.TrimSuffix(name, ".tar")); !ok {
				return fmt.Errorf("the server sent an archive %q", name)
			}
		}
		if seen++; seen > len(rb.result.Tablespaces) {
			return fmt.Errorf("the server sent more archives than it has tablespaces")
		}
		if err := rb.archive(oid, in.archiveData()); err != nil {
			return err
		}
	}
}

// end reads where the backup ended.
func (rb *remoteBackup) end(in *copyIn) (Result, error) {
	pos, err := in.rows()
	if err != nil {
		return Result{}, fmt.Errorf("end the backup: %w", err)
	}
	stop, timeline, err := parsePosition(pos)
	if err != nil {
		return Result{}, err
	}
	if err := in.finish(); err != nil {
		return Result{}, fmt.Errorf("end the backup: %w", err)
	}
	if !rb.label {
		return Result{}, errors.New("the server sent no backup_label")
	}
	r, began := rb.result, rb.result.Timeline
	r.Stop = stop
	// The last row is the data directory itself.
	r.Tablespaces = nil
	sizes := map[uint32]int64{}
	for _, t := range rb.result.Tablespaces {
		sizes[t.OID] = t.Size
	}
	if err := r.parse(); err != nil {
		return Result{}, err
	}
	for i := range r.Tablespaces {
		r.Tablespaces[i].Size = sizes[r.Tablespaces[i].OID]
	}
	r.FromStandby = r.Label.From == "standby"
	if timeline != began || r.Timeline != began {
		return Result{}, &dr.Failure{
			What:   "this backup cannot be used",
			Reason: fmt.Sprintf("the server was promoted meanwhile: timeline %d became %d", began, timeline),
			Next:   "take another snapshot",
		}
	}
	return r, nil
}

// archive reads one tar stream; oid is zero for the data directory's.
func (rb *remoteBackup) archive(oid uint32, src io.Reader) error {
	prefix := ""
	if oid != 0 {
		prefix = "pg_tblspc/" + strconv.FormatUint(uint64(oid), 10) + "/"
	}
	tr := tar.NewReader(src)
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			_, err = io.Copy(io.Discard, src) // the padding behind the end
			return err
		}
		if err != nil {
			return fmt.Errorf("read the archive that the server sends: %w", err)
		}
		e, err := tarEntry(prefix, h)
		if err != nil {
			return err
		}
		if err := rb.deliver(e, tr); err != nil {
			return err
		}
	}
}

// deliver keeps the two files of the Result, and hands over the rest.
func (rb *remoteBackup) deliver(e Entry, r io.Reader) (err error) {
	switch e.Path {
	case "backup_label":
		rb.label = true
		rb.result.LabelFile, err = readSmall(e, r)
		return err
	case "tablespace_map":
		rb.result.TablespaceMap, err = readSmall(e, r)
		return err
	}
	return rb.fn(e, r)
}

func readSmall(e Entry, r io.Reader) ([]byte, error) {
	if e.Size > 1<<20 {
		return nil, fmt.Errorf("the server sent a %s of %d bytes", e.Path, e.Size)
	}
	return io.ReadAll(r)
}

// tarEntry checks a header: PostgreSQL writes plain files and folders with the ustar format, and nothing else
// is taken (its links of tablespaces come as tablespace_map).
func tarEntry(prefix string, h *tar.Header) (Entry, error) {
	name := strings.TrimSuffix(strings.TrimPrefix(h.Name, "./"), "/")
	bad := func(why string) (Entry, error) {
		return Entry{}, fmt.Errorf("the server's archive has the entry %q: %s", h.Name, why)
	}
	if name == "" || strings.ContainsAny(name, "\x00\\") || len(h.PAXRecords) > 0 {
		return bad("PostgreSQL writes no such name")
	}
	for _, elem := range strings.Split(name, "/") {
		if elem == "" || elem == "." || elem == ".." {
			return bad("it leads out of the data directory")
		}
	}
	e := Entry{Path: prefix + name, ModTime: h.ModTime.UTC(), Mode: h.FileInfo().Mode().Perm()}
	if e.ModTime.Year() > 9999 || e.ModTime.Year() < 1970 {
		e.ModTime = time.Unix(0, 0).UTC()
	}
	switch h.Typeflag {
	case tar.TypeReg:
		e.Type, e.Size = File, h.Size
		e.Relation, e.IsRelation = ParsePath(e.Path)
	case tar.TypeDir:
		e.Type = Dir
	default:
		return bad(fmt.Sprintf("type %q is not expected", h.Typeflag))
	}
	return e, nil
}
