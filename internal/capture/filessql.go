package capture

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/holdfast-dr/holdfast/internal/pg/cluster"
	"github.com/holdfast-dr/holdfast/internal/pg/control"
)

const (
	// A connection's answer to one question has so many bytes at most. A worker keeps two in memory: what it works on, and the
	// next, which is on its way meanwhile.
	sqlWindow = 2 << 20
	// maxSQLWorkers bounds the connections: a server has few to give.
	maxSQLWorkers = 8
)

// sqlFiles reads the files of a cluster through the server, by its functions for that. It has a connection for each
// reader, and one of its own.
type sqlFiles struct {
	sqlReader
	info  cluster.Info
	conns []*pgx.Conn // of the readers, all opened before the first is needed
	given []*sqlReader
}

var (
	_ clusterFiles = (*sqlFiles)(nil)
	_ fileReader   = (*sqlReader)(nil)
)

// openSQLFiles connects so many times more than once. Everything leads to the server that host names.
func openSQLFiles(ctx context.Context, host string, info cluster.Info, readers int) (*sqlFiles, error) {
	f := &sqlFiles{info: info}
	for range readers + 1 {
		conn, err := cluster.Connect(ctx, host)
		if err != nil {
			f.close(ctx)
			return nil, err
		}
		f.conns = append(f.conns, conn)
	}
	var system string
	if err := f.conns[0].QueryRow(ctx, "SELECT system_identifier::text FROM pg_control_system()").Scan(&system); err != nil {
		f.close(ctx)
		return nil, err
	}
	if system != fmt.Sprint(info.SystemID) {
		f.close(ctx)
		return nil, fmt.Errorf("%s leads to another cluster now", host)
	}
	f.sqlReader = sqlReader{conn: f.conns[0]}
	return f, nil
}

// close is called when nobody reads any more.
func (f *sqlFiles) close(ctx context.Context) {
	for _, r := range f.given {
		r.settle() // one that failed has left its last question
	}
	for _, conn := range f.conns {
		_ = conn.Close(context.WithoutCancel(ctx)) // it was only asked
	}
}

// reader must not be called more often than was said when f was opened.
func (f *sqlFiles) reader() fileReader {
	r := &sqlReader{conn: f.conns[1+len(f.given)]}
	f.given = append(f.given, r)
	return r
}

func (f *sqlFiles) control(ctx context.Context) (control.Data, []byte, error) {
	return control.ReadWith(ctx, cluster.ControlFile, func() ([]byte, error) {
		b, err := f.one(ctx, fileRead{cluster.ControlFile, 0, control.FileSize})
		if err == nil && b == nil {
			err = fs.ErrNotExist
		}
		return b, err
	})
}

func (f *sqlFiles) stat(ctx context.Context, paths []string) ([]*fileFacts, error) {
	rows, err := f.conn.Query(ctx, `SELECT n::int, (s).isdir, (s).size, (s).modification
		FROM (SELECT n, pg_stat_file(p, true) AS s FROM unnest($1::text[]) WITH ORDINALITY AS t(p, n)) AS f WHERE (s).size IS NOT NULL`, paths)
	if err != nil {
		return nil, sqlError(err)
	}
	out := make([]*fileFacts, len(paths))
	var n int
	var facts fileFacts
	_, err = pgx.ForEachRow(rows, []any{&n, &facts.dir, &facts.size, &facts.modTime}, func() error {
		if n < 1 || n > len(out) {
			return fmt.Errorf("the server speaks of file %d of %d", n, len(out))
		}
		now := facts
		out[n-1] = &now
		return nil
	})
	return out, sqlError(err)
}

func (f *sqlFiles) walk(ctx context.Context, o cluster.WalkOptions, known func(string) bool, fn func(cluster.Entry) error) error {
	return sqlError(cluster.WalkServer(ctx, f.conn, f.info, o, known, fn))
}

// sqlReader reads files over one connection. Of what was announced it asks for as much at once as the window holds, and for
// the next window before this one is used up.
type sqlReader struct {
	conn   *pgx.Conn
	queue  []fileRead  // announced, and not asked for yet
	next   *sqlAnswers // asked for; nil: nothing is on its way
	window []fileRead  // answered
	data   [][]byte    // the answers; nil: no such file
}

// sqlAnswers is a window that is on its way.
type sqlAnswers struct {
	reads []fileRead
	data  [][]byte
	err   error
	done  chan struct{}
}

func (r *sqlReader) announce(reads []fileRead) {
	r.settle()
	r.queue, r.next, r.window, r.data = reads, nil, nil, nil
}

