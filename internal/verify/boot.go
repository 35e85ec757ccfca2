package verify

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/restore"
	"github.com/holdfast-dr/holdfast/internal/restore/boot"
	"github.com/holdfast-dr/holdfast/internal/restore/confine"
)

// sandboxed opens the point in a sandbox, proves what is stored of it, starts a server, and does with it what the depth asks for.
func (t *test) sandboxed(ctx context.Context) (err error) {
	binDir, err := boot.FindBinaries(t.plan.Snapshot.Facts.Major(), t.opts.BinDir)
	if err != nil {
		return err // before gigabytes are written
	}
	for _, n := range Cleanup(ctx, t.opts.Sandbox) {
		t.result.note("%s", n)
	}
	box, err := makeSandbox(t.opts.Sandbox, t.opts.User)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, box.remove()) }()
	opened, err := t.open(ctx, box)
	if err != nil || opened == nil {
		return err
	}
	defer func() { err = errors.Join(err, opened.Close()) }()
	defer func() { t.result.Figures.Fetched = dr.Bytes(opened.Fetched()) }()
	x := t.reading()
	if t.opts.Opener.Whole() {
		x.restored = box.data()
	}
	if err := t.stored(ctx, x); err != nil {
		return err
	}
	server, err := t.start(ctx, box, binDir)
	if err != nil || server == nil {
		return err
	}
	defer func() { err = errors.Join(err, server.Stop(ctx)) }()
	return t.ask(ctx, server)
}

// open brings the files into the sandbox; nil where some of them are lost.
func (t *test) open(ctx context.Context, box *sandbox) (Opened, error) {
	began := time.Now()
	t.result.Way = t.opts.Opener.Way()
	opened, err := t.opts.Opener.Open(ctx, t.repo, t.plan, box.data(), OpenOptions{
		Owner: box.owner, Progress: t.opts.Progress,
		Settings: restore.Settings{RestoreCommand: t.opts.RestoreCommand, Ending: restore.EndingOf(t.plan)},
	})
	t.result.phase("files", began)
	t.result.RTO += time.Since(began)
	if err != nil && lostFiles(t.result, err) {
		return nil, nil
	}
	if err == nil {
		t.result.Notes = append(t.result.Notes, opened.Notes()...)
	}
	return opened, err
}

// start starts the server and sees its recovery through; nil where that failed, which is a problem of the point.
func (t *test) start(ctx context.Context, box *sandbox, binDir string) (*boot.Server, error) {
	had, err := restore.Distrust(box.data(), box.owner, t.settings())
	if err != nil {
		return nil, err
	}
	t.notLoaded(had)
	socket, err := box.socket()
	if err != nil {
		return nil, err
	}
	server, report, err := boot.Start(ctx, box.data(), t.plan, boot.Options{
		BinDir: binDir, Owner: box.owner, Superuser: t.opts.Superuser, SocketDir: socket, Ending: restore.EndingOf(t.plan),
		Access: boot.KeepOthersOut, Settings: boot.KeepSettings, LogFile: filepath.Join(box.dir, "log"),
		Session: t.session(), Log: t.repo, Progress: t.opts.Progress,
		Confine: &confine.Options{Dirs: []string{box.dir, socket}, Name: filepath.Base(box.dir), Memory: t.opts.Memory},
	})
	if ctx.Err() != nil {
		return server, ctx.Err()
	}
	if err != nil {
		t.result.problem(Boot, "the server", "%v", err)
		return nil, nil
	}
	t.recovered(server, report, box)
	return server, nil
}

// recovered takes over what the recovery was like.
func (t *test) recovered(s *boot.Server, report *boot.Report, box *sandbox) {
	r := t.result
	for _, p := range report.Phases {
		r.Phases = append(r.Phases, p)
		r.RTO += p.Took
	}
	r.Notes = append(r.Notes, report.Notes...)
	r.NewestCommit, r.RPO, r.Timeline = report.NewestCommit, report.RPO, report.Timeline
	r.To = max(r.From, report.Replayed)
	r.Sandbox = s.Walls
	r.Sandbox.OwnUser = box.own
	for _, m := range r.Sandbox.Missing {
		r.note("the sandbox has no %s", m)
	}
	if !box.own {
		r.note("the sandbox's server runs as user %s, as others may: it can read what they can, and talk to servers on this host that know them by their user", r.Sandbox.User)
	}
	r.cover("a server of version %d was started on it by %s, replayed the log to %s, and answered", t.plan.Snapshot.Facts.Major(), r.Way, report.Replayed)
	r.prove(Boot)
}

