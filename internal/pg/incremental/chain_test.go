package incremental

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/holdfast-dr/holdfast/internal/pg/pgtest"
)

// serverConf keeps the log, so that the changes between two backups can be read afterwards.
var serverConf = map[string]string{
	"summarize_wal": "on", "wal_keep_size": "4GB", "autovacuum": "off", "max_prepared_transactions": "5", "max_wal_size": "1GB",
}

func startServer(t *testing.T, version string, checksums bool) *pgtest.Server {
	t.Helper()
	return pgtest.Start(t, pgtest.Options{Version: version, Checksums: checksums, InitArgs: []string{"--wal-segsize=4"}, Conf: serverConf})
}

// versions returns those that take incremental backups.
func versions(t *testing.T) []string {
	vs := slices.DeleteFunc(pgtest.Versions(t), func(v string) bool { n, _ := strconv.Atoi(v); return n < 17 })
	if len(vs) == 0 {
		t.Skip("no PostgreSQL 17 or 18 is installed: scripts/pg-versions.sh")
	}
	return vs
}

// chain is a real chain: a full backup and two incrementals.
type chain struct {
	dirs []string
	wal  string
}

// prepare makes what the workload changes.
var prepare = []string{
	"CREATE TABLE t (id bigserial PRIMARY KEY, v text, a int[], n int)",
	"INSERT INTO t (v, a, n) SELECT md5(i::text), ARRAY[i, i % 7], i FROM generate_series(1, 20000) i",
	"CREATE INDEX t_hash ON t USING hash (v)", "CREATE INDEX t_gin ON t USING gin (a)", "CREATE INDEX t_brin ON t USING brin (id)",
	"CREATE TABLE shrinks AS SELECT i, repeat('s', 300) AS v FROM generate_series(1, 6000) i",
	"CREATE TABLE emptied AS SELECT i, repeat('e', 300) AS v FROM generate_series(1, 3000) i",
	"CREATE TABLE dropped AS SELECT i, repeat('d', 300) AS v FROM generate_series(1, 3000) i",
	"CREATE UNLOGGED TABLE u AS SELECT i FROM generate_series(1, 3000) i",
	"CREATE TABLE moved TABLESPACE one AS SELECT i, repeat('m', 200) AS v FROM generate_series(1, 3000) i",
	"CREATE SEQUENCE s", "SELECT nextval('s')", "CREATE DATABASE copy2",
}

// work changes a part of everything. It ends with a vacuum of all, so that every visibility map has been logged:
// without it, 17.10 and 18.4 take incrementals with stale ones.
func work(round int) []string {
	return []string{
		fmt.Sprintf("UPDATE t SET n = n + 1 WHERE id BETWEEN %d AND %d", round*4000, round*4000+900), fmt.Sprintf("DELETE FROM t WHERE id BETWEEN %d AND %d", round*1000, round*1000+300),
		"INSERT INTO t (v, a, n) SELECT 'new', ARRAY[i], i FROM generate_series(1, 300) i", "SELECT nextval('s') FROM generate_series(1, 40)",
		fmt.Sprintf("DELETE FROM shrinks WHERE i > %d", 6000-2000*round), "VACUUM shrinks", "INSERT INTO shrinks SELECT i, 'short' FROM generate_series(1, 900) i",
		"TRUNCATE emptied", "INSERT INTO emptied SELECT i, 'again' FROM generate_series(1, 500) i",
		"DROP TABLE dropped", "CREATE TABLE dropped AS SELECT i FROM generate_series(1, 2000) i", "VACUUM FULL moved",
		"BEGIN; CREATE TABLE gone AS SELECT i FROM generate_series(1, 2000) i; ROLLBACK", "INSERT INTO u VALUES (0)",
		fmt.Sprintf("DROP DATABASE copy%d", 3-round), fmt.Sprintf("CREATE DATABASE copy%d STRATEGY file_copy", round), "REINDEX INDEX t_hash",
		"CREATE INDEX t_n ON t (n)", "DROP INDEX t_n", "UPDATE moved SET v = 'x' WHERE i % 40 = 0",
		"VACUUM (FREEZE)", "VACUUM (FREEZE)",
	}
}