func (r *sqlReader) open(ctx context.Context, path string) (openFile, error) {
	return &sqlFile{ctx, r, path}, nil
}

// sqlFile is a file as it is read by one call, whose context it keeps: io.ReaderAt has none.
type sqlFile struct {
	ctx  context.Context //nolint:containedctx // see above
	r    *sqlReader
	path string
}

func (*sqlFile) Close() error { return nil }

func (f *sqlFile) ReadAt(buf []byte, at int64) (int, error) {
	b, err := f.r.read(f.ctx, fileRead{f.path, at, len(buf)})
	switch {
	case err != nil:
		return 0, err
	case b == nil:
		return 0, fmt.Errorf("%s: %w", f.path, fs.ErrNotExist)
	}
	n := copy(buf, b)
	if n < len(buf) {
		return n, io.EOF
	}
	return n, nil
}

// read returns what was announced, and asks for the rest of the window where it is the next; nil: there is no such
// file. What was not announced, or was given already, is asked for alone: a torn page is read again.
func (r *sqlReader) read(ctx context.Context, want fileRead) ([]byte, error) {
	if len(r.window) == 0 {
		if r.next == nil && len(r.queue) > 0 && r.queue[0] == want {
			r.ask(ctx)
		}
		if r.next != nil && r.next.reads[0] == want {
			r.settle()
			a := r.next
			if r.next = nil; a.err != nil {
				return nil, a.err
			}
			r.window, r.data = a.reads, a.data
			r.ask(ctx)
		}
	}
	if len(r.window) == 0 || r.window[0] != want {
		return r.one(ctx, want)
	}
	b := r.data[0]
	r.window, r.data = r.window[1:], r.data[1:]
	return b, nil
}

func (r *sqlReader) one(ctx context.Context, want fileRead) ([]byte, error) {
	r.settle()
	answers, err := r.query(ctx, []fileRead{want})
	if err != nil {
		return nil, err
	}
	return answers[0], nil
}

// ask begins to ask for the next window, if there is one.
func (r *sqlReader) ask(ctx context.Context) {
	n, total := 0, 0
	for n < len(r.queue) && (n == 0 || total+r.queue[n].n <= sqlWindow) {
		total += r.queue[n].n
		n++
	}
	if n == 0 {
		return
	}
	a := &sqlAnswers{reads: r.queue[:n], done: make(chan struct{})}
	r.next, r.queue = a, r.queue[n:]
	go func() {
		defer close(a.done)
		a.data, a.err = r.query(ctx, a.reads)
	}()
}

// settle waits for what is on its way: a connection answers one question at a time.
func (r *sqlReader) settle() {
	if r.next != nil {
		<-r.next.done
	}
}

// query asks for many pieces of files at once: the server reads one after the other while it sends.
func (r *sqlReader) query(ctx context.Context, reads []fileRead) ([][]byte, error) {
	paths, from, lengths := make([]string, len(reads)), make([]int64, len(reads)), make([]int64, len(reads))
	for i, w := range reads {
		paths[i], from[i], lengths[i] = w.path, w.at, int64(w.n)
	}
	rows, err := r.conn.Query(ctx, `SELECT n::int, pg_read_binary_file(p, at, length, true)
		FROM unnest($1::text[], $2::bigint[], $3::bigint[]) WITH ORDINALITY AS t(p, at, length, n)`,
		pgx.QueryResultFormats{pgtype.BinaryFormatCode, pgtype.BinaryFormatCode}, paths, from, lengths)
	if err != nil {
		return nil, sqlError(err)
	}
	out := make([][]byte, len(reads))
	answered := 0
	var n int
	var b []byte
	_, err = pgx.ForEachRow(rows, []any{&n, &b}, func() error {
		if n < 1 || n > len(out) || len(b) > reads[n-1].n {
			return fmt.Errorf("the server answers piece %d of %d with %d bytes", n, len(out), len(b))
		}
		out[n-1], b = b, nil
		answered++
		return nil
	})
	if err == nil && answered != len(out) {
		err = fmt.Errorf("the server answers %d of %d questions", answered, len(out))
	}
	return out, sqlError(err)
}

// sqlError makes what the server refuses a *doubtError: BASE_BACKUP does not need its functions. That it goes away stays
// what it is.
func sqlError(err error) error {
	var refused *pgconn.PgError
	if errors.As(err, &refused) && !strings.HasPrefix(refused.Code, "57") {
		return doubtf("the server refuses to read its files: %s", refused.Message)
	}
	return err
}