// settings are those of the server: nothing of what the backup brings is believed.
func (t *test) settings() string {
	f := t.plan.Snapshot.Facts
	set := map[string]string{
		"shared_preload_libraries":        strings.Join(t.opts.Preload, ","),
		"archive_mode":                    "off",
		"max_logical_replication_workers": "0", // subscriptions stay silent, and their launcher too
		"ssl":                             "off",
		"autovacuum":                      "off",
		"jit":                             "off",
		"fsync":                           "off", // it is thrown away
		"synchronous_commit":              "off",
		"huge_pages":                      "off",
		"restart_after_crash":             "off",  // a crash is a result
		"dynamic_shared_memory_type":      "mmap", // in the data directory: nothing of it outlives the sandbox
		"unix_socket_permissions":         "0700",
		"dynamic_library_path":            "$libdir",
		"cluster_name":                    "holdfast verify",
	}
	if f.Major() >= 17 {
		set["event_triggers"] = "off"
	}
	for name, value := range f.Settings {
		if restore.Needed(name) {
			set[name] = value // a standby must not undercut it
		}
	}
	var b strings.Builder
	b.WriteString("# Written by holdfast verify, in place of what the snapshot has.\n")
	for _, name := range slices.Sorted(maps.Keys(set)) {
		fmt.Fprintf(&b, "%s = '%s'\n", name, strings.NewReplacer(`\`, `\\`, "'", "''", "\n", " ").Replace(set[name]))
	}
	return b.String()
}

// session are the settings of our sessions: what the cluster says for our role or for a database does not overrule them.
func (t *test) session() map[string]string {
	set := map[string]string{
		"search_path": "pg_catalog", "session_preload_libraries": "", "local_preload_libraries": "", "role": "none",
		"zero_damaged_pages": "off", "ignore_checksum_failure": "off", "row_security": "off", "default_transaction_read_only": "off",
		"default_tablespace": "", "temp_tablespaces": "", "jit": "off", "client_min_messages": "warning", "DateStyle": "ISO",
		"max_parallel_workers_per_gather": "0", "lock_timeout": "0", "idle_in_transaction_session_timeout": "0",
		"statement_timeout": fmt.Sprint(t.opts.Timeout.Milliseconds()),
	}
	if t.plan.Snapshot.Facts.Major() >= 17 {
		set["event_triggers"] = "off"
	} else {
		set["session_replication_role"] = "replica" // triggers, also those of events, rest
	}
	return set
}

var preloadLine = regexp.MustCompile(`(?im)^\s*shared_preload_libraries\s*=?\s*'([^'\n]*)'`)

// notLoaded says which libraries the source's server had loaded that this one has not.
func (t *test) notLoaded(had string) {
	list := t.plan.Snapshot.Facts.Settings["shared_preload_libraries"]
	if lines := preloadLine.FindAllStringSubmatch(had, -1); len(lines) > 0 && list == "" {
		list = lines[len(lines)-1][1]
	}
	var left []string
	for name := range strings.SplitSeq(list, ",") {
		name = strings.Trim(strings.TrimSpace(name), `"`)
		if name != "" && !slices.Contains(t.opts.Preload, name) {
			left = append(left, name)
		}
	}
	if len(left) > 0 {
		t.result.note("the source's server preloads %s; the test's does not, so that nothing of it can act on its own. What is needed to read the data is named in systems.%s.verify.preload", strings.Join(left, ", "), t.plan.System)
		t.result.leave("what the libraries %s do", strings.Join(left, ", "))
	}
}

// databases returns those that may be connected to.
func databases(ctx context.Context, s *boot.Server) (names []string, err error) {
	err = in(ctx, s, "postgres", func(c *pgx.Conn) error {
		rows, err := c.Query(ctx, "SELECT datname::text FROM pg_database WHERE datallowconn ORDER BY datname")
		if err == nil {
			names, err = pgx.CollectRows(rows, pgx.RowTo[string])
		}
		return err
	})
	return names, err
}

// in does something in a session of a database.
func in(ctx context.Context, s *boot.Server, database string, f func(*pgx.Conn) error) error {
	c, err := pgx.Connect(ctx, s.ConnString(database))
	if err != nil {
		return err
	}
	return errors.Join(f(c), c.Close(context.WithoutCancel(ctx)))
}

// ask does with a running server what the depth asks for.
func (t *test) ask(ctx context.Context, s *boot.Server) error {
	names, err := databases(ctx, s)
	if err != nil {
		return err
	}
	t.result.Figures.Databases = len(names)
	beyond, err := t.comparable(ctx, s)
	if err != nil {
		return err
	}
	if err := t.libraries(ctx, s, names); err != nil || !t.opts.Depth.Includes(Check) {
		return err
	}
	if err := t.check(ctx, s, names); err != nil || !t.opts.Depth.Includes(Query) {
		return err
	}
	return t.query(ctx, s, beyond)
}

// libraries names what the databases need and this machine does not have.
func (t *test) libraries(ctx context.Context, s *boot.Server, names []string) error {
	dir := ""
	missing := map[string][]string{}
	for _, db := range names {
		err := in(ctx, s, db, func(c *pgx.Conn) error {
			if err := c.QueryRow(ctx, "SELECT setting FROM pg_config() WHERE name = 'PKGLIBDIR'").Scan(&dir); err != nil {
				return err
			}
			rows, err := c.Query(ctx, "SELECT DISTINCT probin FROM pg_proc WHERE probin IS NOT NULL ORDER BY 1")
			if err != nil {
				return err
			}
			libs, err := pgx.CollectRows(rows, pgx.RowTo[string])
			for _, lib := range libs {
				path := strings.Replace(lib, "$libdir", dir, 1)
				if !strings.Contains(path, "/") {
					path = filepath.Join(dir, path)
				}
				if _, err1 := os.Stat(path + ".so"); err1 != nil {
					if _, err2 := os.Stat(path); err2 != nil {
						missing[lib] = append(missing[lib], db)
					}
				}
			}
			return err
		})
		if err != nil {
			return fmt.Errorf("look at database %s: %w", db, err)
		}
	}
	for _, lib := range slices.Sorted(maps.Keys(missing)) {
		t.result.note("this machine has no %s, which is needed by functions of %s: what uses them would fail here after a recovery", lib, strings.Join(missing[lib], ", "))
		t.result.leave("what needs the library %s", lib)
	}
	return nil
}
