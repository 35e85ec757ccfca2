package cluster

import (
	"context"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// WalkServer is Walk over SQL, for a role that may call pg_ls_dir and pg_stat_file: folders before what is in them,
// otherwise in no order. It needs memory for all names of the databases whose relations are wanted.
//
// These functions follow links and do not tell them from what they lead to, so of what PostgreSQL did not put into its
// data directory only the folders are entered of which known is true. Modes are not told: they are what the server
// gives to its own files. Sources are empty.
func WalkServer(ctx context.Context, conn *pgx.Conn, i Info, o WalkOptions, known func(path string) bool, fn func(Entry) error) error {
	w := &serverWalker{walker: walker{o: o, version: i.TablespaceDir()}, conn: conn, known: known, fn: fn, inPlace: map[string]bool{}}
	for _, t := range i.Tablespaces {
		if !strings.HasPrefix(t.Location, "/") {
			w.inPlace[fmt.Sprintf("pg_tblspc/%d", t.OID)] = true
		}
	}
	var mode string
	if err := conn.QueryRow(ctx, "SELECT current_setting('data_directory_mode')").Scan(&mode); err != nil {
		return fmt.Errorf("ask for the mode of files: %w", err)
	}
	w.group = mode == "0750"
	for folders := []string{"."}; len(folders) > 0; {
		next, err := w.level(ctx, folders)
		if err != nil {
			return err
		}
		folders = next
	}
	return nil
}

type serverWalker struct {
	walker
	conn    *pgx.Conn
	known   func(string) bool
	fn      func(Entry) error
	inPlace map[string]bool // tablespaces that are folders
	group   bool            // the group may read
}

// serverFolders are those that PostgreSQL makes (initdb.c), but for databases and tablespaces, and what is not
// entered anyway.
var serverFolders = []string{
	"base", "global", "pg_commit_ts", "pg_logical", "pg_multixact", "pg_stat", "pg_tblspc", "pg_twophase", "pg_xact",
}

type serverFile struct {
	path    string
	dir     bool
	size    int64
	modTime time.Time
}

// level lists folders that lie equally deep, and returns the folders in them that are entered.
func (w *serverWalker) level(ctx context.Context, folders []string) (next []string, err error) {
	var list, own []string
	for _, f := range folders {
		tablespace, oid, database := ParseDatabaseDir(f)
		switch {
		case f == "pg_wal":
			own = append(own, "pg_wal/archive_status", "pg_wal/summaries")
		case database && w.o.Relations != nil && !w.o.Relations(tablespace, oid):
			for _, name := range Own {
				own = append(own, f+"/"+name)
			}
		default:
			list = append(list, f)
		}
	}
	files, err := w.query(ctx, `SELECT d || '/' || n, (s).isdir, (s).size, (s).modification FROM (
		SELECT d, n, pg_stat_file(d || '/' || n, true) AS s FROM unnest($1::text[]) AS d, LATERAL pg_ls_dir(d, true, false) AS n) AS f
		WHERE (s).size IS NOT NULL`, list)
	if err != nil {
		return nil, err
	}
	more, err := w.query(ctx, `SELECT p, (s).isdir, (s).size, (s).modification FROM (
		SELECT p, pg_stat_file(p, true) AS s FROM unnest($1::text[]) AS p) AS f WHERE (s).size IS NOT NULL`, own)
	if err != nil {
		return nil, err
	}
	unlogged := map[string]bool{} // "base/5/16384" has an init fork
	for _, f := range files {
		if r, ok := ParsePath(f.path); ok && r.Fork == Init {
			unlogged[path.Dir(f.path)+"/"+strconv.FormatUint(uint64(r.Number), 10)] = true
		}
	}
	for _, f := range append(files, more...) {
		enter, err := w.file(f, unlogged)
		if err != nil {
			return nil, err
		}
		if enter {
			next = append(next, f.path)
		}
	}
	return next, nil
}

func (w *serverWalker) query(ctx context.Context, query string, arg []string) (out []serverFile, err error) {
	if len(arg) == 0 {
		return nil, nil
	}
	rows, err := w.conn.Query(ctx, query, arg)
	if err != nil {
		return nil, fmt.Errorf("list the server's files: %w", err)
	}
	var f serverFile
	_, err = pgx.ForEachRow(rows, []any{&f.path, &f.dir, &f.size, &f.modTime}, func() error {
		f.path = strings.TrimPrefix(f.path, "./")
		if f.path != path.Clean(f.path) || strings.HasPrefix(f.path, "../") || strings.HasPrefix(f.path, "/") {
			return fmt.Errorf("the server names a file %q", f.path)
		}
		out = append(out, f)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list the server's files: %w", err)
	}
	return out, nil
}

// file hands one thing over, and tells whether it is a folder that is entered.
func (w *serverWalker) file(f serverFile, unlogged map[string]bool) (enter bool, err error) {
	dir, name := cutLast(f.path)
	if isOmitted(name) || f.path == ControlFile || isTablespace(dir) && name != w.version || strings.HasPrefix(name, ".s.PGSQL.") {
		return false, nil
	}
	e := Entry{Path: f.path, Type: File, Size: f.size, ModTime: f.modTime.UTC(), Mode: 0o600}
	if _, _, database := ParseDatabaseDir(dir); database {
		if isTemporary(name) {
			return false, nil
		}
		r, ok := ParsePath(f.path)
		if ok && r.Fork != Init && unlogged[dir+"/"+strconv.FormatUint(uint64(r.Number), 10)] {
			return false, nil
		}
		e.Relation, e.IsRelation = r, ok
	}
	if w.group {
		e.Mode = 0o640
	}
	if !f.dir {
		return false, w.fn(e)
	}
	e.Type, e.Size, e.IsRelation = Dir, 0, false
	e.Mode |= e.Mode >> 2 & 0o111
	first, _, _ := strings.Cut(f.path, "/")
	switch {
	case isTablespace(f.path) && !w.inPlace[f.path]:
		e.Type, e.Mode, enter = TablespaceLink, 0o700, true
	case emptied[name]:
	case f.path == "pg_wal", slices.Contains(serverFolders, first), first != "pg_wal" && w.known(f.path):
		enter = true
	case first != "pg_wal":
		w.skip(f.path, "whether it is a folder or a link is not told over SQL; a scan of everything finds out")
		return false, nil
	}
	return enter, w.fn(e)
}