func makeChain(t *testing.T, s *pgtest.Server) chain {
	t.Helper()
	s.Tablespace("one")
	s.Exec("", prepare...)
	s.Exec("", "VACUUM (FREEZE)")
	c := chain{wal: filepath.Join(s.DataDir, "pg_wal")}
	top := t.TempDir()
	for i := range 3 {
		dir, prior := filepath.Join(top, fmt.Sprint("b", i)), ""
		if i > 0 {
			s.Exec("", work(i)...)
			prior = c.dirs[i-1]
		}
		s.BaseBackup(dir, prior)
		c.dirs = append(c.dirs, dir)
	}
	return c
}

// clone makes a chain that can be damaged, of links to the same files.
func (c chain) clone(t *testing.T) chain {
	t.Helper()
	out := chain{wal: c.wal}
	top := t.TempDir()
	for _, dir := range c.dirs {
		to := filepath.Join(top, filepath.Base(dir))
		err := filepath.WalkDir(dir, func(p string, e fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			rel, err := filepath.Rel(dir, p)
			if err != nil {
				return err
			}
			if e.IsDir() {
				return os.MkdirAll(filepath.Join(to, rel), 0o700)
			}
			return os.Link(p, filepath.Join(to, rel))
		})
		if err != nil {
			t.Fatal(err)
		}
		out.dirs = append(out.dirs, to)
	}
	return out
}

func run(t *testing.T, o Options) *Report {
	t.Helper()
	r, err := Run(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// audit runs it with the whole log, or with what the backups hold.
func (c chain) audit(t *testing.T, withLog bool) *Report {
	t.Helper()
	o := Options{Backups: c.dirs}
	if withLog {
		o.WAL = []string{c.wal}
	}
	return run(t, o)
}

func text(fs []Finding) string {
	var b strings.Builder
	for _, f := range fs {
		fmt.Fprintf(&b, "%s proof=%v %s %s %v (%d) at %s [%s]: %s\n", f.Kind, f.Proof, filepath.Base(f.Backup), f.Path, f.Blocks, f.Count, f.LSN, f.Problem, f.Reason)
	}
	return b.String()
}

// reseal makes the manifest of a backup agree with a file that was changed, so that nothing but what the file means
// tells of it. The file may be gone.
func reseal(t *testing.T, dir, path string) {
	t.Helper()
	name := filepath.Join(dir, manifestName)
	raw, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(filepath.Join(dir, path))
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.SplitAfter(string(raw), "\n")
	found := false
	for i, line := range lines {
		var e map[string]any
		trimmed := strings.TrimSuffix(strings.TrimSuffix(line, "\n"), ",")
		if json.Unmarshal([]byte(trimmed), &e) != nil || e["Path"] != path {
			continue
		}
		found = true
		sum := binary.LittleEndian.AppendUint32(nil, crc32.Checksum(content, crc32.MakeTable(crc32.Castagnoli)))
		e["Size"], e["Checksum"] = len(content), hex.EncodeToString(sum)
		text, err := json.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		lines[i] = strings.Replace(line, trimmed, string(text), 1)
	}
	if !found {
		t.Fatalf("%s is not in the manifest of %s", path, dir)
	}
	last := len(lines) - 1 // SplitAfter gives an empty piece at the end
	body := strings.Join(lines[:last-1], "")
	sum := sha256.Sum256([]byte(body))
	replace(t, name, []byte(body+`"Manifest-Checksum": "`+hex.EncodeToString(sum[:])+"\"}\n"))
}

// relation returns the path of a table's first file.
func relation(t *testing.T, s *pgtest.Server, name string) string {
	t.Helper()
	return s.Query("", "SELECT pg_relation_filepath('"+name+"')")
}

func partial(p string) string { return filepath.Dir(p) + "/" + prefix + filepath.Base(p) }
